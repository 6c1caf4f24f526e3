#include "common/attention.h"

#include <cmath>

#include "common/dropout.h"

namespace fastdl::check {
namespace {

void check_shape(const View& x, int64_t a, int64_t b, int64_t c, int64_t d, const char* op,
                 const char* name) {
  FASTDL_CHECK(x.ndim == 4 && x.shape[0] == a && x.shape[1] == b && x.shape[2] == c && x.shape[3] == d,
               FASTDL_ERROR_SHAPE, "%s: expected %s of shape (%lld, %lld, %lld, %lld), got %s", op, name,
               static_cast<long long>(a), static_cast<long long>(b), static_cast<long long>(c),
               static_cast<long long>(d), shape_string(x).c_str());
}

// Beside 16-bit operands a mask and its gradient may be float32.
bool fits_mask(DType mask, DType operands) {
  return mask == operands || (is_narrow(operands) && mask == DType::kFloat32);
}

AttentionProblem problem_of(const fastdl_tensor* q, const fastdl_tensor* k, const fastdl_tensor* v,
                            const fastdl_tensor* mask, const fastdl_attention_options* options,
                            const char* op) {
  const auto o = read_options(options, fastdl_attention_options FASTDL_ATTENTION_OPTIONS_INIT, op);
  AttentionProblem p;
  p.q = any_float_view(q, op, "q");
  p.k = view_like(k, p.q.dtype, op, "k");
  p.v = view_like(v, p.q.dtype, op, "v");
  check_ndim(p.q, 4, op, "q");
  check_ndim(p.k, 4, op, "k");
  check_ndim(p.v, 4, op, "v");
  p.batch = p.q.shape[0];
  p.heads = p.q.shape[1];
  p.queries = p.q.shape[2];
  p.e = p.q.shape[3];
  p.groups = p.k.shape[1];
  p.keys = p.k.shape[2];
  p.ev = p.v.shape[3];
  check_shape(p.k, p.batch, p.groups, p.keys, p.e, op, "k");
  check_shape(p.v, p.batch, p.groups, p.keys, p.ev, op, "v");
  FASTDL_CHECK(p.groups > 0 ? p.heads % p.groups == 0 : p.heads == 0, FASTDL_ERROR_SHAPE,
               "%s: the number of query heads, %lld, is not a multiple of the number of key heads, %lld", op,
               static_cast<long long>(p.heads), static_cast<long long>(p.groups));
  if (mask) {
    p.mask = view(mask, op, "mask");
    FASTDL_CHECK(p.mask.dtype == DType::kBool || fits_mask(p.mask.dtype, p.q.dtype), FASTDL_ERROR_DTYPE,
                 "%s: expected mask to be bool or %s, got %s", op, name_of(p.q.dtype), name_of(p.mask.dtype));
    check_shape(p.mask, p.batch, p.heads, p.queries, p.keys, op, "mask");
  }
  FASTDL_CHECK(o.dropout_p >= 0 && o.dropout_p < 1, FASTDL_ERROR_VALUE,
               "%s: dropout_p must be at least 0 and less than 1, got %g", op, o.dropout_p);
  p.scale = o.scale_given ? o.scale : 1 / std::sqrt(static_cast<double>(std::max<int64_t>(1, p.e)));
  p.causal = o.is_causal != 0;
  p.dropout = o.dropout_p;
  p.mask_of_weights = dropout_mask(o.dropout_p, o.seed, o.offset, op);
  return p;
}

// NULL or C-contiguous (B, H, L).
View log_sum_exp(const fastdl_tensor* t, const AttentionProblem& p, const char* op) {
  View v;
  if (!t) return v;
  v = view_like(t, is_narrow(p.q.dtype) ? DType::kFloat32 : p.q.dtype, op, "lse");
  FASTDL_CHECK(v.ndim == 3 && v.shape[0] == p.batch && v.shape[1] == p.heads && v.shape[2] == p.queries &&
                   v.contiguous(),
               FASTDL_ERROR_SHAPE, "%s: expected lse to be C-contiguous of shape (%lld, %lld, %lld), got %s",
               op, static_cast<long long>(p.batch), static_cast<long long>(p.heads),
               static_cast<long long>(p.queries), shape_string(v).c_str());
  return v;
}

}  // namespace

AttentionForward attention_forward(const fastdl_tensor* q, const fastdl_tensor* k, const fastdl_tensor* v,
                                   const fastdl_tensor* mask, const fastdl_tensor* out,
                                   const fastdl_tensor* lse, const fastdl_attention_options* options) {
  const char* op = "scaled_dot_product_attention";
  AttentionForward a{problem_of(q, k, v, mask, options, op), {}};
  AttentionProblem& p = a.problem;
  p.out = out_view(out, p.q.dtype, op, "out");
  check_shape(p.out, p.batch, p.heads, p.queries, p.ev, op, "out");
  a.lse = log_sum_exp(lse, p, op);
  return a;
}

AttentionBackward attention_backward(const fastdl_tensor* grad_out, const fastdl_tensor* q,
                                     const fastdl_tensor* k, const fastdl_tensor* v,
                                     const fastdl_tensor* mask, const fastdl_tensor* out,
                                     const fastdl_tensor* lse, const fastdl_tensor* grad_q,
                                     const fastdl_tensor* grad_k, const fastdl_tensor* grad_v,
                                     const fastdl_tensor* grad_mask,
                                     const fastdl_attention_options* options) {
  const char* op = "scaled_dot_product_attention_backward";
  AttentionBackward a{problem_of(q, k, v, mask, options, op), {}, {}};
  AttentionProblem& p = a.problem;
  AttentionGradients& g = a.gradients;
  p.out = view_like(out, p.q.dtype, op, "out");
  g.dout = view_like(grad_out, p.q.dtype, op, "grad_out");
  g.dq = out_view(grad_q, p.q.dtype, op, "grad_q");
  g.dk = out_view(grad_k, p.q.dtype, op, "grad_k");
  g.dv = out_view(grad_v, p.q.dtype, op, "grad_v");
  check_shape(p.out, p.batch, p.heads, p.queries, p.ev, op, "out");
  check_shape(g.dout, p.batch, p.heads, p.queries, p.ev, op, "grad_out");
  check_same_shape(p.q, "q", g.dq, "grad_q", op);
  check_same_shape(p.k, "k", g.dk, "grad_k", op);
  check_same_shape(p.v, "v", g.dv, "grad_v", op);
  FASTDL_CHECK(lse, FASTDL_ERROR_VALUE, "%s: lse of the forward call is required", op);
  a.lse = log_sum_exp(lse, p, op);
  if (grad_mask) {
    g.dmask = view(grad_mask, op, "grad_mask");
    FASTDL_CHECK(fits_mask(g.dmask.dtype, p.q.dtype), FASTDL_ERROR_DTYPE,
                 "%s: expected grad_mask to be %s, got %s", op, name_of(p.q.dtype), name_of(g.dmask.dtype));
    check_out(g.dmask, op, "grad_mask");
    check_shape(g.dmask, p.batch, p.heads, p.queries, p.keys, op, "grad_mask");
    FASTDL_CHECK(g.dmask.contiguous(), FASTDL_ERROR_SHAPE, "%s: grad_mask must be C-contiguous", op);
  }
  return a;
}

}  // namespace fastdl::check
