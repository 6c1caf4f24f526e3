// Checked arguments of the matmul family, the same on every backend.
#pragma once

#include "common/view.h"
#include "fastdl/matmul.h"

namespace fastdl {

fastdl_matmul_options matmul_options(const fastdl_matmul_options* given, const char* op);

// The last two dims of every operand, and up to FASTDL_MAX_NDIM batch dims that broadcast over a and b.
struct MatmulProblem {
  int64_t m, n, k;
  int batch_ndim = 0;
  int64_t batch[FASTDL_MAX_NDIM];
  enum { kA, kB, kOut, kResidual, kOperands };
  int64_t strides[kOperands][FASTDL_MAX_NDIM];
};
// Checks the shapes (all at least 2-d here) and merges batch dims that are one dim in every operand.
MatmulProblem matmul_problem(const View& a, const View& b, const View& out, const View* residual,
                             const char* op);

// Gives 1-d operands their missing dim, in out (and residual) too.
void add_missing_dims(View& a, View& b, View& out, View* residual);

// A result: of the operands' dtype, or float32 where they are 16-bit ones.
View result_view(const fastdl_tensor* t, DType dtype, const char* op, const char* name);

// The leading dims of v as one row dim. True if the strides allow it.
bool as_rows(const View& v, int64_t* rows, int64_t* row_stride);

namespace check {

struct LinearBackward {
  View grad, saved, x, weight, grad_x, grad_weight, grad_bias;
  fastdl_activation activation;  // with a kind other than none: saved is there
  bool want_x, want_weight, want_bias;
};
LinearBackward linear_backward(const fastdl_tensor* grad, const fastdl_tensor* saved, const fastdl_tensor* x,
                               const fastdl_tensor* weight, const fastdl_tensor* grad_x,
                               const fastdl_tensor* grad_weight, const fastdl_tensor* grad_bias,
                               const fastdl_matmul_options* options);

}  // namespace check
}  // namespace fastdl
