// Bags: sums, means and maxima of groups of table rows.
#include <algorithm>

#include "cpu/embedding.h"
#include "cpu/widen.h"

namespace fastdl::cpu {
namespace {

struct Bags {
  std::vector<int64_t> indices;  // all, in order
  std::vector<int64_t> first;    // bag b holds places [first[b], first[b + 1])
  int64_t count() const { return static_cast<int64_t>(first.size()) - 1; }
};

Bags read_bags(Context* context, const check::Bags& given, const char* op) {
  Bags bags;
  const View& indices = given.indices;
  if (given.offsets.ndim == 0) {
    for (int64_t b = 0; b <= given.count; ++b) bags.first.push_back(b * indices.shape[1]);
  } else {
    const int64_t n = indices.shape[0];
    bags.first = read_indices(context, given.offsets, n + 1, op, "offsets");
    if (!given.options.include_last_offset) bags.first.push_back(n);
    FASTDL_CHECK(bags.first[0] == 0 || bags.first.size() == 1, FASTDL_ERROR_VALUE,
                 "%s: expected offsets to begin with 0", op);
    for (size_t b = 1; b < bags.first.size(); ++b) {
      FASTDL_CHECK(bags.first[b] >= bags.first[b - 1], FASTDL_ERROR_VALUE,
                   "%s: expected offsets that never fall, got %lld after %lld", op,
                   static_cast<long long>(bags.first[b]), static_cast<long long>(bags.first[b - 1]));
    }
  }
  bags.indices = read_indices(context, indices, given.weight.shape[0], op, "indices");
  // Indices behind the last bag belong to none.
  bags.indices.resize(bags.count() ? static_cast<size_t>(bags.first.back()) : 0);
  return bags;
}

// Every row that max_indices name must be there; -1 is an empty bag's.
void check_rows_named(Context* context, const View& which, int64_t v, const char* op) {
  const Contiguous c(context, which);
  for (int64_t i = 0, n = which.size(); i < n; ++i) {
    const int64_t row = c->as<const int64_t>()[i];
    FASTDL_CHECK(row >= -1 && row < v, FASTDL_ERROR_INDEX, "%s: expected max_indices in [-1, %lld), got %lld",
                 op, static_cast<long long>(v), static_cast<long long>(row));
  }
}

// The rows of a bag without those of padding_idx, and their factors.
template <class T>
void collect(const Bags& bags, int64_t b, int64_t padding, const T* scales, std::vector<int64_t>& rows,
             std::vector<T>& factors) {
  rows.clear();
  factors.clear();
  for (int64_t p = bags.first[static_cast<size_t>(b)]; p < bags.first[static_cast<size_t>(b) + 1]; ++p) {
    const int64_t row = bags.indices[static_cast<size_t>(p)];
    if (row == padding) continue;
    rows.push_back(row);
    if (scales) factors.push_back(scales[p]);
  }
}

template <class T>
void forward(Context* context, const Bags& bags, const fastdl_embedding_bag_options& o, int64_t d,
             const T* weight, const T* scales, T* out, int64_t* which) {
  const auto& table = table_for<T>(*kernels().embedding);
  const double each = bags.count() ? static_cast<double>(bags.indices.size()) * static_cast<double>(d) /
                                         static_cast<double>(bags.count())
                                   : 0;
  parallel_ranges(context, bags.count(), static_cast<int64_t>(8192 / (each + 1)) + 1, each + 50,
                  [&](int64_t begin, int64_t end) {
                    std::vector<int64_t> rows, from(static_cast<size_t>(d));
                    std::vector<T> factors;
                    for (int64_t b = begin; b < end; ++b) {
                      collect(bags, b, o.padding_idx, scales, rows, factors);
                      const int64_t n = static_cast<int64_t>(rows.size());
                      T* y = out + b * d;
                      if (o.mode == FASTDL_BAG_MAX) {
                        if (n) table.max_rows(n, rows.data(), d, weight, y, from.data());
                        else std::fill(from.begin(), from.end(), int64_t{-1}), std::fill(y, y + d, T(0));
                        if (which) std::copy(from.begin(), from.end(), which + b * d);
                        continue;
                      }
                      const T factor = o.mode == FASTDL_BAG_MEAN && n ? T(1) / static_cast<T>(n) : T(1);
                      table.sum_rows(n, rows.data(), scales ? factors.data() : nullptr, factor, d, weight, y);
                    }
                  });
}

// Maxima: each column is one task's, and takes its gradients in the order of the bags.
template <class T>
void backward_max(Context* context, int64_t bags, int64_t v, int64_t d, const T* grad, const int64_t* which,
                  T* dw) {
  constexpr int64_t kColumns = 64;
  parallel_ranges(context, d, kColumns, static_cast<double>(bags + v), [&](int64_t begin, int64_t end) {
    for (int64_t i = 0; i < v; ++i) std::fill(dw + i * d + begin, dw + i * d + end, T(0));
    for (int64_t b = 0; b < bags; ++b) {
      for (int64_t j = begin; j < end; ++j) {
        const int64_t row = which[b * d + j];
        if (row >= 0) dw[row * d + j] += grad[b * d + j];
      }
    }
  });
}

template <class T>
void backward_sum(Context* context, const Bags& bags, const fastdl_embedding_bag_options& o, int64_t v,
                  int64_t d, const T* grad, const T* scales, T* dw) {
  // For each place its bag and its factor.
  const size_t n = bags.indices.size();
  std::vector<int64_t> bag_of(n);
  std::vector<T> factor(n);
  for (int64_t b = 0; b < bags.count(); ++b) {
    const int64_t begin = bags.first[static_cast<size_t>(b)], end = bags.first[static_cast<size_t>(b) + 1];
    int64_t counted = 0;
    for (int64_t p = begin; p < end; ++p) counted += bags.indices[static_cast<size_t>(p)] != o.padding_idx;
    for (int64_t p = begin; p < end; ++p) {
      bag_of[static_cast<size_t>(p)] = b;
      factor[static_cast<size_t>(p)] = scales                      ? scales[p]
                                       : o.mode == FASTDL_BAG_MEAN ? T(1) / static_cast<T>(counted)
                                                                   : T(1);
    }
  }
  const Groups groups = group_by_row(bags.indices, v, o.padding_idx);
  const auto& table = table_for<T>(*kernels().embedding);
  fill_rows(context, groups, v, d, dw, [&](int64_t, const int64_t* places, int64_t count, T* row) {
    std::vector<int64_t> rows(static_cast<size_t>(count));
    std::vector<T> factors(static_cast<size_t>(count));
    for (int64_t k = 0; k < count; ++k) {
      const auto p = static_cast<size_t>(places[k]);
      rows[static_cast<size_t>(k)] = bag_of[p];
      factors[static_cast<size_t>(k)] = factor[p];
    }
    const T all = o.scale_grad_by_freq ? T(1) / static_cast<T>(count) : T(1);
    table.sum_rows(count, rows.data(), factors.data(), all, d, grad, row);
  });
}

}  // namespace
}  // namespace fastdl::cpu

using namespace fastdl::cpu;

extern "C" {

fastdl_status fastdl_embedding_bag_forward(fastdl_context* context, const fastdl_tensor* weight_,
                                           const fastdl_tensor* indices_, const fastdl_tensor* offsets_,
                                           const fastdl_tensor* scales_, const fastdl_tensor* out_,
                                           const fastdl_tensor* max_indices,
                                           const fastdl_embedding_bag_options* options) {
  if (is_narrow(weight_)) {
    return in_float32("embedding_bag", fastdl_embedding_bag_forward, context, reads(weight_, "weight"),
                      indices_, offsets_, reads(scales_, "per_sample_weights"), writes(out_, "out"),
                      max_indices, options);
  }
  return guarded([&] {
    const char* op = "embedding_bag";
    const check::EmbeddingBag e =
        check::embedding_bag_forward(weight_, indices_, offsets_, scales_, out_, max_indices, options);
    const Bags bags = read_bags(context, e.bags, op);
    const View &weight = e.bags.weight, &scales = e.bags.scales;
    const int64_t d = weight.shape[1];
    dispatch_float(weight.dtype, [&](auto zero) {
      using T = decltype(zero);
      const Contiguous w(context, weight), s(context, scales);
      ContiguousOut y(context, e.out), m(context, e.max_indices);
      forward<T>(context, bags, e.bags.options, d, w->as<T>(), scales_ ? s->as<T>() : nullptr, y->as<T>(),
                 max_indices ? m->as<int64_t>() : nullptr);
      y.write_back();
      if (max_indices) m.write_back();
    });
  });
}

fastdl_status fastdl_embedding_bag_backward(fastdl_context* context, const fastdl_tensor* grad_out,
                                            const fastdl_tensor* weight_, const fastdl_tensor* indices_,
                                            const fastdl_tensor* offsets_, const fastdl_tensor* scales_,
                                            const fastdl_tensor* max_indices,
                                            const fastdl_tensor* grad_weight,
                                            const fastdl_tensor* grad_scales,
                                            const fastdl_embedding_bag_options* options) {
  if (is_narrow(grad_out)) {
    return in_float32("embedding_bag_backward", fastdl_embedding_bag_backward, context,
                      reads(grad_out, "grad_out"), reads(weight_, "weight"), indices_, offsets_,
                      reads(scales_, "per_sample_weights"), max_indices, writes(grad_weight, "grad_weight"),
                      writes(grad_scales, "grad_per_sample_weights"), options);
  }
  return guarded([&] {
    const char* op = "embedding_bag_backward";
    const check::EmbeddingBagBackward e = check::embedding_bag_backward(
        grad_out, weight_, indices_, offsets_, scales_, max_indices, grad_weight, grad_scales, options);
    const fastdl_embedding_bag_options& o = e.bags.options;
    const View &weight = e.bags.weight, &scales = e.bags.scales, &ds = e.grad_scales;
    const int64_t v = weight.shape[0], d = weight.shape[1];
    const Bags bags = read_bags(context, e.bags, op);
    if (e.max) check_rows_named(context, e.max_indices, v, op);
    dispatch_float(weight.dtype, [&](auto zero) {
      using T = decltype(zero);
      const Contiguous g(context, e.grad_out), s(context, scales), m(context, e.max_indices);
      const T* factors = scales_ ? s->as<T>() : nullptr;
      if (grad_weight) {
        ContiguousOut out(context, e.grad_weight);
        if (e.max) backward_max<T>(context, bags.count(), v, d, g->as<T>(), m->as<int64_t>(), out->as<T>());
        else backward_sum<T>(context, bags, o, v, d, g->as<T>(), factors, out->as<T>());
        out.write_back();
      }
      if (grad_scales) {
        const Contiguous w(context, weight);
        ContiguousOut out(context, ds);
        std::fill_n(out->as<T>(), ds.size(), T(0));  // those of no bag
        const auto& table = table_for<T>(*kernels().embedding);
        parallel_ranges(
            context, bags.count(), 16, static_cast<double>(d) * 4, [&](int64_t begin, int64_t end) {
              for (int64_t b = begin; b < end; ++b) {
                for (int64_t p = bags.first[static_cast<size_t>(b)];
                     p < bags.first[static_cast<size_t>(b) + 1]; ++p) {
                  const int64_t row = bags.indices[static_cast<size_t>(p)];
                  out->as<T>()[p] =
                      row == o.padding_idx ? T(0) : table.dot(d, g->as<T>() + b * d, w->as<T>() + row * d);
                }
              }
            });
        out.write_back();
      }
    });
  });
}
}
