// Backward, pooling gathers: each position of the input is written once, with the sum over the windows that
// reach it. Where windows lie apart there is one at most, and each gradient is spread over its own window.
#include <limits>

#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "cpu/pool_plan.h"

namespace fastdl::cpu::pool {
namespace {

// For each position along a dimension, the windows [first, last) that reach it (perhaps between taps).
struct Reach {
  std::vector<int32_t> first, last;
  int64_t most() const {
    int64_t n = 0;
    for (size_t i = 0; i < first.size(); ++i) n = std::max<int64_t>(n, int64_t{last[i]} - first[i]);
    return n;
  }
};

Reach reach_of(const std::vector<Range>& windows, int64_t in) {
  Reach reach{std::vector<int32_t>(static_cast<size_t>(in), INT32_MAX),
              std::vector<int32_t>(static_cast<size_t>(in), 0)};
  for (size_t o = 0; o < windows.size(); ++o) {
    const Range& w = windows[o];
    for (int64_t k = 0; k < w.count; ++k) {
      const auto at = static_cast<size_t>(w.begin + k * w.step);
      reach.first[at] = std::min(reach.first[at], static_cast<int32_t>(o));
      reach.last[at] = static_cast<int32_t>(o) + 1;
    }
  }
  return reach;
}

// Calls body(the windows that reach a row of input positions, element of the first window of the sample,
// element of the row, room for a pointer per row of windows) for all rows.
template <class Body>
void for_reaches(Context* context, const Plan& p, Body&& body) {
  const Reach depth = reach_of(p.ranges[0], p.in[0]), height = reach_of(p.ranges[1], p.in[1]),
              width = reach_of(p.ranges[2], p.in[2]);
  const int64_t rows = p.in[0] * p.in[1], most = depth.most() * height.most();
  const int64_t visits = std::max<int64_t>(1, most * width.most());
  const auto part = [&](int64_t index, int64_t* starts, const void** room) {
    const int64_t n = index / rows, row = index % rows;
    const auto d = static_cast<size_t>(row / p.in[1]), h = static_cast<size_t>(row % p.in[1]);
    int64_t count = 0;
    for (int64_t i = depth.first[d]; i < depth.last[d]; ++i) {
      for (int64_t j = height.first[h]; j < height.last[h]; ++j) {
        starts[count++] = (i * p.out[1] + j) * p.out[2];
      }
    }
    body(PoolReach{p.in[2], count, row * p.in[2], starts, width.first.data(), width.last.data(), p.c},
         n * p.out_plane() * p.c, (n * p.in_plane() + row * p.in[2]) * p.c, room);
  };
  parallel_ranges(context, p.n * rows, rows_per_task(p, p.in[2], visits), 2 * row_cost(p, p.in[2], visits),
                  [&](int64_t begin, int64_t end) {
                    const size_t room = static_cast<size_t>(std::max<int64_t>(0, most));
                    const Workspace starts(context, room * sizeof(int64_t));
                    const Workspace pointers(context, room * sizeof(void*));
                    for (int64_t index = begin; index < end; ++index) {
                      part(index, starts.as<int64_t>(), pointers.as<const void*>());
                    }
                  });
}

// What the gradient of each window is multiplied by: one array for every extent that windows have in depth
// and height.
template <class T>
class Scales {
 public:
  explicit Scales(const Plan& p) : plan_(p) {
    for (const Range& d : p.ranges[0]) {
      for (const Range& h : p.ranges[1]) {
        index_.push_back(find(d, h));
      }
    }
    for (auto& a : arrays_) pointers_.push_back(a.data());
  }
  // Of the row of windows that begins at window `start`.
  const T* at(int64_t start) const { return pointers_[index_[static_cast<size_t>(start / plan_.out[2])]]; }

 private:
  size_t find(const Range& d, const Range& h) {
    const double extent = divisor_of(plan_, d, h, {0, 1, 1, 1});
    for (size_t i = 0; i < extents_.size(); ++i) {
      if (extents_[i] == extent) return i;
    }
    extents_.push_back(extent);
    arrays_.emplace_back();
    for (const Range& w : plan_.ranges[2])
      arrays_.back().push_back(static_cast<T>(1 / divisor_of(plan_, d, h, w)));
    return extents_.size() - 1;
  }

  const Plan& plan_;
  std::vector<double> extents_;
  std::vector<std::vector<T>> arrays_;
  std::vector<const T*> pointers_;
  std::vector<size_t> index_;
};

// Whether no two windows share a position, nor have gaps between their taps.
bool apart(const Plan& p) {
  for (const auto& windows : p.ranges) {
    int64_t end = 0;
    for (const Range& w : windows) {
      if (w.count == 0) continue;
      if (w.begin < end || (w.count > 1 && w.step != 1)) return false;
      end = w.begin + w.count;
    }
  }
  return true;
}

// Calls body(windows of a line of the input, element of the first of them, its index along the line, element
// of its first tap) for each run of them, if they lie apart; the other positions become zero.
template <class S, class Body>
void for_lines(Context* context, const Plan& p, S* dx, Body&& body) {
  const Reach depth = reach_of(p.ranges[0], p.in[0]), height = reach_of(p.ranges[1], p.in[1]);
  const std::vector<Run> runs = runs_of(p.ranges[2]);
  const int64_t lines = p.in[0] * p.in[1];
  const auto part = [&](int64_t index) {
    const int64_t n = index / lines, line = index % lines;
    const auto d = static_cast<size_t>(line / p.in[1]), h = static_cast<size_t>(line % p.in[1]);
    S *to = dx + index * p.in[2] * p.c, *const end = to + p.in[2] * p.c;
    if (depth.first[d] < depth.last[d] && height.first[h] < height.last[h]) {
      const int64_t row = (n * p.out[0] + depth.first[d]) * p.out[1] + height.first[h];
      for (const Run& run : runs) {
        const Range& w = p.ranges[2][static_cast<size_t>(run.first)];
        if (w.count == 0) continue;
        S* const begin = end + (w.begin - p.in[2]) * p.c;
        std::fill(to, begin, S{});
        const int64_t position = line * p.in[2] + w.begin;
        body(PoolApart{run.count, run.step, w.count, position, p.c}, (row * p.out[2] + run.first) * p.c,
             row % (p.out[0] * p.out[1]), run.first, begin);
        to = begin + ((run.count - 1) * run.step + w.count) * p.c;
      }
    }
    std::fill(to, end, S{});
  };
  parallel_ranges(context, p.n * lines, rows_per_task(p, p.in[2], 1), row_cost(p, p.in[2], 1),
                  [&](int64_t begin, int64_t end) {
                    for (int64_t index = begin; index < end; ++index) part(index);
                  });
}

}  // namespace

template <class S>
void max_backward(Context* context, const Plan& p, const S* dy, const int32_t* where, S* dx) {
  const auto& table = table_for<S>(*kernels().pool);
  if (apart(p)) {
    return for_lines(context, p, dx, [&](const PoolApart& row, int64_t from, int64_t, int64_t, S* to) {
      table.max_apart(row, dy + from, where + from, to);
    });
  }
  for_reaches(context, p, [&](const PoolReach& row, int64_t from, int64_t to, const void**) {
    table.max_reach(row, dy + from, where + from, dx + to);
  });
}

template <class S>
void avg_backward(Context* context, const Plan& p, const S* dy, S* dx) {
  using T = compute_t<S>;
  const auto& table = table_for<S>(*kernels().pool);
  const Scales<T> scales(p);
  if (apart(p)) {
    return for_lines(context, p, dx,
                     [&](const PoolApart& row, int64_t from, int64_t line, int64_t first, S* to) {
                       table.sum_apart(row, dy + from, scales.at(line * p.out[2]) + first, to);
                     });
  }
  for_reaches(context, p, [&](const PoolReach& row, int64_t from, int64_t to, const void** room) {
    const T** factors = reinterpret_cast<const T**>(room);
    for (int64_t r = 0; r < row.rows; ++r) factors[r] = scales.at(row.starts[r]);
    table.sum_reach(row, dy + from, factors, dx + to);
  });
}

#define FASTDL_INSTANTIATE(S)                                                         \
  template void max_backward<S>(Context*, const Plan&, const S*, const int32_t*, S*); \
  template void avg_backward<S>(Context*, const Plan&, const S*, S*);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(double)
FASTDL_INSTANTIATE(bfloat16)
FASTDL_INSTANTIATE(float16)
#undef FASTDL_INSTANTIATE

}  // namespace fastdl::cpu::pool
