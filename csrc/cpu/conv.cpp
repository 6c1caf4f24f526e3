// Entry points of convolution: check and describe (common/conv.cpp), run. The sums themselves are in
// conv_gather.cpp and conv_weight.cpp.
#include "common/conv.h"

#include <optional>
#include <type_traits>

#include "cpu/conv_bf16.h"
#include "cpu/conv_depthwise.h"
#include "cpu/conv_one_channel.h"
#include "cpu/conv_plan.h"
#include "cpu/conv_pointwise.h"
#include "cpu/conv_winograd.h"
#include "cpu/kernels.h"
#include "cpu/tensor.h"
#include "cpu/widen.h"

namespace fastdl::cpu::conv {
namespace {

// A tensor the kernels can address: itself where channels lie side by side, else a channels-last copy.
class ChannelsLast {
 public:
  ChannelsLast(Context* context, const View& v)
      : context_(context),
        view_(v),
        direct_(v.strides[1] == 1 || v.shape[1] == 1),
        workspace_(context, direct_ ? 0 : static_cast<size_t>(v.nbytes())),
        laid_out_(v) {
    if (direct_) return;
    laid_out_.data = workspace_.as<void>();
    check::channels_last(laid_out_);
  }
  template <class T>
  Image<T> image() const {
    return conv::image<T>(laid_out_);
  }
  void read() {
    if (!direct_) copy(context_, view_, laid_out_);
  }
  void write_back() {
    if (!direct_) copy(context_, laid_out_, view_);
  }

 private:
  Context* context_;
  View view_;
  bool direct_;
  Workspace workspace_;
  View laid_out_;
};

// grad * f'(saved)
template <class T>
Source<T> gradient_source(const View& grad, const std::optional<View>& saved, const fastdl_activation& f) {
  Source<T> s = source<T>(grad);
  if (f.kind == FASTDL_ACT_NONE) return s;
  s.saved = image<const T>(*saved);
  s.activation = f;
  s.from_output = fastdl_activation_from_output(&f) != 0;
  return s;
}

// The forward pass, or the data gradient, which is a transposed convolution's forward pass.
template <class T>
void run_gather(Context* context, const Geometry& g, const Source<T>& in, const View& weight,
                const std::optional<View>& bias, const std::optional<View>& residual, const View& out,
                const fastdl_activation& activation, bool data_gradient) {
  if (out.size() == 0) return;
  const Contiguous w(context, weight);
  ChannelsLast y(context, out);
  Epilogue<T> end;
  end.activation = activation;
  std::optional<Contiguous> bias_values;
  if (bias) end.bias = bias_values.emplace(context, *bias)->template as<const T>();
  std::optional<ChannelsLast> added;
  if (residual) {
    added.emplace(context, *residual).read();
    end.residual = added->image<const T>();
  }
  const bool simple = activation.kind == FASTDL_ACT_NONE || activation.kind == FASTDL_ACT_RELU;
  if (is_depthwise(g) && in.plain() && simple) {
    depthwise_gather<T>(context, g, in.x, w->template as<const T>(), data_gradient, y.image<T>(), end);
    return y.write_back();
  }
  if (!data_gradient && one_channel_forward<T>(context, g, in, w->template as<const T>(), y.image<T>(), end))
    return y.write_back();
  if (pointwise_gather<T>(context, g, in, w->template as<const T>(), data_gradient, y.image<T>(), end))
    return y.write_back();
  if constexpr (std::is_same_v<T, float>) {
    const Lattice l = data_gradient ? data_lattices(g)[0] : forward_lattice(g);
    if (winograd_gather(context, g, in, l, w->template as<const T>(), data_gradient, y.image<T>(), end))
      return y.write_back();
  }
  Workspace packed(context, static_cast<size_t>(packed_size<T>(g, data_gradient)) * sizeof(T));
  const PackedWeights<T> pw =
      pack_weights<T>(context, g, w->template as<const T>(), data_gradient, packed.as<T>());
  if (data_gradient && end.none() && scatter_is_cheaper(g, pw.depthwise)) {
    scatter(context, g, in, pw, y.image<T>());
  } else if (data_gradient) {
    const std::vector<Lattice> lattices = data_lattices(g);
    if (end.none()) clear_unreached(context, lattices, y.image<T>());
    for (const Lattice& l : lattices) {
      if (l.num_taps() || !end.none()) gather(context, in, l, pw, y.image<T>(), end, false);
    }
  } else {
    gather(context, in, forward_lattice(g), pw, y.image<T>(), end, true);
  }
  y.write_back();
}

// A bfloat16 operand, with its channels side by side.
class Bf16Source {
 public:
  Bf16Source(Context* context, const View& x, const std::optional<View>& saved, const fastdl_activation& f)
      : x_(context, x) {
    x_.read();
    source_.x = x_.image<const bfloat16>();
    if (f.kind == FASTDL_ACT_NONE) return;
    saved_.emplace(context, *saved).read();
    source_.saved = saved_->image<const bfloat16>();
    source_.activation = f;
    source_.from_output = fastdl_activation_from_output(&f) != 0;
  }
  const Source<bfloat16>& operator*() const { return source_; }

 private:
  ChannelsLast x_;
  std::optional<ChannelsLast> saved_;
  Source<bfloat16> source_;
};

// As run_gather. A gradient has `saved` if it still has to pass the activation.
void run_bf16(Context* context, const Geometry& g, const View& x, const std::optional<View>& saved,
              const View& weight, const std::optional<View>& bias, const std::optional<View>& residual,
              const View& out, const fastdl_activation& activation, bool data_gradient) {
  if (out.size() == 0) return;
  constexpr fastdl_activation kNone{FASTDL_ACT_NONE, 0, 0};
  const Bf16Source in(context, x, saved, saved ? activation : kNone);
  const Contiguous w(context, weight);
  ChannelsLast y(context, out);
  Epilogue<bfloat16> end;
  if (!saved) end.activation = activation;
  std::optional<Contiguous> bias_values;
  if (bias) end.bias = bias_values.emplace(context, *bias)->as<const bfloat16>();
  std::optional<ChannelsLast> added;
  if (residual) {
    added.emplace(context, *residual).read();
    end.residual = added->image<const bfloat16>();
  }
  if (is_depthwise(g)) {
    depthwise_gather(context, g, (*in).x, w->as<const bfloat16>(), data_gradient, y.image<bfloat16>(), end);
    return y.write_back();
  }
  if (!data_gradient &&
      one_channel_forward(context, g, *in, w->as<const bfloat16>(), y.image<bfloat16>(), end))
    return y.write_back();
  if (pointwise_gather(context, g, *in, w->as<const bfloat16>(), data_gradient, y.image<bfloat16>(), end))
    return y.write_back();
  if (winograd_gather(context, g, *in, data_gradient ? data_lattices(g)[0] : forward_lattice(g),
                      w->as<const bfloat16>(), data_gradient, y.image<bfloat16>(), end)) {
    return y.write_back();
  }
  bf16_gather(context, g, *in, w->as<const bfloat16>(), data_gradient, y.image<bfloat16>(), end);
  y.write_back();
}

// Whether a call on 16-bit tensors runs on kernels of their own: else it is widened.
bool runs_bf16(const fastdl_tensor* x, const fastdl_tensor* weight, const fastdl_conv_options* o,
               bool forward, bool transposed) {
  if (x->dtype.code != FASTDL_BFLOAT || !weight || weight->ndim < 2 || !weight->shape) return false;
  const bool whole = o && o->struct_size >= sizeof *o;
  const int64_t groups = whole ? o->groups : 1;
  // Depthwise kernels need no tiles, but read gradients as they are and know ReLU only.
  if (groups > 1 && weight->shape[0] == groups && weight->shape[1] == 1) {
    return !transposed &&
           (o->activation.kind == FASTDL_ACT_NONE || (forward && o->activation.kind == FASTDL_ACT_RELU));
  }
  return groups >= 1 && bf16_tiles(groups, weight->shape[1], weight->shape[0] / groups);
}

void forward(Context* context, const check::ConvForward& f, bool transposed) {
  if (f.x.dtype == DType::kBFloat16)
    return run_bf16(context, f.geometry, f.x, {}, f.weight, f.bias, f.residual, f.out, f.activation,
                    transposed);
  dispatch_float(f.x.dtype, [&](auto zero) {
    using T = decltype(zero);
    run_gather<T>(context, f.geometry, source<T>(f.x), f.weight, f.bias, f.residual, f.out, f.activation,
                  transposed);
  });
}

void backward_data(Context* context, const check::ConvBackwardData& b, bool transposed) {
  if (b.grad.dtype == DType::kBFloat16)
    return run_bf16(context, b.geometry, b.grad, b.saved, b.weight, {}, {}, b.grad_x, b.activation,
                    !transposed);
  dispatch_float(b.grad.dtype, [&](auto zero) {
    using T = decltype(zero);
    run_gather<T>(context, b.geometry, gradient_source<T>(b.grad, b.saved, b.activation), b.weight, {}, {},
                  b.grad_x, {}, !transposed);
  });
}

void backward_weight(Context* context, const check::ConvBackwardWeight& b, bool transposed) {
  const View* const bias = b.grad_bias ? &*b.grad_bias : nullptr;
  if (!b.grad_weight) {
    if (!bias) return;
    return dispatch_float(b.grad.dtype, [&](auto zero) {
      using T = decltype(zero);
      sum_pixels<T>(context, gradient_source<T>(b.grad, b.saved, b.activation), *bias);
    });
  }
  const View& weight = *b.grad_weight;
  const Geometry& g = b.geometry;
  if (b.grad.dtype == DType::kBFloat16) {
    const Bf16Source dy(context, b.grad, b.saved, b.activation),
        xs(context, b.x, {}, {FASTDL_ACT_NONE, 0, 0});
    if (is_depthwise(g)) return depthwise_weight_gradient(context, g, (*xs).x, (*dy).x, &weight, bias);
    if (!transposed) return bf16_weight_gradient(context, g, *xs, *dy, &weight, bias);
    bf16_weight_gradient(context, g, *dy, *xs, &weight, nullptr);
    if (bias) bf16_sum_pixels(context, *dy, *bias);
    return;
  }
  dispatch_float(b.grad.dtype, [&](auto zero) {
    using T = decltype(zero);
    const Source<T> dy = gradient_source<T>(b.grad, b.saved, b.activation), xs = source<T>(b.x);
    if (!transposed) return weight_gradient<T>(context, g, xs, dy, &weight, bias);
    weight_gradient<T>(context, g, dy, xs, &weight, nullptr);
    if (bias) sum_pixels<T>(context, dy, *bias);
  });
}

}  // namespace
}  // namespace fastdl::cpu::conv

using namespace fastdl::cpu;

extern "C" {

fastdl_status fastdl_conv_forward(fastdl_context* context, const fastdl_tensor* x,
                                  const fastdl_tensor* weight, const fastdl_tensor* bias,
                                  const fastdl_tensor* residual, const fastdl_tensor* out,
                                  const fastdl_conv_options* options) {
  if (is_narrow(x) && !conv::runs_bf16(x, weight, options, true, false)) {
    return in_float32("conv", fastdl_conv_forward, context, reads(x, "x"), reads(weight, "weight"),
                      reads(bias, "bias"), reads(residual, "residual"), writes(out, "out"), options);
  }
  return guarded([&] {
    conv::forward(context, check::conv_forward(x, weight, bias, residual, out, options, false), false);
  });
}

fastdl_status fastdl_conv_backward_data(fastdl_context* context, const fastdl_tensor* grad_out,
                                        const fastdl_tensor* saved, const fastdl_tensor* weight,
                                        const fastdl_tensor* grad_x, const fastdl_conv_options* options) {
  if (is_narrow(grad_out) && !conv::runs_bf16(grad_out, weight, options, false, false)) {
    return in_float32("conv_backward_data", fastdl_conv_backward_data, context, reads(grad_out, "grad_out"),
                      reads(saved, "saved"), reads(weight, "weight"), writes(grad_x, "grad_x"), options);
  }
  return guarded([&] {
    conv::backward_data(context, check::conv_backward_data(grad_out, saved, weight, grad_x, options, false),
                        false);
  });
}

fastdl_status fastdl_conv_backward_weight(fastdl_context* context, const fastdl_tensor* grad_out,
                                          const fastdl_tensor* saved, const fastdl_tensor* x,
                                          const fastdl_tensor* grad_weight, const fastdl_tensor* grad_bias,
                                          const fastdl_conv_options* options) {
  if (is_narrow(grad_out) && !conv::runs_bf16(grad_out, grad_weight, options, false, false)) {
    return in_float32("conv_backward_weight", fastdl_conv_backward_weight, context,
                      reads(grad_out, "grad_out"), reads(saved, "saved"), reads(x, "x"),
                      writes(grad_weight, "grad_weight"), writes(grad_bias, "grad_bias"), options);
  }
  return guarded([&] {
    conv::backward_weight(
        context, check::conv_backward_weight(grad_out, saved, x, grad_weight, grad_bias, options, false),
        false);
  });
}

fastdl_status fastdl_conv_transpose_forward(fastdl_context* context, const fastdl_tensor* x,
                                            const fastdl_tensor* weight, const fastdl_tensor* bias,
                                            const fastdl_tensor* residual, const fastdl_tensor* out,
                                            const fastdl_conv_options* options) {
  if (is_narrow(x) && !conv::runs_bf16(x, weight, options, true, true)) {
    return in_float32("conv_transpose", fastdl_conv_transpose_forward, context, reads(x, "x"),
                      reads(weight, "weight"), reads(bias, "bias"), reads(residual, "residual"),
                      writes(out, "out"), options);
  }
  return guarded([&] {
    conv::forward(context, check::conv_forward(x, weight, bias, residual, out, options, true), true);
  });
}

fastdl_status fastdl_conv_transpose_backward_data(fastdl_context* context, const fastdl_tensor* grad_out,
                                                  const fastdl_tensor* saved, const fastdl_tensor* weight,
                                                  const fastdl_tensor* grad_x,
                                                  const fastdl_conv_options* options) {
  if (is_narrow(grad_out) && !conv::runs_bf16(grad_out, weight, options, false, true)) {
    return in_float32("conv_transpose_backward_data", fastdl_conv_transpose_backward_data, context,
                      reads(grad_out, "grad_out"), reads(saved, "saved"), reads(weight, "weight"),
                      writes(grad_x, "grad_x"), options);
  }
  return guarded([&] {
    conv::backward_data(context, check::conv_backward_data(grad_out, saved, weight, grad_x, options, true),
                        true);
  });
}

fastdl_status fastdl_conv_transpose_backward_weight(fastdl_context* context, const fastdl_tensor* grad_out,
                                                    const fastdl_tensor* saved, const fastdl_tensor* x,
                                                    const fastdl_tensor* grad_weight,
                                                    const fastdl_tensor* grad_bias,
                                                    const fastdl_conv_options* options) {
  if (is_narrow(grad_out) && !conv::runs_bf16(grad_out, grad_weight, options, false, true)) {
    return in_float32("conv_transpose_backward_weight", fastdl_conv_transpose_backward_weight, context,
                      reads(grad_out, "grad_out"), reads(saved, "saved"), reads(x, "x"),
                      writes(grad_weight, "grad_weight"), writes(grad_bias, "grad_bias"), options);
  }
  return guarded([&] {
    conv::backward_weight(
        context, check::conv_backward_weight(grad_out, saved, x, grad_weight, grad_bias, options, true),
        true);
  });
}
}
