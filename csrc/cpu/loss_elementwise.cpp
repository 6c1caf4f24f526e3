// Losses of single elements, reduced in fixed chunks.
#include "common/loss.h"
#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "cpu/widen.h"

namespace fastdl::cpu {
namespace {

constexpr int64_t kGrain = 8192;  // elements per task, and per partial sum
constexpr double kCost = 2;

template <class T>
struct Pointers {
  const T *x, *target, *weight, *pos_weight;
  T *loss, *grad;
};

template <class T>
T* offset(T* p, int64_t n) {
  return p ? p + n : nullptr;
}

// The first element outside [0, 1], or -1. NaN passes.
template <class T>
int64_t first_outside_unit(Context* context, int64_t n, const T* x) {
  const int64_t tasks = (n + kGrain - 1) / kGrain;
  const Workspace found(context, static_cast<size_t>(tasks) * sizeof(int64_t));
  int64_t* at = found.as<int64_t>();
  parallel_for(context, tasks, kGrain, [&](int64_t task) {
    const int64_t end = std::min(n, (task + 1) * kGrain);
    at[task] = -1;
    bool bad = false;
    for (int64_t i = task * kGrain; i < end; ++i) bad |= x[i] < T(0) || x[i] > T(1);
    for (int64_t i = task * kGrain; bad && i < end; ++i) {
      if (x[i] < T(0) || x[i] > T(1)) {
        at[task] = i;
        break;
      }
    }
  });
  for (int64_t task = 0; task < tasks; ++task) {
    if (at[task] >= 0) return at[task];
  }
  return -1;
}

template <class T>
void reduce(Context* context, const fastdl_loss_options& o, int64_t n, const Pointers<T>& p, T* total) {
  if (o.kind == FASTDL_LOSS_BCE) {
    const int64_t bad = first_outside_unit(context, n, p.x);
    FASTDL_CHECK(bad < 0, FASTDL_ERROR_VALUE,
                 "binary_cross_entropy: expected inputs between 0 and 1, got %g at position %lld",
                 static_cast<double>(p.x[bad]), static_cast<long long>(bad));
  }
  const auto& table = table_for<T>(*kernels().loss);
  const double scale = o.reduction == FASTDL_REDUCTION_MEAN ? 1 / static_cast<double>(n) : 1;
  const int64_t tasks = (n + kGrain - 1) / kGrain;
  const Workspace partial(context, static_cast<size_t>(tasks) * sizeof(double));
  double* sums = partial.as<double>();
  parallel_for(context, tasks, kGrain * kCost, [&](int64_t task) {
    const int64_t begin = task * kGrain;
    sums[task] = static_cast<double>(table.elementwise(
        o.kind, o.parameter, scale, std::min(kGrain, n - begin), p.x + begin, p.target + begin,
        offset(p.weight, begin), offset(p.pos_weight, begin), offset(p.loss, begin), offset(p.grad, begin)));
  });
  if (!total) return;
  double sum = 0;
  for (int64_t task = 0; task < tasks; ++task) sum += sums[task];
  *total = static_cast<T>(o.reduction == FASTDL_REDUCTION_MEAN ? sum / static_cast<double>(n) : sum);
}

}  // namespace
}  // namespace fastdl::cpu

using namespace fastdl::cpu;

extern "C" fastdl_status fastdl_loss(fastdl_context* context, const fastdl_tensor* x_,
                                     const fastdl_tensor* target_, const fastdl_tensor* weight_,
                                     const fastdl_tensor* pos_weight_, const fastdl_tensor* loss_,
                                     const fastdl_tensor* grad_x, const fastdl_loss_options* options) {
  if (is_narrow(x_)) {
    return in_float32("loss", fastdl_loss, context, reads(x_, "x"), or_float32(reads(target_, "target")),
                      or_float32(reads(weight_, "weight")), or_float32(reads(pos_weight_, "pos_weight")),
                      or_float32(writes(loss_, "loss")), writes(grad_x, "grad_x"), options);
  }
  return guarded([&] {
    const check::Loss o = check::loss(x_, target_, weight_, pos_weight_, loss_, grad_x, options);
    const bool full = o.full();
    // Those absent stand as copies of x that nobody looks at.
    const View &x = o.x, &target = o.target, &weight = weight_ ? o.weight : x, &loss = o.loss;
    const View &pos_weight = pos_weight_ ? o.pos_weight : x, &grad = grad_x ? o.grad : x;
    dispatch_float(x.dtype, [&](auto zero) {
      using T = decltype(zero);
      const auto call = [&](const View& xv, const View& tv, const View& wv, const View& pv, const View& lv,
                            const View& gv) {
        const Pointers<T> p{xv.as<T>(),
                            tv.as<T>(),
                            weight_ ? wv.as<T>() : nullptr,
                            pos_weight_ ? pv.as<T>() : nullptr,
                            full ? lv.as<T>() : nullptr,
                            grad_x ? gv.as<T>() : nullptr};
        reduce<T>(context, o.options, x.size(), p, full ? nullptr : lv.as<T>());
      };
      if (same_dense_layout(x, target) && same_dense_layout(x, weight) && same_dense_layout(x, pos_weight) &&
          same_dense_layout(x, grad) && (!full || same_dense_layout(x, loss))) {
        return call(x, target, weight, pos_weight, loss, grad);
      }
      const Contiguous xc(context, x), tc(context, target), wc(context, weight), pc(context, pos_weight);
      ContiguousOut lc(context, loss), gc(context, grad);
      call(*xc, *tc, *wc, *pc, *lc, *gc);
      lc.write_back();
      if (grad_x) gc.write_back();
    });
  });
}
