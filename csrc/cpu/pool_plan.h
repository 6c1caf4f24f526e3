// How pooling is described inside the library: channels-last memory, (N, D, H, W, C) with missing spatial
// dimensions of extent 1.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "common/pool.h"
#include "cpu/context.h"

namespace fastdl::cpu::pool {

using Range = check::PoolWindow;

// Consecutive windows along the last dimension with the same taps, each `step` after the one before.
struct Run {
  int64_t first, count, step;
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

inline Plan make_plan(const check::PoolPlan& p) {
  Plan plan{p.n, p.c, {}, {}, {}, p.divisor, p.include_pad};
  for (int dim = 0; dim < 3; ++dim) {
    plan.in[dim] = p.in[dim];
    plan.out[dim] = p.out[dim];
    for (int64_t o = 0; o < p.out[dim]; ++o) plan.ranges[dim].push_back(p.window(dim, o));
  }
  return plan;
}

inline std::vector<Run> runs_of(const std::vector<Range>& windows) {
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

inline double divisor_of(const Plan& p, const Range& d, const Range& h, const Range& w) {
  if (p.divisor) return static_cast<double>(p.divisor);
  return static_cast<double>(p.include_pad ? d.padded * h.padded * w.padded : d.count * h.count * w.count);
}

// Elementary operations of a row of `positions` with all channels, each touched `visits` times.
inline double row_cost(const Plan& p, int64_t positions, int64_t visits) {
  return static_cast<double>(positions * p.c * visits) * 0.25;
}

// Rows to a task: enough elements to be worth one.
inline int64_t rows_per_task(const Plan& p, int64_t positions, int64_t visits) {
  return std::max<int64_t>(1, 8192 / std::max<int64_t>(1, positions * p.c * visits));
}

// The sum of the gradients of all windows whose maximum a position was, or of their shares.
template <class S>
void max_backward(Context* context, const Plan& p, const S* dy, const int32_t* where, S* dx);
template <class S>
void avg_backward(Context* context, const Plan& p, const S* dy, S* dx);

}  // namespace fastdl::cpu::pool
