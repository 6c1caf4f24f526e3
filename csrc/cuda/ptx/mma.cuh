// Products of small matrices by the tensor cores: D = A B + C over a warp, A 16 x 16, B 16 x 8, C and D 16 x
// 8, the elements of A and B 16-bit, sums float32. Lane l holds, with g = l / 4 and t = l % 4,
//   a: rows g and g + 8 of columns 2t, 2t + 1 (a[0], a[1]) and of columns 2t + 8, 2t + 9 (a[2], a[3])
//   b: rows 2t, 2t + 1 (b[0]) and 2t + 8, 2t + 9 (b[1]) of column g
//   c: rows g (c[0], c[1]) and g + 8 (c[2], c[3]) of columns 2t, 2t + 1
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "common/narrow.h"
#ifdef FASTDL_SIMT
#include <cmath>

#include "cuda/ptx/convert.cuh"
#include "simt/simt.h"
#endif

namespace fastdl::cuda::ptx {

#ifndef FASTDL_SIMT

// PTX ISA 9.7.14.5.8 (mma.m16n8k16 with .f16 and .bf16)
__device__ __forceinline__ void mma(bfloat16, float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ __forceinline__ void mma(float16, float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

#else

struct MmaIn {
  uint32_t a[4], b[2];
  float c[4];
};
struct MmaOut {
  float c[4];
};

template <class S>
float half_of(uint32_t pair, int which) {
  return to_float(S{static_cast<uint16_t>(pair >> 16 * which)});
}

// Tensor cores add exact products and cut off what does not fit float32: the sum here is exact to double and
// then rounded towards zero.
inline float truncated(double x) {
  const auto y = static_cast<float>(x);
  const bool beyond = std::fabs(static_cast<double>(y)) > std::fabs(x) && std::isfinite(y);
  return __uint_as_float(__float_as_uint(y) - (beyond ? 1u : 0u));
}

template <class S>
void mma(S, float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  const MmaIn in{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}, {c[0], c[1], c[2], c[3]}};
  const MmaOut out = simt::warp_collective<MmaIn, MmaOut>(
      "mma.sync.m16n8k16", 0xFFFFFFFFu, in, [](const MmaIn(&lanes)[32], MmaOut(&results)[32]) {
        using Row = double __attribute__((vector_size(64)));  // most of the executor's time is spent on these
        double left[16][16];
        Row right[16], sums[16];
        for (int l = 0; l < 32; ++l) {
          const int g = l / 4, t = l % 4;
          for (int i = 0; i < 4; ++i) {
            for (int e = 0; e < 2; ++e) {
              left[g + 8 * (i % 2)][2 * t + 8 * (i / 2) + e] = half_of<S>(lanes[l].a[i], e);
              sums[g + 8 * (i / 2)][2 * t + i % 2] = lanes[l].c[i];
            }
          }
          for (int i = 0; i < 2; ++i) {
            for (int e = 0; e < 2; ++e) right[2 * t + 8 * i + e][g] = half_of<S>(lanes[l].b[i], e);
          }
        }
        for (int row = 0; row < 16; ++row) {
          for (int k = 0; k < 16; ++k) sums[row] += left[row][k] * right[k];
        }
        for (int l = 0; l < 32; ++l) {
          for (int i = 0; i < 4; ++i)
            results[l].c[i] = truncated(sums[l / 4 + 8 * (i / 2)][2 * (l % 4) + i % 2]);
        }
      });
  for (int i = 0; i < 4; ++i) c[i] = out.c[i];
}

#endif

}  // namespace fastdl::cuda::ptx
