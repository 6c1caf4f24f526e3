// Bulk copies of boxes of a tensor (TMA): one thread starts one, the copy engine does the rest. The tensor
// map is made on the host (cuda/tensor_map.h) and passed as a __grid_constant__ parameter. What lies outside
// the tensor is zero in loads, though its bytes count; stores leave it out by whole 16 bytes.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#ifdef FASTDL_SIMT
#include "simt/hopper.h"
#endif

namespace fastdl::cuda::ptx {

#ifndef FASTDL_SIMT

// PTX ISA 9.7.9.15 (prefetch.tensormap)
__device__ __forceinline__ void prefetch_map(const void* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// The box at coordinates at[0] (the contiguous dim), at[1], ... into shared memory; its bytes are counted by
// the mbarrier. PTX ISA 9.7.9.25.5.2 (cp.async.bulk.tensor)
__device__ __forceinline__ void tensor_load(uint32_t to, const void* map, uint32_t barrier,
                                            const int (&at)[2]) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, "
      "%4}], "
      "[%2];" ::"r"(to),
      "l"(map), "r"(barrier), "r"(at[0]), "r"(at[1])
      : "memory");
}
__device__ __forceinline__ void tensor_load(uint32_t to, const void* map, uint32_t barrier,
                                            const int (&at)[3]) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, "
      "%5}], [%2];" ::"r"(to),
      "l"(map), "r"(barrier), "r"(at[0]), "r"(at[1]), "r"(at[2])
      : "memory");
}
__device__ __forceinline__ void tensor_load(uint32_t to, const void* map, uint32_t barrier,
                                            const int (&at)[4]) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, "
      "%5, "
      "%6}], [%2];" ::"r"(to),
      "l"(map), "r"(barrier), "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3])
      : "memory");
}
__device__ __forceinline__ void tensor_load(uint32_t to, const void* map, uint32_t barrier,
                                            const int (&at)[5]) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, "
      "%5, "
      "%6, %7}], [%2];" ::"r"(to),
      "l"(map), "r"(barrier), "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3]), "r"(at[4])
      : "memory");
}
// To the same place in every block of the cluster whose bit is set in `blocks`, counted by each one's own
// mbarrier. PTX ISA 9.7.9.25.5.2 (.multicast::cluster)
__device__ __forceinline__ void tensor_load(uint32_t to, const void* map, uint32_t barrier,
                                            const int (&at)[5], uint16_t blocks) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster "
      "[%0], [%1, {%3, %4, %5, %6, %7}], [%2], %8;" ::"r"(to),
      "l"(map), "r"(barrier), "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3]), "r"(at[4]), "h"(blocks)
      : "memory");
}

// Pixels of images (channels, W, H, D, N) side by side: the map says how many, how many channels of each, and
// in which steps and between which corners their positions go, from at[1] (W), ..., on along W, H, D, then in
// the next image. The offsets (W, H, D) are added to the position of every pixel: a tap of a filter.
// PTX ISA 9.7.9.25.5.2 (cp.async.bulk.tensor, .im2col), 5.5.4 (im2col mode)
#define FASTDL_IM2COL(DIMS, AT, OFFSETS, BLOCKS)                                                    \
  "cp.async.bulk.tensor." DIMS ".shared::cluster.global.im2col.mbarrier::complete_tx::bytes" BLOCKS \
  " [%0], [%1, {" AT "}], [%2], {" OFFSETS "}"
#define FASTDL_MULTICAST ".multicast::cluster"
__device__ __forceinline__ void tensor_load_im2col(uint32_t to, const void* map, uint32_t barrier,
                                                   const int (&at)[3], const uint16_t (&offsets)[1]) {
  asm volatile(FASTDL_IM2COL("3d", "%3, %4, %5", "%6", "") ";" ::"r"(to), "l"(map), "r"(barrier), "r"(at[0]),
               "r"(at[1]), "r"(at[2]), "h"(offsets[0])
               : "memory");
}
__device__ __forceinline__ void tensor_load_im2col(uint32_t to, const void* map, uint32_t barrier,
                                                   const int (&at)[4], const uint16_t (&offsets)[2]) {
  asm volatile(FASTDL_IM2COL("4d", "%3, %4, %5, %6", "%7, %8", "") ";" ::"r"(to), "l"(map), "r"(barrier),
               "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3]), "h"(offsets[0]), "h"(offsets[1])
               : "memory");
}
__device__ __forceinline__ void tensor_load_im2col(uint32_t to, const void* map, uint32_t barrier,
                                                   const int (&at)[5], const uint16_t (&offsets)[3]) {
  asm volatile(FASTDL_IM2COL("5d", "%3, %4, %5, %6, %7", "%8, %9, %10", "") ";" ::"r"(to), "l"(map),
               "r"(barrier), "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3]), "r"(at[4]), "h"(offsets[0]),
               "h"(offsets[1]), "h"(offsets[2])
               : "memory");
}
// To the same place in every block of `blocks`.
__device__ __forceinline__ void tensor_load_im2col(uint32_t to, const void* map, uint32_t barrier,
                                                   const int (&at)[3], const uint16_t (&offsets)[1],
                                                   uint16_t blocks) {
  asm volatile(FASTDL_IM2COL("3d", "%3, %4, %5", "%6", FASTDL_MULTICAST) ", %7;" ::"r"(to), "l"(map),
               "r"(barrier), "r"(at[0]), "r"(at[1]), "r"(at[2]), "h"(offsets[0]), "h"(blocks)
               : "memory");
}
__device__ __forceinline__ void tensor_load_im2col(uint32_t to, const void* map, uint32_t barrier,
                                                   const int (&at)[4], const uint16_t (&offsets)[2],
                                                   uint16_t blocks) {
  asm volatile(FASTDL_IM2COL("4d", "%3, %4, %5, %6", "%7, %8", FASTDL_MULTICAST) ", %9;" ::"r"(to), "l"(map),
               "r"(barrier), "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3]), "h"(offsets[0]), "h"(offsets[1]),
               "h"(blocks)
               : "memory");
}
__device__ __forceinline__ void tensor_load_im2col(uint32_t to, const void* map, uint32_t barrier,
                                                   const int (&at)[5], const uint16_t (&offsets)[3],
                                                   uint16_t blocks) {
  asm volatile(FASTDL_IM2COL("5d", "%3, %4, %5, %6, %7", "%8, %9, %10", FASTDL_MULTICAST) ", %11;" ::"r"(to),
               "l"(map), "r"(barrier), "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3]), "r"(at[4]),
               "h"(offsets[0]), "h"(offsets[1]), "h"(offsets[2]), "h"(blocks)
               : "memory");
}
#undef FASTDL_MULTICAST
#undef FASTDL_IM2COL

// The box in shared memory into the tensor, in groups of this thread. PTX ISA 9.7.9.25.5.2
__device__ __forceinline__ void tensor_store(const void* map, uint32_t from, const int (&at)[2]) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%2, %3}], [%1];" ::"l"(map),
               "r"(from), "r"(at[0]), "r"(at[1])
               : "memory");
}
__device__ __forceinline__ void tensor_store(const void* map, uint32_t from, const int (&at)[5]) {
  asm volatile(
      "cp.async.bulk.tensor.5d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4, %5, %6}], [%1];" ::"l"(
          map),
      "r"(from), "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3]), "r"(at[4])
      : "memory");
}
// PTX ISA 9.7.9.25.3.3, 9.7.9.25.3.4 (cp.async.bulk.commit_group, .wait_group)
__device__ __forceinline__ void bulk_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
// Until at most Pending groups still read shared memory. They write global memory in any case before the
// kernel ends.
template <int Pending>
__device__ __forceinline__ void bulk_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(Pending) : "memory");
}

#else

inline void prefetch_map(const void*) {}
template <int N>
void tensor_load(uint32_t to, const void* map, uint32_t barrier, const int (&at)[N]) {
  simt::tensor_load(to, map, N, at, barrier);
}
inline void tensor_load(uint32_t to, const void* map, uint32_t barrier, const int (&at)[5], uint16_t blocks) {
  simt::tensor_load(to, map, 5, at, barrier, blocks);
}
template <int N>
void tensor_load_im2col(uint32_t to, const void* map, uint32_t barrier, const int (&at)[N],
                        const uint16_t (&offsets)[N - 2], uint16_t blocks = 0) {
  simt::tensor_load_im2col(to, map, N, at, offsets, barrier, blocks);
}
template <int N>
void tensor_store(const void* map, uint32_t from, const int (&at)[N]) {
  simt::tensor_store(map, N, at, from);
}
inline void bulk_commit() { simt::bulk_commit(); }
template <int Pending>
void bulk_wait_read() {
  simt::bulk_wait(Pending);
}

#endif

}  // namespace fastdl::cuda::ptx
