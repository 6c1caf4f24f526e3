// Warpgroups: 128 threads, warps 4i to 4i + 3. Their share of the registers, and barriers of some of a
// block's threads.
#pragma once

#include <cuda_runtime.h>
#ifdef FASTDL_SIMT
#include "simt/simt.h"
#endif

namespace fastdl::cuda::ptx {

// Registers per thread from here on, of all warps of a warpgroup: fewer give some back, more wait until there
// are enough. PTX ISA 9.7.19.5 (setmaxnreg)
template <int Count>
__device__ __forceinline__ void fewer_registers() {
  static_assert(Count >= 24 && Count <= 256 && Count % 8 == 0);
#ifndef FASTDL_SIMT
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Count));
#endif
}
template <int Count>
__device__ __forceinline__ void more_registers() {
  static_assert(Count >= 24 && Count <= 256 && Count % 8 == 0);
#ifndef FASTDL_SIMT
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Count));
#endif
}

// Barrier `id` (1 to 15; 0 is __syncthreads) for `count` threads. PTX ISA 9.7.13.1 (bar.sync, bar.arrive)
__device__ __forceinline__ void named_barrier(int id, int count) {
#ifndef FASTDL_SIMT
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(count) : "memory");
#else
  simt::barrier("bar.sync", id, count);
#endif
}
__device__ __forceinline__ void named_barrier_arrive(int id, int count) {
#ifndef FASTDL_SIMT
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(count) : "memory");
#else
  simt::barrier_arrive(id, count);
#endif
}

}  // namespace fastdl::cuda::ptx
