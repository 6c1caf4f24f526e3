#include "cpu/embedding.h"
#include "cpu/widen.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace fastdl::cpu {

std::vector<int64_t> read_indices(Context* context, const View& v, int64_t limit, const char* op,
                                  const char* name) {
  const Contiguous c(context, v);
  std::vector<int64_t> out(static_cast<size_t>(v.size()));
  for (size_t i = 0; i < out.size(); ++i) {
    const int64_t index = v.dtype == DType::kInt64 ? c->as<const int64_t>()[i]
                                                   : static_cast<int64_t>(c->as<const int32_t>()[i]);
    FASTDL_CHECK(index >= 0 && index < limit, FASTDL_ERROR_INDEX,
                 "%s: expected %s in [0, %lld), got %lld at position %zu", op, name,
                 static_cast<long long>(limit), static_cast<long long>(index), i);
    out[i] = index;
  }
  return out;
}

Groups group_by_row(const std::vector<int64_t>& indices, int64_t limit, int64_t skip) {
  Groups g;
  const size_t n = indices.size();
  if (static_cast<size_t>(limit) <= 4 * n) {  // counting sort
    std::vector<int64_t> start(static_cast<size_t>(limit) + 1);
    for (const int64_t i : indices) ++start[static_cast<size_t>(i) + 1];
    if (skip >= 0 && skip < limit) start[static_cast<size_t>(skip) + 1] = 0;
    for (size_t i = 1; i < start.size(); ++i) start[i] += start[i - 1];
    g.places.resize(static_cast<size_t>(start.back()));
    for (size_t i = 0; i + 1 < start.size(); ++i) {
      if (start[i + 1] == start[i]) continue;
      g.rows.push_back(static_cast<int64_t>(i));
      g.first.push_back(start[i]);
    }
    for (size_t p = 0; p < n; ++p) {
      if (indices[p] == skip) continue;
      g.places[static_cast<size_t>(start[static_cast<size_t>(indices[p])]++)] = static_cast<int64_t>(p);
    }
  } else {
    for (size_t p = 0; p < n; ++p) {
      if (indices[p] != skip) g.places.push_back(static_cast<int64_t>(p));
    }
    const auto row = [&](int64_t p) { return indices[static_cast<size_t>(p)]; };
    std::sort(g.places.begin(), g.places.end(),
              [&](int64_t a, int64_t b) { return row(a) != row(b) ? row(a) < row(b) : a < b; });
    for (size_t k = 0; k < g.places.size(); ++k) {
      if (k && row(g.places[k]) == row(g.places[k - 1])) continue;
      g.rows.push_back(row(g.places[k]));
      g.first.push_back(static_cast<int64_t>(k));
    }
  }
  g.first.push_back(static_cast<int64_t>(g.places.size()));
  return g;
}

}  // namespace fastdl::cpu

using namespace fastdl::cpu;

extern "C" {

fastdl_status fastdl_embedding_forward(fastdl_context* context, const fastdl_tensor* weight,
                                       const fastdl_tensor* indices_, const fastdl_tensor* out) {
  return guarded([&] {
    const char* op = "embedding";
    const check::Embedding e = check::embedding_forward(weight, indices_, out);
    const std::vector<int64_t> indices = read_indices(context, e.indices, e.weight.shape[0], op, "indices");
    const Contiguous w(context, e.weight);
    ContiguousOut y(context, e.out);
    const int64_t bytes = e.weight.shape[1] * item_size(e.weight.dtype);
    const char* from = w->as<char>();
    char* to = y->as<char>();
    parallel_ranges(context, static_cast<int64_t>(indices.size()), bytes ? 65536 / bytes + 1 : 1,
                    static_cast<double>(bytes) * 0.1 + 5, [&](int64_t begin, int64_t end) {
                      for (int64_t i = begin; i < end; ++i) {
                        std::memcpy(to + i * bytes, from + indices[static_cast<size_t>(i)] * bytes,
                                    static_cast<size_t>(bytes));
                      }
                    });
    y.write_back();
  });
}

fastdl_status fastdl_embedding_backward(fastdl_context* context, const fastdl_tensor* grad_out,
                                        const fastdl_tensor* indices_, const fastdl_tensor* grad_weight,
                                        int64_t padding_idx, int32_t scale_grad_by_freq) {
  if (is_narrow(grad_out)) {
    return in_float32("embedding_backward", fastdl_embedding_backward, context, reads(grad_out, "grad_out"),
                      indices_, writes(grad_weight, "grad_weight"), padding_idx, scale_grad_by_freq);
  }
  return guarded([&] {
    const char* op = "embedding_backward";
    const check::EmbeddingBackward e = check::embedding_backward(grad_out, indices_, grad_weight);
    const int64_t v = e.grad_weight.shape[0], d = e.grad_weight.shape[1];
    const std::vector<int64_t> indices = read_indices(context, e.indices, v, op, "indices");
    const Groups groups = group_by_row(indices, v, padding_idx);
    dispatch_float(e.grad_weight.dtype, [&](auto zero) {
      using T = decltype(zero);
      const Contiguous g(context, e.grad_out);
      ContiguousOut out(context, e.grad_weight);
      const auto& table = table_for<T>(*kernels().embedding);
      fill_rows(context, groups, v, d, out->as<T>(),
                [&](int64_t, const int64_t* places, int64_t count, T* row) {
                  const T factor = scale_grad_by_freq ? T(1) / static_cast<T>(count) : T(1);
                  table.sum_rows(count, places, nullptr, factor, d, g->as<T>(), row);
                });
      out.write_back();
    });
  });
}

fastdl_status fastdl_embedding_renorm(fastdl_context* context, const fastdl_tensor* weight_,
                                      const fastdl_tensor* indices_, double max_norm, double norm_type) {
  if (is_narrow(weight_)) {
    return in_float32("embedding_renorm", fastdl_embedding_renorm, context, updates(weight_, "weight"),
                      indices_, max_norm, norm_type);
  }
  return guarded([&] {
    const char* op = "embedding_renorm";
    const check::EmbeddingRenorm e = check::embedding_renorm(weight_, indices_, max_norm, norm_type);
    const View& weight = e.weight;
    const std::vector<int64_t> indices = read_indices(context, e.indices, weight.shape[0], op, "indices");
    const Groups groups = group_by_row(indices, weight.shape[0], -1);
    dispatch_float(weight.dtype, [&](auto zero) {
      using T = decltype(zero);
      const auto& table = table_for<T>(*kernels().optim);
      const int64_t d = weight.shape[1], stride = weight.strides[1];
      for (const int64_t row : groups.rows) {
        T* w = weight.as<T>() + row * weight.strides[0];
        std::vector<T> copy(static_cast<size_t>(d));
        for (int64_t j = 0; j < d; ++j) copy[static_cast<size_t>(j)] = w[j * stride];
        double norm = table.norm(norm_type, d, copy.data());
        if (norm_type == 2) norm = std::sqrt(norm);
        else if (norm_type != 1 && !std::isinf(norm_type)) norm = std::pow(norm, 1 / norm_type);
        if (!(norm > max_norm)) continue;
        const T factor = static_cast<T>(max_norm / (norm + 1e-7));
        for (int64_t j = 0; j < d; ++j) w[j * stride] *= factor;
      }
    });
    (void)context;
  });
}
}
