// PReLU: x seen as [outer, channels, inner] in contiguous memory, a slope per channel. Backward reads x and
// its gradient once for both results: the weights' gradients are partial sums of fixed pieces, added up in
// float64 by a second kernel.
#include "common/activation.h"
#include "cuda/columns.cuh"
#include "cuda/map.cuh"
#include "cuda/tensor.h"
#include "fastdl/cuda.h"

namespace fastdl::cuda {
namespace {

constexpr int kThreads = 256;

// The channel of element i and of those that follow it: one division for all of them.
struct ChannelWalk {
  int64_t channel, left;  // elements of this channel still to come
  __device__ ChannelWalk(int64_t i, const check::PreluShape& s)
      : channel(i / s.inner % s.channels), left(s.inner - i % s.inner) {}
  __device__ void next(const check::PreluShape& s) {
    if (--left > 0) return;
    left = s.inner;
    channel = channel + 1 == s.channels ? 0 : channel + 1;
  }
};

template <int Width, class S>
__global__ void __launch_bounds__(kThreads)
    prelu(int64_t size, check::PreluShape s, const S* x, const S* weight, S* y) {
  using T = compute_t<S>;
  using P = Pack<S, Width>;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads * Width;
  for (int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * Width; i < size; i += step) {
    P v = *reinterpret_cast<const P*>(x + i);
    ChannelWalk walk(i, s);
#pragma unroll
    for (int j = 0; j < Width; ++j, walk.next(s)) {
      const T value = widen(v.at[j]);
      v.at[j] = narrow<S>(value > T(0) ? value : value * widen(weight[walk.channel]));
    }
    *reinterpret_cast<P*>(y + i) = v;
  }
}

// Writes dx (if wanted) and returns this element's share of the weight's gradient.
template <class S>
__device__ __forceinline__ compute_t<S> prelu_gradient(S dy, S x, compute_t<S> weight, S* dx) {
  using T = compute_t<S>;
  const T g = widen(dy), v = widen(x);
  const bool positive = v > T(0);
  if (dx) *dx = narrow<S>(positive ? g : g * weight);
  return positive ? T(0) : g * v;
}

// inner > 1: a warp takes `piece` neighbours of one channel, and leaves one partial sum.
// partial: [outer, pieces, channels].
template <class S>
__global__ void __launch_bounds__(kThreads)
    prelu_backward_rows(check::PreluShape s, int64_t pieces, int64_t piece, const S* dy, const S* x,
                        const S* weight, S* dx, compute_t<S>* partial) {
  using T = compute_t<S>;
  const int64_t tasks = s.outer * s.channels * pieces;
  for (int64_t task = static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + warp(); task < tasks;
       task += static_cast<int64_t>(gridDim.x) * (kThreads / kWarp)) {
    const int64_t row = task / pieces, part = task % pieces, channel = row % s.channels;
    const int64_t begin = part * piece, end = begin + piece < s.inner ? begin + piece : s.inner;
    const T w = widen(weight[channel]);
    T sum = 0;
    for (int64_t i = row * s.inner + begin + lane(); i < row * s.inner + end; i += kWarp) {
      sum += prelu_gradient(dy[i], x[i], w, dx ? dx + i : dx);
    }
    sum = warp_reduce(sum, Sum{});
    if (lane() == 0) partial[(row / s.channels * pieces + part) * s.channels + channel] = sum;
  }
}

// inner == 1: a thread goes down `piece` rows of one column. partial: [pieces, channels].
template <class S>
__global__ void __launch_bounds__(kThreads)
    prelu_backward_columns(check::PreluShape s, int64_t pieces, int64_t piece, const S* dy, const S* x,
                           const S* weight, S* dx, compute_t<S>* partial) {
  using T = compute_t<S>;
  const int64_t tasks = pieces * s.channels;
  for (int64_t task = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; task < tasks;
       task += static_cast<int64_t>(gridDim.x) * kThreads) {
    const int64_t part = task / s.channels, channel = task % s.channels;
    const int64_t begin = part * piece, end = begin + piece < s.outer ? begin + piece : s.outer;
    const T w = widen(weight[channel]);
    T sum = 0;
    for (int64_t row = begin; row < end; ++row) {
      const int64_t i = row * s.channels + channel;
      sum += prelu_gradient(dy[i], x[i], w, dx ? dx + i : dx);
    }
    partial[task] = sum;
  }
}

template <class S>
void forward(Context* context, const check::PreluShape& s, const S* x, const S* weight, S* y) {
  constexpr int kWidth = 16 / sizeof(S);
  const int64_t size = s.outer * s.channels * s.inner;
  if (size == 0) return;
  if (size % kWidth == 0 && aligned_to(16, x, y)) {
    launch(context, FASTDL_KERNEL(prelu<kWidth, S>), {blocks_for(size, kThreads * kWidth), kThreads}, size, s,
           x, weight, y);
  } else {
    launch(context, FASTDL_KERNEL(prelu<1, S>), {blocks_for(size, kThreads), kThreads}, size, s, x, weight,
           y);
  }
}

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <class S>
void backward(Context* context, const check::PreluShape& s, const S* dy, const S* x, const S* weight, S* dx,
              S* dw) {
  using T = compute_t<S>;
  // Pieces of a channel: enough to fill a device (kTasks), long enough to pay for their sums (kLeast).
  const bool columns = s.inner == 1 && s.channels > 1;
  constexpr int64_t kTasks = 16384, kLeast = 256, kLeastRows = 32;
  const int64_t length = columns ? s.outer : s.inner, lines = columns ? s.channels : s.outer * s.channels;
  const int64_t wanted = lines ? ceil_div(kTasks, lines) : 1;
  const int64_t piece = std::max(ceil_div(length, wanted), columns ? kLeastRows : kLeast);
  const int64_t pieces = ceil_div(length, piece), sums = columns ? pieces : s.outer * pieces;
  const Workspace scratch(context, static_cast<size_t>(sums * s.channels) * sizeof(T));
  T* const partial = scratch.as<T>();
  if (columns && sums > 0) {
    launch(context, FASTDL_KERNEL(prelu_backward_columns<S>),
           {blocks_for(pieces * s.channels, kThreads), kThreads}, s, pieces, piece, dy, x, weight, dx,
           partial);
  } else if (sums > 0) {
    launch(context, FASTDL_KERNEL(prelu_backward_rows<S>),
           {blocks_for(sums * s.channels, kThreads / kWarp), kThreads}, s, pieces, piece, dy, x, weight, dx,
           partial);
  }
  if (dw) add_up_columns<double>(context, sums, s.channels, s.channels, partial, dw);
}

}  // namespace
}  // namespace fastdl::cuda

using namespace fastdl;
using namespace fastdl::cuda;

extern "C" {

fastdl_status fastdl_cuda_prelu_forward(fastdl_context* context, const fastdl_tensor* x,
                                        const fastdl_tensor* weight, const fastdl_tensor* out) {
  return guarded([&] {
    const check::Prelu p = check::prelu_forward(x, weight, out);
    dispatch_storage(p.x.dtype, [&](auto zero) {
      using S = decltype(zero);
      const Contiguous w(context, p.weight);
      if (p.weight.size() == 1 && same_dense_layout(p.x, p.out)) {
        return forward<S>(context, p.shape, p.x.as<const S>(), w->as<const S>(), p.out.as<S>());
      }
      const Contiguous xc(context, p.x);
      ContiguousOut yc(context, p.out);
      forward<S>(context, p.shape, xc->as<const S>(), w->as<const S>(), yc->as<S>());
      yc.write_back();
    });
  });
}

fastdl_status fastdl_cuda_prelu_backward(fastdl_context* context, const fastdl_tensor* grad_out,
                                         const fastdl_tensor* x, const fastdl_tensor* weight,
                                         const fastdl_tensor* grad_x, const fastdl_tensor* grad_weight) {
  return guarded([&] {
    const check::PreluBackward p = check::prelu_backward(grad_out, x, weight, grad_x, grad_weight);
    dispatch_storage(p.x.dtype, [&](auto zero) {
      using S = decltype(zero);
      const Contiguous gc(context, p.grad_out), xc(context, p.x), w(context, p.weight);
      ContiguousOut dxc(context, p.grad_x), dwc(context, p.grad_weight);
      backward<S>(context, p.shape, gc->as<const S>(), xc->as<const S>(), w->as<const S>(),
                  grad_x ? dxc->as<S>() : nullptr, grad_weight ? dwc->as<S>() : nullptr);
      if (grad_x) dxc.write_back();
      if (grad_weight) dwc.write_back();
    });
  });
}
}
