// Multi-tensor steps: check all tensors, cut them into fixed chunks, update the chunks in parallel.
#include "common/optim.h"

#include <cmath>
#include <memory>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "cpu/tensor.h"
#include "cpu/widen.h"

namespace fastdl::cpu {
namespace {

constexpr int64_t kChunk = 16384;  // elements per task
constexpr double kCost = 2;        // elementary operations an element costs

// One parameter with its gradient and states, as flat memory.
struct Item {
  DType dtype;
  int index;  // in the caller's lists
  int64_t n;
  void* data[check::kOptimLists];  // NULL where the list is absent
};

// The lists of one call, checked and flattened. Tensors whose layouts differ are copied, and copied back by
// finish().
class Items {
 public:
  Items(Context* context, const char* op, int32_t count, std::initializer_list<fastdl_tensor_list> lists,
        std::initializer_list<const char*> names, int first_written) {
    check::optim_count(op, count, *lists.begin(), *names.begin());
    items_.reserve(static_cast<size_t>(count));
    for (int i = 0; i < count; ++i) add(context, op, i, lists, names, first_written);
  }

  // f(item, begin, end) for every chunk; f sees the data pointers through at<T>().
  template <class F>
  void for_chunks(Context* context, F&& f) {
    std::vector<int64_t> first(items_.size() + 1);  // first task of each item
    int64_t total = 0;
    for (size_t i = 0; i < items_.size(); ++i) {
      first[i + 1] = first[i] + (items_[i].n + kChunk - 1) / kChunk;
      total += items_[i].n;
    }
    const int64_t tasks = first.back();
    if (tasks == 0) return;
    parallel_for(context, tasks, static_cast<double>(total) * kCost / static_cast<double>(tasks),
                 [&](int64_t task) {
                   size_t low = 0, high = items_.size() - 1;  // the last item that starts at or before task
                   while (low < high) {
                     const size_t middle = (low + high + 1) / 2;
                     if (first[middle] <= task) low = middle;
                     else high = middle - 1;
                   }
                   const Item& item = items_[low];
                   const int64_t begin = (task - first[low]) * kChunk;
                   const int64_t end = begin + kChunk < item.n ? begin + kChunk : item.n;
                   f(item, task, begin, end);
                 });
  }

  int64_t tasks() const {
    int64_t n = 0;
    for (const Item& item : items_) n += (item.n + kChunk - 1) / kChunk;
    return n;
  }

  void finish() {
    for (auto& out : written_) out->write_back();
  }

 private:
  void add(Context* context, const char* op, int i, std::initializer_list<fastdl_tensor_list> lists,
           std::initializer_list<const char*> names, int first_written) {
    check::OptimViews views =
        check::optim_views(op, i, lists, names, first_written, check::OptimTypes::kSame);
    Item item;
    item.index = i;
    bool same = true;
    for (size_t k = 0; k < lists.size(); ++k) {
      item.data[k] = lists.begin()[k] ? views[k].data : nullptr;
      if (item.data[k] && !same_dense_layout(views[0], views[k])) same = false;
    }
    item.dtype = views[0].dtype;
    item.n = views[0].size();
    if (!same) copy_in(context, lists, views.data(), item, first_written);
    items_.push_back(item);
  }

  // Only the lists before first_written... are read alone: the gradients (list 1).
  void copy_in(Context* context, std::initializer_list<fastdl_tensor_list> lists, View* views, Item& item,
               int read_only) {
    for (int k = 0; k < static_cast<int>(lists.size()); ++k) {
      if (!lists.begin()[k]) continue;
      if (k == read_only) {
        read_.push_back(std::make_unique<Contiguous>(context, views[k]));
        item.data[k] = (*read_.back())->data;
      } else {
        written_.push_back(std::make_unique<ContiguousOut>(context, views[k]));
        ContiguousOut& out = *written_.back();
        if (out->data != views[k].data) copy(context, views[k], *out);
        item.data[k] = out->data;
      }
    }
  }

  std::vector<Item> items_;
  std::vector<std::unique_ptr<Contiguous>> read_;
  std::vector<std::unique_ptr<ContiguousOut>> written_;
};

template <class T>
T* at(const Item& item, int list, int64_t begin) {
  return item.data[list] ? static_cast<T*>(item.data[list]) + begin : nullptr;
}

// Calls f(T{}) and gives the table of its type.
template <class F>
void with_table(const Item& item, F&& f) {
  dispatch_float(item.dtype, [&](auto zero) { f(zero, table_for<decltype(zero)>(*kernels().optim)); });
}

using check::kGradients;

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
  if (any_narrow(params, count) || any_narrow(grads, count) || any_narrow(buffers, count)) {
    return in_float32("sgd", fastdl_sgd_step, context, count, of_any_dtype(updates(params, count, "param")),
                      of_any_dtype(reads(grads, count, "grad")),
                      of_any_dtype(updates(buffers, count, "momentum_buffer")), fresh, options);
  }
  return guarded([&] {
    const char* op = "sgd";
    const auto o = check::sgd(options, grads, &buffers);
    Items items(context, op, count, {params, grads, buffers}, {"param", "grad", "momentum_buffer"},
                kGradients);
    items.for_chunks(context, [&](const Item& item, int64_t, int64_t begin, int64_t end) {
      with_table(item, [&](auto zero, const auto& table) {
        using T = decltype(zero);
        table.sgd(o, fresh && fresh[item.index], end - begin, at<T>(item, 0, begin), at<T>(item, 1, begin),
                  at<T>(item, 2, begin));
      });
    });
    items.finish();
  });
}

fastdl_status fastdl_adam_step(fastdl_context* context, int32_t count, fastdl_tensor_list params,
                               fastdl_tensor_list grads, fastdl_tensor_list avgs, fastdl_tensor_list avg_sqs,
                               fastdl_tensor_list max_avg_sqs, fastdl_tensor_list steps,
                               const fastdl_adam_options* options) {
  if (any_narrow(params, count) || any_narrow(grads, count) || any_narrow(avgs, count) ||
      any_narrow(avg_sqs, count) || any_narrow(max_avg_sqs, count)) {
    return in_float32("adam", fastdl_adam_step, context, count, of_any_dtype(updates(params, count, "param")),
                      of_any_dtype(reads(grads, count, "grad")),
                      of_any_dtype(updates(avgs, count, "exp_avg")),
                      of_any_dtype(updates(avg_sqs, count, "exp_avg_sq")),
                      of_any_dtype(updates(max_avg_sqs, count, "max_exp_avg_sq")), steps, options);
  }
  return guarded([&] {
    const char* op = "adam";
    const auto o = check::adam(options, grads, avgs, avg_sqs, &max_avg_sqs, steps);
    Items items(context, op, count, {params, grads, avgs, avg_sqs, max_avg_sqs},
                {"param", "grad", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"}, kGradients);
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
    items.for_chunks(context, [&](const Item& item, int64_t, int64_t begin, int64_t end) {
      with_table(item, [&](auto zero, const auto& table) {
        using T = decltype(zero);
        table.adam(scalars[static_cast<size_t>(item.index)], end - begin, at<T>(item, 0, begin),
                   at<T>(item, 1, begin), at<T>(item, 2, begin), at<T>(item, 3, begin),
                   at<T>(item, 4, begin));
      });
    });
    items.finish();
  });
}

fastdl_status fastdl_adagrad_step(fastdl_context* context, int32_t count, fastdl_tensor_list params,
                                  fastdl_tensor_list grads, fastdl_tensor_list sums, fastdl_tensor_list steps,
                                  const fastdl_adagrad_options* options) {
  if (any_narrow(params, count) || any_narrow(grads, count) || any_narrow(sums, count)) {
    return in_float32(
        "adagrad", fastdl_adagrad_step, context, count, of_any_dtype(updates(params, count, "param")),
        of_any_dtype(reads(grads, count, "grad")), of_any_dtype(updates(sums, count, "sum")), steps, options);
  }
  return guarded([&] {
    const char* op = "adagrad";
    const auto o = check::adagrad(options, grads, sums, steps);
    Items items(context, op, count, {params, grads, sums}, {"param", "grad", "sum"}, kGradients);
    const std::vector<float*> counts = step_counts(count, steps, op);
    for (float* t : counts) *t += 1;
    items.for_chunks(context, [&](const Item& item, int64_t, int64_t begin, int64_t end) {
      const double t = static_cast<double>(*counts[static_cast<size_t>(item.index)]);
      with_table(item, [&](auto zero, const auto& table) {
        using T = decltype(zero);
        table.adagrad(o, o.lr / (1 + (t - 1) * o.lr_decay), end - begin, at<T>(item, 0, begin),
                      at<T>(item, 1, begin), at<T>(item, 2, begin));
      });
    });
    items.finish();
  });
}

fastdl_status fastdl_rmsprop_step(fastdl_context* context, int32_t count, fastdl_tensor_list params,
                                  fastdl_tensor_list grads, fastdl_tensor_list square_avgs,
                                  fastdl_tensor_list avgs, fastdl_tensor_list buffers,
                                  fastdl_tensor_list steps, const fastdl_rmsprop_options* options) {
  if (any_narrow(params, count) || any_narrow(grads, count) || any_narrow(square_avgs, count) ||
      any_narrow(avgs, count) || any_narrow(buffers, count)) {
    return in_float32(
        "rmsprop", fastdl_rmsprop_step, context, count, of_any_dtype(updates(params, count, "param")),
        of_any_dtype(reads(grads, count, "grad")), of_any_dtype(updates(square_avgs, count, "square_avg")),
        of_any_dtype(updates(avgs, count, "grad_avg")),
        of_any_dtype(updates(buffers, count, "momentum_buffer")), steps, options);
  }
  return guarded([&] {
    const char* op = "rmsprop";
    const auto o = check::rmsprop(options, grads, square_avgs, &avgs, &buffers);
    Items items(context, op, count, {params, grads, square_avgs, avgs, buffers},
                {"param", "grad", "square_avg", "grad_avg", "momentum_buffer"}, kGradients);
    if (steps) {
      for (float* t : step_counts(count, steps, op)) *t += 1;
    }
    items.for_chunks(context, [&](const Item& item, int64_t, int64_t begin, int64_t end) {
      with_table(item, [&](auto zero, const auto& table) {
        using T = decltype(zero);
        table.rmsprop(o, end - begin, at<T>(item, 0, begin), at<T>(item, 1, begin), at<T>(item, 2, begin),
                      at<T>(item, 3, begin), at<T>(item, 4, begin));
      });
    });
    items.finish();
  });
}

fastdl_status fastdl_norm(fastdl_context* context, int32_t count, fastdl_tensor_list tensors, double p,
                          double* result) {
  if (any_narrow(tensors, count)) {
    return in_float32("norm", fastdl_norm, context, count, of_any_dtype(reads(tensors, count, "tensor")), p,
                      result);
  }
  return guarded([&] {
    check::norm(p, result);
    Items items(context, "norm", count, {tensors}, {"tensor"}, 0);
    std::vector<double> parts(static_cast<size_t>(items.tasks()));
    items.for_chunks(context, [&](const Item& item, int64_t task, int64_t begin, int64_t end) {
      with_table(item, [&](auto zero, const auto& table) {
        using T = decltype(zero);
        parts[static_cast<size_t>(task)] = table.norm(p, end - begin, at<const T>(item, 0, begin));
      });
    });
    double total = 0;
    for (const double part : parts) {
      if (!std::isinf(p)) total += part;
      else if (total == total && !(part <= total)) total = part;  // NaN wins, and stays
    }
    *result = std::isinf(p) ? total : p == 2 ? std::sqrt(total) : p == 1 ? total : std::pow(total, 1 / p);
  });
}

fastdl_status fastdl_scale(fastdl_context* context, int32_t count, fastdl_tensor_list tensors,
                           double factor) {
  if (any_narrow(tensors, count)) {
    return in_float32("scale", fastdl_scale, context, count, of_any_dtype(updates(tensors, count, "tensor")),
                      factor);
  }
  return guarded([&] {
    Items items(context, "scale", count, {tensors}, {"tensor"}, -1);
    items.for_chunks(context, [&](const Item& item, int64_t, int64_t begin, int64_t end) {
      with_table(item, [&](auto zero, const auto& table) {
        table.scale(factor, end - begin, at<decltype(zero)>(item, 0, begin));
      });
    });
    items.finish();
  });
}
}
