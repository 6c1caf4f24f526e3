#include "common/softmax.h"

namespace fastdl::check {
namespace {

int checked_dim(int32_t dim, const View& v, const char* op) {
  const int rank = v.ndim == 0 ? 1 : v.ndim;
  FASTDL_CHECK(dim >= -rank && dim < rank, FASTDL_ERROR_INDEX,
               "%s: dim %d is out of range for a tensor of %d dimensions", op, dim, v.ndim);
  return dim < 0 ? dim + rank : dim;
}

void check_kind(int32_t kind, const char* op) {
  FASTDL_CHECK(kind >= FASTDL_SOFTMAX && kind <= FASTDL_SOFTMIN, FASTDL_ERROR_VALUE, "%s: unknown kind %d",
               op, kind);
}

}  // namespace

Softmax softmax_forward(const fastdl_tensor* x_, const fastdl_tensor* out_, int32_t dim, int32_t kind) {
  const char* op = "softmax";
  const View x = any_float_view(x_, op, "x"), out = out_view(out_, x.dtype, op, "out");
  check_same_shape(x, "x", out, "out", op);
  check_kind(kind, op);
  return {x, out, checked_dim(dim, x, op)};
}

SoftmaxBackward softmax_backward(const fastdl_tensor* grad_out, const fastdl_tensor* out_,
                                 const fastdl_tensor* grad_x, int32_t dim, int32_t kind) {
  const char* op = "softmax_backward";
  const View dy = any_float_view(grad_out, op, "grad_out");
  const View out = view_like(out_, dy.dtype, op, "out"), dx = out_view(grad_x, dy.dtype, op, "grad_x");
  check_same_shape(out, "out", dy, "grad_out", op);
  check_same_shape(out, "out", dx, "grad_x", op);
  check_kind(kind, op);
  return {dy, out, dx, checked_dim(dim, dy, op)};
}

}  // namespace fastdl::check
