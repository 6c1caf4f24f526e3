#include "common/loss.h"

namespace fastdl::check {
namespace {

DType wide(DType t) { return is_narrow(t) ? DType::kFloat32 : t; }

// Of the dtype computed with beside `dtype`, or `dtype` itself.
View wide_view(const fastdl_tensor* t, DType dtype, const char* op, const char* name) {
  const View v = view(t, op, name);
  return v.dtype == dtype ? v : view_like(t, wide(dtype), op, name);
}

void check_reduction(int32_t reduction, const char* op) {
  FASTDL_CHECK(reduction >= FASTDL_REDUCTION_NONE && reduction <= FASTDL_REDUCTION_SUM, FASTDL_ERROR_VALUE,
               "%s: unknown reduction %d", op, reduction);
}

fastdl_cross_entropy_options checked(const fastdl_cross_entropy_options* options, const char* op) {
  const auto o = read_options(options, fastdl_cross_entropy_options FASTDL_CROSS_ENTROPY_OPTIONS_INIT, op);
  check_reduction(o.reduction, op);
  FASTDL_CHECK(o.label_smoothing >= 0 && o.label_smoothing <= 1, FASTDL_ERROR_VALUE,
               "%s: expected label_smoothing in [0, 1], got %g", op, o.label_smoothing);
  return o;
}

View without_last(const View& v) {
  View r = v;
  --r.ndim;
  return r;
}

CrossEntropy rows_of(const fastdl_cross_entropy_options& options, const fastdl_tensor* x_,
                     const fastdl_tensor* target_, const fastdl_tensor* weight_, const fastdl_tensor* loss_,
                     const fastdl_tensor* grad_, const char* op) {
  CrossEntropy o;
  o.options = options;
  const View x = any_float_view(x_, op, "input");
  FASTDL_CHECK(x.ndim >= 1, FASTDL_ERROR_SHAPE, "%s: expected (C), (N, C) or (N, C, d1, ...), got a scalar",
               op);
  o.x = channels_last(x);
  o.classes = o.x.extent(-1);
  const View lead = without_last(o.x);
  o.rows = lead.size();
  o.target = view(target_, op, "target");
  o.soft = o.target.dtype == x.dtype;
  if (o.soft) {
    check_same_shape(x, "input", o.target, "target", op);
    o.target = channels_last(o.target);
  } else {
    FASTDL_CHECK(
        o.target.dtype == DType::kInt64 || o.target.dtype == DType::kInt32, FASTDL_ERROR_DTYPE,
        "%s: expected target to be int64 or int32 labels, or %s probabilities like the input, got %s", op,
        name_of(x.dtype), name_of(o.target.dtype));
    FASTDL_CHECK(same_shape(lead, o.target), FASTDL_ERROR_SHAPE,
                 "%s: expected labels of shape %s for input of shape %s, got %s", op,
                 shape_string(lead).c_str(), shape_string(x).c_str(), shape_string(o.target).c_str());
  }
  if (weight_) {
    o.weight = wide_view(weight_, x.dtype, op, "weight");
    FASTDL_CHECK(o.weight.ndim == 1 && o.weight.shape[0] == o.classes, FASTDL_ERROR_SHAPE,
                 "%s: expected weight of shape (%lld,), one per class, got %s", op,
                 static_cast<long long>(o.classes), shape_string(o.weight).c_str());
  }
  o.loss = wide_view(loss_, x.dtype, op, "loss");
  check_out(o.loss, op, "loss");
  if (options.reduction == FASTDL_REDUCTION_NONE) check_same_shape(lead, "the rows", o.loss, "loss", op);
  else check_ndim(o.loss, 0, op, "loss");
  if (grad_) {
    const View grad = out_view(grad_, x.dtype, op, "grad");
    check_same_shape(x, "input", grad, "grad", op);
    o.grad = channels_last(grad);
  }
  return o;
}

}  // namespace

CrossEntropy cross_entropy(const fastdl_tensor* logits, const fastdl_tensor* target,
                           const fastdl_tensor* weight, const fastdl_tensor* loss, const fastdl_tensor* grad,
                           const fastdl_cross_entropy_options* options) {
  const char* op = "cross_entropy";
  return rows_of(checked(options, op), logits, target, weight, loss, grad, op);
}

CrossEntropy nll_loss(const fastdl_tensor* x, const fastdl_tensor* target, const fastdl_tensor* weight,
                      const fastdl_tensor* loss, const fastdl_tensor* grad,
                      const fastdl_cross_entropy_options* options_) {
  const char* op = "nll_loss";
  const fastdl_cross_entropy_options options = checked(options_, op);
  FASTDL_CHECK(options.label_smoothing == 0, FASTDL_ERROR_VALUE, "%s: label_smoothing is not supported", op);
  const CrossEntropy o = rows_of(options, x, target, weight, loss, grad, op);
  FASTDL_CHECK(!o.soft, FASTDL_ERROR_DTYPE, "%s: expected target to be int64 or int32 labels, got %s", op,
               name_of(o.target.dtype));
  return o;
}

Loss loss(const fastdl_tensor* x_, const fastdl_tensor* target, const fastdl_tensor* weight,
          const fastdl_tensor* pos_weight, const fastdl_tensor* loss_, const fastdl_tensor* grad_x,
          const fastdl_loss_options* options) {
  const char* op = "loss";
  Loss l;
  l.options = read_options(options, fastdl_loss_options FASTDL_LOSS_OPTIONS_INIT, op);
  FASTDL_CHECK(l.options.kind >= 0 && l.options.kind < FASTDL_LOSS_KINDS, FASTDL_ERROR_VALUE,
               "%s: unknown kind %d", op, l.options.kind);
  check_reduction(l.options.reduction, op);
  const View x = l.x = any_float_view(x_, op, "input");
  const auto other = [&](const fastdl_tensor* t, const char* name) {
    if (!t) return View{};
    const View v = wide_view(t, x.dtype, op, name);
    check_same_shape(x, "input", v, name, op);
    return v;
  };
  FASTDL_CHECK(target != nullptr, FASTDL_ERROR_VALUE, "%s: target is required, got NULL", op);
  l.target = other(target, "target");
  l.weight = other(weight, "weight");
  l.pos_weight = other(pos_weight, "pos_weight");
  if (grad_x) {
    l.grad = out_view(grad_x, x.dtype, op, "grad");
    check_same_shape(x, "input", l.grad, "grad", op);
  }
  l.loss = wide_view(loss_, x.dtype, op, "loss");
  check_out(l.loss, op, "loss");
  if (l.full()) check_same_shape(x, "input", l.loss, "loss", op);
  else check_ndim(l.loss, 0, op, "loss");
  return l;
}

}  // namespace fastdl::check
