// What a kernel does about a value out of range: it says so in the word of error_word(), which
// fastdl_cuda_check reads, and makes the results that depend on the value NaN.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace fastdl::cuda {

__device__ __forceinline__ void note_error(uint32_t* word) { atomicExch(word, 1u); }

}  // namespace fastdl::cuda
