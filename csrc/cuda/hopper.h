// Whether a call goes to the kernels made for Hopper (compute capability 9.0).
#pragma once

#include <cuda_runtime.h>

#include <cstdlib>
#include <cstring>

#include "cuda/context.h"

namespace fastdl::cuda {

// What an environment variable of a family (FASTDL_CUDA_MATMUL, FASTDL_CUDA_ATTENTION) asks for: its portable
// kernels, Hopper's for every shape that they can compute, or, unset, what suits the shape.
enum class Wanted { automatic, portable, always };

inline Wanted wanted(const char* variable) {
  const char* const text = std::getenv(variable);
  if (!text) return Wanted::automatic;
  if (std::strcmp(text, "portable") == 0) return Wanted::portable;
  return std::strcmp(text, "sm90") == 0 ? Wanted::always : Wanted::automatic;
}

// sm_90a code runs on 9.0 and nothing else.
inline bool is_hopper() {
  int device = 0, major = 0, minor = 0;
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  check_cuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device),
             "cudaDeviceGetAttribute");
  check_cuda(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device),
             "cudaDeviceGetAttribute");
  return major == 9 && minor == 0;
}

}  // namespace fastdl::cuda
