// Values the compiler is to know nothing about: what is worked out from one stays where it is written.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace fastdl::cuda::ptx {

// No instruction. What depends on it is not moved to before the instructions that stand before it.
__device__ __forceinline__ uint32_t opaque(uint32_t x) {
#ifndef FASTDL_SIMT
  asm volatile("" : "+r"(x));
#endif
  return x;
}

}  // namespace fastdl::cuda::ptx
