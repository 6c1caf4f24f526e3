// mbarriers: 8 bytes of shared memory that count arrivals and, of bulk copies, bytes; a phase ends when all
// have come. Addresses are those of shared_address(), or of map_shared() for another block of the cluster.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#ifdef FASTDL_SIMT
#include "simt/hopper.h"
#endif

namespace fastdl::cuda::ptx {

#ifndef FASTDL_SIMT

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// PTX ISA 9.7.13.15.9 (mbarrier.init)
__device__ __forceinline__ void mbarrier_init(uint32_t barrier, unsigned count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}
// After the inits, before anything but threads of the block uses them. PTX ISA 9.7.13.4 (fence.mbarrier_init)
__device__ __forceinline__ void mbarrier_fence_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
// PTX ISA 9.7.13.15.13 (mbarrier.arrive)
__device__ __forceinline__ void mbarrier_arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
// At an address of map_shared(). PTX ISA 9.7.13.15.13
__device__ __forceinline__ void mbarrier_arrive_cluster(uint32_t barrier) {
  asm volatile("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];" ::"r"(barrier) : "memory");
}
// Announces bytes of bulk copies, and arrives. PTX ISA 9.7.13.15.13 (mbarrier.arrive.expect_tx)
__device__ __forceinline__ void mbarrier_arrive_expect(uint32_t barrier, unsigned bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}
// Waits for the end of the phase of this parity; that before the first has parity 1, so waiting for it
// passes. PTX ISA 9.7.13.15.16 (mbarrier.try_wait)
__device__ __forceinline__ void mbarrier_wait(uint32_t barrier, unsigned parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}
// What this thread wrote to shared memory by ordinary stores can be read by bulk copies and wgmma.
// PTX ISA 9.7.13.4 (fence.proxy.async)
__device__ __forceinline__ void fence_proxy_async() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

#else

inline uint32_t shared_address(const void* pointer) { return simt::shared_address(pointer); }
inline void mbarrier_init(uint32_t barrier, unsigned count) { simt::mbarrier_init(barrier, count); }
inline void mbarrier_fence_init() { simt::mbarrier_fence_init(); }
inline void mbarrier_arrive(uint32_t barrier) { simt::mbarrier_arrive("mbarrier.arrive", barrier, 1, 0); }
inline void mbarrier_arrive_cluster(uint32_t barrier) {
  simt::mbarrier_arrive("mbarrier.arrive.shared::cluster", barrier, 1, 0);
}
inline void mbarrier_arrive_expect(uint32_t barrier, unsigned bytes) {
  simt::mbarrier_arrive("mbarrier.arrive.expect_tx", barrier, 1, bytes);
}
inline void mbarrier_wait(uint32_t barrier, unsigned parity) { simt::mbarrier_wait(barrier, parity); }
inline void fence_proxy_async() { simt::fence_proxy_async(); }

#endif

}  // namespace fastdl::cuda::ptx
