// Products with up to 4 rows, or one column, of plain operands: bound by reading B, once.
#pragma once

#include <algorithm>

#include "cpu/gemm.h"
#include "cpu/round.h"

namespace fastdl::cpu {

// Sums of 4 rows of as many columns fit the L1 cache.
constexpr int64_t kGemvCols = 1024;

// Columns of a task: fewer than those where there would be too few tasks.
inline int64_t gemv_strip(int64_t n) {
  constexpr int64_t least = 128, tasks = 8;
  return std::clamp(round_up(n / tasks, 64), least, kGemvCols);
}

template <class T>
void gemm_dot(Context* context, const Gemm<T>& g);  // up to dot_rows rows, both operands contiguous along K
template <class T>
void gemm_gemv(Context* context, const Gemm<T>& g);  // up to gemv_rows rows, B contiguous along N
template <class T>
void gemm_column(Context* context, const Gemm<T>& g);  // one column

}  // namespace fastdl::cpu
