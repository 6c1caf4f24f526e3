// What the cells make of the sums of a step: the gates' functions and their gradients, for one sequence and
// one hidden unit at a time. The formulas are those of cpu/isa/rnn.cpp and rnn_backward.cpp. before() reads
// everything that does not depend on the sums, so that it can be on its way while they are made.
#pragma once

#include "cuda/activation_inline.cuh"
#include "cuda/rnn_exchange.cuh"
#include "fastdl/rnn.h"

namespace fastdl::cuda {

// Where a step's result goes: y, for the first next_rows sequences what the next product reads, and for
// sequences that end here the last state. Each may be NULL.
template <class S>
struct StepOutput {
  S* y;
  int64_t y_stride;
  S* next;
  int64_t next_stride, next_rows;
  S* last;
  int64_t last_stride, ends_from;  // sequences from ends_from on end with this step

  __device__ __forceinline__ void store(int64_t row, int64_t unit, compute_t<S> value) const {
    const S x = narrow<S>(value);
    if (next && row < next_rows) publish(next + row * next_stride + unit, x);
    if (y) y[row * y_stride + unit] = x;
    if (last && row >= ends_from) last[row * last_stride + unit] = x;
  }
};

// GRU and LSTM.
template <class S>
struct GatesCell {
  using T = compute_t<S>;
  static constexpr int kSlots = 4;
  bool lstm, save;
  int64_t hidden;
  T* gates;          // [rows, G * H]: W x + b; with save, activated afterwards
  const S* bias_hh;  // or NULL
  T* state;          // [rows, H]: c (LSTM), h (GRU) of the step before, then of this one
  T* saved_state;    // with save: c (LSTM), W_hn h + b_hn (GRU)
  S* last_state;     // LSTM, for sequences that end here; or NULL
  StepOutput<S> h;

  struct Before {
    T x[kSlots], state;  // of a GRU: the gates' inputs, and last the recurrent bias of the new gate
  };
  __device__ __forceinline__ Before before(int64_t row, int64_t unit) const {
    const int count = lstm ? 4 : 3;
    const T* const g = gates + row * count * hidden + unit;
    Before b{};
#pragma unroll
    for (int i = 0; i < kSlots; ++i) {
      if (i >= count) continue;
      b.x[i] = g[i * hidden];
      if (!bias_hh) continue;
      const T bias = widen(bias_hh[i * hidden + unit]);
      if (i == 2 && !lstm) b.x[3] = bias;
      else b.x[i] += bias;
    }
    b.state = state[row * hidden + unit];
    return b;
  }

  __device__ __forceinline__ void operator()(int64_t row, int64_t unit, const T (&sums)[kSlots],
                                             const Before& b) const {
    T* const g = gates + row * (lstm ? 4 : 3) * hidden + unit;
    const int64_t i = row * hidden + unit;
    if (lstm) {
      const T input = sigmoid(sums[0] + b.x[0]), forget = sigmoid(sums[1] + b.x[1]);
      const T cell = accurate_tanh(sums[2] + b.x[2]), output = sigmoid(sums[3] + b.x[3]);
      const T c = fma(forget, b.state, input * cell);
      state[i] = c;
      if (save) {
        g[0] = input, g[hidden] = forget, g[2 * hidden] = cell, g[3 * hidden] = output;
        saved_state[i] = c;
      }
      if (last_state && row >= h.ends_from) last_state[i] = narrow<S>(c);
      h.store(row, unit, output * accurate_tanh(c));
    } else {
      const T reset = sigmoid(sums[0] + b.x[0]), update = sigmoid(sums[1] + b.x[1]), part = sums[2] + b.x[3];
      const T fresh = accurate_tanh(fma(reset, part, b.x[2])), value = fma(update, b.state - fresh, fresh);
      state[i] = value;
      if (save) {
        g[0] = reset, g[hidden] = update, g[2 * hidden] = fresh;
        saved_state[i] = part;
      }
      h.store(row, unit, value);
    }
  }
};

// f(sums + whatever is to be added): the RNN's cell, projections and their gradients, gradients of states.
template <class S>
struct PlainCell {
  using T = compute_t<S>;
  static constexpr int kSlots = 1;
  int32_t activation;  // none, tanh or relu
  const T* wide;       // each of these may be NULL
  int64_t wide_stride;
  const S* bias;
  const S* add;
  int64_t add_stride;
  const S* add_last;  // for sequences that end here
  int64_t add_last_stride;
  StepOutput<S> out;

  using Before = T;
  __device__ __forceinline__ T before(int64_t row, int64_t unit) const {
    T x = 0;
    if (bias) x += widen(bias[unit]);
    if (wide) x += wide[row * wide_stride + unit];
    if (add) x += widen(add[row * add_stride + unit]);
    if (add_last && row >= out.ends_from) x += widen(add_last[row * add_last_stride + unit]);
    return x;
  }

  __device__ __forceinline__ void operator()(int64_t row, int64_t unit, const T (&sums)[kSlots], T b) const {
    T x = sums[0] + b;
    if (activation == FASTDL_ACT_TANH) x = accurate_tanh(x);
    else if (activation == FASTDL_ACT_RELU) x = at_least(T(0), x);
    out.store(row, unit, x);
  }
};

// The gradients of the gates' pre-activations from that of h: the sums, and what comes from y and h_n.
template <class S>
struct BackwardCell {
  using T = compute_t<S>;
  static constexpr int kSlots = 1;
  int kind;
  int64_t hidden;
  const S* grad_y;  // or NULL
  int64_t y_stride;
  const S* grad_last;  // [rows, H], for sequences from ends_from on; or NULL
  int64_t ends_from;
  T* carry;  // [rows, H]: what reaches the step before elementwise (LSTM: gradient of c; GRU: z grad_h)
  const T *gates, *state;  // as forward left them
  int64_t before_rows;     // sequences from here on have no step before this one
  const T* state_before;   // LSTM: [before, H]
  const S* first_state;    // LSTM: c0, GRU: h0, [rows, H]; or NULL for zeros
  const S* h;              // RNN: this step's; GRU: that of the step before; rows y_stride apart
  S* grad_x;               // [rows, G * H]: gradients of the gates' input parts
  S* grad_h;               // and recurrent parts, the same memory but for GRU
  int64_t grad_stride;

  static __device__ __forceinline__ T tanh_slope(T y) { return fma(-y, y, T(1)); }
  static __device__ __forceinline__ T sigmoid_slope(T y) { return y * (T(1) - y); }
  __device__ __forceinline__ T first(int64_t i) const { return first_state ? widen(first_state[i]) : T(0); }

  // What the gradient dh of h is multiplied by, all from what forward left.
  struct Before {
    T dh;  // from outside
    T gate[4];
    T carry, through, kept;
  };
  __device__ __forceinline__ Before before(int64_t row, int64_t unit) const {
    Before b{};
    const int64_t i = row * hidden + unit;
    if (grad_y) b.dh += widen(grad_y[row * y_stride + unit]);
    if (grad_last && row >= ends_from) b.dh += widen(grad_last[i]);
    if (kind == FASTDL_RNN_LSTM) {
      const T* const g = gates + row * 4 * hidden + unit;
      const T input = g[0], forget = g[hidden], cell = g[2 * hidden], output = g[3 * hidden];
      const T tanh_c = accurate_tanh(state[i]), c = row < before_rows ? state_before[i] : first(i);
      b.carry = carry[i], b.through = output * tanh_slope(tanh_c), b.kept = forget;
      b.gate[0] = cell * sigmoid_slope(input);
      b.gate[1] = c * sigmoid_slope(forget);
      b.gate[2] = input * tanh_slope(cell);
      b.gate[3] = tanh_c * sigmoid_slope(output);
    } else if (kind == FASTDL_RNN_GRU) {
      const T* const g = gates + row * 3 * hidden + unit;
      const T reset = g[0], update = g[hidden], fresh = g[2 * hidden];
      const T last = row < before_rows ? widen(h[row * y_stride + unit]) : first(i);
      b.carry = carry[i], b.through = reset, b.kept = update;
      b.gate[0] = state[i] * sigmoid_slope(reset);
      b.gate[1] = (last - fresh) * sigmoid_slope(update);
      b.gate[2] = (T(1) - update) * tanh_slope(fresh);
    } else {
      b.kept = widen(h[row * y_stride + unit]);
    }
    return b;
  }

  __device__ __forceinline__ void operator()(int64_t row, int64_t unit, const T (&sums)[kSlots],
                                             const Before& b) const {
    T dh = sums[0] + b.dh;
    S* const dx = grad_x + row * grad_stride + unit;
    if (kind == FASTDL_RNN_LSTM) {
      const T dc = fma(dh, b.through, b.carry);
      carry[row * hidden + unit] = dc * b.kept;
#pragma unroll
      for (int i = 0; i < 3; ++i) publish(dx + i * hidden, narrow<S>(dc * b.gate[i]));
      publish(dx + 3 * hidden, narrow<S>(dh * b.gate[3]));
    } else if (kind == FASTDL_RNN_GRU) {
      dh += b.carry;
      carry[row * hidden + unit] = dh * b.kept;
      const T d_fresh = dh * b.gate[2];
      S* const dr = grad_h + row * grad_stride + unit;
      const S d_reset = narrow<S>(d_fresh * b.gate[0]), d_update = narrow<S>(dh * b.gate[1]);
      publish(dr, d_reset);
      publish(dr + hidden, d_update);
      publish(dr + 2 * hidden, narrow<S>(d_fresh * b.through));
      dx[0] = d_reset, dx[hidden] = d_update, dx[2 * hidden] = narrow<S>(d_fresh);
    } else {
      // relu as torch: the gradient passes where the output is not <= 0, so also where it is NaN.
      publish(dx, narrow<S>(kind == FASTDL_RNN_TANH ? dh * tanh_slope(b.kept) : b.kept <= T(0) ? T(0) : dh));
    }
  }
};

}  // namespace fastdl::cuda
