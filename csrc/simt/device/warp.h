// Thread indices, barriers, shuffles and votes.
#pragma once

#include <type_traits>

#include "../simt.h"

#define threadIdx (::fastdl::simt::self->thread_idx)
#define blockIdx (::fastdl::simt::self->block->block_idx)
#define blockDim (::fastdl::simt::self->block->block_dim)
#define gridDim (::fastdl::simt::self->block->grid_dim)
#define warpSize 32

inline void __syncthreads() { fastdl::simt::barrier("__syncthreads"); }
inline int __syncthreads_count(int p) { return fastdl::simt::barrier("__syncthreads_count", 0, 0, p); }
inline int __syncthreads_or(int p) { return fastdl::simt::barrier("__syncthreads_or", 0, 0, p) != 0; }
inline int __syncthreads_and(int p) { return fastdl::simt::barrier("__syncthreads_and", 0, 0, !p) == 0; }
inline void __syncwarp(unsigned mask = 0xFFFFFFFFu) { fastdl::simt::sync_warp(mask); }

namespace fastdl::simt {

enum class Shuffle { index, up, down, exclusive_or };

// Shuffles move 4 or 8 bytes; lane and width as in the CUDA programming guide (width: 2, 4, 8, 16 or 32).
uint32_t shuffle(const char* operation, Shuffle kind, unsigned mask, uint32_t value, unsigned lane,
                 int width);
uint64_t shuffle(const char* operation, Shuffle kind, unsigned mask, uint64_t value, unsigned lane,
                 int width);
unsigned ballot(const char* operation, unsigned mask, bool predicate);
unsigned match_any(unsigned mask, uint64_t value);

template <class T>
T shuffle_value(const char* operation, Shuffle kind, unsigned mask, T value, unsigned lane, int width) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 4 or 8 bytes");
  std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t> bits;
  std::memcpy(&bits, &value, sizeof bits);
  bits = shuffle(operation, kind, mask, bits, lane, width);
  std::memcpy(&value, &bits, sizeof bits);
  return value;
}

}  // namespace fastdl::simt

template <class T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32) {
  return fastdl::simt::shuffle_value("__shfl_sync", fastdl::simt::Shuffle::index, mask, value,
                                     static_cast<unsigned>(lane), width);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  return fastdl::simt::shuffle_value("__shfl_up_sync", fastdl::simt::Shuffle::up, mask, value, delta, width);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  return fastdl::simt::shuffle_value("__shfl_down_sync", fastdl::simt::Shuffle::down, mask, value, delta,
                                     width);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32) {
  return fastdl::simt::shuffle_value("__shfl_xor_sync", fastdl::simt::Shuffle::exclusive_or, mask, value,
                                     static_cast<unsigned>(lane_mask), width);
}
inline unsigned __ballot_sync(unsigned mask, int p) {
  return fastdl::simt::ballot("__ballot_sync", mask, p != 0);
}
inline int __any_sync(unsigned mask, int p) { return fastdl::simt::ballot("__any_sync", mask, p != 0) != 0; }
inline int __all_sync(unsigned mask, int p) { return fastdl::simt::ballot("__all_sync", mask, p == 0) == 0; }
template <class T>
unsigned __match_any_sync(unsigned mask, T value) {
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  return fastdl::simt::match_any(mask, bits);
}
// Lanes that have not ended: which of them run together is not modelled, so a mask from a divergent branch
// fails.
inline unsigned __activemask() { return fastdl::simt::active_lanes(); }
