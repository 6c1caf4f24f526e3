// How blocks that go through all steps of a layer hand each other states: an element of memory that is all
// ones has not been written yet, so whoever reads it sees by itself whether it is there. No counter, no fence
// and no barrier of the grid stands between a state's way to the L2 cache and its way back. Every element is
// written once (states of all steps have places of their own), after memory was set to all ones.
#pragma once

#include <cstring>

#include "cuda/device.cuh"
#include "cuda/ptx/relaxed.cuh"

namespace fastdl::cuda {

template <class S>
using BitsOf =
    std::conditional_t<sizeof(S) == 2, uint16_t, std::conditional_t<sizeof(S) == 4, uint32_t, uint64_t>>;

// All ones are a NaN: one that comes about is written as another.
template <class S>
__device__ __forceinline__ void publish(S* to, S value) {
  BitsOf<S> bits;
  memcpy(&bits, &value, sizeof bits);
  constexpr auto kUnset = static_cast<BitsOf<S>>(~BitsOf<S>{0});
  if (bits == kUnset) bits = static_cast<BitsOf<S>>(kUnset >> 1);
  ptx::store_relaxed(to, bits);
}

// Elements of 16 bytes.
template <class S>
struct alignas(16) Handed {
  static constexpr int kCount = 16 / static_cast<int>(sizeof(S));
  uint32_t words[4];

  __device__ __forceinline__ void load(const S* from) { ptx::load_relaxed(words, from); }
  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < 4; ++i) words[i] = 0;
  }
  // Those from `count` on become zeros.
  __device__ __forceinline__ void keep(int64_t count) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int64_t left = count - i * (kCount / 4);
      if (left <= 0) words[i] = 0;
      else if (sizeof(S) == 2 && left == 1) words[i] &= 0xFFFFu;
    }
  }
  // Whether some are still to come.
  __device__ __forceinline__ bool unset() const {
    uint32_t found = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      // Of 16-bit elements: where the complement has a half of zeros.
      if constexpr (sizeof(S) == 2) found |= (~words[i] - 0x00010001u) & words[i] & 0x80008000u;
      else found |= words[i] == ~0u;
    }
    return found != 0;
  }
};

}  // namespace fastdl::cuda
