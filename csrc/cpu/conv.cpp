// Entry points of convolution: check and describe (conv_geometry.cpp), run. The sums themselves are in
// conv_gather.cpp and conv_weight.cpp.
#include "fastdl/conv.h"

#include <optional>
#include <type_traits>

#include "cpu/conv_bf16.h"
#include "cpu/conv_depthwise.h"
#include "cpu/conv_geometry.h"
#include "cpu/conv_plan.h"
#include "cpu/conv_winograd.h"
#include "cpu/kernels.h"
#include "cpu/tensor.h"
#include "cpu/widen.h"

namespace fastdl::cpu::conv {
namespace {

std::optional<View> optional_vector(const fastdl_tensor* t, DType dtype, int64_t n, const char* op,
                                    const char* name) {
  if (!t) return std::nullopt;
  const View v = view_like(t, dtype, op, name);
  FASTDL_CHECK(v.ndim == 1 && v.shape[0] == n, FASTDL_ERROR_SHAPE, "%s: expected %s of shape (%lld,), got %s",
               op, name, static_cast<long long>(n), shape_string(v).c_str());
  return v;
}

std::optional<View> optional_like(const fastdl_tensor* t, const View& like, const char* like_name,
                                  const char* op, const char* name) {
  if (!t) return std::nullopt;
  const View v = view_like(t, like.dtype, op, name);
  check_same_shape(like, like_name, v, name, op);
  return v;
}

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
    laid_out_.strides[1] = 1;
    int64_t step = v.shape[1];
    for (int i = v.ndim - 1; i >= 2; --i) {
      laid_out_.strides[i] = step;
      step *= v.shape[i];
    }
    laid_out_.strides[0] = step;
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

void check_saved(const std::optional<View>& saved, const fastdl_activation& f, const char* op) {
  FASTDL_CHECK(f.kind == FASTDL_ACT_NONE || saved, FASTDL_ERROR_VALUE,
               "%s: the activation's derivative needs saved, got NULL", op);
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
  if constexpr (std::is_same_v<T, float>) {
    const Lattice l = data_gradient ? data_lattices(g)[0] : forward_lattice(g);
    if (winograd_gather(context, g, in, l, w->template as<const T>(), data_gradient, y.image<T>(), end))
      return y.write_back();
  }
  Workspace packed(context, static_cast<size_t>(packed_size<T>(g, data_gradient)) * sizeof(T));
  const PackedWeights<T> pw =
      pack_weights<T>(context, g, w->template as<const T>(), data_gradient, packed.as<T>());
  const bool plain_end = !bias && !residual && activation.kind == FASTDL_ACT_NONE;
  if (data_gradient && plain_end && scatter_is_cheaper(g, pw.depthwise)) {
    scatter(context, g, in, pw, y.image<T>());
  } else if (data_gradient) {
    for (const Lattice& l : data_lattices(g)) gather(context, in, l, pw, y.image<T>(), end, false);
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

void forward(Context* context, const fastdl_tensor* x_, const fastdl_tensor* weight_,
             const fastdl_tensor* bias_, const fastdl_tensor* residual_, const fastdl_tensor* out_,
             const fastdl_conv_options* options, bool transposed) {
  const char* op = transposed ? "conv_transpose" : "conv";
  const View x = any_float_view(x_, op, "x"), weight = view_like(weight_, x.dtype, op, "weight");
  const View out = out_view(out_, x.dtype, op, "out");
  const fastdl_conv_options o = read_options(options, fastdl_conv_options FASTDL_CONV_OPTIONS_INIT, op);
  const Geometry g = transposed ? geometry(out, weight, x, o, {op, "out", "x", "weight", true})
                                : geometry(x, weight, out, o, {op, "x", "out", "weight", false});
  const auto bias = optional_vector(bias_, x.dtype, out.shape[1], op, "bias");
  const auto residual = optional_like(residual_, out, "out", op, "residual");
  if (x.dtype == DType::kBFloat16)
    return run_bf16(context, g, x, {}, weight, bias, residual, out, o.activation, transposed);
  dispatch_float(x.dtype, [&](auto zero) {
    using T = decltype(zero);
    run_gather<T>(context, g, source<T>(x), weight, bias, residual, out, o.activation, transposed);
  });
}

void backward_data(Context* context, const fastdl_tensor* grad_, const fastdl_tensor* saved_,
                   const fastdl_tensor* weight_, const fastdl_tensor* grad_x_,
                   const fastdl_conv_options* options, bool transposed) {
  const char* op = transposed ? "conv_transpose_backward_data" : "conv_backward_data";
  const View grad = any_float_view(grad_, op, "grad_out"),
             weight = view_like(weight_, grad.dtype, op, "weight");
  const View grad_x = out_view(grad_x_, grad.dtype, op, "grad_x");
  const fastdl_conv_options o = read_options(options, fastdl_conv_options FASTDL_CONV_OPTIONS_INIT, op);
  const Geometry g = transposed
                         ? geometry(grad, weight, grad_x, o, {op, "grad_out", "grad_x", "weight", true})
                         : geometry(grad_x, weight, grad, o, {op, "grad_x", "grad_out", "weight", false});
  const auto saved = optional_like(saved_, grad, "grad_out", op, "saved");
  check_saved(saved, o.activation, op);
  if (grad.dtype == DType::kBFloat16)
    return run_bf16(context, g, grad, saved, weight, {}, {}, grad_x, o.activation, !transposed);
  dispatch_float(grad.dtype, [&](auto zero) {
    using T = decltype(zero);
    run_gather<T>(context, g, gradient_source<T>(grad, saved, o.activation), weight, {}, {}, grad_x, {},
                  !transposed);
  });
}

void backward_weight(Context* context, const fastdl_tensor* grad_, const fastdl_tensor* saved_,
                     const fastdl_tensor* x_, const fastdl_tensor* grad_weight_,
                     const fastdl_tensor* grad_bias_, const fastdl_conv_options* options, bool transposed) {
  const char* op = transposed ? "conv_transpose_backward_weight" : "conv_backward_weight";
  const View grad = any_float_view(grad_, op, "grad_out"), x = view_like(x_, grad.dtype, op, "x");
  const fastdl_conv_options o = read_options(options, fastdl_conv_options FASTDL_CONV_OPTIONS_INIT, op);
  const auto saved = optional_like(saved_, grad, "grad_out", op, "saved");
  check_saved(saved, o.activation, op);
  const auto check_bias = [&] {
    const auto bias = optional_vector(grad_bias_, grad.dtype, grad.shape[1], op, "grad_bias");
    if (bias) check_out(*bias, op, "grad_bias");
    return bias;
  };
  if (!grad_weight_) {
    if (!grad_bias_) return;
    FASTDL_CHECK(grad.ndim >= 3 && grad.ndim <= 5, FASTDL_ERROR_SHAPE,
                 "%s: expected grad_out of shape (N, C, ...) with 1 to 3 spatial axes, got %s", op,
                 shape_string(grad).c_str());
    const auto bias = check_bias();
    return dispatch_float(grad.dtype, [&](auto zero) {
      using T = decltype(zero);
      sum_pixels<T>(context, gradient_source<T>(grad, saved, o.activation), *bias);
    });
  }
  const View weight = out_view(grad_weight_, grad.dtype, op, "grad_weight");
  const Geometry g = transposed ? geometry(grad, weight, x, o, {op, "grad_out", "x", "grad_weight", true})
                                : geometry(x, weight, grad, o, {op, "x", "grad_out", "grad_weight", false});
  const auto bias = check_bias();
  if (grad.dtype == DType::kBFloat16) {
    const Bf16Source dy(context, grad, saved, o.activation), xs(context, x, {}, {FASTDL_ACT_NONE, 0, 0});
    if (is_depthwise(g))
      return depthwise_weight_gradient(context, g, (*xs).x, (*dy).x, &weight, bias ? &*bias : nullptr);
    if (!transposed) return bf16_weight_gradient(context, g, *xs, *dy, &weight, bias ? &*bias : nullptr);
    bf16_weight_gradient(context, g, *dy, *xs, &weight, nullptr);
    if (bias) bf16_sum_pixels(context, *dy, *bias);
    return;
  }
  dispatch_float(grad.dtype, [&](auto zero) {
    using T = decltype(zero);
    const Source<T> dy = gradient_source<T>(grad, saved, o.activation), xs = source<T>(x);
    if (!transposed) return weight_gradient<T>(context, g, xs, dy, &weight, bias ? &*bias : nullptr);
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
  return guarded([&] { conv::forward(context, x, weight, bias, residual, out, options, false); });
}

fastdl_status fastdl_conv_backward_data(fastdl_context* context, const fastdl_tensor* grad_out,
                                        const fastdl_tensor* saved, const fastdl_tensor* weight,
                                        const fastdl_tensor* grad_x, const fastdl_conv_options* options) {
  if (is_narrow(grad_out) && !conv::runs_bf16(grad_out, weight, options, false, false)) {
    return in_float32("conv_backward_data", fastdl_conv_backward_data, context, reads(grad_out, "grad_out"),
                      reads(saved, "saved"), reads(weight, "weight"), writes(grad_x, "grad_x"), options);
  }
  return guarded([&] { conv::backward_data(context, grad_out, saved, weight, grad_x, options, false); });
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
  return guarded(
      [&] { conv::backward_weight(context, grad_out, saved, x, grad_weight, grad_bias, options, false); });
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
  return guarded([&] { conv::forward(context, x, weight, bias, residual, out, options, true); });
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
  return guarded([&] { conv::backward_data(context, grad_out, saved, weight, grad_x, options, true); });
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
  return guarded(
      [&] { conv::backward_weight(context, grad_out, saved, x, grad_weight, grad_bias, options, true); });
}
}
