// Pooling works on channels-last memory, (N, D, H, W, C) with missing spatial dimensions of extent 1: every
// tap of a window is then a contiguous run of channels.
#include "common/pool.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "cpu/pool_plan.h"
#include "cpu/tensor.h"

namespace fastdl::cpu::pool {
namespace {

// Tasks are groups of rows; where there are few rows, blocks of channels of rows.
int64_t channel_block(const Plan& p, int64_t rows) {
  constexpr int64_t kEnoughRows = 16, kLeast = 64;
  return rows >= kEnoughRows ? p.c : std::min(p.c, kLeast);
}

constexpr int64_t kCachedInput = 4 << 20;  // elements of an input that may still be in a cache

// Calls run(windows as a PoolRow, divisor, element of the first input plane's channels, element of the
// first output) for all runs of windows; with no taps, empty(element, elements of one window, windows).
template <class Body, class Empty>
void for_runs(Context* context, const Plan& p, Body&& body, Empty&& empty) {
  const int64_t rows = p.out[0] * p.out[1], taps = p.taps(), block = channel_block(p, p.n * rows);
  const int64_t blocks = (p.c + block - 1) / block;
  const std::vector<Run> runs = runs_of(p.ranges[2]);
  // Where lines of windows meet, the processor's own fetching begins anew.
  const int64_t ahead =
      p.n * p.in_plane() * p.c > kCachedInput ? p.in[1] / p.out[1] * p.in[2] * p.c : int64_t{0};
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
        body(PoolRow{run.count, run.step, count, positions, p.c, channels, ahead}, divisor_of(p, d, h, w),
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
}  // namespace fastdl::cpu::pool

using namespace fastdl::cpu;
using namespace fastdl::cpu::pool;

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
