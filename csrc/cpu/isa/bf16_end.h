// From float32 sums to memory: the epilogue of a Bf16Tile. AVX-512.
#pragma once

#include "gemm_bf16.h"
#include "narrow.h"
#include "simd.h"

namespace fastdl::cpu::FASTDL_ISA {

FASTDL_INLINE __mmask16 lanes_mask(int n) { return static_cast<__mmask16>((1u << n) - 1u); }

// The sums of `lanes` columns beginning at `col` of one row -> C (finish) or back to `sums`.
FASTDL_INLINE void end_of_row(const Bf16Tile& t, Vec<float> x, int row, int col, int lanes) {
  if (!t.finish) return x.store(t.sums + row * t.ld_sums + col, lanes);
  const int64_t at = row * t.ldc + col;
  if (t.alpha != 1.f) x *= Vec<float>::broadcast(t.alpha);
  if (t.beta != 0.f) {
    x = fma(Vec<float>::broadcast(t.beta), t.c32 ? load_as(t.c32 + at, lanes) : load_as(t.c + at, lanes), x);
  }
  if (t.bias) x += load_as(t.bias + col, lanes);
  if (t.bias32) x += load_as(t.bias32 + col, lanes);
  if (t.residual) x += load_as(t.residual + row * t.ld_residual + col, lanes);
  if (t.residual32) x += load_as(t.residual32 + row * t.ld_residual + col, lanes);
  if (t.relu) x = max(Vec<float>::zero(), x);  // a NaN in the second operand comes through
  if (t.c32) x.store(t.c32 + at, lanes);
  else store_as(x, t.c + at, lanes);
}

// Rows of 32 columns to C.
template <int R, int NV>
FASTDL_INLINE void store_rows(const Bf16Tile& t, const Vec<float> (&sum)[R][NV]) {
  bfloat16* const c = t.c;
  const int64_t ldc = t.ldc;
#if defined(__AVX512BF16__)
  // One instruction rounds two vectors, but takes subnormals for zero.
  constexpr int kSubnormal = 0x20;
  __mmask16 subnormal = 0;
  FASTDL_UNROLL for (int r = 0; r < R; ++r) {
    subnormal |= _mm512_fpclass_ps_mask(sum[r][0].v, kSubnormal);
    subnormal |= _mm512_fpclass_ps_mask(sum[r][NV - 1].v, kSubnormal);
  }
  if (!subnormal) {
    const bool stream = t.stream;
    FASTDL_UNROLL for (int r = 0; r < R; ++r) {
      const auto row = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(sum[r][NV - 1].v, sum[r][0].v));
      if (stream) _mm512_stream_si512(reinterpret_cast<__m512i*>(c + r * ldc), row);
      else _mm512_storeu_si512(c + r * ldc, row);
    }
    return;
  }
#endif
  FASTDL_UNROLL for (int r = 0; r < R; ++r) store_pair_as(sum[r][0], sum[r][NV - 1], c + r * ldc);
}

// The same for a whole tile in registers, each step decided once: branches per vector would take as long as
// 100 steps of k. Lanes: of the last vector.
template <int R, int NV>
FASTDL_INLINE void end_of_tile(const Bf16Tile& t, Vec<float> (&sum)[R][NV], int last) {
  constexpr int W = Vec<float>::width;
  const auto lanes = [&](int j) { return j == NV - 1 ? last : W; };
#define FASTDL_EACH FASTDL_UNROLL for (int r = 0; r < R; ++r) FASTDL_UNROLL for (int j = 0; j < NV; ++j)
  if (!t.finish) {
    float* const sums = t.sums;
    const int64_t ld = t.ld_sums;
    FASTDL_EACH sum[r][j].store(sums + r * ld + j * W, lanes(j));
    return;
  }
  const float alpha = t.alpha, beta = t.beta;
  const int64_t ldc = t.ldc, ld_residual = t.ld_residual;
  bfloat16* const c = t.c;
  float* const c32 = t.c32;
  if (alpha != 1.f) FASTDL_EACH sum[r][j] *= Vec<float>::broadcast(alpha);
  if (beta != 0.f) {
    const auto scale = Vec<float>::broadcast(beta);
    if (c32) FASTDL_EACH sum[r][j] = fma(scale, load_as(c32 + r * ldc + j * W, lanes(j)), sum[r][j]);
    else FASTDL_EACH sum[r][j] = fma(scale, load_as(c + r * ldc + j * W, lanes(j)), sum[r][j]);
  }
  if (const bfloat16* bias = t.bias) FASTDL_EACH sum[r][j] += load_as(bias + j * W, lanes(j));
  if (const float* bias = t.bias32) FASTDL_EACH sum[r][j] += load_as(bias + j * W, lanes(j));
  if (const bfloat16* more = t.residual) {
    FASTDL_EACH sum[r][j] += load_as(more + r * ld_residual + j * W, lanes(j));
  }
  if (const float* more = t.residual32) {
    FASTDL_EACH sum[r][j] += load_as(more + r * ld_residual + j * W, lanes(j));
  }
  if (t.relu) FASTDL_EACH sum[r][j] = max(Vec<float>::zero(), sum[r][j]);  // see above
  if (c32) {
    FASTDL_EACH sum[r][j].store(c32 + r * ldc + j * W, lanes(j));
  } else if (NV == 2 && last == W) {
    store_rows(t, sum);
  } else {
    FASTDL_EACH store_as(sum[r][j], c + r * ldc + j * W, lanes(j));
  }
#undef FASTDL_EACH
}

static void finish_tile(const Bf16Tile& t) {
  constexpr int W = Vec<float>::width;
  for (int r = 0; r < t.rows; ++r) {
    for (int j = 0; j < t.cols; j += W) {
      const int lanes = t.cols - j < W ? t.cols - j : W;
      end_of_row(t, load_as(t.sums + r * t.ld_sums + j, lanes), r, j, lanes);
    }
  }
}

}  // namespace fastdl::cpu::FASTDL_ISA
