// Memory that blocks of a running grid hand to each other: accesses that go to the L2 cache, where all
// multiprocessors see the same, and order nothing else.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#ifdef FASTDL_SIMT
#include "simt/simt.h"
#endif

namespace fastdl::cuda::ptx {

#ifndef FASTDL_SIMT

// 16 bytes, aligned to as much; each of the four words is one access. PTX ISA 9.7.9.8 (ld)
__device__ __forceinline__ void load_relaxed(uint32_t (&words)[4], const void* from) {
  asm volatile("ld.relaxed.gpu.global.v4.b32 {%0,%1,%2,%3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "l"(__cvta_generic_to_global(from))
               : "memory");
}
__device__ __forceinline__ uint64_t load_relaxed(const uint64_t* from) {
  uint64_t bits;
  asm volatile("ld.relaxed.gpu.global.b64 %0, [%1];"
               : "=l"(bits)
               : "l"(__cvta_generic_to_global(from))
               : "memory");
  return bits;
}
// PTX ISA 9.7.9.11 (st)
__device__ __forceinline__ void store_relaxed(void* to, uint16_t bits) {
  asm volatile("st.relaxed.gpu.global.b16 [%0], %1;" ::"l"(__cvta_generic_to_global(to)), "h"(bits)
               : "memory");
}
__device__ __forceinline__ void store_relaxed(void* to, uint32_t bits) {
  asm volatile("st.relaxed.gpu.global.b32 [%0], %1;" ::"l"(__cvta_generic_to_global(to)), "r"(bits)
               : "memory");
}
__device__ __forceinline__ void store_relaxed(void* to, uint64_t bits) {
  asm volatile("st.relaxed.gpu.global.b64 [%0], %1;" ::"l"(__cvta_generic_to_global(to)), "l"(bits)
               : "memory");
}
// Brings the line of an address into the L2 cache. PTX ISA 9.7.9.15 (prefetch)
__device__ __forceinline__ void prefetch_l2(const void* address) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(__cvta_generic_to_global(address)));
}
// Between two looks at memory that another block is to write: its way there is pause enough.
__device__ __forceinline__ void look_again() {}

#else

inline void load_relaxed(uint32_t (&words)[4], const void* from) {
  if (reinterpret_cast<uintptr_t>(from) % 16 != 0) simt::fail("ld.v4: an address not aligned to 16 bytes");
  for (int i = 0; i < 4; ++i) {
    words[i] = __atomic_load_n(static_cast<const uint32_t*>(from) + i, __ATOMIC_RELAXED);
  }
}
inline uint64_t load_relaxed(const uint64_t* from) { return __atomic_load_n(from, __ATOMIC_RELAXED); }
template <class T>
void store_relaxed(void* to, T bits) {
  if (reinterpret_cast<uintptr_t>(to) % sizeof(T) != 0) simt::fail("st: an address that is not aligned");
  __atomic_store_n(static_cast<T*>(to), bits, __ATOMIC_RELAXED);
}
inline void prefetch_l2(const void*) {}
inline void look_again() { simt::spin(); }

#endif

}  // namespace fastdl::cuda::ptx
