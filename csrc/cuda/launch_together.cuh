// Grids whose blocks wait for each other (Launch::together).
#pragma once

#include "cuda/launch.h"

namespace fastdl::cuda {

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
