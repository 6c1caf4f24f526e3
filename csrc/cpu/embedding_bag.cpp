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

Bags read_bags(const fastdl_tensor* indices_, const fastdl_tensor* offsets_, int64_t v, bool include_last,
               const char* op) {
  Bags bags;
  const View shape = view(indices_, op, "indices");
  if (!offsets_) {
    FASTDL_CHECK(shape.ndim == 2, FASTDL_ERROR_SHAPE,
                 "%s: expected indices of 2 dimensions where there are no offsets, got shape %s", op,
                 shape_string(shape).c_str());
    for (int64_t b = 0; b <= shape.shape[0]; ++b) bags.first.push_back(b * shape.shape[1]);
  } else {
    FASTDL_CHECK(shape.ndim == 1, FASTDL_ERROR_SHAPE,
                 "%s: expected indices of 1 dimension where there are offsets, got shape %s", op,
                 shape_string(shape).c_str());
    const int64_t n = shape.shape[0];
    check_ndim(view(offsets_, op, "offsets"), 1, op, "offsets");
    bags.first = read_indices(offsets_, n + 1, op, "offsets");
    if (!include_last) bags.first.push_back(n);
    FASTDL_CHECK(!bags.first.empty() && (bags.first[0] == 0 || bags.first.size() == 1), FASTDL_ERROR_VALUE,
                 "%s: expected offsets to begin with 0", op);
    for (size_t b = 1; b < bags.first.size(); ++b) {
      FASTDL_CHECK(bags.first[b] >= bags.first[b - 1], FASTDL_ERROR_VALUE,
                   "%s: expected offsets that never fall, got %lld after %lld", op,
                   static_cast<long long>(bags.first[b]), static_cast<long long>(bags.first[b - 1]));
    }
  }
  bags.indices = read_indices(indices_, v, op, "indices");
  // Indices behind the last bag belong to none.
  bags.indices.resize(bags.count() ? static_cast<size_t>(bags.first.back()) : 0);
  return bags;
}

fastdl_embedding_bag_options checked(const fastdl_embedding_bag_options* options, const fastdl_tensor* scales,
                                     const fastdl_tensor* indices, const char* op) {
  const auto o = read_options(options, fastdl_embedding_bag_options FASTDL_EMBEDDING_BAG_OPTIONS_INIT, op);
  FASTDL_CHECK(o.mode >= FASTDL_BAG_SUM && o.mode <= FASTDL_BAG_MAX, FASTDL_ERROR_VALUE,
               "%s: unknown mode %d", op, o.mode);
  if (scales) {
    FASTDL_CHECK(o.mode == FASTDL_BAG_SUM, FASTDL_ERROR_VALUE, "%s: per_sample_weights need mode sum", op);
    check_same_shape(view(indices, op, "indices"), "indices", view(scales, op, "per_sample_weights"),
                     "per_sample_weights", op);
  }
  return o;
}

// Every row that max_indices name must be there; -1 is an empty bag's.
void check_rows_named(const View& which, int64_t v, const char* op) {
  const Contiguous c(nullptr, which);
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
    const fastdl_embedding_bag_options o = checked(options, scales_, indices_, op);
    const View weight = float_view(weight_, op, "weight");
    check_ndim(weight, 2, op, "weight");
    const View out = out_view(out_, weight.dtype, op, "out");
    const View scales = scales_ ? view_like(scales_, weight.dtype, op, "per_sample_weights") : View{};
    const View which = max_indices ? out_view(max_indices, DType::kInt64, op, "max_indices") : View{};
    const Bags bags = read_bags(indices_, offsets_, weight.shape[0], o.include_last_offset != 0, op);
    const int64_t d = weight.shape[1];
    FASTDL_CHECK(out.ndim == 2 && out.shape[0] == bags.count() && out.shape[1] == d, FASTDL_ERROR_SHAPE,
                 "%s: expected out of shape (%lld, %lld), got %s", op, static_cast<long long>(bags.count()),
                 static_cast<long long>(d), shape_string(out).c_str());
    if (max_indices) check_same_shape(out, "out", which, "max_indices", op);
    dispatch_float(weight.dtype, [&](auto zero) {
      using T = decltype(zero);
      const Contiguous w(context, weight), s(context, scales);
      ContiguousOut y(context, out), m(context, which);
      forward<T>(context, bags, o, d, w->as<T>(), scales_ ? s->as<T>() : nullptr, y->as<T>(),
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
    const fastdl_embedding_bag_options o = checked(options, scales_, indices_, op);
    const View weight = float_view(weight_, op, "weight");
    check_ndim(weight, 2, op, "weight");
    const int64_t v = weight.shape[0], d = weight.shape[1];
    const View grad = view_like(grad_out, weight.dtype, op, "grad_out");
    const View scales = scales_ ? view_like(scales_, weight.dtype, op, "per_sample_weights") : View{};
    const Bags bags = read_bags(indices_, offsets_, v, o.include_last_offset != 0, op);
    FASTDL_CHECK(grad.ndim == 2 && grad.shape[0] == bags.count() && grad.shape[1] == d, FASTDL_ERROR_SHAPE,
                 "%s: expected grad_out of shape (%lld, %lld), got %s", op,
                 static_cast<long long>(bags.count()), static_cast<long long>(d), shape_string(grad).c_str());
    const bool max = o.mode == FASTDL_BAG_MAX && grad_weight;
    const View which = max ? view_like(max_indices, DType::kInt64, op, "max_indices") : View{};
    if (max) {
      check_same_shape(grad, "grad_out", which, "max_indices", op);
      check_rows_named(which, v, op);
    }
    FASTDL_CHECK(scales_ || !grad_scales, FASTDL_ERROR_VALUE,
                 "%s: the gradient of per_sample_weights needs per_sample_weights, got NULL", op);
    const View dw = grad_weight ? out_view(grad_weight, weight.dtype, op, "grad_weight") : View{};
    if (grad_weight) check_same_shape(weight, "weight", dw, "grad_weight", op);
    const View ds = grad_scales ? out_view(grad_scales, weight.dtype, op, "grad_per_sample_weights") : View{};
    if (grad_scales) check_same_shape(scales, "per_sample_weights", ds, "grad_per_sample_weights", op);
    dispatch_float(weight.dtype, [&](auto zero) {
      using T = decltype(zero);
      const Contiguous g(context, grad), s(context, scales), m(context, which);
      const T* factors = scales_ ? s->as<T>() : nullptr;
      if (grad_weight) {
        ContiguousOut out(context, dw);
        if (max) backward_max<T>(context, bags.count(), v, d, g->as<T>(), m->as<int64_t>(), out->as<T>());
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
