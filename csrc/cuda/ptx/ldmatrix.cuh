// Four 8 x 8 matrices of 16-bit elements from shared memory into the fragments of mma.sync. Lane l gives the
// address of row l % 8 of matrix l / 8 (16 bytes, aligned to as much) and receives in r[i], of matrix i, the
// elements 2t, 2t + 1 of row g; transposed: of column g (g = l / 4, t = l % 4).
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#ifdef FASTDL_SIMT
#include <cstring>

#include "simt/simt.h"
#endif

namespace fastdl::cuda::ptx {

#ifndef FASTDL_SIMT

// PTX ISA 9.7.14.5.15 (ldmatrix)
template <bool Transposed>
__device__ __forceinline__ void ldmatrix(uint32_t (&r)[4], const void* row) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  if constexpr (Transposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
  }
}

#else

struct LdmatrixIn {
  uint16_t row[8];
};
struct LdmatrixOut {
  uint32_t r[4];
};

template <bool Transposed>
void ldmatrix(uint32_t (&r)[4], const void* row) {
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0)
    simt::fail("ldmatrix: the address of a row is not aligned to 16 bytes");
  simt::note_read(row, 16);
  LdmatrixIn in;
  std::memcpy(in.row, row, 16);
  const LdmatrixOut out = simt::warp_collective<LdmatrixIn, LdmatrixOut>(
      Transposed ? "ldmatrix.trans" : "ldmatrix", 0xFFFFFFFFu, in,
      [](const LdmatrixIn(&lanes)[32], LdmatrixOut(&results)[32]) {
        for (int l = 0; l < 32; ++l) {
          const int g = l / 4, t = l % 4;
          for (int i = 0; i < 4; ++i) {
            const uint32_t low = Transposed ? lanes[8 * i + 2 * t].row[g] : lanes[8 * i + g].row[2 * t];
            const uint32_t high =
                Transposed ? lanes[8 * i + 2 * t + 1].row[g] : lanes[8 * i + g].row[2 * t + 1];
            results[l].r[i] = low | high << 16;
          }
        }
      });
  for (int i = 0; i < 4; ++i) r[i] = out.r[i];
}

#endif

}  // namespace fastdl::cuda::ptx
