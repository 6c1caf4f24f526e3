#include "common/optim.h"

namespace fastdl::check {
namespace {

void require(fastdl_tensor_list list, const char* op, const char* name) {
  FASTDL_CHECK(list != nullptr, FASTDL_ERROR_VALUE, "%s: %s are required, got NULL", op, name);
}

}  // namespace

void optim_count(const char* op, int32_t count, fastdl_tensor_list first, const char* name) {
  FASTDL_CHECK(count >= 0, FASTDL_ERROR_VALUE, "%s: count is negative", op);
  FASTDL_CHECK(count == 0 || first != nullptr, FASTDL_ERROR_VALUE, "%s: %ss are required, got NULL", op,
               name);
}

OptimViews optim_views(const char* op, int32_t i, std::initializer_list<fastdl_tensor_list> lists,
                       std::initializer_list<const char*> names, int read_only, fastdl_tensor_list rounded) {
  OptimViews views;
  const auto checked = [&](const fastdl_tensor* t, const char* name) {
    const View v = any_float_view(t, op, name);
    const View& first = views[0];
    if (!first.data) return v;
    if ((v.dtype == DType::kFloat64) != (first.dtype == DType::kFloat64)) view_like(t, first.dtype, op, name);
    check_same_shape(first, names.begin()[0], v, name, op);
    return v;
  };
  int k = 0;
  for (const fastdl_tensor_list list : lists) {
    if (list) {
      const char* name = names.begin()[k];
      const View v = views[static_cast<size_t>(k)] = checked(list[i], name);
      if (k != read_only) check_out(v, op, name);
    }
    ++k;
  }
  if (rounded && rounded[i]) {
    const View v = views[kRounded] = checked(rounded[i], "rounded");
    FASTDL_CHECK(is_narrow(v.dtype), FASTDL_ERROR_DTYPE,
                 "%s: expected rounded to be bfloat16 or float16, got %s", op, name_of(v.dtype));
    check_out(v, op, "rounded");
  }
  return views;
}

View optim_step(fastdl_tensor_list steps, int32_t i, const char* op) {
  const View v = out_view(steps[i], DType::kFloat32, op, "step");
  FASTDL_CHECK(v.size() == 1, FASTDL_ERROR_SHAPE, "%s: expected step to be a scalar, got shape %s", op,
               shape_string(v).c_str());
  return v;
}

fastdl_sgd_options sgd(const fastdl_sgd_options* options, fastdl_tensor_list grads,
                       fastdl_tensor_list* buffers) {
  const char* op = "sgd";
  const auto o = read_options(options, fastdl_sgd_options FASTDL_SGD_OPTIONS_INIT, op);
  require(grads, op, "grads");
  if (o.momentum == 0) *buffers = nullptr;
  else FASTDL_CHECK(*buffers != nullptr, FASTDL_ERROR_VALUE, "%s: momentum needs buffers, got NULL", op);
  return o;
}

fastdl_adam_options adam(const fastdl_adam_options* options, fastdl_tensor_list grads,
                         fastdl_tensor_list avgs, fastdl_tensor_list avg_sqs, fastdl_tensor_list* max_avg_sqs,
                         fastdl_tensor_list steps) {
  const char* op = "adam";
  const auto o = read_options(options, fastdl_adam_options FASTDL_ADAM_OPTIONS_INIT, op);
  require(grads, op, "grads");
  require(avgs, op, "avgs");
  require(avg_sqs, op, "avg_sqs");
  require(steps, op, "steps");
  if (!o.amsgrad) *max_avg_sqs = nullptr;
  else FASTDL_CHECK(*max_avg_sqs != nullptr, FASTDL_ERROR_VALUE, "%s: amsgrad needs max_avg_sqs", op);
  return o;
}

fastdl_adagrad_options adagrad(const fastdl_adagrad_options* options, fastdl_tensor_list grads,
                               fastdl_tensor_list sums, fastdl_tensor_list steps) {
  const char* op = "adagrad";
  const auto o = read_options(options, fastdl_adagrad_options FASTDL_ADAGRAD_OPTIONS_INIT, op);
  require(grads, op, "grads");
  require(sums, op, "sums");
  require(steps, op, "steps");
  return o;
}

fastdl_rmsprop_options rmsprop(const fastdl_rmsprop_options* options, fastdl_tensor_list grads,
                               fastdl_tensor_list square_avgs, fastdl_tensor_list* avgs,
                               fastdl_tensor_list* buffers) {
  const char* op = "rmsprop";
  const auto o = read_options(options, fastdl_rmsprop_options FASTDL_RMSPROP_OPTIONS_INIT, op);
  require(grads, op, "grads");
  require(square_avgs, op, "square_avgs");
  if (!o.centered) *avgs = nullptr;
  else FASTDL_CHECK(*avgs != nullptr, FASTDL_ERROR_VALUE, "%s: centered needs avgs, got NULL", op);
  if (o.momentum == 0) *buffers = nullptr;
  else FASTDL_CHECK(*buffers != nullptr, FASTDL_ERROR_VALUE, "%s: momentum needs buffers, got NULL", op);
  return o;
}

void norm(double p, const double* norm) {
  const char* op = "norm";
  FASTDL_CHECK(norm != nullptr, FASTDL_ERROR_VALUE, "%s: norm is NULL", op);
  FASTDL_CHECK(p > 0, FASTDL_ERROR_VALUE, "%s: expected p > 0, got %g", op, p);
}

void clip_norm(double max_norm, const double* norm) {
  const char* op = "clip_norm";
  FASTDL_CHECK(norm != nullptr, FASTDL_ERROR_VALUE, "%s: norm is NULL", op);
  FASTDL_CHECK(max_norm >= 0, FASTDL_ERROR_VALUE, "%s: expected max_norm >= 0, got %g", op, max_norm);
}

}  // namespace fastdl::check
