// Pooling works on channels-last memory, (N, D, H, W, C) with missing spatial dimensions of extent 1: every
// tap of a window is then a contiguous run of channels.
#include "common/pool.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "cpu/tensor.h"

namespace fastdl::cpu {
namespace {

using Range = check::PoolWindow;

// Consecutive windows along the last dimension with the same taps, each `step` after the one before.
struct Run {
  int64_t first, count, step;
};

// For each position along a dimension, the windows [first, last) that reach it (perhaps between taps).
struct Reach {
  std::vector<int32_t> first, last;
  int64_t most() const {
    int64_t n = 0;
    for (size_t i = 0; i < first.size(); ++i) n = std::max<int64_t>(n, int64_t{last[i]} - first[i]);
    return n;
  }
};

struct Plan {
  int64_t n, c, in[3], out[3];
  std::vector<Range> ranges[3];
  int64_t divisor;  // 0: by window
  bool include_pad;

  int64_t in_plane() const { return in[0] * in[1] * in[2]; }
  int64_t out_plane() const { return out[0] * out[1] * out[2]; }
  int64_t taps(int dim) const {
    int64_t most = 0;
    for (const Range& r : ranges[dim]) most = std::max(most, r.count);
    return most;
  }
  int64_t taps() const { return taps(0) * taps(1) * taps(2); }
};

Plan make_plan(const check::PoolPlan& p) {
  Plan plan{p.n, p.c, {}, {}, {}, p.divisor, p.include_pad};
  for (int dim = 0; dim < 3; ++dim) {
    plan.in[dim] = p.in[dim];
    plan.out[dim] = p.out[dim];
    for (int64_t o = 0; o < p.out[dim]; ++o) plan.ranges[dim].push_back(p.window(dim, o));
  }
  return plan;
}

std::vector<Run> runs_of(const std::vector<Range>& windows) {
  std::vector<Run> runs;
  for (size_t o = 0; o < windows.size(); ++o) {
    const Range& w = windows[o];
    if (!runs.empty()) {
      Run& run = runs.back();
      const Range &head = windows[static_cast<size_t>(run.first)], &before = windows[o - 1];
      const int64_t step = w.begin - before.begin;
      if (w.count == head.count && w.padded == head.padded && (run.count == 1 || step == run.step)) {
        run.step = step;
        ++run.count;
        continue;
      }
    }
    runs.push_back({static_cast<int64_t>(o), 1, 1});
  }
  return runs;
}

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

double divisor_of(const Plan& p, const Range& d, const Range& h, const Range& w) {
  if (p.divisor) return static_cast<double>(p.divisor);
  return static_cast<double>(p.include_pad ? d.padded * h.padded * w.padded : d.count * h.count * w.count);
}

// Elementary operations of a row of `positions` with all channels, each touched `visits` times.
double row_cost(const Plan& p, int64_t positions, int64_t visits) {
  return static_cast<double>(positions * p.c * visits) * 0.25;
}

// Rows to a task: enough elements to be worth one.
int64_t rows_per_task(const Plan& p, int64_t positions, int64_t visits) {
  return std::max<int64_t>(1, 8192 / std::max<int64_t>(1, positions * p.c * visits));
}

// Tasks are groups of rows; where there are few rows, blocks of channels of rows.
int64_t channel_block(const Plan& p, int64_t rows) {
  constexpr int64_t kEnoughRows = 16, kLeast = 64;
  return rows >= kEnoughRows ? p.c : std::min(p.c, kLeast);
}

// Calls run(windows as a PoolRow, divisor, element of the first input plane's channels, element of the
// first output) for all runs of windows; with no taps, empty(element, elements of one window, windows).
template <class Body, class Empty>
void for_runs(Context* context, const Plan& p, Body&& body, Empty&& empty) {
  const int64_t rows = p.out[0] * p.out[1], taps = p.taps(), block = channel_block(p, p.n * rows);
  const int64_t blocks = (p.c + block - 1) / block;
  const std::vector<Run> runs = runs_of(p.ranges[2]);
  const double cost = row_cost(p, p.out[2], taps) / static_cast<double>(blocks);
  const auto part = [&](int64_t index, int64_t* positions) {
    const int64_t n = index / (rows * blocks), row = index / blocks % rows, c = index % blocks * block;
    const int64_t channels = std::min(block, p.c - c);
    const Range &d = p.ranges[0][static_cast<size_t>(row / p.out[1])],
                &h = p.ranges[1][static_cast<size_t>(row % p.out[1])];
    for (const Run& run : runs) {
      const Range& w = p.ranges[2][static_cast<size_t>(run.first)];
      const int64_t to = (n * p.out_plane() + row * p.out[2] + run.first) * p.c + c;
      int64_t count = 0;
      for (int64_t i = 0; i < d.count; ++i) {
        for (int64_t j = 0; j < h.count; ++j) {
          const int64_t at = ((d.begin + i * d.step) * p.in[1] + h.begin + j * h.step) * p.in[2] + w.begin;
          for (int64_t k = 0; k < w.count; ++k) positions[count++] = at + k * w.step;
        }
      }
      if (count == 0) {
        for (int64_t o = 0; o < run.count; ++o) empty(to + o * p.c, channels);
      } else {
        body(PoolRow{run.count, run.step, count, positions, p.c, channels}, divisor_of(p, d, h, w),
             n * p.in_plane() * p.c + c, to);
      }
    }
  };
  const int64_t grain = blocks > 1 ? 1 : rows_per_task(p, p.out[2], taps);
  parallel_ranges(context, p.n * rows * blocks, grain, cost, [&](int64_t begin, int64_t end) {
    const Workspace scratch(context, static_cast<size_t>(taps) * sizeof(int64_t));
    for (int64_t index = begin; index < end; ++index) part(index, scratch.as<int64_t>());
  });
}

template <class S>
S minus_infinity() {
  return -std::numeric_limits<S>::infinity();
}
template <>
bfloat16 minus_infinity<bfloat16>() {
  return {0xff80};
}
template <>
float16 minus_infinity<float16>() {
  return {0xfc00};
}

template <class S>
void max_forward(Context* context, const Plan& p, const S* x, S* out, int32_t* where) {
  const auto& table = table_for<S>(*kernels().pool);
  for_runs(
      context, p,
      [&](const PoolRow& row, double, int64_t from, int64_t to) {
        table.max_row(row, x + from, out + to, where ? where + to : nullptr);
      },
      [&](int64_t to, int64_t n) {  // a dilated window that straddles a short input
        std::fill(out + to, out + to + n, minus_infinity<S>());
        if (where) std::fill(where + to, where + to + n, -1);
      });
}

template <class S>
void avg_forward(Context* context, const Plan& p, const S* x, S* out) {
  using T = compute_t<S>;
  const auto& table = table_for<S>(*kernels().pool);
  for_runs(
      context, p,
      [&](const PoolRow& row, double divisor, int64_t from, int64_t to) {
        table.sum_row(row, x + from, static_cast<T>(1 / divisor), out + to);
      },
      [&](int64_t to, int64_t n) { std::fill(out + to, out + to + n, S{}); });
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

template <class S>
void max_backward(Context* context, const Plan& p, const S* dy, const int32_t* where, S* dx) {
  const auto& table = table_for<S>(*kernels().pool);
  for_reaches(context, p, [&](const PoolReach& row, int64_t from, int64_t to, const void**) {
    table.max_reach(row, dy + from, where + from, dx + to);
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

template <class S>
void avg_backward(Context* context, const Plan& p, const S* dy, S* dx) {
  using T = compute_t<S>;
  const auto& table = table_for<S>(*kernels().pool);
  const Scales<T> scales(p);
  for_reaches(context, p, [&](const PoolReach& row, int64_t from, int64_t to, const void** room) {
    const T** factors = reinterpret_cast<const T**>(room);
    for (int64_t r = 0; r < row.rows; ++r) factors[r] = scales.at(row.starts[r]);
    table.sum_reach(row, dy + from, factors, dx + to);
  });
}

// Kernels count positions in int32; callers may hold int64 (torch's).
class Indices {
 public:
  Indices(Context* context, const View* v, bool load)
      : wide_(v && v->dtype == DType::kInt64),
        scratch_(context, wide_ ? static_cast<size_t>(v->size()) * sizeof(int32_t) : 0),
        data_(!v      ? nullptr
              : wide_ ? scratch_.as<int32_t>()
                      : v->as<int32_t>()) {
    if (!wide_) return;
    size_ = v->size();
    user_ = v->as<int64_t>();
    if (load) {
      for (int64_t i = 0; i < size_; ++i) {
        // No position is -1, nor what int32 does not hold.
        data_[i] = user_[i] >= 0 && user_[i] <= INT32_MAX ? static_cast<int32_t>(user_[i]) : -1;
      }
    }
  }
  int32_t* data() const { return data_; }
  void store() const {
    for (int64_t i = 0; i < size_; ++i) user_[i] = data_[i];
  }

 private:
  bool wide_;
  Workspace scratch_;
  int32_t* data_;
  int64_t* user_ = nullptr;
  int64_t size_ = 0;
};

}  // namespace
}  // namespace fastdl::cpu

using namespace fastdl::cpu;

extern "C" {

fastdl_status fastdl_max_pool_forward(fastdl_context* context, const fastdl_tensor* x_,
                                      const fastdl_tensor* out_, const fastdl_tensor* indices,
                                      const fastdl_pool_options* options) {
  return guarded([&] {
    const check::MaxPool p = check::max_pool_forward(x_, out_, indices, options);
    if (p.out.size() == 0) return;
    const Plan plan = make_plan(p.plan);
    const Contiguous xc(context, p.x);
    ContiguousOut yc(context, p.out), wc(context, p.indices);
    const Indices at(context, indices ? &*wc : nullptr, false);
    dispatch_storage(p.x.dtype, [&](auto zero) {
      using S = decltype(zero);
      max_forward<S>(context, plan, xc->as<S>(), yc->as<S>(), at.data());
    });
    yc.write_back();
    if (indices) {
      at.store();
      wc.write_back();
    }
  });
}

fastdl_status fastdl_max_pool_backward(fastdl_context* context, const fastdl_tensor* grad_out,
                                       const fastdl_tensor* indices, const fastdl_tensor* grad_x,
                                       const fastdl_pool_options* options) {
  return guarded([&] {
    const check::MaxPool p = check::max_pool_backward(grad_out, indices, grad_x, options);
    if (p.x.size() == 0) return;
    const Plan plan = make_plan(p.plan);
    const Contiguous dyc(context, p.out), wc(context, p.indices);
    const Indices at(context, &*wc, true);
    ContiguousOut dxc(context, p.x);
    dispatch_storage(p.x.dtype, [&](auto zero) {
      using S = decltype(zero);
      max_backward<S>(context, plan, dyc->as<S>(), at.data(), dxc->as<S>());
    });
    dxc.write_back();
  });
}

fastdl_status fastdl_avg_pool_forward(fastdl_context* context, const fastdl_tensor* x_,
                                      const fastdl_tensor* out_, const fastdl_pool_options* options) {
  return guarded([&] {
    const check::AvgPool p = check::avg_pool_forward(x_, out_, options);
    if (p.out.size() == 0) return;
    const Contiguous xc(context, p.x);
    ContiguousOut yc(context, p.out);
    dispatch_storage(p.x.dtype, [&](auto zero) {
      using S = decltype(zero);
      avg_forward<S>(context, make_plan(p.plan), xc->as<S>(), yc->as<S>());
    });
    yc.write_back();
  });
}

fastdl_status fastdl_avg_pool_backward(fastdl_context* context, const fastdl_tensor* grad_out,
                                       const fastdl_tensor* grad_x, const fastdl_pool_options* options) {
  return guarded([&] {
    const check::AvgPool p = check::avg_pool_backward(grad_out, grad_x, options);
    if (p.x.size() == 0) return;
    const Contiguous dyc(context, p.out);
    ContiguousOut dxc(context, p.x);
    dispatch_storage(p.x.dtype, [&](auto zero) {
      using S = decltype(zero);
      avg_backward<S>(context, make_plan(p.plan), dyc->as<S>(), dxc->as<S>());
    });
    dxc.write_back();
  });
}
}
