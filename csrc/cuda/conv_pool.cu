// The gradients of a convolution and the max pooling after it: the gradient of the convolution's output, then
// that convolution's gradients. Windows may overlap, and nothing here knows the windows: an element has one
// thread, which adds what is its own in the order of the pooled positions.
#include "cuda/conv.h"
#include "cuda/device.cuh"
#include "cuda/launch.h"
#include "cuda/tensor.h"
#include "fastdl/cuda.h"

namespace fastdl::cuda {
namespace {

constexpr int kSlices =
    8;  // of a plane: warps of a block, which read the same positions through the L1 cache

// A lane has a channel, a warp a slice of the plane. out: NULL, or what ReLU's derivative is taken from.
template <class S>
__global__ void __launch_bounds__(kSlices* kWarp)
    conv_unpool(const S* __restrict__ grad, const S* __restrict__ out, const int32_t* __restrict__ where,
                int64_t samples, int64_t positions, int64_t plane, int64_t channels,
                compute_t<S>* __restrict__ dense) {
  const int64_t packs = (channels + kWarp - 1) / kWarp;
  const int64_t slice = (plane + kSlices - 1) / kSlices, begin = warp() * slice;
  const int64_t end = begin + slice < plane ? begin + slice : plane;
  for (int64_t task = blockIdx.x; task < samples * packs; task += gridDim.x) {
    const int64_t sample = task / packs, c = task % packs * kWarp + lane();
    if (c >= channels) continue;
    compute_t<S>* const image = dense + sample * plane * channels + c;
    for (int64_t i = begin; i < end; ++i) image[i * channels] = 0;
    for (int64_t q = 0; q < positions; ++q) {
      const int64_t at = (sample * positions + q) * channels + c, place = where[at];
      if (place < begin || place >= end || (out && widen(out[at]) <= 0)) continue;
      image[place * channels] += widen(grad[at]);
    }
  }
}

template <class S>
void unpool(Context* context, const check::ConvPoolBackward& b, const View& dense) {
  const Contiguous grad(context, channels_last(b.grad)), where(context, channels_last(b.indices));
  const Contiguous out(context, channels_last(b.out.value_or(b.grad)));
  const check::ConvGeometry& g = b.geometry;
  const int64_t plane = g.out[0] * g.out[1] * g.out[2];
  const int64_t positions = b.grad.size() / std::max<int64_t>(g.n * g.o, 1);
  launch(context, FASTDL_KERNEL(conv_unpool<S>),
         {blocks_for(g.n * ((g.o + kWarp - 1) / kWarp), 1), kSlices * kWarp}, grad.as<const S>(),
         b.out ? out.as<const S>() : nullptr, where.as<const int32_t>(), g.n, positions, plane, g.o,
         dense.as<compute_t<S>>());
}

void backward(Context* context, const check::ConvPoolBackward& b) {
  View wide = b.dense, dense = b.dense;
  if (is_narrow(wide.dtype)) wide.dtype = DType::kFloat32;  // a sum of maxima is rounded once
  const Workspace sums(context, static_cast<size_t>(wide.nbytes()));
  const Workspace rounded(context, static_cast<size_t>(is_narrow(dense.dtype) ? dense.nbytes() : 0));
  wide.data = dense.data = sums.as<void>();
  if (dense.size() > 0) {
    dispatch_storage(dense.dtype, [&](auto zero) { unpool<decltype(zero)>(context, b, wide); });
    if (is_narrow(dense.dtype)) {
      dense.data = rounded.as<void>();
      convert(context, wide, dense);
    }
  }
  constexpr fastdl_activation kNone{FASTDL_ACT_NONE, 0, 0};
  if (b.grad_weight || b.grad_bias) {
    conv_backward_weight(context, {dense, b.x, {}, b.grad_weight, b.grad_bias, kNone, b.geometry}, false);
  }
  if (b.grad_x) conv_backward_data(context, {dense, b.weight, *b.grad_x, {}, kNone, b.geometry}, false);
}

}  // namespace
}  // namespace fastdl::cuda

using namespace fastdl;
using namespace fastdl::cuda;

extern "C" fastdl_status fastdl_cuda_conv_pool_backward(
    fastdl_context* context, const fastdl_tensor* grad_out, const fastdl_tensor* out,
    const fastdl_tensor* indices, const fastdl_tensor* x, const fastdl_tensor* weight,
    const fastdl_tensor* grad_x, const fastdl_tensor* grad_weight, const fastdl_tensor* grad_bias,
    const fastdl_conv_options* options) {
  return guarded([&] {
    backward(context, check::conv_pool_backward(grad_out, out, indices, x, weight, grad_x, grad_weight,
                                                grad_bias, options));
  });
}
