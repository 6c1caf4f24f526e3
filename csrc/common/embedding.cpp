#include "common/embedding.h"

namespace fastdl::check {
namespace {

View table_view(const fastdl_tensor* t, const char* op, const char* name) {
  const View v = any_float_view(t, op, name);
  check_ndim(v, 2, op, name);
  return v;
}

View index_view(const fastdl_tensor* t, const char* op, const char* name) {
  const View v = view(t, op, name);
  FASTDL_CHECK(v.dtype == DType::kInt64 || v.dtype == DType::kInt32, FASTDL_ERROR_DTYPE,
               "%s: expected %s to be int64 or int32, got %s", op, name, name_of(v.dtype));
  return v;
}

// out (or its gradient) must have the shape of indices + (D).
void check_rows(const View& out, const View& i, int64_t d, const char* op, const char* name) {
  bool good = out.ndim == i.ndim + 1 && out.extent(-1) == d;
  for (int k = 0; good && k < i.ndim; ++k) good = out.shape[k] == i.shape[k];
  FASTDL_CHECK(good, FASTDL_ERROR_SHAPE,
               "%s: expected %s to have the shape of indices, %s, and %lld columns, got %s", op, name,
               shape_string(i).c_str(), static_cast<long long>(d), shape_string(out).c_str());
}

Bags bags_of(const fastdl_tensor* weight, const fastdl_tensor* indices, const fastdl_tensor* offsets,
             const fastdl_tensor* scales, const fastdl_embedding_bag_options* options, const char* op) {
  Bags b{};
  b.options = read_options(options, fastdl_embedding_bag_options FASTDL_EMBEDDING_BAG_OPTIONS_INIT, op);
  const fastdl_embedding_bag_options& o = b.options;
  FASTDL_CHECK(o.mode >= FASTDL_BAG_SUM && o.mode <= FASTDL_BAG_MAX, FASTDL_ERROR_VALUE,
               "%s: unknown mode %d", op, o.mode);
  if (scales) {
    FASTDL_CHECK(o.mode == FASTDL_BAG_SUM, FASTDL_ERROR_VALUE, "%s: per_sample_weights need mode sum", op);
    check_same_shape(view(indices, op, "indices"), "indices", view(scales, op, "per_sample_weights"),
                     "per_sample_weights", op);
  }
  b.weight = table_view(weight, op, "weight");
  if (scales) b.scales = view_like(scales, b.weight.dtype, op, "per_sample_weights");
  b.indices = index_view(indices, op, "indices");
  if (!offsets) {
    FASTDL_CHECK(b.indices.ndim == 2, FASTDL_ERROR_SHAPE,
                 "%s: expected indices of 2 dimensions where there are no offsets, got shape %s", op,
                 shape_string(b.indices).c_str());
    b.count = b.indices.shape[0];
    return b;
  }
  FASTDL_CHECK(b.indices.ndim == 1, FASTDL_ERROR_SHAPE,
               "%s: expected indices of 1 dimension where there are offsets, got shape %s", op,
               shape_string(b.indices).c_str());
  b.offsets = index_view(offsets, op, "offsets");
  check_ndim(b.offsets, 1, op, "offsets");
  b.count = b.offsets.shape[0] - (o.include_last_offset ? 1 : 0);
  FASTDL_CHECK(b.count >= 0, FASTDL_ERROR_VALUE, "%s: expected offsets to begin with 0", op);
  return b;
}

void check_bag_rows(const View& v, const Bags& b, const char* op, const char* name) {
  const int64_t d = b.weight.shape[1];
  FASTDL_CHECK(v.ndim == 2 && v.shape[0] == b.count && v.shape[1] == d, FASTDL_ERROR_SHAPE,
               "%s: expected %s of shape (%lld, %lld), got %s", op, name, static_cast<long long>(b.count),
               static_cast<long long>(d), shape_string(v).c_str());
}

}  // namespace

Embedding embedding_forward(const fastdl_tensor* weight_, const fastdl_tensor* indices_,
                            const fastdl_tensor* out_) {
  const char* op = "embedding";
  const View weight = any_float_view(weight_, op, "weight"), out = out_view(out_, weight.dtype, op, "out");
  check_ndim(weight, 2, op, "weight");
  check_rows(out, view(indices_, op, "indices"), weight.shape[1], op, "out");
  return {weight, index_view(indices_, op, "indices"), out};
}

EmbeddingBackward embedding_backward(const fastdl_tensor* grad_out, const fastdl_tensor* indices_,
                                     const fastdl_tensor* grad_weight) {
  const char* op = "embedding_backward";
  const View dw = table_view(grad_weight, op, "grad_weight");
  check_out(dw, op, "grad_weight");
  const View dy = view_like(grad_out, dw.dtype, op, "grad_out");
  check_rows(dy, view(indices_, op, "indices"), dw.shape[1], op, "grad_out");
  return {dy, index_view(indices_, op, "indices"), dw};
}

EmbeddingRenorm embedding_renorm(const fastdl_tensor* weight_, const fastdl_tensor* indices_, double max_norm,
                                 double norm_type) {
  const char* op = "embedding_renorm";
  const View weight = table_view(weight_, op, "weight");
  check_out(weight, op, "weight");
  FASTDL_CHECK(max_norm >= 0 && norm_type > 0, FASTDL_ERROR_VALUE,
               "%s: expected max_norm >= 0 and norm_type > 0, got %g and %g", op, max_norm, norm_type);
  return {weight, index_view(indices_, op, "indices")};
}

EmbeddingBag embedding_bag_forward(const fastdl_tensor* weight, const fastdl_tensor* indices,
                                   const fastdl_tensor* offsets, const fastdl_tensor* scales,
                                   const fastdl_tensor* out, const fastdl_tensor* max_indices,
                                   const fastdl_embedding_bag_options* options) {
  const char* op = "embedding_bag";
  EmbeddingBag e{bags_of(weight, indices, offsets, scales, options, op), View{}, View{}};
  e.out = out_view(out, e.bags.weight.dtype, op, "out");
  if (max_indices) e.max_indices = out_view(max_indices, DType::kInt64, op, "max_indices");
  check_bag_rows(e.out, e.bags, op, "out");
  if (max_indices) check_same_shape(e.out, "out", e.max_indices, "max_indices", op);
  return e;
}

EmbeddingBagBackward embedding_bag_backward(const fastdl_tensor* grad_out, const fastdl_tensor* weight,
                                            const fastdl_tensor* indices, const fastdl_tensor* offsets,
                                            const fastdl_tensor* scales, const fastdl_tensor* max_indices,
                                            const fastdl_tensor* grad_weight,
                                            const fastdl_tensor* grad_scales,
                                            const fastdl_embedding_bag_options* options) {
  const char* op = "embedding_bag_backward";
  EmbeddingBagBackward e{
      bags_of(weight, indices, offsets, scales, options, op), false, View{}, View{}, View{}, View{}};
  const DType dtype = e.bags.weight.dtype;
  e.grad_out = view_like(grad_out, dtype, op, "grad_out");
  check_bag_rows(e.grad_out, e.bags, op, "grad_out");
  e.max = e.bags.options.mode == FASTDL_BAG_MAX && grad_weight;
  if (e.max) {
    e.max_indices = view_like(max_indices, DType::kInt64, op, "max_indices");
    check_same_shape(e.grad_out, "grad_out", e.max_indices, "max_indices", op);
  }
  FASTDL_CHECK(scales || !grad_scales, FASTDL_ERROR_VALUE,
               "%s: the gradient of per_sample_weights needs per_sample_weights, got NULL", op);
  if (grad_weight) {
    e.grad_weight = out_view(grad_weight, dtype, op, "grad_weight");
    check_same_shape(e.bags.weight, "weight", e.grad_weight, "grad_weight", op);
  }
  if (grad_scales) {
    e.grad_scales = out_view(grad_scales, dtype, op, "grad_per_sample_weights");
    check_same_shape(e.bags.scales, "per_sample_weights", e.grad_scales, "grad_per_sample_weights", op);
  }
  return e;
}

}  // namespace fastdl::check
