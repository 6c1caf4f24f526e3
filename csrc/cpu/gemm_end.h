// What the ways to multiply float32 and float64 matrices share: the cost of a product, the length of its
// sums, and the end of a sum on its way to C.
#pragma once

#include <algorithm>

#include "cpu/gemm.h"
#include "cpu/gemm_cut.h"
#include "cpu/kernels.h"
#include "cpu/round.h"

namespace fastdl::cpu {

// Some 32 multiply-adds take the time of an elementary operation.
inline double multiply_adds_cost(int64_t m, int64_t n, int64_t k) { return gemm_cost(m, n, k, 32); }

// Errors of a sum grow with the length of the chain of additions that forms it, in proportion for terms of
// one sign: longer chains are cut. (To read and write a tile of C once more takes 2% of so many
// multiply-adds.)
constexpr int64_t kChain = 320;

// `whole` in even parts of at most `most`: the length of one.
inline int64_t even_part(int64_t whole, int64_t most) {
  return std::max<int64_t>(ceil_div(whole, std::max<int64_t>(ceil_div(whole, most), 1)), 1);
}

template <class T>
void activate_rows(const fastdl_activation& f, T* c, int64_t ldc, int64_t rows, int64_t cols) {
  if (f.kind == FASTDL_ACT_NONE || f.kind == FASTDL_ACT_RELU) return;  // done in registers
  const auto& table = table_for<T>(*kernels().activation);
  for (int64_t r = 0; r < rows; ++r) table.forward(f, cols, c + r * ldc, c + r * ldc);
}

// The tile of g at (row, col), `rows` x `cols`, with its epilogue; pieces are still to be set.
template <class T>
GemmTile<T> tile_at(const Gemm<T>& g, int64_t row, int64_t col, int64_t rows, int64_t cols) {
  GemmTile<T> t{};
  t.rows = static_cast<int>(rows);
  t.cols = static_cast<int>(cols);
  t.c = g.c + row * g.ldc + col;
  t.ldc = g.ldc;
  t.alpha = g.end.alpha;
  t.beta = g.end.beta;
  t.bias = g.end.bias ? g.end.bias + col : nullptr;
  t.residual = g.end.residual ? g.end.residual + row * g.end.ld_residual + col : nullptr;
  t.ld_residual = g.end.ld_residual;
  t.relu = g.end.activation.kind == FASTDL_ACT_RELU;
  return t;
}

// Sums in `acc` on their way to C.
template <class T>
void finish_rows(const GemmKernelsOf<T>& kernel, const Gemm<T>& g, int64_t col, int64_t cols, const T* acc,
                 int64_t ld_acc) {
  kernel.finish(tile_at(g, 0, col, g.m, cols), acc, ld_acc);
  activate_rows(g.end.activation, g.c + col, g.ldc, g.m, cols);
}

}  // namespace fastdl::cpu
