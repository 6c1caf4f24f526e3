// Kernels that convert between float32 and the 16-bit types.
#pragma once

#include <cstdint>

#include "common/narrow.h"

namespace fastdl::cpu {

// n elements, strides in elements; x and y do not overlap.
template <class S>
struct ConvertTable {
  void (*widen)(int64_t n, const S* x, int64_t x_stride, float* y, int64_t y_stride);
  // Rounds to nearest, ties to even; NaN becomes a quiet NaN.
  void (*narrow)(int64_t n, const float* x, int64_t x_stride, S* y, int64_t y_stride);
};

struct ConvertKernels {
  ConvertTable<bfloat16> bf16;
  ConvertTable<float16> f16;
};

inline const ConvertTable<bfloat16>& convert_table(const ConvertKernels& k, bfloat16) { return k.bf16; }
inline const ConvertTable<float16>& convert_table(const ConvertKernels& k, float16) { return k.f16; }

}  // namespace fastdl::cpu
