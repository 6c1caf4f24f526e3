// What embedding.cpp and embedding_bag.cpp share: checked indices, and their places grouped by row.
#pragma once

#include <vector>

#include "common/embedding.h"
#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "cpu/tensor.h"

namespace fastdl::cpu {

// int64 or int32 in row-major order as int64; every value in [0, limit).
std::vector<int64_t> read_indices(Context* context, const View& v, int64_t limit, const char* op,
                                  const char* name);

// The places 0..n-1 sorted by their row, those of one row in rising order.
struct Groups {
  std::vector<int64_t> rows;   // the rows that occur, rising
  std::vector<int64_t> first;  // places[first[g]] .. places[first[g + 1]] belong to rows[g]
  std::vector<int64_t> places;
};
// Places whose row is `skip` are left out.
Groups group_by_row(const std::vector<int64_t>& indices, int64_t limit, int64_t skip);

// grad_weight (contiguous, V rows of n) = 0, then for each group body(row, its places, their number, out).
template <class T, class Body>
void fill_rows(Context* context, const Groups& groups, int64_t v, int64_t n, T* grad_weight, Body&& body) {
  const int64_t grain = n >= 16384 ? 1 : 16384 / (n ? n : 1);
  parallel_ranges(context, v, grain, static_cast<double>(n) * 0.5, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin * n; i < end * n; ++i) grad_weight[i] = T(0);
  });
  const int64_t count = static_cast<int64_t>(groups.rows.size());
  const double cost =
      count ? static_cast<double>(groups.places.size()) * static_cast<double>(n) / static_cast<double>(count)
            : 0;
  parallel_ranges(context, count, cost > 4096 ? 1 : static_cast<int64_t>(4096 / (cost + 1)) + 1, cost,
                  [&](int64_t begin, int64_t end) {
                    for (int64_t g = begin; g < end; ++g) {
                      const auto i = static_cast<size_t>(g);
                      body(groups.rows[i], groups.places.data() + groups.first[i],
                           groups.first[i + 1] - groups.first[i], grad_weight + groups.rows[i] * n);
                    }
                  });
}

}  // namespace fastdl::cpu
