// Bulk copies of consecutive bytes of shared memory into global memory, in groups of the thread that starts
// them (bulk_commit of tma.cuh): the numbers are stored, or added to those that are there. Addresses and
// sizes are multiples of 16 bytes.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/ptx/tma.cuh"
#ifdef FASTDL_SIMT
#include "simt/bulk.h"
#endif

namespace fastdl::cuda::ptx {

#ifndef FASTDL_SIMT

// PTX ISA 9.7.9.25.4.1 (cp.async.bulk)
__device__ __forceinline__ void bulk_store(void* to, uint32_t from, unsigned bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to), "r"(from), "r"(bytes)
               : "memory");
}
// Every number is added by itself, in an order of the engine's. PTX ISA 9.7.9.25.4.2 (cp.reduce.async.bulk)
__device__ __forceinline__ void bulk_add(float* to, uint32_t from, unsigned bytes) {
  asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;" ::"l"(to),
               "r"(from), "r"(bytes)
               : "memory");
}
// Until all groups are written: this thread sees what they wrote.
// PTX ISA 9.7.9.25.3.4 (cp.async.bulk.wait_group)
__device__ __forceinline__ void bulk_wait_written() {
  asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}
// Between this thread's ordinary accesses to global memory and bulk copies. PTX ISA 9.7.13.4 (fence.proxy)
__device__ __forceinline__ void fence_proxy_async_global() {
  asm volatile("fence.proxy.async.global;" ::: "memory");
}

#else

inline void bulk_store(void* to, uint32_t from, unsigned bytes) { simt::bulk_line(to, from, bytes, false); }
inline void bulk_add(float* to, uint32_t from, unsigned bytes) { simt::bulk_line(to, from, bytes, true); }
inline void bulk_wait_written() { simt::bulk_wait_written(); }
inline void fence_proxy_async_global() {}

#endif

}  // namespace fastdl::cuda::ptx
