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

// The gates' functions; the kernels that wait for them step after step have faster ones.
struct GateFunctions {
  template <class T>
  static __device__ __forceinline__ T sigmoid(T x) {
    return cuda::sigmoid(x);
  }
  template <class T>
  static __device__ __forceinline__ T tanh(T x) {
    return accurate_tanh(x);
  }
};

// What GRU and LSTM make of a step.
template <class T>
struct GateValues {
  T gate[4];  // activated
  T state;    // c (LSTM), h (GRU)
  T saved;    // c (LSTM), W_hn h + b_hn (GRU)
  T h;
};
// x: the gates' inputs, last of a GRU the recurrent bias of the new gate; state: of the step before.
template <class F, class T>
__device__ __forceinline__ GateValues<T> gate_values(bool lstm, const T (&sums)[4], const T (&x)[4],
                                                     T state) {
  GateValues<T> v;
  v.gate[0] = F::sigmoid(sums[0] + x[0]), v.gate[1] = F::sigmoid(sums[1] + x[1]);
  if (lstm) {
    v.gate[2] = F::tanh(sums[2] + x[2]), v.gate[3] = F::sigmoid(sums[3] + x[3]);
    v.state = v.saved = fma(v.gate[1], state, v.gate[0] * v.gate[2]);
    v.h = v.gate[3] * F::tanh(v.state);
  } else {
    v.saved = sums[2] + x[3];
    v.gate[2] = F::tanh(fma(v.gate[0], v.saved, x[2])), v.gate[3] = T(0);
    v.state = v.h = fma(v.gate[1], state - v.gate[2], v.gate[2]);
  }
  return v;
}

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
    const GateValues<T> v = gate_values<GateFunctions>(lstm, sums, b.x, b.state);
    state[i] = v.state;
    if (save) {
      g[0] = v.gate[0], g[hidden] = v.gate[1], g[2 * hidden] = v.gate[2];
      if (lstm) g[3 * hidden] = v.gate[3];
      saved_state[i] = v.saved;
    }
    if (lstm && last_state && row >= h.ends_from) last_state[i] = narrow<S>(v.state);
    h.store(row, unit, v.h);
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

// What the gradient dh of h is multiplied by, all from what forward left.
template <class T>
struct BackwardTerms {
  T gate[4];
  T through, kept;
};
template <class T>
__device__ __forceinline__ T tanh_slope(T y) {
  return fma(-y, y, T(1));
}
template <class T>
__device__ __forceinline__ T sigmoid_slope(T y) {
  return y * (T(1) - y);
}
// gates: activated; c: of this step; before: c of the step before.
template <class F, class T>
__device__ __forceinline__ BackwardTerms<T> lstm_terms(const T (&gates)[4], T c, T before) {
  const T tanh_c = F::tanh(c);
  return {{gates[2] * sigmoid_slope(gates[0]), before * sigmoid_slope(gates[1]),
           gates[0] * tanh_slope(gates[2]), tanh_c * sigmoid_slope(gates[3])},
          gates[3] * tanh_slope(tanh_c),
          gates[1]};
}
// part: W_hn h + b_hn; before: h of the step before.
template <class T>
__device__ __forceinline__ BackwardTerms<T> gru_terms(const T (&gates)[4], T part, T before) {
  return {{part * sigmoid_slope(gates[0]), (before - gates[2]) * sigmoid_slope(gates[1]),
           (T(1) - gates[1]) * tanh_slope(gates[2]), T(0)},
          gates[0],
          gates[1]};
}

// Gradients of the gates' input parts, and of the new gate's recurrent part (GRU).
template <class T>
struct GateGradients {
  T gate[4], recurrent;
};
// carry: what reached this step elementwise, then what reaches the step before (LSTM: gradient of c; GRU: z
// grad_h).
template <class T>
__device__ __forceinline__ GateGradients<T> gate_gradients(bool lstm, const BackwardTerms<T>& b, T dh,
                                                           T& carry) {
  GateGradients<T> d;
  if (lstm) {
    const T dc = fma(dh, b.through, carry);
    carry = dc * b.kept;
#pragma unroll
    for (int i = 0; i < 3; ++i) d.gate[i] = dc * b.gate[i];
    d.gate[3] = dh * b.gate[3], d.recurrent = T(0);
  } else {
    dh += carry;
    carry = dh * b.kept;
    d.gate[2] = dh * b.gate[2];
    d.gate[0] = d.gate[2] * b.gate[0], d.gate[1] = dh * b.gate[1], d.gate[3] = T(0);
    d.recurrent = d.gate[2] * b.through;
  }
  return d;
}
// Of an RNN, whose output is y. relu as torch: the gradient passes where the output is not <= 0, so also
// where it is NaN.
template <class T>
__device__ __forceinline__ T plain_gradient(int kind, T y, T dh) {
  return kind == FASTDL_RNN_TANH ? dh * tanh_slope(y) : y <= T(0) ? T(0) : dh;
}

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
  T* carry;                // [rows, H]
  const T *gates, *state;  // as forward left them
  int64_t before_rows;     // sequences from here on have no step before this one
  const T* state_before;   // LSTM: [before, H]
  const S* first_state;    // LSTM: c0, GRU: h0, [rows, H]; or NULL for zeros
  const S* h;              // RNN: this step's; GRU: that of the step before; rows y_stride apart
  S* grad_x;               // [rows, G * H]: gradients of the gates' input parts
  S* grad_h;               // and recurrent parts, the same memory but for GRU
  int64_t grad_stride;

  __device__ __forceinline__ T first(int64_t i) const { return first_state ? widen(first_state[i]) : T(0); }

  struct Before {
    T dh, carry;             // from outside
    BackwardTerms<T> terms;  // of an RNN only its output, `kept`
  };
  __device__ __forceinline__ Before before(int64_t row, int64_t unit) const {
    Before b{};
    const int64_t i = row * hidden + unit;
    if (grad_y) b.dh += widen(grad_y[row * y_stride + unit]);
    if (grad_last && row >= ends_from) b.dh += widen(grad_last[i]);
    if (kind == FASTDL_RNN_LSTM) {
      const T* const g = gates + row * 4 * hidden + unit;
      const T gate[4] = {g[0], g[hidden], g[2 * hidden], g[3 * hidden]};
      b.carry = carry[i];
      b.terms = lstm_terms<GateFunctions>(gate, state[i], row < before_rows ? state_before[i] : first(i));
    } else if (kind == FASTDL_RNN_GRU) {
      const T* const g = gates + row * 3 * hidden + unit;
      const T gate[4] = {g[0], g[hidden], g[2 * hidden], T(0)};
      b.carry = carry[i];
      b.terms = gru_terms(gate, state[i], row < before_rows ? widen(h[row * y_stride + unit]) : first(i));
    } else {
      b.terms.kept = widen(h[row * y_stride + unit]);
    }
    return b;
  }

  __device__ __forceinline__ void operator()(int64_t row, int64_t unit, const T (&sums)[kSlots],
                                             const Before& b) const {
    const T dh = sums[0] + b.dh;
    S* const dx = grad_x + row * grad_stride + unit;
    if (kind != FASTDL_RNN_LSTM && kind != FASTDL_RNN_GRU) {
      publish(dx, narrow<S>(plain_gradient(kind, b.terms.kept, dh)));
      return;
    }
    const bool lstm = kind == FASTDL_RNN_LSTM;
    T reaches = b.carry;
    const GateGradients<T> d = gate_gradients(lstm, b.terms, dh, reaches);
    carry[row * hidden + unit] = reaches;
    if (lstm) {
#pragma unroll
      for (int i = 0; i < 4; ++i) publish(dx + i * hidden, narrow<S>(d.gate[i]));
    } else {
      S* const dr = grad_h + row * grad_stride + unit;
      const S d_reset = narrow<S>(d.gate[0]), d_update = narrow<S>(d.gate[1]);
      publish(dr, d_reset);
      publish(dr + hidden, d_update);
      publish(dr + 2 * hidden, narrow<S>(d.recurrent));
      dx[0] = d_reset, dx[hidden] = d_update, dx[2 * hidden] = narrow<S>(d.gate[2]);
    }
  }
};

}  // namespace fastdl::cuda
