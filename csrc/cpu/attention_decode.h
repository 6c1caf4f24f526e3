// Attention of few queries, forward and backward: what both need to know about rows and parts of keys.
#pragma once

#include "cpu/attention.h"

namespace fastdl::cpu {

// Keys of a block: its values are still in the L1 or L2 cache for every further row.
constexpr int64_t kDecodeKeys = 128;

// The keys that a group's queries see, cut into parts so that a problem of few groups has 16 tasks, as long
// as a part has 512 keys: by shape alone.
struct DecodeParts {
  explicit DecodeParts(const AttentionProblem& p)
      : end(p.key_end(p.queries)), blocks_(most(ceil_div(end, kDecodeKeys)), blocks_of_part(p, end)) {}
  int64_t parts() const { return blocks_.parts; }
  int64_t begin(int64_t part) const { return std::min(end, blocks_.begin(part) * kDecodeKeys); }
  // The time a part takes, in units of parallel_for: a key costs its transfer from memory, some 8 operations'
  // time per vector of 16 elements.
  double cost(const AttentionProblem& p) const {
    return static_cast<double>(end) * static_cast<double>(p.e + p.ev) / 2 / static_cast<double>(parts());
  }

  const int64_t end;

 private:
  static int64_t most(int64_t n) { return std::max<int64_t>(1, n); }
  static int64_t blocks_of_part(const AttentionProblem& p, int64_t end) {
    constexpr int64_t kEnoughTasks = 16, kFewestKeys = 512;
    const int64_t parts = most(std::min(ceil_div(kEnoughTasks, p.batch * p.groups), end / kFewestKeys));
    return ceil_div(most(ceil_div(end, kDecodeKeys)), parts);
  }
  const EvenParts blocks_;
};

// The heads of a group, their queries one after the other, as rows.
struct DecodeRows {
  const AttentionProblem& p;
  int64_t b, group;

  int64_t count() const { return p.group_size() * p.queries; }
  int64_t head(int64_t r) const { return group * p.group_size() + r / p.queries; }
  // Row r of a tensor (B, H, L, ...).
  template <class S>
  S* of(const View& x, int64_t r) const {
    return row_of<S>(x, b, head(r), r % p.queries);
  }
  // Where a number per row (B, H, L) lies.
  int64_t index(int64_t r) const { return (b * p.heads + head(r)) * p.queries + r % p.queries; }
  // to[r] = factor * row r of x, `e` numbers each.
  template <class S, class T>
  void read(const View& x, int64_t e, T factor, T* to) const {
    for (int64_t r = 0; r < count(); ++r) {
      copy_row(of<const S>(x, r), x.strides[3], e, to + r * e);
      for (int64_t c = 0; c < e; ++c) to[r * e + c] *= factor;
    }
  }
};

// scores[r * kDecodeKeys + j] = sum of q[r * e + i] * k[j * k_row + i].
template <class S, class T>
void decode_scores(const DecodeTable<S, T>& table, int64_t rows, int64_t e, const T* q, int64_t cols,
                   const S* k, int64_t k_row, T* scores) {
  constexpr int64_t kStep = DecodeTable<S, T>::kMaxRows;
  for (int64_t r = 0; r < rows; r += kStep) {
    table.scores(static_cast<int>(std::min(kStep, rows - r)), e, q + r * e, cols, k, k_row,
                 scores + r * kDecodeKeys, kDecodeKeys);
  }
}

// o[r * ev + i] += sum of weights[r * kDecodeKeys + j] * v[j * v_row + i].
template <class S, class T>
void decode_weighted(const DecodeTable<S, T>& table, int64_t rows, int64_t ev, const T* weights, int64_t cols,
                     const S* v, int64_t v_row, T* o) {
  constexpr int64_t kStep = DecodeTable<S, T>::kMaxRows;
  for (int64_t r = 0; r < rows; r += kStep) {
    table.weighted(static_cast<int>(std::min(kStep, rows - r)), ev, weights + r * kDecodeKeys, kDecodeKeys,
                   cols, v, v_row, o + r * ev);
  }
}

// lse2: the log-sum-exps to base 2; delta: rowsum(dout * out).
template <class S>
void attention_decode_backward(Context* context, const AttentionProblem& p, const AttentionGradients& g,
                               const compute_t<S>* lse2, const compute_t<S>* delta);

}  // namespace fastdl::cpu
