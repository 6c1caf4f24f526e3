// Kernels of the norm family. Rows: statistics along contiguous elements (layer, RMS). Columns: statistics
// down the rows of a (rows, cols) block, one set per column (batch, group); such blocks are small enough to
// stay in the L1 or L2 cache.
#pragma once

#include <cstdint>

#include "common/narrow.h"

namespace fastdl::cpu {

template <class S>
struct NormTable {
  using T = compute_t<S>;
  // One row of n: statistics, then y = (x - mean) * rstd * w + b. w, b may be NULL. rms: mean is 0 and not
  // subtracted.
  void (*row_forward)(int64_t n, const S* x, const T* w, const T* b, bool rms, T eps, S* y, T* mean, T* rstd);
  // One row's gradient; adds into dw, db. w, dx, dw, db may be NULL.
  void (*row_backward)(int64_t n, const S* dy, const S* x, const T* w, T mean, T rstd, bool rms, S* dx, T* dw,
                       T* db);
  // Per column: mean and sum of squared deviations from it.
  void (*column_stats)(int64_t rows, int64_t cols, const S* x, T* mean, T* m2);
  // y = (x - m) * a + b, per column.
  void (*column_affine)(int64_t rows, int64_t cols, const S* x, const T* m, const T* a, const T* b, S* y);
  // Per column: s1 = sum of dy, s2 = sum of dy * (x - m).
  void (*column_sums)(int64_t rows, int64_t cols, const S* dy, const S* x, const T* m, T* s1, T* s2);
  // dx = a * dy + b * (x - m) + d, per column.
  void (*column_gradient)(int64_t rows, int64_t cols, const S* dy, const S* x, const T* m, const T* a,
                          const T* b, const T* d, S* dx);
};

struct NormKernels {
  NormTable<float> f32;
  NormTable<double> f64;
  NormTable<bfloat16> bf16;
  NormTable<float16> f16;
};

template <class S>
const NormTable<S>& table_for(const NormKernels& k) {
  return table_of<S>(k);
}

}  // namespace fastdl::cpu
