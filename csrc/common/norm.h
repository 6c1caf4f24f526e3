// Checked arguments of the norm family, the same on every backend. Views of absent tensors have no data.
// Parameters and statistics are of the dtype computed with; parameters may also be stored like x.
#pragma once

#include "common/view.h"
#include "fastdl/norm.h"

namespace fastdl::check {

// Layer and RMS normalisation: `rows` rows of n elements.
struct RowNorm {
  View x, weight, bias, out, mean, rstd;
  int64_t rows, n;
};
RowNorm row_norm_forward(const char* op, const fastdl_tensor* x, const fastdl_tensor* weight,
                         const fastdl_tensor* bias, const fastdl_tensor* out, const fastdl_tensor* mean,
                         const fastdl_tensor* rstd, int32_t normalized_ndim, double eps);

struct RowNormBackward {
  View grad_out, x, weight, mean, rstd, grad_x, grad_weight, grad_bias;
  int64_t rows, n;
};
RowNormBackward row_norm_backward(const char* op, const fastdl_tensor* grad_out, const fastdl_tensor* x,
                                  const fastdl_tensor* weight, const fastdl_tensor* mean,
                                  const fastdl_tensor* rstd, const fastdl_tensor* grad_x,
                                  const fastdl_tensor* grad_weight, const fastdl_tensor* grad_bias,
                                  int32_t normalized_ndim, bool rms);

// Batch and group normalisation: x as `samples` blocks of `rows` rows of c channels; batch norm sees one
// sample with all rows. Full-size views have their channels moved last.
struct ColumnNorm {
  View x, weight, bias, running_mean, running_var, out, mean, rstd;
  int64_t samples, rows, c;
};
ColumnNorm batch_norm_forward(const fastdl_tensor* x, const fastdl_tensor* weight, const fastdl_tensor* bias,
                              const fastdl_tensor* running_mean, const fastdl_tensor* running_var,
                              const fastdl_tensor* out, const fastdl_tensor* mean, const fastdl_tensor* rstd,
                              const fastdl_batch_norm_options& options);
ColumnNorm group_norm_forward(const fastdl_tensor* x, const fastdl_tensor* weight, const fastdl_tensor* bias,
                              const fastdl_tensor* out, const fastdl_tensor* mean, const fastdl_tensor* rstd,
                              int64_t groups, double eps);

struct ColumnNormBackward {
  View grad_out, x, weight, mean, rstd, grad_x, grad_weight, grad_bias;
  int64_t samples, rows, c;
};
ColumnNormBackward batch_norm_backward(const fastdl_tensor* grad_out, const fastdl_tensor* x,
                                       const fastdl_tensor* weight, const fastdl_tensor* mean,
                                       const fastdl_tensor* rstd, const fastdl_tensor* grad_x,
                                       const fastdl_tensor* grad_weight, const fastdl_tensor* grad_bias);
ColumnNormBackward group_norm_backward(const fastdl_tensor* grad_out, const fastdl_tensor* x,
                                       const fastdl_tensor* weight, const fastdl_tensor* mean,
                                       const fastdl_tensor* rstd, const fastdl_tensor* grad_x,
                                       const fastdl_tensor* grad_weight, const fastdl_tensor* grad_bias,
                                       int64_t groups);

}  // namespace fastdl::check
