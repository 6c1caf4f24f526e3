// What the kernels of warpgroups (matmul_sm90.cuh, attention_sm90_*.cuh) share.
#pragma once

#include <cuda_runtime.h>

namespace fastdl::cuda {

constexpr int kWarpgroup = 128;

// The place in a ring of T::kStages stages, and the parity of its phase.
template <class T>
struct Ring {
  int stage = 0;
  unsigned parity = 0;
  __device__ __forceinline__ void advance() {
    if (++stage == T::kStages) stage = 0, parity ^= 1;
  }
  __device__ __forceinline__ Ring before() const {
    return stage > 0 ? Ring{stage - 1, parity} : Ring{T::kStages - 1, parity ^ 1};
  }
};

}  // namespace fastdl::cuda
