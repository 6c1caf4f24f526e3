#include "common/activation.h"

namespace fastdl::check {
namespace {

fastdl_activation checked(const fastdl_activation* f, const char* op) {
  FASTDL_CHECK(f != nullptr, FASTDL_ERROR_VALUE, "%s: activation is required, got NULL", op);
  FASTDL_CHECK(f->kind >= FASTDL_ACT_NONE && f->kind <= FASTDL_ACT_THRESHOLD, FASTDL_ERROR_VALUE,
               "%s: unknown activation kind %d", op, f->kind);
  return *f;
}

int checked_dim(int32_t dim, const View& v, const char* op) {
  FASTDL_CHECK(dim >= -v.ndim && dim < v.ndim, FASTDL_ERROR_INDEX,
               "%s: dim %d is out of range for a tensor of %d dimensions", op, dim, v.ndim);
  return dim < 0 ? dim + v.ndim : dim;
}

GluShape glu_shape(const View& x, const View& half, int dim, const char* op) {
  FASTDL_CHECK(x.shape[dim] % 2 == 0, FASTDL_ERROR_SHAPE,
               "%s: expected an even extent in dim %d, got shape %s", op, dim, shape_string(x).c_str());
  View expected = x;
  expected.shape[dim] /= 2;
  FASTDL_CHECK(same_shape(half, expected), FASTDL_ERROR_SHAPE,
               "%s: expected an output of shape %s for x of shape %s, got %s", op,
               shape_string(expected).c_str(), shape_string(x).c_str(), shape_string(half).c_str());
  GluShape s;
  for (int i = 0; i < dim; ++i) s.outer *= half.shape[i];
  for (int i = dim; i < half.ndim; ++i) s.n *= half.shape[i];
  return s;
}

// True if x's memory has the channels last and is contiguous so.
bool has_channels_last(const View& v) {
  return v.ndim > 2 && channels_last(v).contiguous() && !v.contiguous();
}

PreluShape prelu_shape(const View& x, int64_t weights, bool last, const char* op) {
  PreluShape s;
  if (weights == 1) {
    s.inner = x.size();
    return s;
  }
  FASTDL_CHECK(x.ndim >= 2 && x.shape[1] == weights, FASTDL_ERROR_SHAPE,
               "%s: expected 1 weight or one for each channel (dim 1) of x, got %lld for shape %s", op,
               static_cast<long long>(weights), shape_string(x).c_str());
  s.channels = weights;
  s.outer = x.shape[0];
  for (int i = 2; i < x.ndim; ++i) (last ? s.outer : s.inner) *= x.shape[i];
  return s;
}

}  // namespace

Activation activation_forward(const fastdl_tensor* x_, const fastdl_tensor* out_,
                              const fastdl_activation* activation) {
  const char* op = "activation";
  const View x = any_float_view(x_, op, "x"), out = out_view(out_, x.dtype, op, "out");
  const fastdl_activation f = checked(activation, op);
  check_same_shape(x, "x", out, "out", op);
  return {x, out, f};
}

ActivationBackward activation_backward(const fastdl_tensor* grad_out, const fastdl_tensor* saved_,
                                       const fastdl_tensor* grad_x, const fastdl_activation* activation,
                                       int32_t from_output) {
  const char* op = "activation_backward";
  const View dy = any_float_view(grad_out, op, "grad_out");
  const View saved = view_like(saved_, dy.dtype, op, "saved"), dx = out_view(grad_x, dy.dtype, op, "grad_x");
  const fastdl_activation f = checked(activation, op);
  check_same_shape(dy, "grad_out", saved, "saved", op);
  check_same_shape(dy, "grad_out", dx, "grad_x", op);
  FASTDL_CHECK(!from_output || derivative_from_output(&f), FASTDL_ERROR_VALUE,
               "%s: this activation's derivative needs its input, not its output", op);
  return {dy, saved, dx, f, from_output != 0};
}

bool derivative_from_output(const fastdl_activation* f) {
  if (!f) return false;
  switch (f->kind) {
    case FASTDL_ACT_NONE:
    case FASTDL_ACT_RELU:
    case FASTDL_ACT_RELU6:
    case FASTDL_ACT_SELU:
    case FASTDL_ACT_HARDTANH:
    case FASTDL_ACT_SIGMOID:
    case FASTDL_ACT_TANH:
      return true;
    case FASTDL_ACT_LEAKY_RELU:
    case FASTDL_ACT_ELU:
    case FASTDL_ACT_CELU:
      return f->alpha > 0;
    default:
      return false;
  }
}

Elementary elementary(const fastdl_tensor* x_, const fastdl_tensor* out_, int32_t kind) {
  const char* op = "elementary";
  const View x = any_float_view(x_, op, "x"), out = out_view(out_, x.dtype, op, "out");
  check_same_shape(x, "x", out, "out", op);
  FASTDL_CHECK(kind >= FASTDL_EXP && kind <= FASTDL_ERFC, FASTDL_ERROR_VALUE, "%s: unknown kind %d", op,
               kind);
  return {x, out};
}

Glu glu_forward(const fastdl_tensor* x_, const fastdl_tensor* out_, int32_t dim) {
  const char* op = "glu";
  const View x = any_float_view(x_, op, "x"), out = out_view(out_, x.dtype, op, "out");
  return {x, out, glu_shape(x, out, checked_dim(dim, x, op), op)};
}

GluBackward glu_backward(const fastdl_tensor* grad_out, const fastdl_tensor* x_, const fastdl_tensor* grad_x,
                         int32_t dim) {
  const char* op = "glu_backward";
  const View dy = any_float_view(grad_out, op, "grad_out");
  const View x = view_like(x_, dy.dtype, op, "x"), dx = out_view(grad_x, dy.dtype, op, "grad_x");
  check_same_shape(x, "x", dx, "grad_x", op);
  return {dy, x, dx, glu_shape(x, dy, checked_dim(dim, x, op), op)};
}

Prelu prelu_forward(const fastdl_tensor* x_, const fastdl_tensor* weight_, const fastdl_tensor* out_) {
  const char* op = "prelu";
  View x = any_float_view(x_, op, "x"), out = out_view(out_, x.dtype, op, "out");
  const View weight = view_like(weight_, x.dtype, op, "weight");
  check_same_shape(x, "x", out, "out", op);
  const bool last = has_channels_last(x) && weight.size() != 1;
  const PreluShape s = prelu_shape(x, weight.size(), last, op);
  if (last) x = channels_last(x), out = channels_last(out);
  return {x, weight, out, s};
}

PreluBackward prelu_backward(const fastdl_tensor* grad_out, const fastdl_tensor* x_,
                             const fastdl_tensor* weight_, const fastdl_tensor* grad_x,
                             const fastdl_tensor* grad_weight) {
  const char* op = "prelu_backward";
  View dy = any_float_view(grad_out, op, "grad_out"), x = view_like(x_, dy.dtype, op, "x");
  const View weight = view_like(weight_, x.dtype, op, "weight");
  View dx = grad_x ? out_view(grad_x, x.dtype, op, "grad_x") : x;
  const View dw = grad_weight ? out_view(grad_weight, x.dtype, op, "grad_weight") : weight;
  check_same_shape(x, "x", dy, "grad_out", op);
  check_same_shape(x, "x", dx, "grad_x", op);
  check_same_shape(weight, "weight", dw, "grad_weight", op);
  const bool last = has_channels_last(x) && weight.size() != 1;
  const PreluShape s = prelu_shape(x, weight.size(), last, op);
  if (last) x = channels_last(x), dy = channels_last(dy), dx = channels_last(dx);
  return {dy, x, weight, dx, dw, s};
}

}  // namespace fastdl::check
