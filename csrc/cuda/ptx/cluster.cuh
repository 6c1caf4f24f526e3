// Clusters: blocks that run at the same time on neighbouring multiprocessors and reach each other's shared
// memory.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#ifdef FASTDL_SIMT
#include "simt/hopper.h"
#endif

namespace fastdl::cuda::ptx {

#ifndef FASTDL_SIMT

// PTX ISA 10 (%cluster_ctarank)
__device__ __forceinline__ unsigned cluster_rank() {
  unsigned rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
// Where block `rank` has what this block has at `address`. PTX ISA 9.7.9.24 (mapa)
__device__ __forceinline__ uint32_t map_shared(uint32_t address, unsigned rank) {
  uint32_t mapped;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(mapped) : "r"(address), "r"(rank));
  return mapped;
}
// All threads of all blocks of the cluster; arrivals order what came before them before what follows the
// wait. PTX ISA 9.7.13.3 (barrier.cluster)
__device__ __forceinline__ void cluster_arrive() {
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}
__device__ __forceinline__ void cluster_wait() {
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
// At addresses of map_shared(). PTX ISA 9.7.9.8, 9.7.9.11 (ld, st with .shared::cluster)
__device__ __forceinline__ uint32_t load_cluster(uint32_t address) {
  uint32_t word;
  asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(word) : "r"(address) : "memory");
  return word;
}
__device__ __forceinline__ void store_cluster(uint32_t address, uint32_t word) {
  asm volatile("st.shared::cluster.u32 [%0], %1;" ::"r"(address), "r"(word) : "memory");
}
// 1, 2 or 4 words that arrive by themselves: an mbarrier of the same block, which has to expect their bytes,
// tells of it. Both at addresses of map_shared(), the words' aligned to their size. PTX ISA 9.7.9.12
// (st.async)
template <int Words>
__device__ __forceinline__ void store_async(uint32_t address, const uint32_t (&words)[Words],
                                            uint32_t barrier) {
  static_assert(Words == 1 || Words == 2 || Words == 4);
  if constexpr (Words == 1) {
    asm volatile(
        "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, [%2];" ::"r"(address),
        "r"(words[0]), "r"(barrier)
        : "memory");
  } else if constexpr (Words == 2) {
    asm volatile(
        "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.b32 [%0], {%1, %2}, [%3];" ::"r"(
            address),
        "r"(words[0]), "r"(words[1]), "r"(barrier)
        : "memory");
  } else {
    asm volatile(
        "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %2, %3, %4}, [%5];" ::
            "r"(address),
        "r"(words[0]), "r"(words[1]), "r"(words[2]), "r"(words[3]), "r"(barrier)
        : "memory");
  }
}

#else

inline unsigned cluster_rank() { return simt::cluster_rank(); }
inline uint32_t map_shared(uint32_t address, unsigned rank) { return simt::map_shared(address, rank); }
inline void cluster_arrive() { simt::cluster_arrive(); }
inline void cluster_wait() { simt::cluster_wait(); }
inline uint32_t load_cluster(uint32_t address) {
  uint32_t word;
  std::memcpy(&word, simt::cluster_memory("ld.shared::cluster", address, 4), 4);
  return word;
}
inline void store_cluster(uint32_t address, uint32_t word) {
  std::memcpy(simt::cluster_memory("st.shared::cluster", address, 4), &word, 4);
}
template <int Words>
void store_async(uint32_t address, const uint32_t (&words)[Words], uint32_t barrier) {
  static_assert(Words == 1 || Words == 2 || Words == 4);
  simt::store_async(address, words, Words, barrier);
}

#endif

}  // namespace fastdl::cuda::ptx
