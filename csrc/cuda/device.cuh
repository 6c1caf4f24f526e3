// What kernels share: element types, warps, sums in a fixed order.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#include "common/narrow.h"
#include "cuda/ptx/convert.cuh"

namespace fastdl::cuda {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xFFFFFFFFu;

// Storage type S to the type it is computed with, and back.
template <class S>
__device__ __forceinline__ compute_t<S> widen(S x) {
  if constexpr (std::is_same_v<S, bfloat16> || std::is_same_v<S, float16>) return ptx::to_float(x);
  else return x;
}
template <class S>
__device__ __forceinline__ S narrow(compute_t<S> x) {
  if constexpr (std::is_same_v<S, bfloat16>) return ptx::to_bfloat16(x);
  else if constexpr (std::is_same_v<S, float16>) return ptx::to_float16(x);
  else return x;
}

// N elements that move in one memory access.
template <class S, int N>
struct alignas(sizeof(S) * N) Pack {
  S at[N];
};

__device__ __forceinline__ int lane() { return static_cast<int>(threadIdx.x) % kWarp; }
__device__ __forceinline__ int warp() { return static_cast<int>(threadIdx.x) / kWarp; }

struct Sum {
  template <class T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a + b;
  }
};
// NaN wins, as in a maximum that is to show it.
struct Max {
  template <class T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a > b || a != a ? a : b;
  }
};

// Over the lanes of a warp, for every lane: a butterfly, so that all get the same bits.
template <class T, class F>
__device__ __forceinline__ T warp_reduce(T x, F combine) {
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) x = combine(x, __shfl_xor_sync(kAllLanes, x, step));
  return x;
}

// Over the threads of a block of Threads (a multiple of 32), for every thread; `scratch` is Threads / 32
// elements of shared memory, free again when all threads have passed the next barrier.
template <int Threads, class T, class F, class Scratch>
__device__ __forceinline__ T block_reduce(T x, F combine, Scratch& scratch) {
  x = warp_reduce(x, combine);
  if constexpr (Threads == kWarp) return x;
  if (lane() == 0) scratch[warp()] = x;
  __syncthreads();
  T total = scratch[0];
  for (int i = 1; i < Threads / kWarp; ++i) total = combine(total, static_cast<T>(scratch[i]));
  __syncthreads();
  return total;
}

}  // namespace fastdl::cuda
