// What the entry points of matrix products share.
#pragma once

#include "common/matmul.h"
#include "cuda/gemm.h"

namespace fastdl::cuda {

// C = A B into a view of S or, beside 16-bit operands, of float32; of its dims the last two count.
template <class S>
Gemm<S> product(int64_t m, int64_t n, int64_t k, const S* a, int64_t a_row, int64_t a_column, const S* b,
                int64_t b_row, int64_t b_column, const View& out) {
  Gemm<S> g{m, n, k, a, a_row, a_column, b, b_row, b_column, out.data, out.stride(-2), out.stride(-1)};
  g.c_float32 = is_narrow(DTypeOf<S>::value) && out.dtype == DType::kFloat32;
  return g;
}

// out[j] = sum over the rows of z[i * row + j * column], in an order that the shape fixes.
template <class S>
void sum_rows(Context* context, int64_t rows, int64_t columns, const S* z, int64_t row, int64_t column,
              const View& out);

void linear_backward(Context* context, const check::LinearBackward& l);

}  // namespace fastdl::cuda
