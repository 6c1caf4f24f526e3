// Checked arguments of the matmul family, the same on every backend.
#pragma once

#include <optional>

#include "common/view.h"
#include "fastdl/matmul.h"

namespace fastdl {

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

// The leading dims of v as one row dim. True if the strides allow it.
bool as_rows(const View& v, int64_t* rows, int64_t* row_stride);

namespace check {

// After complete(): all operands at least 2-d, and the problem they make.
struct Matmul {
  const char* op;
  View a, b, out;
  std::optional<View> bias, residual;
  fastdl_matmul_options options;
  MatmulProblem problem;

  // Gives 1-d operands their missing dim and checks options and shapes.
  void complete(const fastdl_matmul_options* given);
};
Matmul matmul(const fastdl_tensor* a, const fastdl_tensor* b, const fastdl_tensor* bias,
              const fastdl_tensor* residual, const fastdl_tensor* out, const fastdl_matmul_options* options);
// To be completed once b's view of the packed elements, which are of dtype `stored`, has been given its
// shape.
Matmul matmul_packed(const fastdl_tensor* a, const fastdl_tensor* packed, DType stored,
                     const fastdl_tensor* bias, const fastdl_tensor* residual, const fastdl_tensor* out);

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
