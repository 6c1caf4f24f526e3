// Attention's entry points: checks, layouts, and the choice of algorithm.
#include "cpu/attention.h"

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
    auto [p, lse] = fastdl::check::attention_forward(q, k, v, mask, out_, lse_, options);
    RowsOut oc(context, p.out);
    p.out = *oc;
    if (p.q.dtype == DType::kBFloat16 && attention_is_decode(p)) {
      attention_decode<bfloat16>(context, p, lse.as<float>());
    } else {
      dispatch_dtype(p.q.dtype, [&, &p = p, &lse = lse](auto zero) {
        using S = decltype(zero);
        attention_forward<S>(context, p, lse.as<compute_t<S>>());
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
    auto [p, g, lse] = fastdl::check::attention_backward(grad_out, q, k, v, mask, out_, lse_, grad_q, grad_k,
                                                         grad_v, grad_mask, options);
    const RowsIn oc(context, p.out), doc(context, g.dout);
    RowsOut dqc(context, g.dq), dkc(context, g.dk), dvc(context, g.dv);
    p.out = *oc;
    g.dout = *doc;
    g.dq = *dqc;
    g.dk = *dkc;
    g.dv = *dvc;
    dispatch_dtype(p.q.dtype, [&, &p = p, &g = g, &lse = lse](auto zero) {
      using S = decltype(zero);
      attention_backward<S>(context, p, g, lse.as<compute_t<S>>());
    });
    dqc.write_back();
    dkc.write_back();
    dvc.write_back();
  });
}
}
