// What forward and backward share beside common/rnn.h.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "common/narrow.h"
#include "common/rnn.h"
#include "cpu/tensor.h"

namespace fastdl::cpu {

// The distance of rows of n numbers that are read along columns, too: an odd number of cache lines, or every
// other row would fall into the same few sets of the caches (2 to 5% of a backward pass).
template <class S>
constexpr int64_t rnn_skewed(int64_t n) {
  constexpr int64_t kLine = 64 / sizeof(S);
  return ((n + kLine - 1) / kLine | 1) * kLine;
}

template <class S>
void rnn_forward(Context* context, const RnnForward<S>& p);
template <class S>
void rnn_backward(Context* context, const RnnBackward<S>& p);

// y = x after dropout of the outputs of `layer` ([rows, width] contiguous; y may be x); the same call on
// gradients is its backward.
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
// Rows of all steps, as their time counts them: a step of few takes as long as reading the weights, about as
// four rows.
inline int64_t rnn_cost_rows(const RnnRows& rows) { return std::max(rows.rows, 4 * rows.steps); }

RnnSplit rnn_split(const Context* context, int64_t sequences, int64_t directions, int64_t groups,
                   int64_t weight_bytes);

}  // namespace fastdl::cpu
