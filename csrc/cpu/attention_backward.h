// What the two kinds of backward block share: float32 and float64 (attention_backward.cpp) and bfloat16 with
// its own products (attention_backward_bf16.cpp).
#pragma once

#include <cstring>

#include "cpu/attention.h"
#include "cpu/attention_tiles.h"

namespace fastdl::cpu {

// A block's probabilities and their gradients (2 x 128 x 128 floats) stay in the L2 cache with the five
// operands of its keys and the three of its queries, up to 128 features; beyond, half as many keys do.
constexpr int64_t kBackwardQueries = 128, kBackwardKeys = 128, kBackwardKeysWide = 64, kWideFeatures = 192;

inline int64_t keys_per_block(const AttentionProblem& p) {
  return std::max(p.e, p.ev) > kWideFeatures ? kBackwardKeysWide : kBackwardKeys;
}

template <class S>
void zero_rows(const View& x, int64_t b, int64_t h, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i)
    std::memset(row_of<S>(x, b, h, i), 0, static_cast<size_t>(x.shape[3]) * sizeof(S));
}

enum Sides { kQuerySide = 1, kKeySide = 2 };

// Sums of the gradients, without their scale, of the queries [first, first + count) of the heads from `head`
// on; data NULL: none.
template <class T>
struct QuerySums {
  T* data;
  int64_t e, head, first, count;
  T* row(int64_t h, int64_t i) const { return data + ((h - head) * count + i - first) * e; }
};

// The keys [j, j + cols) of one group, and what queries contribute to all three gradients, with bfloat16
// operands:
//   set_keys() - add_queries() of every head - finish(), for every block of keys.
class Bf16BackwardBlock {
 public:
  Bf16BackwardBlock(Context* context, const AttentionProblem& p, const AttentionGradients& g,
                    const float* lse2, const float* delta);
  void set_keys(int64_t b, int64_t group, int64_t j, int64_t cols);
  void add_queries(int64_t h, int64_t begin, int64_t end, int sides, const QuerySums<float>& sums);
  void finish();  // writes the gradients of these keys and values

 private:
  struct Layout {
    int64_t keys_t, values_t, keys, queries_a, douts_a, weights, gradients, gradient_rows, copies, all;
  };
  Layout layout() const;
  EvenParts row_tiles(int64_t rows) const;
  void add_block(int64_t h, int64_t i, int64_t rows, int sides);
  void add_tile(int64_t h, int64_t i, int64_t first, int64_t rows, int64_t seen, int sides);
  void add_to_keys(int64_t e, const bfloat16* left, const bfloat16* right, int64_t rows, const int64_t* first,
                   float* sums) const;
  void pack_left(const View& x, int64_t h, int64_t i, int64_t rows, int64_t e, bfloat16* out) const;
  void write_keys(const View& out, const float* sums, int64_t e, float scale);
  TileRows<bfloat16> rows_of(const View& x, int64_t h, int64_t i, int64_t rows, int64_t e,
                             bfloat16* copy) const;
  int64_t seen_by(int64_t end) const;

  const AttentionProblem& p_;
  const AttentionGradients& g_;
  const float *lse2_, *delta_;
  const AttentionTiles<bfloat16> tiles_;
  const AttentionTable<float>& table_;
  const int64_t block_;
  const ScoreMasks<float> masks_;
  const Layout at_;
  const Workspace packed_, sums_;
  bfloat16* base_;
  float *prob_, *dp_, *kept_, *dk_, *dv_, *rows_;
  QuerySums<float> to_{};
  TilePanels<bfloat16> keys_t_{}, values_t_{}, keys_{};
  int64_t b_ = 0, group_ = 0, j_ = 0, cols_ = 0;
  bool empty_ = true;
};

}  // namespace fastdl::cpu
