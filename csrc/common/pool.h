// Checked arguments of the pool family and where its windows lie, the same on every backend.
#pragma once

#include "common/view.h"
#include "fastdl/pool.h"

namespace fastdl::check {

// Where one window lies along one dimension: taps at begin, begin + step, ... (count of them, all inside the
// input).
struct PoolWindow {
  int64_t begin, count, step;
  int64_t padded;  // extent for the average's divisor, padding included
};
// The windows [first, last) that reach a position (perhaps between taps).
struct PoolReach {
  int64_t first, last;
};

// (N, C, D, H, W) to (N, C, D', H', W'); missing spatial dimensions have extent 1.
struct PoolPlan {
  int64_t n = 0, c = 0, in[3] = {1, 1, 1}, out[3] = {1, 1, 1};
  int64_t kernel[3] = {1, 1, 1}, stride[3] = {1, 1, 1}, padding[3] = {}, dilation[3] = {1, 1, 1};
  int64_t divisor = 0;  // 0: by window
  bool include_pad = true, adaptive = false;

  constexpr int64_t in_plane() const { return in[0] * in[1] * in[2]; }
  constexpr int64_t out_plane() const { return out[0] * out[1] * out[2]; }

  constexpr PoolWindow window(int dim, int64_t o) const {
    const int64_t extent = in[dim];
    if (adaptive) {
      const int64_t begin = o * extent / out[dim], end = ((o + 1) * extent + out[dim] - 1) / out[dim];
      return {begin, end - begin, 1, end - begin};
    }
    const int64_t step = dilation[dim], start = o * stride[dim] - padding[dim];
    const int64_t first = start < 0 ? (-start + step - 1) / step : 0;  // taps lost to the left padding
    const int64_t begin = start + first * step, left = kernel[dim] - first;
    int64_t count = begin >= extent ? 0 : (extent - 1 - begin) / step + 1;
    if (count > left) count = left;
    const int64_t end = start + kernel[dim], most = extent + padding[dim];
    return {begin, count < 0 ? 0 : count, step, (end < most ? end : most) - start};
  }

  constexpr PoolReach reach(int dim, int64_t position) const {
    if (adaptive) {
      return {position * out[dim] / in[dim], ((position + 1) * out[dim] - 1) / in[dim] + 1};
    }
    const int64_t at = position + padding[dim], behind = at - (kernel[dim] - 1) * dilation[dim];
    const int64_t first = behind <= 0 ? 0 : (behind + stride[dim] - 1) / stride[dim];
    const int64_t last = at / stride[dim] + 1;
    return {first, last < out[dim] ? last : out[dim]};
  }

  constexpr int64_t divisor_of(const PoolWindow& d, const PoolWindow& h, const PoolWindow& w) const {
    if (divisor) return divisor;
    return include_pad ? d.padded * h.padded * w.padded : d.count * h.count * w.count;
  }
};

// Views have the channels last. indices: no data where they are not wanted.
struct MaxPool {
  View x, out, indices;
  PoolPlan plan;
};
MaxPool max_pool_forward(const fastdl_tensor* x, const fastdl_tensor* out, const fastdl_tensor* indices,
                         const fastdl_pool_options* options);
MaxPool max_pool_backward(const fastdl_tensor* grad_out, const fastdl_tensor* indices,
                          const fastdl_tensor* grad_x,
                          const fastdl_pool_options* options);  // x, out: gradients

struct AvgPool {
  View x, out;
  PoolPlan plan;
};
AvgPool avg_pool_forward(const fastdl_tensor* x, const fastdl_tensor* out,
                         const fastdl_pool_options* options);
AvgPool avg_pool_backward(const fastdl_tensor* grad_out, const fastdl_tensor* grad_x,
                          const fastdl_pool_options* options);  // x, out: gradients

}  // namespace fastdl::check
