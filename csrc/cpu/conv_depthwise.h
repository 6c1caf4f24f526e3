// Depthwise convolution: every channel by itself (groups = C = O). Bound by memory, so the image is read
// where it lies, border and all, and nothing is copied.
#pragma once

#include <algorithm>
#include <type_traits>

#include "common/narrow.h"
#include "cpu/conv_plan.h"
#include "cpu/kernels.h"

namespace fastdl::cpu::conv {

// S: float, double or bfloat16. The channels of every operand lie side by side.
bool is_depthwise(const Geometry& g);

// Forward pass or data gradient; weight is C-contiguous.
template <class S>
void depthwise_gather(Context* context, const Geometry& g, const Image<const S>& in, const S* weight,
                      bool data_gradient, const Image<S>& out, const Epilogue<S>& end);

// Either gradient may be NULL.
template <class S>
void depthwise_weight_gradient(Context* context, const Geometry& g, const Image<const S>& in,
                               const Image<const S>& grad, const View* grad_weight, const View* grad_bias);

// The same for kernels three pixels wide (conv_depthwise_lines.cpp). False, and nothing is written, for other
// kernels and for data gradients with strides. w: finite, from pack_depthwise.
template <class S>
bool depthwise_lines(Context* context, const Geometry& g, const Image<const S>& in, const compute_t<S>* w,
                     const compute_t<S>* bias, bool data_gradient, const Image<S>& out,
                     const Epilogue<S>& end);
template <class S>
bool depthwise_lines_weight_gradient(Context* context, const Geometry& g, const Image<const S>& in,
                                     const Image<const S>& grad, const View* grad_weight,
                                     const View* grad_bias);

// n elements side by side, as the type they are computed with, and back.
template <class S>
void widen(const S* from, int64_t n, compute_t<S>* to) {
  if constexpr (std::is_same_v<S, bfloat16>) kernels().convert->bf16.widen(n, from, 1, to, 1);
  else std::copy(from, from + n, to);
}
template <class S>
void narrow(const compute_t<S>* from, int64_t n, S* to, int64_t step) {
  if constexpr (std::is_same_v<S, bfloat16>) kernels().convert->bf16.narrow(n, from, 1, to, step);
  else
    for (int64_t i = 0; i < n; ++i) to[i * step] = from[i];
}

// (channels, 1, taps) -> [slot][channels], taps in the gather's order. Returns whether all are finite.
template <class S>
bool pack_depthwise(Context* context, int64_t channels, int64_t taps, const S* weight, bool data_gradient,
                    compute_t<S>* to) {
  using T = compute_t<S>;
  Workspace scratch(context, std::is_same_v<S, T> ? 0 : static_cast<size_t>(channels * taps) * sizeof(T));
  const T* w;
  if constexpr (std::is_same_v<S, T>) {
    w = weight;
  } else {
    widen(weight, channels * taps, scratch.as<T>());
    w = scratch.as<T>();
  }
  for (int64_t t = 0; t < taps; ++t) {
    T* const row = to + (data_gradient ? taps - 1 - t : t) * channels;
    for (int64_t c = 0; c < channels; ++c) row[c] = w[c * taps + t];
  }
  return all_finite(w, channels * taps);
}

}  // namespace fastdl::cpu::conv
