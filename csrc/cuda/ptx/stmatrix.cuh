// Four 8 x 8 matrices of 16-bit elements from fragments (ldmatrix.cuh) into shared memory: lane l gives the
// address of row l % 8 of matrix l / 8.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#ifdef FASTDL_SIMT
#include <cstring>

#include "simt/simt.h"
#endif

namespace fastdl::cuda::ptx {

#ifndef FASTDL_SIMT

// PTX ISA 9.7.14.5.16 (stmatrix)
template <bool Transposed>
__device__ __forceinline__ void stmatrix(void* row, const uint32_t (&r)[4]) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  if constexpr (Transposed) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(address),
                 "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
                 : "memory");
  } else {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(address), "r"(r[0]),
                 "r"(r[1]), "r"(r[2]), "r"(r[3])
                 : "memory");
  }
}

#else

struct StmatrixIn {
  uint32_t r[4];
};
struct StmatrixOut {
  uint16_t row[8];
};

template <bool Transposed>
void stmatrix(void* row, const uint32_t (&r)[4]) {
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0)
    simt::fail("stmatrix: the address of a row is not aligned to 16 bytes");
  const StmatrixIn in{{r[0], r[1], r[2], r[3]}};
  const StmatrixOut out = simt::warp_collective<StmatrixIn, StmatrixOut>(
      Transposed ? "stmatrix.trans" : "stmatrix", 0xFFFFFFFFu, in,
      [](const StmatrixIn(&lanes)[32], StmatrixOut(&rows)[32]) {
        for (int l = 0; l < 32; ++l) {
          const int matrix = l / 8, own = l % 8;
          for (int column = 0; column < 8; ++column) {
            const int i = Transposed ? column : own, j = Transposed ? own : column;
            rows[l].row[column] = static_cast<uint16_t>(lanes[4 * i + j / 2].r[matrix] >> 16 * (j % 2));
          }
        }
      });
  simt::note_write(row, 16);
  std::memcpy(row, out.row, 16);
}

#endif

}  // namespace fastdl::cuda::ptx
