// Entry points of convolution: checks (common/conv.cpp), the choice between a plain product, depthwise
// kernels and gathers, and operands laid out for them.
#include "cuda/conv.h"

#include "cuda/activation.h"
#include "cuda/conv_merge.h"
#include "cuda/row_sums.cuh"
#include "cuda/tensor.h"
#include "fastdl/cuda.h"

namespace fastdl::cuda {
namespace {

// Adds up the parts: one thread per element, neighbouring threads with neighbouring channels.
template <class S>
__global__ void __launch_bounds__(256)
    conv_finish_weight(WeightParts<compute_t<S>> p, MergedTaps m, int64_t size, int64_t o_per_group,
                       int32_t taps1, int32_t taps2, int64_t taps, ConvImage<S> out) {
  const int64_t channels = m.channels, merged = m.count();
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x; i < size;
       i += static_cast<int64_t>(gridDim.x) * 256) {
    const int64_t c = i % channels, tap = i / channels % taps, o = i / channels / taps;
    const compute_t<S>* const from = p.data + o / o_per_group * p.group_step + o % o_per_group * p.o_step +
                                     tap / merged * p.tap_step + (tap % merged * m.places + c) * p.c_step;
    compute_t<S> sum = 0;
    for (int64_t part = 0; part < p.parts; ++part) sum += from[part * p.size];
    out.data[o * out.n_step + c * out.c_step + tap / taps2 / taps1 * out.step[0] +
             tap / taps2 % taps1 * out.step[1] + tap % taps2 * out.step[2]] = narrow<S>(sum);
  }
}

// One tap that meets every pixel once: the convolution is the product of the pixels with the weights.
bool is_product(const ConvGeometry& g, const View& big, const View& small) {
  if (g.taps() != 1 || g.groups != 1) return false;
  for (int i = 0; i < 3; ++i) {
    if (g.stride[i] != 1 || g.padding[i] != 0 || g.in[i] != g.out[i]) return false;
  }
  return pixel_pitch(big) && pixel_pitch(small);
}

int64_t pixels(const View& v) {
  int64_t n = v.shape[0];
  for (int i = 2; i < v.ndim; ++i) n *= v.shape[i];
  return n;
}

constexpr fastdl_activation kNone{FASTDL_ACT_NONE, 0, 0};

struct Gathered {
  const ConvGeometry& g;
  const View &in, &weight, &out;
  const View *saved, *bias, *residual;
  fastdl_activation activation;  // of the end, or where there is `saved`, the one whose derivative counts
  bool data_gradient;
};

template <class S>
void run_gather(Context* context, const Gathered& r) {
  const ConvGeometry& g = r.g;
  ConvEnd<S> end;
  end.out = ConvImage<S>(r.out);
  if (r.residual) end.residual = ConvImage<const S>(*r.residual);
  if (r.bias) end.bias = r.bias->as<S>(), end.bias_stride = r.bias->strides[0];
  if (!r.saved) end.activation = r.activation;
  if (!r.saved && is_product(g, r.in, r.out) && (!r.residual || pixel_pitch(*r.residual))) {
    const int64_t columns = r.out.shape[1], k = r.in.shape[1];
    const int b_row = r.data_gradient ? 0 : 1;  // the weight's axis that is summed over
    Gemm<S> p{pixels(r.out),
              columns,
              k,
              r.in.as<S>(),
              *pixel_pitch(r.in),
              r.in.strides[1],
              r.weight.as<S>(),
              r.weight.strides[b_row],
              r.weight.strides[1 - b_row],
              r.out.data,
              *pixel_pitch(r.out),
              r.out.strides[1]};
    p.bias = end.bias, p.bias_stride = end.bias_stride;
    p.residual = end.residual.data;
    if (r.residual) p.residual_row = *pixel_pitch(*r.residual), p.residual_column = r.residual->strides[1];
    p.activation = end.activation;
    return gemm(context, p);
  }
  const fastdl_activation& masked = r.saved ? r.activation : kNone;
  if (is_depthwise(g)) {
    const GroupedImage in(context, r.in, 1, false, r.saved, masked);
    return depthwise_gather<S>(context, g, in, r.weight, end, r.data_gradient);
  }
  // Of a gradient, what lies outside does not exist, which zeros beside taps would not say.
  if (const auto m = r.data_gradient || r.saved ? std::nullopt : merge_gather(context, g, r.in)) {
    const MergedConv merged(context, g, r.in, *m);
    const GroupedImage in(context, merged.image(), 1, false);
    return conv_gather<S>(context, merged.geometry(), in, r.weight, end, false, &merged.taps());
  }
  const GroupedImage in(context, r.in, g.groups, false, r.saved, masked);
  conv_gather<S>(context, g, in, r.weight, end, r.data_gradient);
}

void gather(Context* context, const Gathered& r, const char* op) {
  if (r.out.size() == 0) return;
  check_extents(r.g, op);
  dispatch_storage(r.out.dtype, [&](auto zero) { run_gather<decltype(zero)>(context, r); });
}

const View* pointer(const std::optional<View>& v) { return v ? &*v : nullptr; }

void forward(Context* context, const check::ConvForward& f, bool transposed) {
  gather(context,
         {f.geometry, f.x, f.weight, f.out, nullptr, pointer(f.bias), pointer(f.residual), f.activation,
          transposed},
         transposed ? "conv_transpose" : "conv");
}

template <class S>
void run_weight(Context* context, const check::ConvBackwardWeight& b, bool transposed) {
  const ConvGeometry& g = b.geometry;
  const bool activated = b.activation.kind != FASTDL_ACT_NONE;
  const View* const saved = activated ? &*b.saved : nullptr;
  const fastdl_activation& f = activated ? b.activation : kNone;
  const bool depthwise = b.grad_weight && is_depthwise(g);
  const int64_t groups = b.grad_weight && !depthwise ? g.groups : 1;
  // dense, unless it is the convolution's input
  const GroupedImage dy(context, b.grad, groups, !transposed || b.grad_bias, saved, f);
  if (b.grad_weight && b.grad_weight->size() > 0) {
    const View& out = *b.grad_weight;
    if (!activated && is_product(g, b.x, b.grad)) {
      const View &small = transposed ? b.x : b.grad, &big = transposed ? b.grad : b.x;
      gemm(context,
           Gemm<S>{g.o, g.c, pixels(b.x), small.as<S>(), small.strides[1], *pixel_pitch(small), big.as<S>(),
                   *pixel_pitch(big), big.strides[1], out.data, out.strides[0], out.strides[1]});
    } else if (const auto m = transposed || depthwise ? std::nullopt : merge_weight(context, g, b.x)) {
      const MergedConv merged(context, g, b.x, *m);
      const GroupedImage x(context, merged.image(), 1, false);
      conv_weight<S>(context, merged.geometry(), x, dy, out, &merged.taps());
    } else {
      const GroupedImage x(context, b.x, groups, transposed);
      const GroupedImage &in = transposed ? dy : x, &grad = transposed ? x : dy;
      if (depthwise) depthwise_weight<S>(context, g, in, grad, out);
      else conv_weight<S>(context, g, in, grad, out);
    }
  }
  if (b.grad_bias) {
    const ConvImage<const S> z = dy.image<S>();
    const int64_t channels = b.grad.shape[1];
    sum_rows<S>(context,
                {z.data, pixels(b.grad), channels, dy.pitch(), z.c_step,
                 std::max<int64_t>(channels / groups, 1), z.group_step},
                *b.grad_bias);
  }
}

}  // namespace

void conv_backward_data(Context* context, const check::ConvBackwardData& b, bool transposed) {
  const bool activated = b.activation.kind != FASTDL_ACT_NONE;
  gather(context,
         {b.geometry, b.grad, b.weight, b.grad_x, activated ? &*b.saved : nullptr, nullptr, nullptr,
          b.activation, !transposed},
         transposed ? "conv_transpose_backward_data" : "conv_backward_data");
}

void conv_backward_weight(Context* context, const check::ConvBackwardWeight& b, bool transposed) {
  if (b.grad_weight) {
    check_extents(b.geometry, transposed ? "conv_transpose_backward_weight" : "conv_backward_weight");
  }
  dispatch_storage(b.grad.dtype, [&](auto zero) { run_weight<decltype(zero)>(context, b, transposed); });
}

template <class S>
void finish_weight(Context* context, const ConvGeometry& g, const MergedTaps& merged,
                   const WeightParts<compute_t<S>>& parts, const View& grad_weight) {
  const int64_t taps = g.taps() * merged.count(), size = g.o * taps * merged.channels;
  const auto kernel = [&](int i) { return static_cast<int32_t>(g.kernel[i]) * merged.kernel[i]; };
  launch(context, FASTDL_KERNEL(conv_finish_weight<S>), {blocks_for(size, 256), 256}, parts, merged, size,
         g.o_per_group(), kernel(1), kernel(2), taps, ConvImage<S>(grad_weight));
}
#define FASTDL_FINISH(S)                                                           \
  template void finish_weight<S>(Context*, const ConvGeometry&, const MergedTaps&, \
                                 const WeightParts<compute_t<S>>&, const View&);
FASTDL_FINISH(float)
FASTDL_FINISH(double)
FASTDL_FINISH(bfloat16)
FASTDL_FINISH(float16)
#undef FASTDL_FINISH

}  // namespace fastdl::cuda

using namespace fastdl;
using namespace fastdl::cuda;

extern "C" {

fastdl_status fastdl_cuda_conv_forward(fastdl_context* context, const fastdl_tensor* x,
                                       const fastdl_tensor* weight, const fastdl_tensor* bias,
                                       const fastdl_tensor* residual, const fastdl_tensor* out,
                                       const fastdl_conv_options* options) {
  return guarded(
      [&] { forward(context, check::conv_forward(x, weight, bias, residual, out, options, false), false); });
}

fastdl_status fastdl_cuda_conv_backward_data(fastdl_context* context, const fastdl_tensor* grad_out,
                                             const fastdl_tensor* saved, const fastdl_tensor* weight,
                                             const fastdl_tensor* grad_x,
                                             const fastdl_conv_options* options) {
  return guarded([&] {
    conv_backward_data(context, check::conv_backward_data(grad_out, saved, weight, grad_x, options, false),
                       false);
  });
}

fastdl_status fastdl_cuda_conv_backward_weight(fastdl_context* context, const fastdl_tensor* grad_out,
                                               const fastdl_tensor* saved, const fastdl_tensor* x,
                                               const fastdl_tensor* grad_weight,
                                               const fastdl_tensor* grad_bias,
                                               const fastdl_conv_options* options) {
  return guarded([&] {
    conv_backward_weight(
        context, check::conv_backward_weight(grad_out, saved, x, grad_weight, grad_bias, options, false),
        false);
  });
}

fastdl_status fastdl_cuda_conv_transpose_forward(fastdl_context* context, const fastdl_tensor* x,
                                                 const fastdl_tensor* weight, const fastdl_tensor* bias,
                                                 const fastdl_tensor* residual, const fastdl_tensor* out,
                                                 const fastdl_conv_options* options) {
  return guarded(
      [&] { forward(context, check::conv_forward(x, weight, bias, residual, out, options, true), true); });
}

fastdl_status fastdl_cuda_conv_transpose_backward_data(fastdl_context* context, const fastdl_tensor* grad_out,
                                                       const fastdl_tensor* saved,
                                                       const fastdl_tensor* weight,
                                                       const fastdl_tensor* grad_x,
                                                       const fastdl_conv_options* options) {
  return guarded([&] {
    conv_backward_data(context, check::conv_backward_data(grad_out, saved, weight, grad_x, options, true),
                       true);
  });
}

fastdl_status fastdl_cuda_conv_transpose_backward_weight(fastdl_context* context,
                                                         const fastdl_tensor* grad_out,
                                                         const fastdl_tensor* saved, const fastdl_tensor* x,
                                                         const fastdl_tensor* grad_weight,
                                                         const fastdl_tensor* grad_bias,
                                                         const fastdl_conv_options* options) {
  return guarded([&] {
    conv_backward_weight(
        context, check::conv_backward_weight(grad_out, saved, x, grad_weight, grad_bias, options, true),
        true);
  });
}
}
