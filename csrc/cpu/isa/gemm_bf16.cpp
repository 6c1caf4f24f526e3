// bfloat16 products by AVX512-BF16's vdpbf16ps: one instruction adds two products to each of 16 sums.
#include "gemm_bf16.h"

#include "bf16_end.h"
#include "bf16_pack.h"
#include "bf16_rows.h"
#include "simd.h"

namespace fastdl::cpu::FASTDL_ISA {

// As the float32 tile (isa/gemm.cpp): 28 sums + 2 vectors of B + 1 broadcast of A fill the 32 registers.
constexpr int kRows = 14, kCols = 32, kStep = 2;
// K block: the block of A (96 rows and more) stays in the L2 cache, B's panel streams from it (128 bytes per
// 14 cycles).
constexpr int64_t kKc = 2048;

// The same steps as end_of_row, each decided once: branches per vector would take as long as k = 32.
template <int R, int NV>
static FASTDL_INLINE void end_of_tile(const Bf16Tile& t, __m512 (&sum)[R][NV]) {
  const auto mask = [&](int j) { return lanes_mask(t.cols - 16 * j < 16 ? t.cols - 16 * j : 16); };
  const float alpha = t.alpha, beta = t.beta;
  const int64_t ldc = t.ldc, ld_residual = t.ld_residual;
  bfloat16* const c = t.c;
  float* const c32 = t.c32;
#define FASTDL_EACH FASTDL_UNROLL for (int r = 0; r < R; ++r) FASTDL_UNROLL for (int j = 0; j < NV; ++j)
  if (alpha != 1.f) FASTDL_EACH sum[r][j] = _mm512_mul_ps(sum[r][j], _mm512_set1_ps(alpha));
  if (beta != 0.f) {
    const __m512 b = _mm512_set1_ps(beta);
    if (c32) {
      FASTDL_EACH sum[r][j] =
          _mm512_fmadd_ps(b, _mm512_maskz_loadu_ps(mask(j), c32 + r * ldc + 16 * j), sum[r][j]);
    } else {
      FASTDL_EACH sum[r][j] = _mm512_fmadd_ps(b, load_bf16(c + r * ldc + 16 * j, mask(j)), sum[r][j]);
    }
  }
  if (t.bias) FASTDL_EACH sum[r][j] = _mm512_add_ps(sum[r][j], load_bf16(t.bias + 16 * j, mask(j)));
  if (const float* const bias = t.bias32)
    FASTDL_EACH sum[r][j] = _mm512_add_ps(sum[r][j], _mm512_maskz_loadu_ps(mask(j), bias + 16 * j));
  if (const bfloat16* const residual = t.residual)
    FASTDL_EACH sum[r][j] = _mm512_add_ps(sum[r][j], load_bf16(residual + r * ld_residual + 16 * j, mask(j)));
  if (const float* const residual = t.residual32)
    FASTDL_EACH sum[r][j] =
        _mm512_add_ps(sum[r][j], _mm512_maskz_loadu_ps(mask(j), residual + r * ld_residual + 16 * j));
  // A NaN in the second operand comes through.
  if (t.relu) FASTDL_EACH sum[r][j] = _mm512_max_ps(_mm512_setzero_ps(), sum[r][j]);
  if (c32) {
    FASTDL_EACH _mm512_mask_storeu_ps(c32 + r * ldc + 16 * j, mask(j), sum[r][j]);
    return;
  }
  // The instruction that rounds takes subnormals for zero.
  constexpr int kSubnormal = 0x20;
  __mmask16 subnormal = 0;
  FASTDL_EACH subnormal |= _mm512_fpclass_ps_mask(sum[r][j], kSubnormal);
  if (subnormal) {
    FASTDL_EACH store_bf16(c + r * ldc + 16 * j, mask(j), sum[r][j]);
    return;
  }
#undef FASTDL_EACH
  const bool stream = t.stream;
  const __mmask32 all = t.cols < 32 ? (1u << t.cols) - 1u : ~0u;
  FASTDL_UNROLL for (int r = 0; r < R; ++r) {
    const __m512i row = reinterpret_cast<__m512i>(
        _mm512_cvtne2ps_pbh(NV == 2 ? sum[r][NV - 1] : _mm512_setzero_ps(), sum[r][0]));
    if (stream) _mm512_stream_si512(reinterpret_cast<__m512i*>(c + r * ldc), row);
    else _mm512_mask_storeu_epi16(c + r * ldc, all, row);
  }
}

template <int R, int NV>
static void tile(const Bf16Tile& t) {
  constexpr int groups = (R + 2) / 3;
  const auto mask = [&](int j) { return lanes_mask(t.cols - 16 * j < 16 ? t.cols - 16 * j : 16); };
  __m512 sum[R][NV];
  if (t.resume) {
    FASTDL_UNROLL for (int r = 0; r < R; ++r) {
      FASTDL_UNROLL for (int j = 0; j < NV; ++j) {
        sum[r][j] = _mm512_maskz_loadu_ps(mask(j), t.sums + r * t.ld_sums + 16 * j);
      }
    }
  } else {
    FASTDL_UNROLL for (int r = 0; r < R; ++r) {
      FASTDL_UNROLL for (int j = 0; j < NV; ++j) sum[r][j] = _mm512_setzero_ps();
    }
  }
  if (t.finish && t.c && !t.stream) {
    FASTDL_UNROLL for (int r = 0; r < R; ++r) prefetch(t.c + r * t.ldc);
  }
  const int64_t a_row = t.a_row, a_step = t.a_step;
  for (int64_t p = 0; p < t.count; ++p) {
    const bfloat16* a[groups];  // see isa/gemm.cpp
    FASTDL_UNROLL for (int g = 0; g < groups; ++g) {
      a[g] = t.pieces[p].a + 3 * g * a_row;
      asm("" : "+r"(a[g]));
    }
    const bfloat16* b = t.pieces[p].b;
    for (int64_t pair = t.pieces[p].k / 2; pair > 0; --pair) {
      __m512i bv[NV];
      FASTDL_UNROLL for (int j = 0; j < NV; ++j) bv[j] = _mm512_loadu_si512(b + 32 * j);
      FASTDL_UNROLL for (int r = 0; r < R; ++r) {
        const __m512i av = broadcast_pair(a[r / 3] + r % 3 * a_row);
        FASTDL_UNROLL for (int j = 0; j < NV; ++j) sum[r][j] = dot(sum[r][j], av, bv[j]);
      }
      FASTDL_UNROLL for (int g = 0; g < groups; ++g) a[g] += a_step;
      b += 2 * kCols;
    }
    if (t.pieces[p].k % 2) {
      FASTDL_UNROLL for (int j = 0; j < NV; ++j) {
        const __m512i bv = _mm512_loadu_si512(b + 32 * j);
        FASTDL_UNROLL for (int r = 0; r < R; ++r) {
          sum[r][j] = dot(sum[r][j], broadcast_last(a[r / 3] + r % 3 * a_row), bv);
        }
      }
    }
  }
  if (t.finish) return end_of_tile<R, NV>(t, sum);
  FASTDL_UNROLL for (int r = 0; r < R; ++r) {
    FASTDL_UNROLL for (int j = 0; j < NV; ++j)
        _mm512_mask_storeu_ps(t.sums + r * t.ld_sums + 16 * j, mask(j), sum[r][j]);
  }
}

using TileFunction = void (*)(const Bf16Tile&);
struct TileTable {
  TileFunction of[kRows + 1][2];
};
template <int R>
static constexpr void fill(TileTable& t) {
  t.of[R][0] = tile<R, 1>;
  t.of[R][1] = tile<R, 2>;
  if constexpr (R > 1) fill<R - 1>(t);
}
static constexpr TileTable make_tiles() {
  TileTable t{};
  fill<kRows>(t);
  return t;
}
static constexpr TileTable kTiles = make_tiles();

static void any_tile(const Bf16Tile& t) { kTiles.of[t.rows][t.cols > 16](t); }

static void pack_a(const bfloat16* src, int64_t row_stride, int64_t k_stride, int64_t k, int rows, int height,
                   bfloat16* out) {
  pack_pairs(src, k_stride, row_stride, k, rows, height, kStep, 1, out, 0);
}
static void pack_b(const bfloat16* src, int64_t k_stride, int64_t col_stride, int64_t k, int cols,
                   bfloat16* out) {
  pack_pairs(src, k_stride, col_stride, k, cols, kCols, kStep, 1, out, 0);
}
static ExponentRange split_a(const float* src, int64_t row_stride, int64_t k_stride, int64_t k, int rows,
                             int height, int planes, bfloat16* out, int64_t plane_stride) {
  return pack_pairs(src, k_stride, row_stride, k, rows, height, kStep, planes, out, plane_stride);
}
static ExponentRange split_b(const float* src, int64_t k_stride, int64_t col_stride, int64_t k, int cols,
                             int planes, bfloat16* out, int64_t plane_stride) {
  return pack_pairs(src, k_stride, col_stride, k, cols, kCols, kStep, planes, out, plane_stride);
}

static int64_t peak(int64_t rounds, float* sink) {
  constexpr int chains = 12, steps = 64;
  __m512 sum[chains];
  FASTDL_UNROLL for (int i = 0; i < chains; ++i) sum[i] = _mm512_set1_ps(sink[0] + static_cast<float>(i));
  const __m512i a = _mm512_castps_si512(_mm512_set1_ps(0.999f + sink[0]));
  const __m512i b = _mm512_castps_si512(_mm512_set1_ps(0.001f + sink[0]));
  for (int64_t r = 0; r < rounds * steps; ++r) {
    FASTDL_UNROLL for (int i = 0; i < chains; ++i) sum[i] = dot(sum[i], a, b);
  }
  float total = 0;
  FASTDL_UNROLL for (int i = 0; i < chains; ++i) total += _mm512_reduce_add_ps(sum[i]);
  *sink = total;
  return 4ll * chains * steps * 16;
}

extern const Bf16Kernels bf16_kernels;
const Bf16Kernels bf16_kernels = {kRows,   kCols,       kStep,    1,         kKc,    false,
                                  nullptr, nullptr,     any_tile, pack_a,    pack_b, split_a,
                                  split_b, finish_tile, dot_rows, gemv_rows, peak};

}  // namespace fastdl::cpu::FASTDL_ISA
