// Attention's entry points: checks, layouts, and the choice of algorithm.
#include "cpu/attention.h"

#include <cmath>
#include <optional>

#include "cpu/attention_tiles.h"
#include "cpu/widen.h"
#include "fastdl/attention.h"

namespace fastdl::cpu {
namespace {

// Where results go whose rows the kernels write: `v` itself if the elements of a row are neighbours, else
// scratch that write_back() copies.
class RowsOut {
 public:
  RowsOut(Context* context, const View& v) : view_(v) {
    if (v.strides[3] == 1 || v.shape[3] <= 1) return;
    copy_.emplace(context, v);
    view_ = **copy_;
  }
  const View& operator*() const { return view_; }
  void write_back() {
    if (copy_) copy_->write_back();
  }

 private:
  View view_;
  std::optional<ContiguousOut> copy_;
};

// The same for operands.
class RowsIn {
 public:
  RowsIn(Context* context, const View& v) : view_(v) {
    if (v.strides[3] == 1 || v.shape[3] <= 1) return;
    copy_.emplace(context, v);
    view_ = **copy_;
  }
  const View& operator*() const { return view_; }

 private:
  View view_;
  std::optional<Contiguous> copy_;
};

void check_shape(const View& x, int64_t a, int64_t b, int64_t c, int64_t d, const char* op,
                 const char* name) {
  FASTDL_CHECK(x.ndim == 4 && x.shape[0] == a && x.shape[1] == b && x.shape[2] == c && x.shape[3] == d,
               FASTDL_ERROR_SHAPE, "%s: expected %s of shape (%lld, %lld, %lld, %lld), got %s", op, name,
               static_cast<long long>(a), static_cast<long long>(b), static_cast<long long>(c),
               static_cast<long long>(d), shape_string(x).c_str());
}

bool is_bf16(const fastdl_tensor* t) { return t && t->dtype.code == FASTDL_BFLOAT && t->dtype.bits == 16; }

// bfloat16 with instructions of its own; without them, and in float16, operands are widened.
bool has_bf16_products([[maybe_unused]] const fastdl_tensor* q) { return kernels().gemm_bf16 && is_bf16(q); }

// What attention_is_decode() will say, before anything has been checked: that path needs no products of
// bfloat16.
bool is_bf16_decode(const fastdl_tensor* q, const fastdl_tensor* k, const fastdl_tensor* v) {
  const auto rows = [](const fastdl_tensor* t) {
    return is_bf16(t) && t->ndim == 4 && t->shape && (!t->strides || t->strides[3] == 1);
  };
  if (!is_bf16(q) || q->ndim != 4 || !q->shape || !rows(k) || !rows(v)) return false;
  AttentionProblem p{};
  p.heads = q->shape[1];
  p.queries = q->shape[2];
  p.groups = k->shape[1];
  if (p.groups <= 0 || p.heads <= 0 || p.heads % p.groups != 0) return false;
  p.k.strides[3] = p.v.strides[3] = 1;
  return attention_is_decode(p);
}

// Calls f(S{}) with S the storage type.
template <class F>
void dispatch_dtype(DType dtype, F&& f) {
  if (dtype == DType::kBFloat16) return f(bfloat16{});
  FASTDL_CHECK(dtype != DType::kBFloat16, FASTDL_ERROR_INTERNAL, "attention: no products of bfloat16 here");
  dispatch_float(dtype, f);
}

AttentionProblem checked(const fastdl_tensor* q, const fastdl_tensor* k, const fastdl_tensor* v,
                         const fastdl_tensor* mask, const fastdl_attention_options* options, const char* op,
                         bool bf16) {
  const auto o = read_options(options, fastdl_attention_options FASTDL_ATTENTION_OPTIONS_INIT, op);
  AttentionProblem p;
  p.q = bf16 ? view(q, op, "q") : float_view(q, op, "q");
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
    const bool wide = p.q.dtype == DType::kBFloat16 && p.mask.dtype == DType::kFloat32;
    FASTDL_CHECK(p.mask.dtype == DType::kBool || p.mask.dtype == p.q.dtype || wide, FASTDL_ERROR_DTYPE,
                 "%s: expected mask to be bool or %s, got %s", op, name_of(p.q.dtype), name_of(p.mask.dtype));
    check_shape(p.mask, p.batch, p.heads, p.queries, p.keys, op, "mask");
  }
  FASTDL_CHECK(o.dropout_p >= 0 && o.dropout_p < 1, FASTDL_ERROR_VALUE,
               "%s: dropout_p must be at least 0 and less than 1, got %g", op, o.dropout_p);
  p.scale = o.scale_given ? o.scale : 1 / std::sqrt(static_cast<double>(std::max<int64_t>(1, p.e)));
  p.causal = o.is_causal != 0;
  p.dropout = o.dropout_p;
  p.mask_of_weights = check::dropout_mask(o.dropout_p, o.seed, o.offset, op);
  return p;
}

// NULL or C-contiguous (B, H, L).
View log_sum_exp(const fastdl_tensor* t, const AttentionProblem& p, const char* op) {
  View v;
  if (!t) return v;
  v = view_like(t, p.q.dtype == DType::kBFloat16 ? DType::kFloat32 : p.q.dtype, op, "lse");
  FASTDL_CHECK(v.ndim == 3 && v.shape[0] == p.batch && v.shape[1] == p.heads && v.shape[2] == p.queries &&
                   v.contiguous(),
               FASTDL_ERROR_SHAPE, "%s: expected lse to be C-contiguous of shape (%lld, %lld, %lld), got %s",
               op, static_cast<long long>(p.batch), static_cast<long long>(p.heads),
               static_cast<long long>(p.queries), shape_string(v).c_str());
  return v;
}

}  // namespace
}  // namespace fastdl::cpu

using namespace fastdl::cpu;

extern "C" {

fastdl_status fastdl_attention_forward(fastdl_context* context, const fastdl_tensor* q,
                                       const fastdl_tensor* k, const fastdl_tensor* v,
                                       const fastdl_tensor* mask, const fastdl_tensor* out_,
                                       const fastdl_tensor* lse_, const fastdl_attention_options* options) {
  const bool bf16 = has_bf16_products(q) || is_bf16_decode(q, k, v);
  if (is_narrow(q) && !bf16) {
    return in_float32("scaled_dot_product_attention", fastdl_attention_forward, context, reads(q, "q"),
                      reads(k, "k"), reads(v, "v"), of_any_dtype(reads(mask, "mask")), writes(out_, "out"),
                      lse_, options);
  }
  return guarded([&] {
    const char* op = "scaled_dot_product_attention";
    AttentionProblem p = checked(q, k, v, mask, options, op, bf16);
    const View out = out_view(out_, p.q.dtype, op, "out");
    check_shape(out, p.batch, p.heads, p.queries, p.ev, op, "out");
    const View lse = log_sum_exp(lse_, p, op);
    RowsOut oc(context, out);
    p.out = *oc;
    if (p.q.dtype == DType::kBFloat16 && attention_is_decode(p)) {
      attention_decode<bfloat16>(context, p, lse_ ? lse.as<float>() : nullptr);
    } else {
      dispatch_dtype(p.q.dtype, [&](auto zero) {
        using S = decltype(zero);
        attention_forward<S>(context, p, lse_ ? lse.as<compute_t<S>>() : nullptr);
      });
    }
    oc.write_back();
  });
}

fastdl_status fastdl_attention_backward(fastdl_context* context, const fastdl_tensor* grad_out,
                                        const fastdl_tensor* q, const fastdl_tensor* k,
                                        const fastdl_tensor* v, const fastdl_tensor* mask,
                                        const fastdl_tensor* out_, const fastdl_tensor* lse_,
                                        const fastdl_tensor* grad_q, const fastdl_tensor* grad_k,
                                        const fastdl_tensor* grad_v, const fastdl_tensor* grad_mask,
                                        const fastdl_attention_options* options) {
  // The gradient of a mask is that of the scores in float32.
  const bool bf16 = has_bf16_products(q) || is_bf16_decode(q, k, v);
  if (is_narrow(q) && (grad_mask || !bf16)) {
    return in_float32("scaled_dot_product_attention_backward", fastdl_attention_backward, context,
                      reads(grad_out, "grad_out"), reads(q, "q"), reads(k, "k"), reads(v, "v"),
                      of_any_dtype(reads(mask, "mask")), reads(out_, "out"), lse_, writes(grad_q, "grad_q"),
                      writes(grad_k, "grad_k"), writes(grad_v, "grad_v"),
                      or_float32(writes(grad_mask, "grad_mask")), options);
  }
  return guarded([&] {
    const char* op = "scaled_dot_product_attention_backward";
    AttentionProblem p = checked(q, k, v, mask, options, op, is_narrow(q));
    const View out = view_like(out_, p.q.dtype, op, "out"),
               dout = view_like(grad_out, p.q.dtype, op, "grad_out");
    const View dq = out_view(grad_q, p.q.dtype, op, "grad_q"), dk = out_view(grad_k, p.q.dtype, op, "grad_k");
    const View dv = out_view(grad_v, p.q.dtype, op, "grad_v");
    check_shape(out, p.batch, p.heads, p.queries, p.ev, op, "out");
    check_shape(dout, p.batch, p.heads, p.queries, p.ev, op, "grad_out");
    check_same_shape(p.q, "q", dq, "grad_q", op);
    check_same_shape(p.k, "k", dk, "grad_k", op);
    check_same_shape(p.v, "v", dv, "grad_v", op);
    FASTDL_CHECK(lse_, FASTDL_ERROR_VALUE, "%s: lse of the forward call is required", op);
    const View lse = log_sum_exp(lse_, p, op);
    AttentionGradients g;
    if (grad_mask) {
      g.dmask = out_view(grad_mask, p.q.dtype, op, "grad_mask");
      check_shape(g.dmask, p.batch, p.heads, p.queries, p.keys, op, "grad_mask");
      FASTDL_CHECK(g.dmask.contiguous(), FASTDL_ERROR_SHAPE, "%s: grad_mask must be C-contiguous", op);
    }
    const RowsIn oc(context, out), doc(context, dout);
    RowsOut dqc(context, dq), dkc(context, dk), dvc(context, dv);
    p.out = *oc;
    g.dout = *doc;
    g.dq = *dqc;
    g.dk = *dkc;
    g.dv = *dvc;
    dispatch_dtype(p.q.dtype, [&](auto zero) {
      using S = decltype(zero);
      attention_backward<S>(context, p, g, lse.as<compute_t<S>>());
    });
    dqc.write_back();
    dkc.write_back();
    dvc.write_back();
  });
}
}
