// Products with few rows (<= 4), bound by reading B: dot products along k, and sums of B's rows.
#pragma once

#include "bf16_end.h"
#include "gemm_bf16.h"
#include "simd.h"

namespace fastdl::cpu::FASTDL_ISA {

// sum + the two products of each 32-bit pair.
FASTDL_INLINE __m512 dot(__m512 sum, __m512i a, __m512i b) {
#if defined(__AVX512BF16__)
  return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
#else
  const __m512i upper = _mm512_set1_epi32(-65536);
  const auto low = [](__m512i v) { return _mm512_castsi512_ps(_mm512_slli_epi32(v, 16)); };
  const auto high = [&](__m512i v) { return _mm512_castsi512_ps(_mm512_and_si512(v, upper)); };
  return _mm512_fmadd_ps(low(a), low(b), _mm512_fmadd_ps(high(a), high(b), sum));
#endif
}
FASTDL_INLINE __m512i broadcast_pair(const bfloat16* p) {
  int32_t pair;
  __builtin_memcpy(&pair, p, 4);
  return _mm512_set1_epi32(pair);
}
FASTDL_INLINE __m512i broadcast_two(bfloat16 low, bfloat16 high) {
  return _mm512_set1_epi32(static_cast<int32_t>(low.bits | static_cast<uint32_t>(high.bits) << 16));
}
FASTDL_INLINE __m512i broadcast_last(const bfloat16* p) {
  return _mm512_set1_epi32(p->bits);
}  // the pair (p[0], 0)

template <int R, int N>
static FASTDL_INLINE void dot_block(const bfloat16* a, int64_t a_row, const bfloat16* b, int64_t b_col,
                                    int64_t k, float* sums, int64_t ld) {
  __m512 sum[R][N];
  FASTDL_UNROLL for (int r = 0; r < R; ++r) {
    FASTDL_UNROLL for (int j = 0; j < N; ++j) sum[r][j] = _mm512_setzero_ps();
  }
  for (int64_t i = 0; i < k; i += 32) {
    const __mmask32 m = k - i < 32 ? (1u << (k - i)) - 1u : ~0u;
    __m512i av[R];
    FASTDL_UNROLL for (int r = 0; r < R; ++r) av[r] = _mm512_maskz_loadu_epi16(m, a + r * a_row + i);
    FASTDL_UNROLL for (int j = 0; j < N; ++j) {
      const __m512i bv = _mm512_maskz_loadu_epi16(m, b + j * b_col + i);
      FASTDL_UNROLL for (int r = 0; r < R; ++r) sum[r][j] = dot(sum[r][j], av[r], bv);
    }
  }
  FASTDL_UNROLL for (int r = 0; r < R; ++r) {
    FASTDL_UNROLL for (int j = 0; j < N; ++j) sums[r * ld + j] = _mm512_reduce_add_ps(sum[r][j]);
  }
}

template <int R, int N>
static void dot_rows_of(const bfloat16* a, int64_t a_row, const bfloat16* b, int64_t b_col, int64_t cols,
                        int64_t k, float* sums) {
  int64_t j = 0;
  for (; j + N <= cols; j += N) dot_block<R, N>(a, a_row, b + j * b_col, b_col, k, sums + j, cols);
  for (; j < cols; ++j) dot_block<R, 1>(a, a_row, b + j * b_col, b_col, k, sums + j, cols);
}

static void dot_rows(const bfloat16* a, int64_t a_row, const bfloat16* b, int64_t b_col, int rows,
                     int64_t cols, int64_t k, float* sums) {
  if (rows == 1) return dot_rows_of<1, 8>(a, a_row, b, b_col, cols, k, sums);
  if (rows == 2) return dot_rows_of<2, 4>(a, a_row, b, b_col, cols, k, sums);
  if (rows == 3) return dot_rows_of<3, 4>(a, a_row, b, b_col, cols, k, sums);
  dot_rows_of<4, 4>(a, a_row, b, b_col, cols, k, sums);
}

// Adds S pairs of terms to each of R rows of sums, which stay in the L1 cache while B streams by. `odd`: the
// last pair has one term. Far: B comes from memory, where each row is another page, at which the processor's
// own prefetching stops.
template <int R, int S, bool Far>
static FASTDL_INLINE void gemv_terms(const bfloat16* a, int64_t a_row, int64_t a_k, const bfloat16* b,
                                     int64_t b_k, int64_t cols, float* sums, bool odd) {
  const __m512i low = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7,
                                       38, 6, 37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
  const __m512i high = _mm512_set_epi16(63, 31, 62, 30, 61, 29, 60, 28, 59, 27, 58, 26, 57, 25, 56, 24, 55,
                                        23, 54, 22, 53, 21, 52, 20, 51, 19, 50, 18, 49, 17, 48, 16);
  __m512i av[R][S];
  FASTDL_UNROLL for (int r = 0; r < R; ++r) {
    FASTDL_UNROLL for (int s = 0; s < S; ++s) {
      const bfloat16* p = a + r * a_row + 2 * s * a_k;
      av[r][s] = odd ? broadcast_last(p) : broadcast_two(p[0], p[a_k]);
    }
  }
  for (int64_t j = 0; j < cols; j += 32) {
    const int64_t left = cols - j;
    const __mmask32 m = left < 32 ? (1u << left) - 1u : ~0u;
    const __mmask16 m0 = static_cast<__mmask16>(m), m1 = static_cast<__mmask16>(m >> 16);
    __m512 sum[R][2];
    FASTDL_UNROLL for (int r = 0; r < R; ++r) {
      sum[r][0] = _mm512_maskz_loadu_ps(m0, sums + r * cols + j);
      sum[r][1] = _mm512_maskz_loadu_ps(m1, sums + r * cols + j + 16);
    }
    FASTDL_UNROLL for (int s = 0; s < S; ++s) {
      const bfloat16* p = b + 2 * s * b_k + j;
      const __m512i x = _mm512_maskz_loadu_epi16(m, p);
      const __m512i y = odd ? _mm512_setzero_si512() : _mm512_maskz_loadu_epi16(m, p + b_k);
      if (Far) {
        __builtin_prefetch(p + 2 * S * b_k, 0, 2);
        __builtin_prefetch(p + (2 * S + 1) * b_k, 0, 2);
      }
      const __m512i lo = _mm512_permutex2var_epi16(x, low, y), hi = _mm512_permutex2var_epi16(x, high, y);
      FASTDL_UNROLL for (int r = 0; r < R; ++r) {
        sum[r][0] = dot(sum[r][0], av[r][s], lo);
        sum[r][1] = dot(sum[r][1], av[r][s], hi);
      }
    }
    FASTDL_UNROLL for (int r = 0; r < R; ++r) {
      _mm512_mask_storeu_ps(sums + r * cols + j, m0, sum[r][0]);
      _mm512_mask_storeu_ps(sums + r * cols + j + 16, m1, sum[r][1]);
    }
  }
}

constexpr int64_t kGemvFar = 8 << 20;  // bytes of B that do not stay in a cache

template <int R>
static void gemv_rows_of(const bfloat16* a, int64_t a_row, int64_t a_k, const bfloat16* b, int64_t b_k,
                         int64_t cols, int64_t k, float* sums) {
  constexpr int S = R < 4 ? 4 : 3;  // R x S broadcasts + 2 R sums + what is loaded: within 32 registers
  for (int64_t i = 0; i < R * cols; ++i) sums[i] = 0;
  int64_t i = 0;
  const bool far = k * b_k * int64_t{sizeof(bfloat16)} > kGemvFar;
  for (; i + 2 * S <= k; i += 2 * S) {
    const bfloat16 *const ai = a + i * a_k, *const bi = b + i * b_k;
    if (far) gemv_terms<R, S, true>(ai, a_row, a_k, bi, b_k, cols, sums, false);
    else gemv_terms<R, S, false>(ai, a_row, a_k, bi, b_k, cols, sums, false);
  }
  for (; i < k; i += 2) {
    gemv_terms<R, 1, false>(a + i * a_k, a_row, a_k, b + i * b_k, b_k, cols, sums, i + 1 == k);
  }
}

static void gemv_rows(const bfloat16* a, int64_t a_row, int64_t a_k, const bfloat16* b, int64_t b_k, int rows,
                      int64_t cols, int64_t k, float* sums) {
  if (rows == 1) return gemv_rows_of<1>(a, a_row, a_k, b, b_k, cols, k, sums);
  if (rows == 2) return gemv_rows_of<2>(a, a_row, a_k, b, b_k, cols, k, sums);
  if (rows == 3) return gemv_rows_of<3>(a, a_row, a_k, b, b_k, cols, k, sums);
  gemv_rows_of<4>(a, a_row, a_k, b, b_k, cols, k, sums);
}

}  // namespace fastdl::cpu::FASTDL_ISA
