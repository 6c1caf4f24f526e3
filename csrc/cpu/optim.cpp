// Multi-tensor steps: check all tensors, cut them into fixed chunks, update the chunks in parallel.
// 16-bit tensors are widened and rounded piece by piece (optim_lists.h).
#include "common/optim.h"

#include <cmath>
#include <vector>

#include "cpu/optim_lists.h"

namespace fastdl::cpu {
namespace {

template <class T>
const OptimTable<T>& table() {
  return table_for<T>(*kernels().optim);
}

// The step counts, checked: scalars of float32.
std::vector<float*> step_counts(int32_t count, fastdl_tensor_list steps, const char* op) {
  std::vector<float*> pointers(static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) {
    pointers[static_cast<size_t>(i)] = check::optim_step(steps, i, op).as<float>();
  }
  return pointers;
}

}  // namespace
}  // namespace fastdl::cpu

using namespace fastdl::cpu;

extern "C" {

fastdl_status fastdl_sgd_step(fastdl_context* context, int32_t count, fastdl_tensor_list params,
                              fastdl_tensor_list grads, fastdl_tensor_list buffers, const uint8_t* fresh,
                              const fastdl_sgd_options* options) {
  return guarded([&] {
    const char* op = "sgd";
    const auto o = check::sgd(options, grads, &buffers);
    Items items(context, op, count,
                {{params, "param", Use::kUpdate},
                 {grads, "grad", Use::kRead},
                 {buffers, "momentum_buffer", Use::kUpdate},
                 {o.rounded, "rounded", Use::kWrite}});
    items.for_pieces(context, [&](const Item& item, int64_t, auto zero, auto* p, int64_t n) {
      table<decltype(zero)>().sgd(o, fresh && fresh[item.index], n, p[0], p[1], p[2]);
    });
    items.finish();
  });
}

fastdl_status fastdl_adam_step(fastdl_context* context, int32_t count, fastdl_tensor_list params,
                               fastdl_tensor_list grads, fastdl_tensor_list avgs, fastdl_tensor_list avg_sqs,
                               fastdl_tensor_list max_avg_sqs, fastdl_tensor_list steps,
                               const fastdl_adam_options* options) {
  return guarded([&] {
    const char* op = "adam";
    const auto o = check::adam(options, grads, avgs, avg_sqs, &max_avg_sqs, steps);
    Items items(context, op, count,
                {{params, "param", Use::kUpdate},
                 {grads, "grad", Use::kRead},
                 {avgs, "exp_avg", Use::kUpdate},
                 {avg_sqs, "exp_avg_sq", Use::kUpdate},
                 {max_avg_sqs, "max_exp_avg_sq", Use::kUpdate},
                 {o.rounded, "rounded", Use::kWrite}});
    const std::vector<float*> counts = step_counts(count, steps, op);
    std::vector<AdamScalars> scalars(counts.size());
    for (size_t i = 0; i < counts.size(); ++i) {
      const float t = *counts[i] += 1;
      if (i > 0 && t == *counts[i - 1]) {  // the usual case: all tensors are at the same step
        scalars[i] = scalars[i - 1];
        continue;
      }
      scalars[i] = {o.beta1,
                    o.beta2,
                    o.eps,
                    o.decoupled ? 0 : o.weight_decay,
                    o.decoupled ? 1 - o.lr * o.weight_decay : 1,
                    o.lr / (1 - std::pow(o.beta1, static_cast<double>(t))),
                    1 / std::sqrt(1 - std::pow(o.beta2, static_cast<double>(t))),
                    o.maximize != 0};
    }
    items.for_pieces(context, [&](const Item& item, int64_t, auto zero, auto* p, int64_t n) {
      const AdamScalars& step = scalars[static_cast<size_t>(item.index)];
      table<decltype(zero)>().adam(step, n, p[0], p[1], p[2], p[3], p[4]);
    });
    items.finish();
  });
}

fastdl_status fastdl_adagrad_step(fastdl_context* context, int32_t count, fastdl_tensor_list params,
                                  fastdl_tensor_list grads, fastdl_tensor_list sums, fastdl_tensor_list steps,
                                  const fastdl_adagrad_options* options) {
  return guarded([&] {
    const char* op = "adagrad";
    const auto o = check::adagrad(options, grads, sums, steps);
    Items items(context, op, count,
                {{params, "param", Use::kUpdate},
                 {grads, "grad", Use::kRead},
                 {sums, "sum", Use::kUpdate},
                 {o.rounded, "rounded", Use::kWrite}});
    const std::vector<float*> counts = step_counts(count, steps, op);
    for (float* t : counts) *t += 1;
    items.for_pieces(context, [&](const Item& item, int64_t, auto zero, auto* p, int64_t n) {
      const double t = static_cast<double>(*counts[static_cast<size_t>(item.index)]);
      table<decltype(zero)>().adagrad(o, o.lr / (1 + (t - 1) * o.lr_decay), n, p[0], p[1], p[2]);
    });
    items.finish();
  });
}

fastdl_status fastdl_rmsprop_step(fastdl_context* context, int32_t count, fastdl_tensor_list params,
                                  fastdl_tensor_list grads, fastdl_tensor_list square_avgs,
                                  fastdl_tensor_list avgs, fastdl_tensor_list buffers,
                                  fastdl_tensor_list steps, const fastdl_rmsprop_options* options) {
  return guarded([&] {
    const char* op = "rmsprop";
    const auto o = check::rmsprop(options, grads, square_avgs, &avgs, &buffers);
    Items items(context, op, count,
                {{params, "param", Use::kUpdate},
                 {grads, "grad", Use::kRead},
                 {square_avgs, "square_avg", Use::kUpdate},
                 {avgs, "grad_avg", Use::kUpdate},
                 {buffers, "momentum_buffer", Use::kUpdate},
                 {o.rounded, "rounded", Use::kWrite}});
    if (steps) {
      for (float* t : step_counts(count, steps, op)) *t += 1;
    }
    items.for_pieces(context, [&](const Item&, int64_t, auto zero, auto* p, int64_t n) {
      table<decltype(zero)>().rmsprop(o, n, p[0], p[1], p[2], p[3], p[4]);
    });
    items.finish();
  });
}

fastdl_status fastdl_norm(fastdl_context* context, int32_t count, fastdl_tensor_list tensors, double p,
                          double* result) {
  return guarded([&] {
    check::norm(p, result);
    Items items(context, "norm", count, {{tensors, "tensor", Use::kRead}});
    const auto add = [&](double& total, double part) {
      if (!std::isinf(p)) total += part;
      else if (total == total && !(part <= total)) total = part;  // NaN wins, and stays
    };
    std::vector<double> parts(static_cast<size_t>(items.tasks()));
    items.for_pieces(context, [&](const Item&, int64_t task, auto zero, auto* lists, int64_t n) {
      add(parts[static_cast<size_t>(task)], table<decltype(zero)>().norm(p, n, lists[0]));
    });
    double total = 0;
    for (const double part : parts) add(total, part);
    *result = std::isinf(p) ? total : p == 2 ? std::sqrt(total) : p == 1 ? total : std::pow(total, 1 / p);
  });
}

fastdl_status fastdl_scale(fastdl_context* context, int32_t count, fastdl_tensor_list tensors,
                           double factor) {
  return guarded([&] {
    Items items(context, "scale", count, {{tensors, "tensor", Use::kUpdate}});
    items.for_pieces(context, [&](const Item&, int64_t, auto zero, auto* p, int64_t n) {
      table<decltype(zero)>().scale(factor, n, p[0]);
    });
    items.finish();
  });
}

fastdl_status fastdl_clip_norm(fastdl_context* context, int32_t count, fastdl_tensor_list tensors,
                               double max_norm, const double* norm) {
  return guarded([&] {
    check::clip_norm(max_norm, norm);
    const double factor = max_norm / (*norm + 1e-6);
    Items items(context, "clip_norm", count, {{tensors, "tensor", Use::kUpdate}});
    if (factor >= 1) return;
    items.for_pieces(context, [&](const Item&, int64_t, auto zero, auto* p, int64_t n) {
      table<decltype(zero)>().scale(factor, n, p[0]);
    });
    items.finish();
  });
}
}
