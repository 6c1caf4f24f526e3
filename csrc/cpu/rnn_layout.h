// What forward and backward share: sizes, the order of rows, where things lie in the reserve.
#pragma once

#include <memory>
#include <type_traits>
#include <vector>

#include "common/narrow.h"
#include "cpu/tensor.h"
#include "fastdl/rnn.h"

namespace fastdl::cpu {

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

// The distance of rows of n numbers that are read along columns, too: an odd number of cache lines, or every
// other row would fall into the same few sets of the caches (2 to 5% of a backward pass).
template <class S>
constexpr int64_t rnn_skewed(int64_t n) {
  constexpr int64_t kLine = 64 / sizeof(S);
  return ((n + kLine - 1) / kLine | 1) * kLine;
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

template <class S>
void rnn_forward(Context* context, const RnnForward<S>& p);
template <class S>
void rnn_backward(Context* context, const RnnBackward<S>& p);

// y = x after dropout of the outputs of `layer` ([rows, width] contiguous; y may be x); the same call on
// gradients is its backward.
int64_t rnn_dropout_numbers(const RnnShape& shape, int64_t rows);
template <class S>
void rnn_dropout(Context* context, const RnnShape& shape, int64_t rows, int64_t layer, const S* x, S* y);

// n elements to the type they are computed with, and back.
template <class S>
void rnn_widen(const S* x, compute_t<S>* y, int64_t n);
template <class S>
void rnn_narrow(const compute_t<S>* x, S* y, int64_t n);

// How the steps of a layer are shared out. Bits do not depend on it: every element is one chain of
// operations.
//  by rows:  each task takes some sequences through all steps; nobody waits for anybody, but each reads all
//  weights. by units: each task computes some hidden units of all sequences, with a barrier after every step:
//  for few
//            sequences, or weights too large for one core's cache.
struct RnnSplit {
  bool by_rows;
  int64_t chunk, chunks;  // sequences per task; tasks per direction
};
RnnSplit rnn_split(const Context* context, int64_t sequences, int64_t directions, int64_t groups,
                   int64_t weight_bytes);

}  // namespace fastdl::cpu
