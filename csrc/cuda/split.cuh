// A float32 as the exact sum of three bfloat16, of 8 bits of its mantissa each (design: float32 products at
// matrix-unit speed). Of the nine products of two such sums the six largest give float32 accuracy, three 16
// bits, one 8.
#pragma once

#include <type_traits>

#include "common/narrow.h"
#include "cuda/context.h"
#include "cuda/ptx/convert.cuh"

namespace fastdl::cuda {

// Beyond these the pieces would leave bfloat16's range (a rounded-up piece becomes infinity, the third one
// subnormal).
constexpr float kSplitLargest = 0x1.fep127f, kSplitSmallest = 0x1p-100f;

__device__ __forceinline__ bool splits(float x) {
  const float magnitude = fabsf(x);
  return x == 0 || (magnitude >= kSplitSmallest && magnitude < kSplitLargest);  // NaN fails every comparison
}

// Two neighbours at a time, as registers of mma.sync: planes[0] the leading bits.
template <int Planes>
__device__ __forceinline__ void split(float low, float high, uint32_t (&planes)[Planes]) {
#pragma unroll
  for (int i = 0; i < Planes; ++i) {
    planes[i] = ptx::pack(bfloat16{}, low, high);
    low -= __uint_as_float(planes[i] << 16);
    high -= __uint_as_float(planes[i] & 0xFFFF0000u);
  }
}

// Calls f(planes) with the number of pieces that the precision of the context asks for: of float32 3, 2 or 1;
// 1 of 16-bit types, 0 of float64, which is not split.
template <class S, class F>
void with_planes(Context* context, F&& f) {
  if constexpr (sizeof(S) == 8) f(std::integral_constant<int, 0>{});
  else if constexpr (sizeof(S) == 2) f(std::integral_constant<int, 1>{});
  else {
    switch (float32_precision(context)) {
      case FASTDL_PRECISION_HIGHEST:
        return f(std::integral_constant<int, 3>{});
      case FASTDL_PRECISION_HIGH:
        return f(std::integral_constant<int, 2>{});
      default:
        return f(std::integral_constant<int, 1>{});
    }
  }
}

}  // namespace fastdl::cuda
