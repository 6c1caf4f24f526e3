// Which product and which cell a step of a layer has: on the host for a kernel of one step, on the device for
// a kernel of all of them.
#pragma once

#include "cuda/rnn.h"
#include "cuda/rnn_cells.cuh"
#include "cuda/rnn_step.cuh"

namespace fastdl::cuda {

template <class S>
struct ForwardDirection {
  using T = compute_t<S>;
  StepProduct<S> hh;        // without rows of a
  T *gates, *saved, *cell;  // W x + b; NULL or where c (W_hn h + b_hn) is kept; c, or h in full precision
  S *saved_unprojected, *unprojected;  // with a projection
  S* states;                           // [N, state_stride]: the state that each row's step begins with
  const S* first;                      // h0 [B, state], or NULL
  S *h_n, *c_n;
  const S* bias;
};

template <class S, class CellOf>
struct ForwardSteps {
  using Cell = CellOf;
  int32_t kind;
  int16_t projection, has_first;        // has_first: there is h0
  int64_t hidden, state, count, width;  // count: gates * hidden
  int64_t state_stride, unprojected_stride;
  S* y;
  ForwardDirection<S> direction[2];

  // Step `step` in the order of direction d.
  __host__ __device__ void prepare(const RnnPlaces& places, int64_t step, int64_t d, StepProduct<S>& p,
                                   Cell& cell) const {
    const ForwardDirection<S>& dir = direction[d];
    const int64_t t = d == 0 ? step : places.steps - 1 - step, row = places.row(t);
    const int64_t before = places.batch_at(d == 0 ? t - 1 : t + 1);
    p = dir.hh;
    p.rows = places.batch_at(t);
    p.a = dir.states + row * state_stride, p.a_stride = state_stride;
    p.a_rows = has_first || before > p.rows ? p.rows : before;
    StepOutput<S> out = output(places, step, d);
    if (projection) {
      out.y = dir.saved_unprojected ? dir.saved_unprojected + row * hidden : nullptr, out.y_stride = hidden;
      out.next = dir.unprojected, out.next_stride = unprojected_stride, out.next_rows = p.rows;
      out.last = nullptr;
    }
    if constexpr (std::is_same_v<Cell, GatesCell<S>>) {
      cell.lstm = kind == FASTDL_RNN_LSTM, cell.save = dir.saved != nullptr;
      cell.hidden = hidden;
      cell.gates = dir.gates + row * count, cell.bias_hh = dir.bias;
      cell.state = dir.cell, cell.saved_state = dir.saved ? dir.saved + row * hidden : nullptr;
      cell.last_state = dir.c_n;
      cell.h = out;
    } else {
      cell = Cell{};
      cell.activation = kind == FASTDL_RNN_TANH ? FASTDL_ACT_TANH : FASTDL_ACT_RELU;
      cell.wide = dir.gates + row * count, cell.wide_stride = count;
      cell.bias = dir.bias;
      cell.out = out;
    }
  }

  // Where the state of the step goes.
  __host__ __device__ StepOutput<S> output(const RnnPlaces& places, int64_t step, int64_t d) const {
    const ForwardDirection<S>& dir = direction[d];
    const int64_t t = d == 0 ? step : places.steps - 1 - step, after = d == 0 ? t + 1 : t - 1;
    StepOutput<S> out{};
    out.y = y + places.row(t) * width + d * state, out.y_stride = width;
    out.last = dir.h_n, out.last_stride = state;
    out.next_rows = out.ends_from = places.batch_at(after);
    if (out.next_rows > 0) out.next = dir.states + places.row(after) * state_stride;
    out.next_stride = state_stride;
    return out;
  }
  // The same place of a later step is on its way from memory before it is written and read.
  __device__ __forceinline__ void prefetch(const RnnPlaces& places, int64_t step, int64_t d, int64_t sequence,
                                           int64_t unit) const {
    if (step >= places.steps) return;
    const StepOutput<S> out = output(places, step, d);
    if (sequence < out.next_rows) ptx::prefetch_l2(out.next + sequence * state_stride + unit);
  }
};

template <class S>
struct BackwardDirection {
  using T = compute_t<S>;
  StepProduct<S> hh;  // without rows of a
  const T *gates, *state;
  const S *grad_h_n, *first_state;  // first_state: LSTM c0, GRU h0
  S *gates_x, *gates_h;             // [N, gates_stride]: gradients of the gates' input and recurrent parts
  T* carry;
};

template <class S>
struct BackwardSteps {
  using Cell = BackwardCell<S>;
  int32_t kind, projection;
  int64_t hidden, state, count, width, gates_stride;
  const S *y, *grad_y;
  BackwardDirection<S> direction[2];

  __host__ __device__ int64_t time(const RnnPlaces& places, int64_t step, int64_t d) const {
    return d == 0 ? places.steps - 1 - step : step;
  }
  __host__ __device__ void prepare(const RnnPlaces& places, int64_t step, int64_t d, StepProduct<S>& p,
                                   Cell& cell) const {
    const BackwardDirection<S>& dir = direction[d];
    const int64_t t = time(places, step, d), t_after = d == 0 ? t + 1 : t - 1,
                  t_before = d == 0 ? t - 1 : t + 1;
    const int64_t row = places.row(t), after = places.batch_at(t_after), before = places.batch_at(t_before);
    p = dir.hh;
    p.rows = places.batch_at(t);
    p.a_rows = after < p.rows ? after : p.rows;
    p.a = dir.gates_h + (after > 0 ? places.row(t_after) : 0) * gates_stride, p.a_stride = gates_stride;
    cell = Cell{};
    cell.kind = kind, cell.hidden = hidden;
    cell.y_stride = width;
    if (!projection) {
      cell.grad_y = grad_y ? grad_y + row * width + d * state : nullptr;
      cell.grad_last = dir.grad_h_n, cell.ends_from = after;
    }
    cell.carry = dir.carry;
    cell.gates = dir.gates + row * count;
    cell.before_rows = before;
    const int64_t row_before = before > 0 ? places.row(t_before) : 0;
    cell.state = dir.state + row * hidden, cell.state_before = dir.state + row_before * hidden;
    cell.first_state = dir.first_state;
    cell.h = y + (kind == FASTDL_RNN_GRU ? row_before : row) * width + d * state;
    cell.grad_x = dir.gates_x + row * gates_stride, cell.grad_h = dir.gates_h + row * gates_stride;
    cell.grad_stride = gates_stride;
  }
  __device__ __forceinline__ void prefetch(const RnnPlaces& places, int64_t step, int64_t d, int64_t sequence,
                                           int64_t unit) const {
    const int64_t t = time(places, step, d);
    if (sequence >= places.batch_at(t)) return;
    const S* const to = direction[d].gates_h + (places.row(t) + sequence) * gates_stride + unit;
    for (int64_t gate = 0; gate < count; gate += hidden) ptx::prefetch_l2(to + gate);
  }
};

}  // namespace fastdl::cuda
