// How a forward pass goes about the inputs of the gates, by shape alone.
#pragma once

#include <algorithm>

#include "cpu/rnn_layout.h"
#include "cpu/rnn_product.h"

namespace fastdl::cpu {

template <class S>
struct RnnForwardPlan {
  explicit RnnForwardPlan(const RnnForward<S>& p)
      : padded_hidden((p.shape.hidden + RnnMatrix<S>::nr() - 1) / RnnMatrix<S>::nr() * RnnMatrix<S>::nr()),
        one_step(p.rows.steps == 1 && !p.shape.projection),
        ahead(p.rows.rows <= kUnpackedRows),
        once(!ahead && p.rows.rows <= kOnceRows &&
             p.shape.gates * padded_hidden * p.shape.state * static_cast<int64_t>(sizeof(S)) >= kOnceWeights),
        block(block_steps(p.rows)),
        block_rows(block * p.rows.sequences) {}

  const int64_t padded_hidden;      // to whole panels
  const bool one_step;              // no recurrent weights are packed
  const bool ahead;                 // the inputs of all gates at once, W_ih as it lies
  const bool once;                  // all steps in one block, each panel of W_ih packed where it is used
  const int64_t block, block_rows;  // steps of a block; most rows of it

 private:
  // x W_ih^T is computed for blocks of steps of about so many rows: enough that the weights, read once a
  // block, cost little, and so few that the result is still in the L2 cache when its step comes.
  static constexpr int64_t kBlockRows = 128;
  // Up to so many rows of large weights, all are one block: each panel of W_ih is then packed where it is
  // used, and the packed weights, each used once, need not go through memory.
  static constexpr int64_t kOnceRows = 512, kOnceWeights = 2 << 20;
  // Up to so many rows in all, packing W_ih would cost more than it saves.
  static constexpr int64_t kUnpackedRows = 32;

  int64_t block_steps(const RnnRows& rows) const {
    if (ahead || once) return std::max<int64_t>(rows.steps, 1);
    return std::max<int64_t>(1, std::min(rows.steps, kBlockRows / rows.sequences));
  }
};

// Where the inputs of the gates lie: element (group, gate, row, unit).
template <class A>
struct RnnGateInputs {
  A* data;
  int64_t group, gate, row;  // strides
  A* at(int64_t u, int64_t r) const { return data + u * group + r * row; }
};

}  // namespace fastdl::cpu
