#include "common/matmul.h"

namespace fastdl {
namespace {

void insert_dim(View& v, int at) {
  FASTDL_CHECK(v.ndim < FASTDL_MAX_NDIM, FASTDL_ERROR_SHAPE, "matmul: at most %d dimensions",
               FASTDL_MAX_NDIM);
  for (int i = v.ndim; i > at; --i) {
    v.shape[i] = v.shape[i - 1];
    v.strides[i] = v.strides[i - 1];
  }
  v.shape[at] = 1;
  v.strides[at] = 1;
  ++v.ndim;
}

int64_t batch_extent(const View& v, int from_last) {  // from_last: 2 is the innermost batch dim
  const int dim = v.ndim - 1 - from_last;
  return dim < 0 ? 1 : v.shape[dim];
}
int64_t batch_stride(const View& v, int from_last) {
  const int dim = v.ndim - 1 - from_last;
  return dim < 0 || v.shape[dim] == 1 ? 0 : v.strides[dim];
}

// Gives 1-d operands their missing dim, in out (and residual) too.
void add_missing_dims(View& a, View& b, View& out, std::optional<View>& residual) {
  if (a.ndim > 1 && b.ndim > 1) return;
  const bool row = a.ndim == 1, column = b.ndim == 1;
  if (row) insert_dim(a, 0);
  if (column) insert_dim(b, 1);
  for (View* v : {&out, residual ? &*residual : nullptr}) {
    if (!v) continue;
    if (column) insert_dim(*v, v->ndim);
    if (row && v->ndim >= 1) insert_dim(*v, v->ndim - 1);
  }
}

fastdl_matmul_options matmul_options(const fastdl_matmul_options* given, const char* op) {
  const auto o = read_options(given, fastdl_matmul_options FASTDL_MATMUL_OPTIONS_INIT, op);
  FASTDL_CHECK(o.activation.kind >= FASTDL_ACT_NONE && o.activation.kind <= FASTDL_ACT_THRESHOLD,
               FASTDL_ERROR_VALUE, "%s: unknown activation kind %d", op, o.activation.kind);
  return o;
}

// A result: of the operands' dtype, or float32 where they are 16-bit ones.
View result_view(const fastdl_tensor* t, DType dtype, const char* op, const char* name) {
  const bool wide = is_narrow(dtype) && t && t->dtype.code == FASTDL_FLOAT && t->dtype.bits == 32;
  return out_view(t, wide ? DType::kFloat32 : dtype, op, name);
}

// Views of a and the operands that go with it; `b` of dtype b_dtype, or of a's.
check::Matmul operands(const char* op, const fastdl_tensor* a, const fastdl_tensor* b, const char* b_name,
                       const DType* b_dtype, const fastdl_tensor* bias, const fastdl_tensor* residual,
                       const fastdl_tensor* out) {
  check::Matmul m{};
  m.op = op;
  m.a = any_float_view(a, op, "a");
  m.b = view_like(b, b_dtype ? *b_dtype : m.a.dtype, op, b_name);
  m.out = result_view(out, m.a.dtype, op, "out");
  if (bias) m.bias = view_like(bias, m.a.dtype, op, "bias");
  if (residual) m.residual = view_like(residual, m.a.dtype, op, "residual");
  return m;
}

}  // namespace

MatmulProblem matmul_problem(const View& a, const View& b, const View& out, const View* residual,
                             const char* op) {
  MatmulProblem p;
  p.m = a.extent(-2);
  p.k = a.extent(-1);
  p.n = b.extent(-1);
  FASTDL_CHECK(b.extent(-2) == p.k, FASTDL_ERROR_SHAPE,
               "%s: the last dim of a and the last but one of b differ: %s and %s", op,
               shape_string(a).c_str(), shape_string(b).c_str());
  const int ndim = a.ndim > b.ndim ? a.ndim : b.ndim;
  bool fits = out.ndim == ndim && out.extent(-2) == p.m && out.extent(-1) == p.n;
  for (int i = ndim - 1; i >= 2; --i) {
    const int64_t ea = batch_extent(a, i), eb = batch_extent(b, i), e = ea == 1 ? eb : ea;
    FASTDL_CHECK(ea == eb || ea == 1 || eb == 1, FASTDL_ERROR_SHAPE,
                 "%s: batch dims do not broadcast: %s and %s", op, shape_string(a).c_str(),
                 shape_string(b).c_str());
    fits = fits && batch_extent(out, i) == e;
    if (e == 1) continue;
    const int64_t s[MatmulProblem::kOperands] = {
        batch_stride(a, i), batch_stride(b, i), batch_stride(out, i),
        residual ? batch_stride(*residual, i) : batch_stride(out, i)};
    bool merge = p.batch_ndim > 0;
    for (int j = 0; j < MatmulProblem::kOperands && merge; ++j)
      merge = p.strides[j][p.batch_ndim - 1] == s[j] * e;
    if (merge) --p.batch_ndim;
    p.batch[p.batch_ndim] = merge ? p.batch[p.batch_ndim] * e : e;
    for (int j = 0; j < MatmulProblem::kOperands; ++j) p.strides[j][p.batch_ndim] = s[j];
    ++p.batch_ndim;
  }
  FASTDL_CHECK(fits, FASTDL_ERROR_SHAPE, "%s: out has shape %s, which does not fit a %s and b %s", op,
               shape_string(out).c_str(), shape_string(a).c_str(), shape_string(b).c_str());
  return p;
}

bool as_rows(const View& v, int64_t* rows, int64_t* row_stride) {
  *rows = 1;
  *row_stride = v.extent(-1);
  if (v.size() == 0) {  // of an empty array any strides will do
    for (int i = 0; i < v.ndim - 1; ++i) *rows *= v.shape[i];
    return true;
  }
  bool first = true;
  for (int i = v.ndim - 2; i >= 0; --i) {
    if (v.shape[i] == 1) continue;
    if (first) *row_stride = v.strides[i];
    else if (v.strides[i] != *row_stride * *rows) return false;
    first = false;
    *rows *= v.shape[i];
  }
  return true;
}

namespace check {

void Matmul::complete(const fastdl_matmul_options* given) {
  add_missing_dims(a, b, out, residual);
  options = matmul_options(given, op);
  problem = matmul_problem(a, b, out, residual ? &*residual : nullptr, op);
  FASTDL_CHECK(!bias || (bias->ndim <= 1 && bias->size() == problem.n), FASTDL_ERROR_SHAPE,
               "%s: expected bias of shape (%lld,), got %s", op, static_cast<long long>(problem.n),
               bias ? shape_string(*bias).c_str() : "");
  if (residual) check_same_shape(out, "out", *residual, "residual", op);
}

Matmul matmul(const fastdl_tensor* a, const fastdl_tensor* b, const fastdl_tensor* bias,
              const fastdl_tensor* residual, const fastdl_tensor* out, const fastdl_matmul_options* options) {
  Matmul m = operands("matmul", a, b, "b", nullptr, bias, residual, out);
  FASTDL_CHECK(m.a.ndim >= 1 && m.b.ndim >= 1, FASTDL_ERROR_SHAPE,
               "%s: expected at least 1-d operands, got %s and %s", m.op, shape_string(m.a).c_str(),
               shape_string(m.b).c_str());
  m.complete(options);
  return m;
}

Matmul matmul_packed(const fastdl_tensor* a, const fastdl_tensor* packed, DType stored,
                     const fastdl_tensor* bias, const fastdl_tensor* residual, const fastdl_tensor* out) {
  Matmul m = operands("matmul_packed", a, packed, "packed b", &stored, bias, residual, out);
  FASTDL_CHECK(m.a.ndim >= 1, FASTDL_ERROR_SHAPE, "%s: expected a to be at least 1-d", m.op);
  return m;
}

LinearBackward linear_backward(const fastdl_tensor* grad_, const fastdl_tensor* saved_,
                               const fastdl_tensor* x_, const fastdl_tensor* weight_,
                               const fastdl_tensor* grad_x_, const fastdl_tensor* grad_weight_,
                               const fastdl_tensor* grad_bias_, const fastdl_matmul_options* options) {
  const char* op = "linear_backward";
  View grad = any_float_view(grad_, op, "grad");
  FASTDL_CHECK(grad.ndim >= 1, FASTDL_ERROR_SHAPE, "%s: expected grad to be at least 1-d", op);
  fastdl_activation f{FASTDL_ACT_NONE, 0, 0};
  if (options) {
    const auto o = read_options(options, fastdl_matmul_options FASTDL_MATMUL_OPTIONS_INIT, op);
    FASTDL_CHECK(o.alpha == 1.0 && o.beta == 0.0, FASTDL_ERROR_VALUE, "%s: expected alpha 1 and beta 0", op);
    f = o.activation;
    FASTDL_CHECK(f.kind >= FASTDL_ACT_NONE && f.kind <= FASTDL_ACT_THRESHOLD, FASTDL_ERROR_VALUE,
                 "%s: unknown activation kind %d", op, f.kind);
  }
  View saved, x, weight, grad_x, grad_weight, grad_bias;
  if (f.kind != FASTDL_ACT_NONE) {
    saved = view_like(saved_, grad.dtype, op, "saved");
    check_same_shape(grad, "grad", saved, "saved", op);
  }
  const int64_t n = grad.extent(-1);
  int64_t k = -1;
  const auto fits = [&](const View& v, const char* name) {  // x or grad_x: grad's leading dims, then k
    bool ok = v.ndim == grad.ndim && (k < 0 || v.extent(-1) == k);
    for (int i = 0; ok && i + 1 < v.ndim; ++i) ok = v.shape[i] == grad.shape[i];
    FASTDL_CHECK(ok, FASTDL_ERROR_SHAPE, "%s: %s has shape %s, which does not fit grad %s", op, name,
                 shape_string(v).c_str(), shape_string(grad).c_str());
    k = v.extent(-1);
  };
  const auto fits_weight = [&](const View& v, const char* name) {
    FASTDL_CHECK(v.ndim == 2 && v.shape[0] == n && (k < 0 || v.shape[1] == k), FASTDL_ERROR_SHAPE,
                 "%s: %s has shape %s, which does not fit grad %s", op, name, shape_string(v).c_str(),
                 shape_string(grad).c_str());
    k = v.shape[1];
  };
  if (grad_x_) {
    weight = view_like(weight_, grad.dtype, op, "weight");
    fits_weight(weight, "weight");
    grad_x = out_view(grad_x_, grad.dtype, op, "grad_x");
    fits(grad_x, "grad_x");
  }
  if (grad_weight_) {
    x = view_like(x_, grad.dtype, op, "x");
    fits(x, "x");
    grad_weight = result_view(grad_weight_, grad.dtype, op, "grad_weight");
    fits_weight(grad_weight, "grad_weight");
  }
  if (grad_bias_) {
    grad_bias = result_view(grad_bias_, grad.dtype, op, "grad_bias");
    FASTDL_CHECK(grad_bias.ndim == 1 && grad_bias.shape[0] == n, FASTDL_ERROR_SHAPE,
                 "%s: grad_bias has shape %s, expected (%lld,)", op, shape_string(grad_bias).c_str(),
                 static_cast<long long>(n));
  }
  return {grad,
          saved,
          x,
          weight,
          grad_x,
          grad_weight,
          grad_bias,
          f,
          grad_x_ != nullptr,
          grad_weight_ != nullptr,
          grad_bias_ != nullptr};
}

}  // namespace check
}  // namespace fastdl
