#include "common/norm.h"

namespace fastdl::check {
namespace {

// The dtype of parameters and statistics.
DType wide(DType t) { return is_narrow(t) ? DType::kFloat32 : t; }

View parameter_view(const fastdl_tensor* t, DType dtype, const char* op, const char* name) {
  const View v = view(t, op, name);
  return v.dtype == dtype ? v : view_like(t, wide(dtype), op, name);
}

void split(const View& x, int32_t normalized_ndim, const char* op, int64_t* rows, int64_t* n) {
  FASTDL_CHECK(normalized_ndim >= 1 && normalized_ndim <= x.ndim, FASTDL_ERROR_SHAPE,
               "%s: cannot normalise over the last %d dimensions of an input of shape %s", op,
               normalized_ndim, shape_string(x).c_str());
  *rows = *n = 1;
  for (int i = 0; i < x.ndim; ++i) *(i < x.ndim - normalized_ndim ? rows : n) *= x.shape[i];
}

// A parameter (or its gradient): NULL, or the shape of x's last dimensions.
View parameter(const fastdl_tensor* t, const View& x, int32_t normalized_ndim, const char* op,
               const char* name) {
  View p;
  if (!t) return p;
  p = parameter_view(t, x.dtype, op, name);
  bool fits = p.ndim == normalized_ndim;
  for (int i = 0; fits && i < p.ndim; ++i) fits = p.shape[i] == x.shape[x.ndim - normalized_ndim + i];
  FASTDL_CHECK(fits, FASTDL_ERROR_SHAPE,
               "%s: %s of shape %s does not fit the last %d dimensions of an input of shape %s", op, name,
               shape_string(p).c_str(), normalized_ndim, shape_string(x).c_str());
  return p;
}

View statistic(const fastdl_tensor* t, const View& x, int64_t count, const char* op, const char* name) {
  View s;
  if (!t) return s;
  s = view_like(t, wide(x.dtype), op, name);
  FASTDL_CHECK(s.size() == count && s.contiguous(), FASTDL_ERROR_SHAPE,
               "%s: expected %s to hold %lld contiguous elements, got shape %s", op, name,
               static_cast<long long>(count), shape_string(s).c_str());
  return s;
}

// x as blocks of rows of channels; per_sample: one block to each sample.
template <class Checked>
void shape_columns(Checked& k, const View& x, bool per_sample, const char* op) {
  FASTDL_CHECK(x.ndim >= 2, FASTDL_ERROR_SHAPE, "%s: expected an input of shape (N, C, ...), got %s", op,
               shape_string(x).c_str());
  k.rows = 1;
  for (int i = 2; i < x.ndim; ++i) k.rows *= x.shape[i];
  k.samples = per_sample ? x.shape[0] : 1;
  if (!per_sample) k.rows *= x.shape[0];
  k.c = x.shape[1];
}

// NULL, or a vector of any stride: a parameter, or a statistic, which is never of 16 bits.
enum class Kind : uint8_t { kParameter, kStatistic };
View vector_of(Kind kind, const fastdl_tensor* t, const View& x, int64_t count, const char* op,
               const char* name, bool written = false) {
  if (!t) return {};
  const View v =
      kind == Kind::kParameter ? parameter_view(t, x.dtype, op, name) : view_like(t, wide(x.dtype), op, name);
  if (written) check_out(v, op, name);
  FASTDL_CHECK(v.size() == count && (v.ndim == 1 || v.contiguous()), FASTDL_ERROR_SHAPE,
               "%s: expected %s to be a vector of %lld elements, got shape %s", op, name,
               static_cast<long long>(count), shape_string(v).c_str());
  return v;
}

void check_groups(int64_t groups, int64_t c, const char* op) {
  FASTDL_CHECK(groups > 0 && c % groups == 0, FASTDL_ERROR_VALUE,
               "%s: groups must divide the number of channels %lld, got %lld", op, static_cast<long long>(c),
               static_cast<long long>(groups));
}

void check_eps(double eps, const char* op) {
  FASTDL_CHECK(eps >= 0, FASTDL_ERROR_VALUE, "%s: eps must not be negative, got %g", op, eps);
}

ColumnNormBackward columns_backward(const char* op, const fastdl_tensor* grad_out, const fastdl_tensor* x_,
                                    const fastdl_tensor* weight, const fastdl_tensor* mean,
                                    const fastdl_tensor* rstd, const fastdl_tensor* grad_x,
                                    const fastdl_tensor* grad_weight, const fastdl_tensor* grad_bias,
                                    bool per_sample, int64_t groups) {
  ColumnNormBackward k;
  const View dy = any_float_view(grad_out, op, "grad_out"), x = view_like(x_, dy.dtype, op, "x");
  check_same_shape(dy, "grad_out", x, "x", op);
  shape_columns(k, x, per_sample, op);
  if (per_sample) check_groups(groups, k.c, op);
  if (grad_x) {
    const View dx = out_view(grad_x, dy.dtype, op, "grad_x");
    check_same_shape(x, "x", dx, "grad_x", op);
    k.grad_x = channels_last(dx);
  }
  FASTDL_CHECK(mean && rstd, FASTDL_ERROR_VALUE, "%s: mean and rstd are required", op);
  const int64_t statistics = per_sample ? k.samples * groups : k.c;
  k.weight = vector_of(Kind::kParameter, weight, x, k.c, op, "weight");
  k.mean = vector_of(Kind::kStatistic, mean, x, statistics, op, "mean");
  k.rstd = vector_of(Kind::kStatistic, rstd, x, statistics, op, "rstd");
  k.grad_weight = vector_of(Kind::kParameter, grad_weight, x, k.c, op, "grad_weight", true);
  k.grad_bias = vector_of(Kind::kParameter, grad_bias, x, k.c, op, "grad_bias", true);
  k.grad_out = channels_last(dy);
  k.x = channels_last(x);
  return k;
}

}  // namespace

RowNorm row_norm_forward(const char* op, const fastdl_tensor* x, const fastdl_tensor* weight,
                         const fastdl_tensor* bias, const fastdl_tensor* out, const fastdl_tensor* mean,
                         const fastdl_tensor* rstd, int32_t normalized_ndim, double eps) {
  RowNorm k;
  k.x = any_float_view(x, op, "x");
  k.out = out_view(out, k.x.dtype, op, "out");
  check_same_shape(k.x, "x", k.out, "out", op);
  split(k.x, normalized_ndim, op, &k.rows, &k.n);
  k.weight = parameter(weight, k.x, normalized_ndim, op, "weight");
  k.bias = parameter(bias, k.x, normalized_ndim, op, "bias");
  k.mean = statistic(mean, k.x, k.rows, op, "mean");
  k.rstd = statistic(rstd, k.x, k.rows, op, "rstd");
  check_eps(eps, op);
  return k;
}

RowNormBackward row_norm_backward(const char* op, const fastdl_tensor* grad_out, const fastdl_tensor* x,
                                  const fastdl_tensor* weight, const fastdl_tensor* mean,
                                  const fastdl_tensor* rstd, const fastdl_tensor* grad_x,
                                  const fastdl_tensor* grad_weight, const fastdl_tensor* grad_bias,
                                  int32_t normalized_ndim, bool rms) {
  RowNormBackward k;
  k.grad_out = any_float_view(grad_out, op, "grad_out");
  k.x = view_like(x, k.grad_out.dtype, op, "x");
  check_same_shape(k.grad_out, "grad_out", k.x, "x", op);
  split(k.x, normalized_ndim, op, &k.rows, &k.n);
  k.weight = parameter(weight, k.x, normalized_ndim, op, "weight");
  k.grad_weight = parameter(grad_weight, k.x, normalized_ndim, op, "grad_weight");
  k.grad_bias = parameter(grad_bias, k.x, normalized_ndim, op, "grad_bias");
  if (grad_weight) check_out(k.grad_weight, op, "grad_weight");
  if (grad_bias) check_out(k.grad_bias, op, "grad_bias");
  FASTDL_CHECK(rstd && (rms || mean), FASTDL_ERROR_VALUE,
               "%s: the statistics of the forward call are required", op);
  k.mean = statistic(mean, k.x, k.rows, op, "mean");
  k.rstd = statistic(rstd, k.x, k.rows, op, "rstd");
  if (grad_x) {
    k.grad_x = out_view(grad_x, k.x.dtype, op, "grad_x");
    check_same_shape(k.x, "x", k.grad_x, "grad_x", op);
  }
  return k;
}

ColumnNorm batch_norm_forward(const fastdl_tensor* x_, const fastdl_tensor* weight, const fastdl_tensor* bias,
                              const fastdl_tensor* running_mean, const fastdl_tensor* running_var,
                              const fastdl_tensor* out_, const fastdl_tensor* mean, const fastdl_tensor* rstd,
                              const fastdl_batch_norm_options& options) {
  const char* op = "batch_norm";
  ColumnNorm k;
  const View x = any_float_view(x_, op, "x"), out = out_view(out_, x.dtype, op, "out");
  check_same_shape(x, "x", out, "out", op);
  shape_columns(k, x, false, op);
  check_eps(options.eps, op);
  FASTDL_CHECK(options.training || (running_mean && running_var), FASTDL_ERROR_VALUE,
               "%s: running statistics are required unless training", op);
  FASTDL_CHECK(mean && rstd, FASTDL_ERROR_VALUE, "%s: mean and rstd are required", op);
  k.weight = vector_of(Kind::kParameter, weight, x, k.c, op, "weight");
  k.bias = vector_of(Kind::kParameter, bias, x, k.c, op, "bias");
  k.running_mean = vector_of(Kind::kParameter, running_mean, x, k.c, op, "running_mean", true);
  k.running_var = vector_of(Kind::kParameter, running_var, x, k.c, op, "running_var", true);
  k.mean = vector_of(Kind::kStatistic, mean, x, k.c, op, "mean", true);
  k.rstd = vector_of(Kind::kStatistic, rstd, x, k.c, op, "rstd", true);
  k.x = channels_last(x);
  k.out = channels_last(out);
  return k;
}

ColumnNorm group_norm_forward(const fastdl_tensor* x_, const fastdl_tensor* weight, const fastdl_tensor* bias,
                              const fastdl_tensor* out_, const fastdl_tensor* mean, const fastdl_tensor* rstd,
                              int64_t groups, double eps) {
  const char* op = "group_norm";
  ColumnNorm k;
  const View x = any_float_view(x_, op, "x"), out = out_view(out_, x.dtype, op, "out");
  check_same_shape(x, "x", out, "out", op);
  shape_columns(k, x, true, op);
  check_groups(groups, k.c, op);
  check_eps(eps, op);
  FASTDL_CHECK(mean && rstd, FASTDL_ERROR_VALUE, "%s: mean and rstd are required", op);
  k.weight = vector_of(Kind::kParameter, weight, x, k.c, op, "weight");
  k.bias = vector_of(Kind::kParameter, bias, x, k.c, op, "bias");
  k.mean = vector_of(Kind::kStatistic, mean, x, k.samples * groups, op, "mean", true);
  k.rstd = vector_of(Kind::kStatistic, rstd, x, k.samples * groups, op, "rstd", true);
  k.x = channels_last(x);
  k.out = channels_last(out);
  return k;
}

ColumnNormBackward batch_norm_backward(const fastdl_tensor* grad_out, const fastdl_tensor* x,
                                       const fastdl_tensor* weight, const fastdl_tensor* mean,
                                       const fastdl_tensor* rstd, const fastdl_tensor* grad_x,
                                       const fastdl_tensor* grad_weight, const fastdl_tensor* grad_bias) {
  return columns_backward("batch_norm_backward", grad_out, x, weight, mean, rstd, grad_x, grad_weight,
                          grad_bias, false, 0);
}

ColumnNormBackward group_norm_backward(const fastdl_tensor* grad_out, const fastdl_tensor* x,
                                       const fastdl_tensor* weight, const fastdl_tensor* mean,
                                       const fastdl_tensor* rstd, const fastdl_tensor* grad_x,
                                       const fastdl_tensor* grad_weight, const fastdl_tensor* grad_bias,
                                       int64_t groups) {
  return columns_backward("group_norm_backward", grad_out, x, weight, mean, rstd, grad_x, grad_weight,
                          grad_bias, true, groups);
}

}  // namespace fastdl::check
