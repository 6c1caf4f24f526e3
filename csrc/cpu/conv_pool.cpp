// The gradients of a convolution and the max pooling that follows it: by the few positions that have a
// gradient (conv_pooled.cpp), else with the gradient of all positions.
#include <optional>

#include "common/conv.h"
#include "cpu/conv_pooled.h"
#include "cpu/tensor.h"
#include "cpu/widen.h"

namespace fastdl::cpu::conv {
namespace {

constexpr const char* kOp = "conv_pool_backward";

struct PoolCall {
  View grad, indices, x, weight;
  std::optional<View> out, grad_x, grad_weight, grad_bias;
  fastdl_conv_options options;
  Geometry geometry;
};

// The shape of the convolution's output.
View convolved(const View& x, const View& weight, const fastdl_conv_options& o) {
  View v = x;
  if (weight.ndim != x.ndim) return v;  // refused when the geometry is checked
  v.shape[1] = weight.shape[0];
  for (int i = 0; i + 2 < v.ndim; ++i) {
    const int64_t reach = o.dilation[i] * (weight.shape[2 + i] - 1) + 1;
    const int64_t room = x.shape[2 + i] + o.padding[i] + o.padding_end[i] - reach;
    v.shape[2 + i] = room < 0 || o.stride[i] < 1 ? 0 : room / o.stride[i] + 1;
  }
  return v;
}

PoolCall checked(const fastdl_tensor* grad, const fastdl_tensor* out, const fastdl_tensor* indices,
                 const fastdl_tensor* x, const fastdl_tensor* weight, const fastdl_tensor* grad_x,
                 const fastdl_tensor* grad_weight, const fastdl_tensor* grad_bias,
                 const fastdl_conv_options* options) {
  PoolCall c{};
  c.grad = float_view(grad, kOp, "grad_out");
  const DType type = c.grad.dtype;
  c.indices = view_like(indices, DType::kInt32, kOp, "indices");
  check_same_shape(c.grad, "grad_out", c.indices, "indices", kOp);
  c.x = view_like(x, type, kOp, "x");
  c.weight = view_like(weight, type, kOp, "weight");
  c.options = read_options(options, fastdl_conv_options FASTDL_CONV_OPTIONS_INIT, kOp);
  const int kind = c.options.activation.kind;
  FASTDL_CHECK(kind == FASTDL_ACT_NONE || kind == FASTDL_ACT_RELU, FASTDL_ERROR_VALUE,
               "%s: expected no activation or ReLU, got kind %d", kOp, kind);
  FASTDL_CHECK(kind == FASTDL_ACT_NONE || out, FASTDL_ERROR_VALUE,
               "%s: the activation's derivative needs out, got NULL", kOp);
  if (kind == FASTDL_ACT_RELU) {
    c.out = view_like(out, type, kOp, "out");
    check_same_shape(c.grad, "grad_out", *c.out, "out", kOp);
  }
  check_ndim(c.grad, c.x.ndim, kOp, "grad_out");
  c.geometry = check::conv_geometry(c.x, c.weight, convolved(c.x, c.weight, c.options), c.options,
                                    {kOp, "x", "out", "weight", false});
  FASTDL_CHECK(c.grad.shape[0] == c.geometry.n && c.grad.shape[1] == c.geometry.o, FASTDL_ERROR_SHAPE,
               "%s: grad_out of shape %s does not fit x of shape %s and weight of shape %s", kOp,
               shape_string(c.grad).c_str(), shape_string(c.x).c_str(), shape_string(c.weight).c_str());
  if (grad_x) {
    c.grad_x = out_view(grad_x, type, kOp, "grad_x");
    check_same_shape(c.x, "x", *c.grad_x, "grad_x", kOp);
  }
  if (grad_weight) {
    c.grad_weight = out_view(grad_weight, type, kOp, "grad_weight");
    check_same_shape(c.weight, "weight", *c.grad_weight, "grad_weight", kOp);
  }
  if (grad_bias) {
    c.grad_bias = out_view(grad_bias, type, kOp, "grad_bias");
    check_ndim(*c.grad_bias, 1, kOp, "grad_bias");
    FASTDL_CHECK(c.grad_bias->shape[0] == c.geometry.o, FASTDL_ERROR_SHAPE,
                 "%s: expected grad_bias of shape (%lld,), got %s", kOp, static_cast<long long>(c.geometry.o),
                 shape_string(*c.grad_bias).c_str());
  }
  return c;
}

// With the gradients of all positions.
template <class T>
void densely(Context* context, const PoolCall& c, const Pooled<T>& pooled, const fastdl_tensor* x,
             const fastdl_tensor* weight, const fastdl_tensor* grad_x, const fastdl_tensor* grad_weight,
             const fastdl_tensor* grad_bias) {
  const Geometry& g = c.geometry;
  View dense = convolved(c.x, c.weight, c.options);
  const Workspace memory(context, static_cast<size_t>(dense.nbytes()));
  unpool(context, g, pooled, memory.as<T>());
  dense.strides[1] = 1;
  int64_t step = g.o;
  for (int i = dense.ndim - 1; i >= 2; --i) {
    dense.strides[i] = step;
    step *= dense.shape[i];
  }
  dense.strides[0] = step;
  fastdl_tensor grad = *x;
  grad.data = memory.as<void>();
  grad.byte_offset = 0;
  grad.shape = dense.shape;
  grad.strides = dense.strides;
  fastdl_conv_options options = c.options;
  options.activation = {FASTDL_ACT_NONE, 0, 0};
  fastdl_status status = FASTDL_OK;
  if (grad_weight || grad_bias) {
    status = fastdl_conv_backward_weight(context, &grad, nullptr, x, grad_weight, grad_bias, &options);
  }
  if (grad_x && status == FASTDL_OK) {
    status = fastdl_conv_backward_data(context, &grad, nullptr, weight, grad_x, &options);
  }
  FASTDL_CHECK(status == FASTDL_OK, status, "%s: %s", kOp, fastdl_last_error());
}

template <class T>
void run(Context* context, const PoolCall& c, const fastdl_tensor* x, const fastdl_tensor* weight,
         const fastdl_tensor* grad_x, const fastdl_tensor* grad_weight, const fastdl_tensor* grad_bias) {
  const Geometry& g = c.geometry;
  const Contiguous grad(context, channels_last(c.grad)), where(context, channels_last(c.indices));
  std::optional<Contiguous> out;
  if (c.out) out.emplace(context, channels_last(*c.out));
  Pooled<T> pooled{
      grad.as<const T>(), out ? out->as<const T>() : nullptr, where.as<const int32_t>(), 1, {1, 1, 1}};
  for (int i = 2; i < c.grad.ndim; ++i) {
    pooled.size[i + 3 - c.grad.ndim] = c.grad.shape[i];
    pooled.positions *= c.grad.shape[i];
  }
  if (c.grad_weight && pooled_weight_gradient<T>(context, g, source<T>(c.x), pooled, *c.grad_weight,
                                                 c.grad_bias ? &*c.grad_bias : nullptr)) {
    grad_weight = grad_bias = nullptr;
  }
  if (c.grad_x && image<T>(*c.grad_x).channels_together()) {
    const Contiguous w(context, c.weight);
    if (pooled_data_gradient<T>(context, g, pooled, w.as<const T>(), image<T>(*c.grad_x))) grad_x = nullptr;
  }
  if (grad_x || grad_weight || grad_bias) {
    densely<T>(context, c, pooled, x, weight, grad_x, grad_weight, grad_bias);
  }
}

}  // namespace
}  // namespace fastdl::cpu::conv

using namespace fastdl::cpu;

extern "C" fastdl_status fastdl_conv_pool_backward(fastdl_context* context, const fastdl_tensor* grad_out,
                                                   const fastdl_tensor* out, const fastdl_tensor* indices,
                                                   const fastdl_tensor* x, const fastdl_tensor* weight,
                                                   const fastdl_tensor* grad_x,
                                                   const fastdl_tensor* grad_weight,
                                                   const fastdl_tensor* grad_bias,
                                                   const fastdl_conv_options* options) {
  if (is_narrow(grad_out)) {
    const Operand places{indices, "indices", Access::kRead, Accepts::kAny};
    return in_float32(conv::kOp, fastdl_conv_pool_backward, context, reads(grad_out, "grad_out"),
                      reads(out, "out"), places, reads(x, "x"), reads(weight, "weight"),
                      writes(grad_x, "grad_x"), writes(grad_weight, "grad_weight"),
                      writes(grad_bias, "grad_bias"), options);
  }
  return guarded([&] {
    const conv::PoolCall c =
        conv::checked(grad_out, out, indices, x, weight, grad_x, grad_weight, grad_bias, options);
    dispatch_float(c.grad.dtype, [&](auto zero) {
      conv::run<decltype(zero)>(context, c, x, weight, grad_x, grad_weight, grad_bias);
    });
  });
}
