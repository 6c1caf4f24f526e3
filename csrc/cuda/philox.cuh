// Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011, section
// 3.3), and the dropout masks made of it: those of the CPU, bit for bit (fastdl/dropout.h).
#pragma once

#include <cstdint>

#include "common/dropout_mask.h"
#include "cuda/device.cuh"

namespace fastdl::cuda {

struct PhiloxBlock {
  uint32_t word[4];
};

// The block with a 64-bit counter, the upper half of the 128 bits 0.
__device__ __forceinline__ PhiloxBlock philox(uint64_t seed, uint64_t counter) {
  uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
  uint32_t c0 = static_cast<uint32_t>(counter), c1 = static_cast<uint32_t>(counter >> 32), c2 = 0, c3 = 0;
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = static_cast<uint64_t>(0xD2511F53u) * c0, p1 = static_cast<uint64_t>(0xCD9E8D57u) * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ key0;
    c1 = static_cast<uint32_t>(p1);
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ key1;
    c3 = static_cast<uint32_t>(p0);
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// The words that decide about elements 4 group .. 4 group + 3.
__device__ __forceinline__ PhiloxBlock dropout_words(const DropoutMask& mask, int64_t group) {
  return philox(mask.seed, mask.offset + static_cast<uint64_t>(group));
}
__device__ __forceinline__ bool kept(const DropoutMask& mask, uint32_t word) {
  return word >= mask.threshold;
}

// Whether an element alone is kept: as dear as four.
__device__ __forceinline__ bool dropout_keeps(const DropoutMask& mask, int64_t element) {
  return kept(mask, dropout_words(mask, element / 4).word[element % 4]);
}

}  // namespace fastdl::cuda
