// 2^x by the special function unit alone: exp2f spends three more instructions on subnormal numbers.
#pragma once

#include <cuda_runtime.h>
#ifdef FASTDL_SIMT
#include <cmath>
#endif

namespace fastdl::cuda::ptx {

#ifndef FASTDL_SIMT

// Relative error 2^-22; 0 where the result would be subnormal. PTX ISA 9.7.3.22 (ex2)
__device__ __forceinline__ float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

#else

inline float fast_exp2(float x) {
  const float y = std::exp2(x);
  return y < 0x1p-126f ? 0.0f : y;
}

#endif

}  // namespace fastdl::cuda::ptx
