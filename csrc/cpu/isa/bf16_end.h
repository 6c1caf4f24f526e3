// From float32 sums to memory: rounding to bfloat16 and the epilogue of a Bf16Tile. AVX-512.
#pragma once

#include "gemm_bf16.h"
#include "simd.h"

namespace fastdl::cpu::FASTDL_ISA {

FASTDL_INLINE __mmask16 lanes_mask(int n) { return static_cast<__mmask16>((1u << n) - 1u); }

// Round to nearest even; a NaN keeps its sign and upper bits and becomes quiet.
FASTDL_INLINE __m256i to_bf16(__m512 x) {
  const __m512i u = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  const __m512i bits = _mm512_mask_or_epi32(rounded, nan, u, _mm512_set1_epi32(0x400000));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(bits, 16));
}
FASTDL_INLINE __m512 from_bf16(__m256i x) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}
FASTDL_INLINE __m512 load_bf16(const bfloat16* p, __mmask16 m) {
  return from_bf16(_mm256_maskz_loadu_epi16(m, p));
}
FASTDL_INLINE void store_bf16(bfloat16* p, __mmask16 m, __m512 x) {
  _mm256_mask_storeu_epi16(p, m, to_bf16(x));
}

// The sums of 16 columns beginning at `col` of one row -> C (finish) or back to `sums`.
FASTDL_INLINE void end_of_row(const Bf16Tile& t, __m512 x, int row, int col, __mmask16 m) {
  if (!t.finish) {
    _mm512_mask_storeu_ps(t.sums + row * t.ld_sums + col, m, x);
    return;
  }
  const int64_t at = row * t.ldc + col;
  if (t.alpha != 1.f) x = _mm512_mul_ps(x, _mm512_set1_ps(t.alpha));
  if (t.beta != 0.f) {
    const __m512 c = t.c32 ? _mm512_maskz_loadu_ps(m, t.c32 + at) : load_bf16(t.c + at, m);
    x = _mm512_fmadd_ps(_mm512_set1_ps(t.beta), c, x);
  }
  if (t.bias) x = _mm512_add_ps(x, load_bf16(t.bias + col, m));
  if (t.bias32) x = _mm512_add_ps(x, _mm512_maskz_loadu_ps(m, t.bias32 + col));
  if (t.residual) x = _mm512_add_ps(x, load_bf16(t.residual + row * t.ld_residual + col, m));
  if (t.residual32) x = _mm512_add_ps(x, _mm512_maskz_loadu_ps(m, t.residual32 + row * t.ld_residual + col));
  if (t.relu) x = _mm512_max_ps(_mm512_setzero_ps(), x);  // a NaN in the second operand comes through
  if (t.c32) _mm512_mask_storeu_ps(t.c32 + at, m, x);
  else store_bf16(t.c + at, m, x);
}

static void finish_tile(const Bf16Tile& t) {
  for (int r = 0; r < t.rows; ++r) {
    for (int j = 0; j < t.cols; j += 16) {
      const __mmask16 m = lanes_mask(t.cols - j < 16 ? t.cols - j : 16);
      end_of_row(t, _mm512_maskz_loadu_ps(m, t.sums + r * t.ld_sums + j), r, j, m);
    }
  }
}

}  // namespace fastdl::cpu::FASTDL_ISA
