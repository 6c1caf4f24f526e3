// Copies from global to shared memory that run beside the arithmetic, in groups that are waited for in order.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#ifdef FASTDL_SIMT
#include "simt/simt.h"
#endif

namespace fastdl::cuda::ptx {

#ifndef FASTDL_SIMT

// 16 bytes, of which the first `valid` are read from `from` and the rest are zero; both aligned to 16.
// PTX ISA 9.7.9.25.3.1 (cp.async)
__device__ __forceinline__ void cp_async_16(void* to, const void* from, int valid) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(valid)
               : "memory");
}
// PTX ISA 9.7.9.25.3.2 (cp.async.commit_group)
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most `Pending` of this thread's groups are under way. PTX ISA 9.7.9.25.3.3
// (cp.async.wait_group)
template <int Pending>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

#else

inline void cp_async_16(void* to, const void* from, int valid) {
  if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) % 16 != 0) {
    simt::fail("cp.async: an address is not aligned to 16 bytes");
  }
  simt::async_copy(to, from, 16, static_cast<size_t>(valid));
}
inline void cp_async_commit() { simt::async_commit(); }
template <int Pending>
void cp_async_wait() {
  simt::async_wait(Pending);
}

#endif

}  // namespace fastdl::cuda::ptx
