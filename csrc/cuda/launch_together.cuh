// Grids whose blocks wait for each other (Launch::together).
#pragma once

#include "cuda/launch.h"

namespace fastdl::cuda {

// Counts the blocks that have come to a point, in device memory.
// Called by all threads of a block: what they wrote before is seen by blocks that have awaited their count.
__device__ __forceinline__ void arrive(unsigned* count) {
  __syncthreads();
  if (threadIdx.x != 0) return;
  __threadfence();
  atomicAdd(count, 1u);
}
// Called by all threads of a block.
__device__ __forceinline__ void await(const unsigned* count, unsigned blocks) {
  if (threadIdx.x == 0) {
    while (*const_cast<const volatile unsigned*>(count) < blocks) __nanosleep(20);
    __threadfence();
  }
  __syncthreads();
}

inline bool can_launch_together() {
  int device = 0, able = 0;
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  check_cuda(cudaDeviceGetAttribute(&able, cudaDevAttrCooperativeLaunch, device), "cudaDeviceGetAttribute");
  return able != 0;
}

// Shared memory that a block may have.
inline size_t most_shared_bytes() {
  int device = 0, bytes = 0;
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  check_cuda(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
             "cudaDeviceGetAttribute");
  return static_cast<size_t>(bytes);
}

}  // namespace fastdl::cuda
