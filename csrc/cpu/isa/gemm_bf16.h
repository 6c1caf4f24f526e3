// The bfloat16 matrix-multiplication kernels: the contract between gemm_bf16.cpp, gemm_split.cpp,
// convolution, recurrent cells and attention on one side, dot-product instructions (gemm_bf16.cpp here,
// AVX512-BF16) and matrix units (kernels_amx.cpp) on the other. Products are exact, sums float32; subnormal
// operands count as zero, as the instructions have it.
#pragma once

#include <cstdint>

#include "common/narrow.h"
#include "few_rows.h"
#include "gemm.h"

namespace fastdl::cpu {

// One term of a tile's sum: `k` steps along A's columns and B's rows.
struct Bf16Piece {
  const bfloat16* a;  // element (row, k): a[row * a_row + k / k_step * a_step + k % k_step]
  const bfloat16*
      b;  // element (k, column): b[k / 2 * 2 * nr + 2 * column + k % 2], zero from k on to the next k_step
  int64_t k;
};

// sums[rows x cols] (+)= the pieces' products; then, with `finish`, C = relu?(alpha * sums + beta * C + bias
// + residual). A that lies in rows, contiguous along k, is a_step = k_step; a packed panel of A is a_row =
// k_step and a_step = (rows of the panel) * k_step. Rows of A past `rows` and k past the piece's are never
// read (of B, they are).
struct Bf16Tile {
  const Bf16Piece* pieces;
  int64_t count;
  int64_t a_row, a_step;
  int rows, cols;  // 1..mr, 1..nr
  float* sums;     // unused if neither resume nor !finish
  int64_t ld_sums;
  bool resume;        // start from `sums`, not from zero
  bool finish;        // end in C, not in `sums`
  float alpha, beta;  // beta = 0 does not read C
  bfloat16* c;        // C, or
  float* c32;         // C in float32
  int64_t ldc;
  const bfloat16* bias;  // [cols] or null, or
  const float* bias32;
  const bfloat16* residual;  // [rows x cols] or null, or
  const float* residual32;
  int64_t ld_residual;
  bool relu;
  bool stream;       // C (not c32) may be written past the cache: cols == nr, rows aligned to 64 bytes
  GemmAhead* ahead;  // or null
};

// What the exponents of a block of float32 numbers allow: see gemm_split.cpp.
struct ExponentRange {
  int32_t low,
      high;  // biased exponents (0..255) of the smallest nonzero and of the largest element; empty: 255, 0
};

struct Bf16Kernels {
  int mr, nr, k_step;
  int height_step;  // a packed panel of A is a multiple of this high
  int64_t kc;       // K block

  // Around a task's calls of `tile`, where not null: gives the thread the matrix unit and takes it back. They
  // nest. Outside of such a pair each call of `tile` pays for it.
  void (*enter)();
  void (*leave)();

  void (*tile)(const Bf16Tile&);

  // Panels as the tiles read them, zero-filled: `rows` rows of A as a panel of `height` (rows <= height <=
  // mr), `cols` columns of B. k is rounded up to k_step.
  void (*pack_a)(const bfloat16* src, int64_t row_stride, int64_t k_stride, int64_t k, int rows, int height,
                 bfloat16* out);
  void (*pack_b)(const bfloat16* src, int64_t k_stride, int64_t col_stride, int64_t k, int cols,
                 bfloat16* out);
  // The same of float32 numbers, each cut into `planes` bfloat16 whose sum it is (the first 8, the next 8,
  // the last 8 bits): plane p lies p * plane_stride further on. Returns the exponents met. Null where
  // products of such parts are not faster than multiply-adds.
  ExponentRange (*split_a)(const float* src, int64_t row_stride, int64_t k_stride, int64_t k, int rows,
                           int height, int planes, bfloat16* out, int64_t plane_stride);
  ExponentRange (*split_b)(const float* src, int64_t k_stride, int64_t col_stride, int64_t k, int cols,
                           int planes, bfloat16* out, int64_t plane_stride);

  // The end of a tile whose sums are already in memory.
  void (*finish)(const Bf16Tile&);

  // Few rows (<= 4), B read once: sums[r * cols + j] = sum_k a[r * a_row + k * a_k] * B[k, j].
  void (*dot)(const bfloat16* a, int64_t a_row, const bfloat16* b, int64_t b_col, int rows, int64_t cols,
              int64_t k,
              float* sums);  // a_k = 1, B contiguous along k
  void (*gemv)(const bfloat16* a, int64_t a_row, int64_t a_k, const bfloat16* b, int64_t b_k, int rows,
               int64_t cols, int64_t k, float* sums);  // B contiguous along its columns

  // `rounds` blocks of independent products in registers; returns the floating-point operations of one round.
  int64_t (*peak)(int64_t rounds, float* sink);

  // Null: the tiles are as good.
  void (*few_rows)(const FewRows<bfloat16>&);
};

}  // namespace fastdl::cpu
