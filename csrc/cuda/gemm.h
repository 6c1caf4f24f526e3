// The matrix products every family uses: C = activation(alpha A B + beta C + bias + residual), batched.
#pragma once

#include <cstdint>

#include "common/view.h"
#include "cuda/context.h"
#include "fastdl/activation.h"

namespace fastdl::cuda {

// Batch dims, innermost first; the strides are those of each operand along them, in elements.
struct GemmBatch {
  int ndim = 0;
  int64_t shape[FASTDL_MAX_NDIM];
  int64_t a[FASTDL_MAX_NDIM], b[FASTDL_MAX_NDIM], c[FASTDL_MAX_NDIM], residual[FASTDL_MAX_NDIM];

  int64_t count() const {
    int64_t n = 1;
    for (int i = 0; i < ndim; ++i) n *= shape[i];
    return n;
  }
};

// S: float, double, bfloat16 or float16. Element (i, j) of A is a[i * a_row + j * a_column], of B likewise;
// strides of any size and sign. C, bias and residual have any strides too; c_float32: C holds float32 beside
// 16-bit operands.
template <class S>
struct Gemm {
  int64_t m, n, k;
  const S* a;
  int64_t a_row, a_column;
  const S* b;
  int64_t b_row, b_column;
  void* c;
  int64_t c_row, c_column;
  bool c_float32 = false;
  const S* bias = nullptr;  // [n], for each column of C
  int64_t bias_stride = 1;
  const S* residual = nullptr;
  int64_t residual_row = 0, residual_column = 1;
  double alpha = 1, beta = 0;
  fastdl_activation activation{FASTDL_ACT_NONE, 0, 0};
  GemmBatch batch{};
};

template <class S>
void gemm(Context* context, const Gemm<S>& g);

extern template void gemm<float>(Context*, const Gemm<float>&);
extern template void gemm<double>(Context*, const Gemm<double>&);
extern template void gemm<bfloat16>(Context*, const Gemm<bfloat16>&);
extern template void gemm<float16>(Context*, const Gemm<float16>&);

}  // namespace fastdl::cuda
