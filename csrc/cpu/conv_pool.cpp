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

// With the gradients of all positions.
template <class T>
void densely(Context* context, const check::ConvPoolBackward& c, const Pooled<T>& pooled,
             const fastdl_tensor* x, const fastdl_tensor* weight, const fastdl_tensor* grad_x,
             const fastdl_tensor* grad_weight, const fastdl_tensor* grad_bias) {
  const Geometry& g = c.geometry;
  View dense = c.dense;
  const Workspace memory(context, static_cast<size_t>(dense.nbytes()));
  unpool(context, g, pooled, memory.as<T>());
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
void run(Context* context, const check::ConvPoolBackward& c, const fastdl_tensor* x,
         const fastdl_tensor* weight, const fastdl_tensor* grad_x, const fastdl_tensor* grad_weight,
         const fastdl_tensor* grad_bias) {
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

using namespace fastdl;
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
    const check::ConvPoolBackward c =
        check::conv_pool_backward(grad_out, out, indices, x, weight, grad_x, grad_weight, grad_bias, options);
    dispatch_float(c.grad.dtype, [&](auto zero) {
      conv::run<decltype(zero)>(context, c, x, weight, grad_x, grad_weight, grad_bias);
    });
  });
}
