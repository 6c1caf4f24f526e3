// The online softmax (Milakov, Gimelshein 2018, "Online normalizer calculation for softmax"): the maximum of
// a row's scores so far, and the sum of 2^(score - maximum) over them.
#pragma once

#include <cmath>

#include "cuda/attention_mask.cuh"
#include "cuda/device.cuh"

namespace fastdl::cuda {

// What the maximum `top` is subtracted as: any finite number serves while a row has seen nothing, when every
// weight is 2^-inf = 0.
template <class T>
__device__ __forceinline__ T softmax_shift(T top) {
  return top == -static_cast<T>(INFINITY) ? T{0} : top;
}
// By what sums shrink when the maximum rises from `before` to `top`.
template <class T>
__device__ __forceinline__ T softmax_decay(T before, T top) {
  return exp2(before - softmax_shift(top));
}
template <class T>
__device__ __forceinline__ T softmax_weight(T score2, T shift) {
  return exp2(score2 - shift);
}
// log of the sum of the exponentials of the scores; -infinity for a row that saw nothing.
template <class T>
__device__ __forceinline__ T log_sum_exp(T top, T sum) {
  return top * static_cast<T>(kLn2) + log(sum);
}
// A row of nothing is zeros.
template <class T>
__device__ __forceinline__ T softmax_norm(T sum) {
  return sum == 0 ? T{0} : T{1} / sum;
}
// The log-sum-exp as the backward pass subtracts it from scores to base 2.
template <class T>
__device__ __forceinline__ T backward_shift(T lse) {
  return softmax_shift(lse * static_cast<T>(kLog2e));
}

// Over the four lanes that hold a row of an mma result.
template <class F>
__device__ __forceinline__ float row_reduce(float x, F combine) {
  x = combine(x, __shfl_xor_sync(kAllLanes, x, 1));
  return combine(x, __shfl_xor_sync(kAllLanes, x, 2));
}

// Rows g and g + 8 of a 16 x 8 Wide tile of scores, the columns of one lane; `sum` is of those columns only,
// until total() adds up the row's.
struct SoftmaxRows {
  float top[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};

  // Scores become weights; decay is by what earlier sums have to shrink.
  template <int Wide>
  __device__ __forceinline__ void update(float (&scores)[Wide][4], float (&decay)[2]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float high = top[half];
#pragma unroll
      for (int j = 0; j < Wide; ++j) high = Max{}(Max{}(high, scores[j][2 * half]), scores[j][2 * half + 1]);
      high = row_reduce(high, Max{});
      decay[half] = softmax_decay(top[half], high);
      top[half] = high;
      const float shift = softmax_shift(high);
      float tile = 0;
#pragma unroll
      for (int j = 0; j < Wide; ++j) {
#pragma unroll
        for (int e = 2 * half; e < 2 * half + 2; ++e) {
          scores[j][e] = softmax_weight(scores[j][e], shift);
          tile += scores[j][e];
        }
      }
      sum[half] = sum[half] * decay[half] + tile;
    }
  }
  __device__ __forceinline__ float total(int half) const { return row_reduce(sum[half], Sum{}); }
};

}  // namespace fastdl::cuda
