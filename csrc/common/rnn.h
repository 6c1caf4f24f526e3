// Checked arguments of the rnn family, the order of rows and what backward is left, the same on every
// backend.
#pragma once

#include <string>
#include <type_traits>
#include <vector>

#include "common/view.h"
#include "fastdl/rnn.h"

namespace fastdl {

struct RnnShape {
  int kind = FASTDL_RNN_TANH;
  int64_t layers = 1, directions = 1, gates = 1;
  int64_t input = 0, hidden = 0, state = 0;  // state: length of h, the projection's where there is one
  bool bias = true, projection = false;
  double dropout = 0;
  uint64_t seed = 0, offset = 0;

  bool lstm() const { return kind == FASTDL_RNN_LSTM; }
  bool gru() const { return kind == FASTDL_RNN_GRU; }
  int64_t width() const { return directions * state; }  // of a row of y
  int64_t params_per_direction() const { return 2 + (bias ? 2 : 0) + (projection ? 1 : 0); }
  int64_t input_of(int64_t layer) const { return layer == 0 ? input : width(); }
};

// Sequences in the order of falling length. The rows of step t are [offset[t], offset[t] + batch[t]), one for
// each of the first batch[t] sequences, so that no step computes what no sequence needs and nothing reads
// padding.
struct RnnRows {
  int64_t steps = 0, sequences = 0, rows = 0;
  bool full = true;  // every sequence has every step, in the order given: rows lie as in [T, B, ...]
  std::vector<int64_t> batch, offset;
  std::vector<int64_t> order;   // order[i]: the caller's index of sequence i; empty: i itself
  std::vector<int64_t> length;  // in this order

  int64_t at(int64_t i) const { return order.empty() ? i : order[static_cast<size_t>(i)]; }
  int64_t batch_at(int64_t t) const { return t < 0 || t >= steps ? 0 : batch[static_cast<size_t>(t)]; }
  int64_t offset_at(int64_t t) const { return offset[static_cast<size_t>(t)]; }
  int64_t row(int64_t t, int64_t sequence) const { return offset_at(t) + sequence; }

  struct Span {
    int64_t row, count;
  };
  // The rows of steps [begin, end), not empty.
  Span span(int64_t begin, int64_t end) const {
    return {offset_at(begin), offset_at(end - 1) + batch_at(end - 1) - offset_at(begin)};
  }
};

// Consecutive sequences [begin, end) of one step whose neighbours in time (the step before, the step after,
// as the direction runs) either all exist or all do not.
struct RnnRun {
  int64_t begin, end;
  bool has_before, has_after;
};

// Calls body(RnnRun) for the runs of step t within sequences [begin, end); backwards: the direction runs from
// the last step to the first.
template <class Body>
void each_run(const RnnRows& rows, int64_t t, bool backwards, int64_t begin, int64_t end, Body&& body) {
  const int64_t before = rows.batch_at(backwards ? t + 1 : t - 1);
  const int64_t after = rows.batch_at(backwards ? t - 1 : t + 1);
  if (end > rows.batch_at(t)) end = rows.batch_at(t);
  while (begin < end) {
    int64_t stop = end;
    if (begin < before && before < stop) stop = before;
    if (begin < after && after < stop) stop = after;
    body(RnnRun{begin, stop, begin < before, begin < after});
    begin = stop;
  }
}

// Offsets into the reserve, in elements. Per layer and direction: activated gates [rows, G*H]; the cell state
// (LSTM) or the recurrent part of the new gate (GRU) [rows, H]; with a projection, what it projects [rows,
// H]. Per layer but the last: its y [rows, D*P] and, with dropout, y after it. Elements are
// compute_t<S>; what is stored as S itself (projected states, y) takes as many.
struct RnnReserve {
  RnnReserve(const RnnShape& shape, int64_t rows);
  int64_t gates(int64_t layer, int64_t d) const { return layer * layer_size_ + d * direction_size_; }
  int64_t state(int64_t layer, int64_t d) const { return gates(layer, d) + gates_size_; }
  int64_t unprojected(int64_t layer, int64_t d) const { return state(layer, d) + state_size_; }
  int64_t y(int64_t layer) const { return layer * layer_size_ + directions_ * direction_size_; }
  int64_t dropped(int64_t layer) const { return y(layer) + y_size_; }
  int64_t size() const { return size_; }

 private:
  int64_t directions_, gates_size_, state_size_, direction_size_, y_size_, layer_size_, size_;
};

// The part of a reserve that holds numbers as they are stored.
template <class S, class A>
auto rnn_stored(A* part) {
  using To = std::conditional_t<std::is_const_v<A>, const S, S>;
  return reinterpret_cast<To*>(part);
}

// S is the type elements are stored in; what lives from step to step inside a call is compute_t<S>.

// The weights of one direction of one layer, C-contiguous; biases NULL where there are none.
template <class S>
struct RnnWeights {
  S *ih = nullptr, *hh = nullptr, *bias_ih = nullptr, *bias_hh = nullptr, *hr = nullptr;
};

// What the entry points hand to the algorithms, all C-contiguous and in the order of RnnRows. y is [rows,
// D*P]; states are [L*D, B, P] and [L*D, B, H].
template <class S>
struct RnnForward {
  RnnShape shape;
  RnnRows rows;
  std::vector<RnnWeights<S>> weights;  // [layer * directions + direction]
  const S *x, *h0, *c0;                // h0, c0: NULL for zeros
  S *y, *h_n, *c_n;                    // h_n, c_n: NULL if not wanted
  compute_t<S>* reserve;               // NULL if not wanted
};

template <class S>
struct RnnBackward {
  RnnShape shape;
  RnnRows rows;
  std::vector<RnnWeights<S>> weights, grads;  // grads: NULL where not wanted
  const S *x, *h0, *c0, *y;
  const compute_t<S>* reserve;
  const S *grad_y, *grad_h_n, *grad_c_n;  // NULL for zeros
  S *grad_x, *grad_h0, *grad_c0;          // NULL if not wanted
};

// Calls f(memory, elements) for every gradient of a parameter that is wanted.
template <class S, class F>
void rnn_for_weight_gradients(const RnnBackward<S>& p, F&& f) {
  const RnnShape& s = p.shape;
  const int64_t rows = s.gates * s.hidden;
  const auto wanted = [&](S* g, int64_t n) {
    if (g) f(g, n);
  };
  for (size_t i = 0; i < p.grads.size(); ++i) {
    const RnnWeights<S>& g = p.grads[i];
    wanted(g.ih, rows * s.input_of(static_cast<int64_t>(i) / s.directions));
    wanted(g.hh, rows * s.state);
    wanted(g.bias_ih, rows);
    wanted(g.bias_hh, rows);
    wanted(g.hr, s.state * s.hidden);
  }
}

// Groups parameters (or their gradients) by direction; data(i) is parameter i's contiguous memory or NULL.
template <class S, class Data>
std::vector<RnnWeights<S>> rnn_group(const RnnShape& s, Data&& data) {
  std::vector<RnnWeights<S>> groups;
  for (int64_t d = 0, i = 0; d < s.layers * s.directions; ++d) {
    RnnWeights<S> w;
    w.ih = data(i++);
    w.hh = data(i++);
    if (s.bias) {
      w.bias_ih = data(i++);
      w.bias_hh = data(i++);
    }
    if (s.projection) w.hr = data(i++);
    groups.push_back(w);
  }
  return groups;
}

// How many random numbers the dropout of one layer's outputs takes.
inline int64_t rnn_dropout_numbers(const RnnShape& shape, int64_t rows) { return rows * shape.width(); }

namespace check {

// The operands forward and backward share.
struct RnnProblem {
  const char* op;
  RnnShape shape;
  RnnRows rows;
  View x, y, reserve, h0, c0;  // ndim 0: not given
  std::vector<View> params;

  // Optional states (L * D, B, columns), and optional sequences (T, B, columns) or packed (rows, columns).
  View states(const fastdl_tensor* t, int64_t columns, const char* name) const;
  View sequences(const fastdl_tensor* t, int64_t columns, const char* name) const;
};

struct RnnForward : RnnProblem {
  View h_n, c_n;
};
RnnForward rnn_forward(const fastdl_tensor* x, const fastdl_tensor* h0, const fastdl_tensor* c0,
                       const fastdl_tensor* const* params, int32_t num_params, const fastdl_tensor* lengths,
                       const fastdl_tensor* y, const fastdl_tensor* h_n, const fastdl_tensor* c_n,
                       const fastdl_tensor* reserve, const fastdl_rnn_options* options);

struct RnnBackward : RnnProblem {
  View grad_y, grad_h_n, grad_c_n, grad_x, grad_h0, grad_c0;
  std::vector<View> grad_params;
};
RnnBackward rnn_backward(const fastdl_tensor* grad_y, const fastdl_tensor* grad_h_n,
                         const fastdl_tensor* grad_c_n, const fastdl_tensor* x, const fastdl_tensor* h0,
                         const fastdl_tensor* c0, const fastdl_tensor* const* params, int32_t num_params,
                         const fastdl_tensor* lengths, const fastdl_tensor* y, const fastdl_tensor* reserve,
                         const fastdl_tensor* grad_x, const fastdl_tensor* grad_h0,
                         const fastdl_tensor* grad_c0, const fastdl_tensor* const* grad_params,
                         const fastdl_rnn_options* options);

// What fastdl_rnn_reserve_size and fastdl_rnn_dropout_size answer.
int64_t rnn_reserve_size(const fastdl_rnn_options* options, int64_t rows, int64_t hidden_size,
                         int64_t state_size, const int64_t* elements);
int64_t rnn_dropout_size(const fastdl_rnn_options* options, int64_t rows, int64_t state_size,
                         const int64_t* numbers);

}  // namespace check
}  // namespace fastdl
