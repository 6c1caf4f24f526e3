// bfloat16 products by AVX512-BF16's vdpbf16ps: one instruction adds two products to each of 16 sums.
#include "gemm_bf16.h"

#include "bf16_end.h"
#include "bf16_pack.h"
#include "bf16_panels.h"
#include "bf16_rows.h"
#include "few_rows_inline.h"
#include "simd.h"

namespace fastdl::cpu::FASTDL_ISA {

// As the float32 tile (isa/gemm.cpp): 28 sums + 2 vectors of B + 1 broadcast of A fill the 32 registers.
constexpr int kRows = 14, kCols = 32, kStep = 2;
// K block: the block of A (96 rows and more) stays in the L2 cache, B's panel streams from it (128 bytes per
// 14 cycles).
constexpr int64_t kKc = 2048;

template <int R, int NV>
static void tile(const Bf16Tile& t) {
  using V = Vec<float>;
  constexpr int W = V::width, groups = (R + 2) / 3;
  const int last = t.cols - (NV - 1) * W;  // columns of the last vector
  V sum[R][NV];
#define FASTDL_EACH FASTDL_UNROLL for (int r = 0; r < R; ++r) FASTDL_UNROLL for (int j = 0; j < NV; ++j)
  if (t.resume) {
    FASTDL_EACH sum[r][j] = V::load(t.sums + r * t.ld_sums + j * W, j == NV - 1 ? last : W);
  } else {
    FASTDL_EACH sum[r][j] = V::zero();
  }
  if (t.finish && !t.c32 && !t.stream) {
    FASTDL_UNROLL for (int r = 0; r < R; ++r) __builtin_prefetch(t.c + r * t.ldc, 1, 3);
  }
  // Tiles of few rows have no time for it.
  constexpr bool kAhead = R > 4;
  GemmAhead none{reinterpret_cast<const char*>(&t), nullptr, 0, 0, 0};
  GemmAhead* const ahead = kAhead && t.ahead ? t.ahead : &none;
  const char *at = ahead->at, *end = ahead->end;
  int64_t line = ahead->rows > 0 ? 64 : 0;
  const int64_t a_row = t.a_row, a_step = t.a_step;
  for (int64_t p = 0; p < t.count; ++p) {
    const bfloat16* a[groups];  // see isa/gemm.cpp
    FASTDL_UNROLL for (int g = 0; g < groups; ++g) {
      a[g] = t.pieces[p].a + 3 * g * a_row;
      asm("" : "+r"(a[g]));
    }
    const bfloat16* b = t.pieces[p].b;
    for (int64_t pair = t.pieces[p].k / 2; pair > 0; --pair) {
      if constexpr (kAhead) {
        __builtin_prefetch(at, 0, 2);
        at += line;
        if (at == end) {
          if (--ahead->rows == 0) line = 0;
          end += ahead->stride;
          at = end - ahead->width;
        }
      }
      __m512i bv[NV];
      FASTDL_UNROLL for (int j = 0; j < NV; ++j) bv[j] = _mm512_loadu_si512(b + 32 * j);
      FASTDL_UNROLL for (int r = 0; r < R; ++r) {
        const __m512i av = broadcast_pair(a[r / 3] + r % 3 * a_row);
        FASTDL_UNROLL for (int j = 0; j < NV; ++j) sum[r][j].v = dot(sum[r][j].v, av, bv[j]);
      }
      FASTDL_UNROLL for (int g = 0; g < groups; ++g) a[g] += a_step;
      b += 2 * kCols;
    }
    if (t.pieces[p].k % 2) {
      FASTDL_UNROLL for (int j = 0; j < NV; ++j) {
        const __m512i bv = _mm512_loadu_si512(b + 32 * j);
        FASTDL_UNROLL for (int r = 0; r < R; ++r) {
          sum[r][j].v = dot(sum[r][j].v, broadcast_last(a[r / 3] + r % 3 * a_row), bv);
        }
      }
    }
  }
#undef FASTDL_EACH
  ahead->at = at;
  ahead->end = end;
  end_of_tile(t, sum, last);
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
  pack_panel(src, k_stride, row_stride, k, rows, height, kStep, out);
}
static void pack_b(const bfloat16* src, int64_t k_stride, int64_t col_stride, int64_t k, int cols,
                   bfloat16* out) {
  pack_panel(src, k_stride, col_stride, k, cols, kCols, kStep, out);
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

struct PairProducts {
  using Storage = bfloat16;
  using Sum = __m512;
  using Factor = __m512i;
  static constexpr int kLanes = 16, kDepth = 2;
  static FASTDL_INLINE Sum zero() { return _mm512_setzero_ps(); }
  static FASTDL_INLINE Factor factor(const bfloat16* p) { return _mm512_loadu_si512(p); }
  static FASTDL_INLINE __m512i row(const bfloat16* p) { return broadcast_pair(p); }
  static FASTDL_INLINE __m512i last_row(const bfloat16* p) { return broadcast_last(p); }
  static FASTDL_INLINE Sum add(Sum sum, __m512i row, Factor factor) { return dot(sum, row, factor); }
  static FASTDL_INLINE void store(Sum sum, float* p) { _mm512_storeu_ps(p, sum); }
};

extern const Bf16Kernels bf16_kernels;
const Bf16Kernels bf16_kernels = {kRows,
                                  kCols,
                                  kStep,
                                  1,
                                  kKc,
                                  nullptr,
                                  nullptr,
                                  any_tile,
                                  pack_a,
                                  pack_b,
                                  nullptr,
                                  nullptr,
                                  finish_tile,
                                  dot_rows,
                                  gemv_rows,
                                  peak,
                                  few_rows<PairProducts, 12>};

}  // namespace fastdl::cpu::FASTDL_ISA
