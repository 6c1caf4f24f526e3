// bfloat16 products on the matrix unit (AMX): a tile of C is 32 x 32, four tile registers of float32 sums.
#include "bf16_end.h"
#include "bf16_pack.h"
#include "bf16_panels.h"
#include "bf16_rows.h"
#include "gemm_bf16.h"
#include "simd.h"
#include "tiles.h"

namespace fastdl::cpu::FASTDL_ISA {

// 2 x 2 tile registers of C, 2 of A, 2 of B: each loaded tile is used twice. A product of tiles takes the
// unit 16 cycles, a tile load 8 from the L1 cache (two lines a cycle), so that 4 loads hide behind 4
// products.
constexpr int kRows = 32, kCols = 32, kStep = 32, kHalf = 16;
// K block: 32 columns of B x 2048 are 128 KiB, a block of A of 96 rows 384 KiB: both within the 2 MiB L2
// cache of the machines that have AMX. Longer sums are added up in float32, block by block.
constexpr int64_t kKc = 2048;

static thread_local int depth = 0;
static void enter() {
  if (depth++ == 0) tile_configure();
}
static void leave() {
  if (--depth == 0) tile_release();
}

// Rows of A past the last and steps past k may not be read: such a step goes through a copy filled up with
// zeros.
struct alignas(64) ACopy {
  bfloat16 v[kRows][kStep];
};
static FASTDL_INLINE void copy_step(const bfloat16* a, int64_t a_row, int rows, int64_t steps, ACopy& out) {
  const __mmask32 m = steps < kStep ? (1u << steps) - 1u : ~0u;
  for (int r = 0; r < kRows; ++r) {
    const __m512i v = r < rows ? _mm512_maskz_loadu_epi16(m, a + r * a_row) : _mm512_setzero_si512();
    _mm512_store_si512(out.v[r], v);
  }
}

// Sums over the pieces in tiles 0 (top left), 1 (top right), 2 (bottom left), 3 (bottom right).
template <bool Bottom, bool Right>
static FASTDL_INLINE void products(const Bf16Tile& t) {
  // By pack_a: filled up with zeros in both directions. (Dense rows of 32 elements have a_step = kStep.)
  const bool packed = t.a_row == kStep && t.a_step != kStep;
  const bool whole_rows = packed || t.rows == (Bottom ? kRows : kHalf);
  ACopy copy;
  for (int64_t p = 0; p < t.count; ++p) {
    const bfloat16 *a = t.pieces[p].a, *b = t.pieces[p].b;
    for (int64_t k = t.pieces[p].k; k > 0; k -= kStep, a += t.a_step, b += kStep * kCols) {
      const bfloat16* rows = a;
      int64_t stride = t.a_row;
      if (!whole_rows || (k < kStep && !packed)) {
        copy_step(a, t.a_row, t.rows, k, copy);
        rows = copy.v[0];
        stride = kStep;
      }
      TILE_LOAD(4, rows, stride * 2);
      TILE_LOAD(6, b, kCols * 4);
      TILE_DOT(0, 4, 6);
      if (Right) {
        TILE_LOAD(7, b + 2 * kHalf, kCols * 4);
        TILE_DOT(1, 4, 7);
      }
      if (Bottom) {
        TILE_LOAD(5, rows + kHalf * stride, stride * 2);
        TILE_DOT(2, 5, 6);
        if (Right) TILE_DOT(3, 5, 7);
      }
    }
  }
}

static void tile(const Bf16Tile& t) {
  enter();
  TILE_ZERO(0);
  TILE_ZERO(1);
  TILE_ZERO(2);
  TILE_ZERO(3);
  const bool bottom = t.rows > kHalf, right = t.cols > kHalf;
  if (bottom && right) products<true, true>(t);
  else if (bottom) products<true, false>(t);
  else if (right) products<false, true>(t);
  else products<false, false>(t);
  // Through scratch: rows of C a power of two apart would fall into one cache set (measured: 470 instead of
  // 740 GFLOP/s), and the epilogue needs vectors.
  alignas(64) float sums[kRows][kCols];
  TILE_STORE(0, sums[0], kCols * 4);
  TILE_STORE(1, sums[0] + kHalf, kCols * 4);
  TILE_STORE(2, sums[kHalf], kCols * 4);
  TILE_STORE(3, sums[kHalf] + kHalf, kCols * 4);
  leave();
  for (int r = 0; r < t.rows; ++r) {
    for (int j = 0; j < t.cols; j += kHalf) {
      const int lanes = t.cols - j < kHalf ? t.cols - j : kHalf;
      auto x = Vec<float>::load(sums[r] + j);
      if (t.resume) x = Vec<float>::load(t.sums + r * t.ld_sums + j, lanes) + x;
      end_of_row(t, x, r, j, lanes);
    }
  }
}

static void pack_a(const bfloat16* src, int64_t row_stride, int64_t k_stride, int64_t k, int rows, int height,
                   bfloat16* out) {
  pack_lanes(src, k_stride, row_stride, k, rows, height, 1, out, 0);
}
static void pack_b(const bfloat16* src, int64_t k_stride, int64_t col_stride, int64_t k, int cols,
                   bfloat16* out) {
  pack_panel(src, k_stride, col_stride, k, cols, kCols, kStep, out);
}
static ExponentRange split_a(const float* src, int64_t row_stride, int64_t k_stride, int64_t k, int rows,
                             int height, int planes, bfloat16* out, int64_t plane_stride) {
  return pack_lanes(src, k_stride, row_stride, k, rows, height, planes, out, plane_stride);
}
static ExponentRange split_b(const float* src, int64_t k_stride, int64_t col_stride, int64_t k, int cols,
                             int planes, bfloat16* out, int64_t plane_stride) {
  return pack_pairs(src, k_stride, col_stride, k, cols, kCols, kStep, planes, out, plane_stride);
}

static int64_t peak(int64_t rounds, float* sink) {
  // Random-looking operands: the unit runs faster on zeros than it can on data.
  alignas(64) bfloat16 data[kHalf][kStep];
  uint32_t seed = 12345;
  for (auto& row : data) {
    for (bfloat16& x : row) {
      seed = seed * 1664525u + 1013904223u;
      x.bits = static_cast<uint16_t>(0x3f00u | (seed >> 31 << 15) | (seed >> 24 & 0x7fu));  // +-[0.5, 1)
    }
  }
  enter();
  TILE_ZERO(0);
  TILE_ZERO(1);
  TILE_ZERO(2);
  TILE_ZERO(3);
  TILE_LOAD(4, data, 64);
  TILE_LOAD(5, data, 64);
  TILE_LOAD(6, data, 64);
  TILE_LOAD(7, data, 64);
  for (int64_t r = 0; r < rounds; ++r) {
    TILE_DOT(0, 4, 6);
    TILE_DOT(1, 4, 7);
    TILE_DOT(2, 5, 6);
    TILE_DOT(3, 5, 7);
  }
  alignas(64) float sums[16][16];
  TILE_STORE(0, sums, 64);
  leave();
  *sink = sums[0][0];
  return 4ll * 2 * 16 * 16 * 32;
}

extern const Bf16Kernels bf16_kernels;
const Bf16Kernels bf16_kernels = {kRows,       kCols,    kStep,     kHalf,  kKc,     enter,
                                  leave,       tile,     pack_a,    pack_b, split_a, split_b,
                                  finish_tile, dot_rows, gemv_rows, peak,   nullptr};

}  // namespace fastdl::cpu::FASTDL_ISA
