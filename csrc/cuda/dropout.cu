// Dropout: memory-bound (one read, one write; a Philox block costs some 40 integer instructions for four
// elements).
#include "common/dropout.h"

#include "cuda/dropout.h"
#include "cuda/map.cuh"
#include "cuda/philox.cuh"
#include "cuda/tensor.h"
#include "fastdl/cuda.h"

namespace fastdl::cuda {
namespace {

constexpr int kThreads = 256;

// Where whole blocks of the generator do not lie in whole packs: every element makes its own.
template <class T>
struct DropoutOne {
  DropoutMask mask;
  int64_t first;
  T scale;
  __device__ T operator()(int64_t i, T x) const { return dropout_keeps(mask, first + i) ? x * scale : T(0); }
};

// A thread takes 16 bytes at a time, of float64 twice that: whole blocks of the generator.
template <class S>
__global__ void __launch_bounds__(kThreads)
    dropout_flat(DropoutMask mask, compute_t<S> scale, int64_t size, const S* x, S* y) {
  constexpr int kWidth = 16 / sizeof(S), kGroups = kWidth > 4 ? kWidth / 4 : 1;
  constexpr int kElements = kGroups * 4, kPacks = kElements / kWidth;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads * kElements;
  int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kElements;
  for (; i < size; i += step) {
    uint32_t words[kElements];
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      const PhiloxBlock block = dropout_words(mask, i / 4 + g);
#pragma unroll
      for (int j = 0; j < 4; ++j) words[g * 4 + j] = block.word[j];
    }
    const auto value = [&](S v, int j) {
      return narrow<S>(kept(mask, words[j]) ? widen(v) * scale : compute_t<S>(0));
    };
    if (i + kElements <= size) {
#pragma unroll
      for (int p = 0; p < kPacks; ++p) {
        Pack<S, kWidth> v = *reinterpret_cast<const Pack<S, kWidth>*>(x + i + p * kWidth);
#pragma unroll
        for (int j = 0; j < kWidth; ++j) v.at[j] = value(v.at[j], p * kWidth + j);
        *reinterpret_cast<Pack<S, kWidth>*>(y + i + p * kWidth) = v;
      }
    } else {
#pragma unroll
      for (int j = 0; j < kElements; ++j) {
        if (i + j < size) y[i + j] = value(x[i + j], j);
      }
    }
  }
}

template <class S>
void apply(Context* context, DropoutMask mask, int64_t first, const View& x, const View& out) {
  const auto scale = static_cast<compute_t<S>>(mask.scale);
  if (x.size() == 0) return;
  mask.offset += static_cast<uint64_t>(first / 4);
  first %= 4;
  if (first == 0 && x.contiguous() && out.contiguous() && aligned_to(16, x.data, out.data)) {
    constexpr int64_t kPerBlock = kThreads * (sizeof(S) == 2 ? 8 : 4);
    return launch(context, FASTDL_KERNEL(dropout_flat<S>), {blocks_for(x.size(), kPerBlock), kThreads}, mask,
                  scale, x.size(), x.as<const S>(), out.as<S>());
  }
  const View* const views[] = {&out, &x};
  map_any<S, S>(context, map_shape(views, true), DropoutOne<compute_t<S>>{mask, first, scale}, out, x);
}

}  // namespace

void dropout(Context* context, const DropoutMask& mask, int64_t first, const View& x, const View& out) {
  dispatch_storage(x.dtype, [&](auto zero) { apply<decltype(zero)>(context, mask, first, x, out); });
}

}  // namespace fastdl::cuda

using namespace fastdl;
using namespace fastdl::cuda;

extern "C" fastdl_status fastdl_cuda_dropout(fastdl_context* context, const fastdl_tensor* x,
                                             const fastdl_tensor* out, double p, uint64_t seed,
                                             uint64_t offset) {
  return guarded([&] {
    const check::Dropout d = check::dropout(x, out, p, seed, offset);
    dropout(context, d.mask, 0, d.x, d.out);
  });
}
