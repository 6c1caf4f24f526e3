// Cross-entropy and negative log-likelihood: logits as rows of classes.
#include "common/loss.h"

#include <cmath>
#include <limits>

#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "cpu/widen.h"

namespace fastdl::cpu {
namespace {

constexpr int64_t kGrain = 8192;  // elements per task
constexpr double kCost = 1.5;     // elementary operations an element costs, a vector at a time

// The labels as int64 in order, all checked; also the sum of their weights.
template <class T>
double read_labels(const View& target, const T* weight, int64_t classes, int64_t ignore_index,
                   int64_t* labels, const char* op) {
  const bool wide = target.dtype == DType::kInt64;
  double total = 0;
  int64_t index[FASTDL_MAX_NDIM] = {};
  int64_t at = 0;
  const int64_t n = target.size();
  for (int64_t i = 0; i < n; ++i) {
    const int64_t label =
        wide ? target.as<const int64_t>()[at] : static_cast<int64_t>(target.as<const int32_t>()[at]);
    if (label != ignore_index) {
      FASTDL_CHECK(label >= 0 && label < classes, FASTDL_ERROR_INDEX,
                   "%s: expected labels in [0, %lld) or ignore_index %lld, got %lld at position %lld", op,
                   static_cast<long long>(classes), static_cast<long long>(ignore_index),
                   static_cast<long long>(label), static_cast<long long>(i));
      total += weight ? static_cast<double>(weight[label]) : 1.0;
    }
    labels[i] = label;
    for (int d = target.ndim - 1; d >= 0; --d) {
      at += target.strides[d];
      if (++index[d] < target.shape[d]) break;
      at -= index[d] * target.strides[d];
      index[d] = 0;
    }
  }
  return total;
}

// Calls rows(first, count, loss of these rows) in parallel and reduces the losses into `out`.
template <class T, class Rows>
void reduce_rows(Context* context, int64_t rows, int64_t n, int32_t reduction, double norm, const View& out,
                 Rows&& body) {
  const int64_t grain = n >= kGrain ? 1 : std::max<int64_t>(1, kGrain / std::max<int64_t>(n, 1));
  const int64_t tasks = (rows + grain - 1) / grain;
  const bool reduced = reduction != FASTDL_REDUCTION_NONE;
  const Workspace scratch(context, reduced ? static_cast<size_t>(rows) * sizeof(T) : 0);
  const Workspace sums(context, static_cast<size_t>(tasks) * sizeof(double));
  T* loss = reduced ? scratch.as<T>() : out.as<T>();
  parallel_for(context, tasks, static_cast<double>(grain * n) * kCost, [&](int64_t task) {
    const int64_t first = task * grain, count = std::min(grain, rows - first);
    body(first, count, loss + first);
    double sum = 0;
    for (int64_t i = 0; i < count; ++i) sum += static_cast<double>(loss[first + i]);
    sums.as<double>()[task] = sum;
  });
  if (!reduced) return;
  double total = 0;
  for (int64_t task = 0; task < tasks; ++task) total += sums.as<double>()[task];
  *out.as<T>() = static_cast<T>(reduction == FASTDL_REDUCTION_MEAN ? total / norm : total);
}

// With every row ignored the mean is 0 / 0, but each gradient is 0.
double gradient_scale(int32_t reduction, double norm) {
  return reduction == FASTDL_REDUCTION_MEAN && norm != 0 ? 1 / norm : 1;
}

template <class S, class T = compute_t<S>>
void cross_entropy(Context* context, const check::CrossEntropy& o) {
  const fastdl_cross_entropy_options& options = o.options;
  const Contiguous weight(context, o.weight);
  const T* w = o.weight.data ? weight->as<T>() : nullptr;
  CrossEntropyRow<T> terms{w,
                           static_cast<double>(o.classes),
                           1 - options.label_smoothing,
                           options.label_smoothing / static_cast<double>(o.classes),
                           1,
                           options.ignore_index};
  if (w) {
    terms.weight_sum = 0;
    for (int64_t i = 0; i < o.classes; ++i) terms.weight_sum += static_cast<double>(w[i]);
  }
  const Workspace labels_(context, o.soft ? 0 : static_cast<size_t>(o.rows) * sizeof(int64_t));
  int64_t* labels = labels_.as<int64_t>();
  double norm = static_cast<double>(o.rows);
  if (!o.soft) norm = read_labels<T>(o.target, w, o.classes, options.ignore_index, labels, "cross_entropy");
  terms.scale = gradient_scale(options.reduction, norm);
  const Contiguous x(context, o.x), target(context, o.soft ? o.target : View{});
  ContiguousOut loss(context, o.loss), grad(context, o.grad);
  const auto& table = table_for<S>(*kernels().loss);
  const int64_t n = o.classes;
  S* g = o.grad.data ? grad->as<S>() : nullptr;
  reduce_rows<T>(context, o.rows, n, options.reduction, norm, *loss,
                 [&](int64_t first, int64_t count, T* out) {
                   const bool narrow = sizeof(S) < sizeof(T) && g;
                   const Workspace scratch(context, narrow ? static_cast<size_t>(n) * sizeof(T) : 0);
                   const S* xp = x->as<S>() + first * n;
                   S* gp = g ? g + first * n : nullptr;
                   if (o.soft) {
                     table.cross_entropy_soft(terms, count, n, xp, target->as<S>() + first * n, out, gp,
                                              scratch.as<T>());
                   } else {
                     table.cross_entropy(terms, count, n, xp, labels + first, out, gp, scratch.as<T>());
                   }
                 });
  loss.write_back();
  if (g) grad.write_back();
}

template <class T>
void nll_loss(Context* context, const check::CrossEntropy& o) {
  const fastdl_cross_entropy_options& options = o.options;
  const Contiguous weight(context, o.weight);
  const T* w = o.weight.data ? weight->as<T>() : nullptr;
  const Workspace labels_(context, static_cast<size_t>(o.rows) * sizeof(int64_t));
  const int64_t* labels = labels_.as<int64_t>();
  const double norm =
      read_labels<T>(o.target, w, o.classes, options.ignore_index, labels_.as<int64_t>(), "nll_loss");
  const T scale = static_cast<T>(gradient_scale(options.reduction, norm));
  const Contiguous x(context, o.x);
  ContiguousOut loss(context, o.loss), grad(context, o.grad);
  const int64_t n = o.classes;
  T* g = o.grad.data ? grad->as<T>() : nullptr;
  reduce_rows<T>(context, o.rows, n, options.reduction, norm, *loss,
                 [&](int64_t first, int64_t count, T* out) {
                   for (int64_t r = 0; r < count; ++r) {
                     const int64_t label = labels[first + r];
                     const bool ignored = label == options.ignore_index;
                     const T wy = ignored ? T(0) : w ? w[label] : T(1);
                     out[r] = ignored ? T(0) : -wy * x->as<T>()[(first + r) * n + label];
                     if (!g) continue;
                     T* row = g + (first + r) * n;
                     for (int64_t j = 0; j < n; ++j) row[j] = T(0);
                     if (!ignored) row[label] = -wy * scale;
                   }
                 });
  loss.write_back();
  if (g) grad.write_back();
}

}  // namespace
}  // namespace fastdl::cpu

using namespace fastdl::cpu;

extern "C" {

fastdl_status fastdl_cross_entropy(fastdl_context* context, const fastdl_tensor* logits,
                                   const fastdl_tensor* target, const fastdl_tensor* weight,
                                   const fastdl_tensor* loss, const fastdl_tensor* grad_logits,
                                   const fastdl_cross_entropy_options* options_) {
  if (narrow_like(logits, weight, loss)) {
    return in_float32("cross_entropy", fastdl_cross_entropy, context, logits, target,
                      of_any_dtype(reads(weight, "weight")), of_any_dtype(writes(loss, "loss")), grad_logits,
                      options_);
  }
  return guarded([&] {
    const check::CrossEntropy o = check::cross_entropy(logits, target, weight, loss, grad_logits, options_);
    dispatch_storage(o.x.dtype, [&](auto zero) { cross_entropy<decltype(zero)>(context, o); });
  });
}

fastdl_status fastdl_nll_loss(fastdl_context* context, const fastdl_tensor* x, const fastdl_tensor* target,
                              const fastdl_tensor* weight, const fastdl_tensor* loss,
                              const fastdl_tensor* grad_x, const fastdl_cross_entropy_options* options_) {
  if (is_narrow(x)) {
    return in_float32("nll_loss", fastdl_nll_loss, context, reads(x, "x"),
                      of_any_dtype(reads(target, "target")), or_float32(reads(weight, "weight")),
                      or_float32(writes(loss, "loss")), writes(grad_x, "grad_x"), options_);
  }
  return guarded([&] {
    const check::CrossEntropy o = check::nll_loss(x, target, weight, loss, grad_x, options_);
    dispatch_float(o.x.dtype, [&](auto zero) { nll_loss<decltype(zero)>(context, o); });
  });
}
}
