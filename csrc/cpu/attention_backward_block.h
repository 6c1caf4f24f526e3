// The backward block of float32 and float64.
#pragma once

#include "cpu/attention_backward.h"

namespace fastdl::cpu {

// Rows of probabilities are read along columns too: a cache line more keeps those off each other's cache
// sets.
constexpr int64_t kSkew = 16;
// The keys [j, j + cols) of one group, with what queries contribute to their gradients.
template <class T>
class BackwardBlock {
 public:
  BackwardBlock(Context* context, const AttentionProblem& p, const AttentionGradients& g, const T* lse2,
                const T* delta)
      : p_(p),
        g_(g),
        lse2_(lse2),
        delta_(delta),
        table_(table_for<T>(*kernels().attention)),
        ld_(keys_per_block(p) + kSkew),
        masks_(context, p, tiles_.mr(), keys_per_block(p)),
        space_(context, static_cast<size_t>(elements()) * sizeof(T)) {
    T* at = space_.template as<T>();
    const int64_t block = keys_per_block(p);
    const auto take = [&](int64_t n) {
      T* r = at;
      at += round_up(n, 16);
      return r;
    };
    kt_space_ = take(block * p.e);
    vt_space_ = take(block * p.ev);
    k_.space = take(block * round_up(p.e, tiles_.nr()));
    dk_ = take(block * p.e);
    dv_ = take(block * p.ev);
    prob_ = take(kBackwardQueries * ld_);
    ds_ = take(kBackwardQueries * ld_);
    kept_ = take(tiles_.mr() * ld_);
    q_.space = take(kBackwardQueries * round_up(p.e, tiles_.nr()));
    dout_.space = take(kBackwardQueries * round_up(p.ev, tiles_.nr()));
  }

  void set_keys(int64_t b, int64_t group, int64_t j, int64_t cols) {
    b_ = b;
    group_ = group;
    j_ = j;
    cols_ = cols;
    empty_ = true;
    const View &k = p_.k, &v = p_.v;
    kt_ = tiles_.pack(row_of<const T>(k, b, group, j), k.strides[3], k.strides[2], p_.e, cols, kt_space_);
    vt_ = tiles_.pack(row_of<const T>(v, b, group, j), v.strides[3], v.strides[2], p_.ev, cols, vt_space_);
    k_.set(tiles_, p_.k, b, group, j, cols);
  }

  // Queries [begin, end) of head h. Without `sums` their gradients are summed where they belong.
  void add_queries(int64_t h, int64_t begin, int64_t end, int sides, const QuerySums<T>& sums) {
    to_ = sums;
    const EvenParts blocks(end - begin, kBackwardQueries);
    for (int64_t n = 0; n < blocks.parts; ++n) add_block(h, begin + blocks.begin(n), blocks.size(n), sides);
  }

  // Writes the gradients of the keys and values.
  void finish() {
    if (empty_) {
      zero_rows<T>(g_.dk, b_, group_, j_, j_ + cols_);
      zero_rows<T>(g_.dv, b_, group_, j_, j_ + cols_);
      return;
    }
    T scale[kBackwardKeys];
    std::fill(scale, scale + cols_, static_cast<T>(p_.scale));
    table_.scale_rows(cols_, p_.e, dk_, p_.e, scale, row_of<T>(g_.dk, b_, group_, j_), g_.dk.strides[2]);
    std::fill(scale, scale + cols_, T(1));
    table_.scale_rows(cols_, p_.ev, dv_, p_.ev, scale, row_of<T>(g_.dv, b_, group_, j_), g_.dv.strides[2]);
  }

 private:
  // Rows of an operand as the right factor of a product: where they lie if they are dense, else in panels.
  struct Rows {
    T* space;
    TilePanels<T> panels;
    void set(const AttentionTiles<T>& tiles, const View& x, int64_t b, int64_t h, int64_t i, int64_t n) {
      const T* data = row_of<const T>(x, b, h, i);
      const bool dense = x.strides[3] == 1 && x.strides[2] == x.shape[3];
      if (dense) panels = {data, x.strides[2], tiles.nr()};
      else panels = tiles.pack(data, x.strides[2], x.strides[3], n, x.shape[3], space);
    }
    TilePanels<T> from(int64_t row) const {
      return {panels.data + row * panels.row, panels.row, panels.panel};
    }
  };

  int64_t elements() const {
    const int64_t block = keys_per_block(p_), nr = tiles_.nr();
    return block * (2 * p_.e + 2 * p_.ev + round_up(p_.e, nr)) + (2 * kBackwardQueries + tiles_.mr()) * ld_ +
           kBackwardQueries * (round_up(p_.e, nr) + round_up(p_.ev, nr)) + 10 * 16;
  }

  void add_block(int64_t h, int64_t i, int64_t rows, int sides) {
    const EvenParts tiles(rows, tiles_.mr());
    if (sides & kKeySide) {
      q_.set(tiles_, p_.q, b_, h, i, rows);
      dout_.set(tiles_, g_.dout, b_, h, i, rows);
    }
    for (int64_t t = 0; t < tiles.parts; ++t) add_tile(h, i, tiles.begin(t), tiles.size(t), sides);
    if (!(sides & kKeySide)) return;
    const EvenParts key_tiles(cols_, tiles_.mr());
    const bool accumulate = !empty_;
    empty_ = false;
    for (int64_t t = 0; t < key_tiles.parts; ++t) {
      const int64_t c = key_tiles.begin(t), count = key_tiles.size(t);
      // Queries of earlier row tiles see none of these keys.
      int64_t first = 0;
      if (p_.causal) {
        int64_t n = 0;
        while (n < tiles.parts && seen_by(i + tiles.begin(n + 1)) <= c) ++n;
        first = tiles.begin(n);
      }
      const int64_t at = first * ld_ + c;
      tiles_.multiply(count, p_.ev, rows - first, {prob_ + at, 1, ld_}, dout_.from(first), dv_ + c * p_.ev,
                      p_.ev, T(1), accumulate);
      tiles_.multiply(count, p_.e, rows - first, {ds_ + at, 1, ld_}, q_.from(first), dk_ + c * p_.e, p_.e,
                      T(1), accumulate);
    }
  }

  // Keys of this block, in whole panels, that queries before `end` see.
  int64_t seen_by(int64_t end) const {
    const int64_t seen = p_.key_end(end) - j_;
    return seen <= 0 ? 0 : std::min(cols_, round_up(seen, tiles_.nr()));
  }

  // Probabilities and their gradients for queries [i + first, i + first + rows), and what they give to dq.
  void add_tile(int64_t h, int64_t i, int64_t first, int64_t rows, int sides) {
    T *prob = prob_ + first * ld_, *ds = ds_ + first * ld_;
    i += first;
    const int64_t seen = seen_by(i + rows), row = (b_ * p_.heads + h) * p_.queries + i;
    for (int64_t r = 0; r < rows && seen < cols_; ++r) {  // keys that later rows of the block see
      std::fill(prob + r * ld_ + seen, prob + r * ld_ + cols_, T(0));
      std::fill(ds + r * ld_ + seen, ds + r * ld_ + cols_, T(0));
    }
    if (seen == 0) return;
    const TileRows<T> q{row_of<const T>(p_.q, b_, h, i), p_.q.strides[2], p_.q.strides[3]};
    const TileRows<T> dout{row_of<const T>(g_.dout, b_, h, i), g_.dout.strides[2], g_.dout.strides[3]};
    tiles_.multiply(rows, seen, p_.e, q, kt_, prob, ld_, T(1), false);
    tiles_.multiply(rows, seen, p_.ev, dout, vt_, ds, ld_, T(1), false);
    ScoreRows<T> weights{prob, rows, seen, ld_, static_cast<T>(p_.scale * kLog2e)};
    masks_.apply(weights, b_, h, i, j_);
    const T* kept = nullptr;
    if (p_.dropout > 0) {
      const ScoreRows<T> factors{kept_, rows, seen, ld_, T(1)};
      for (int64_t r = 0; r < rows; ++r) std::fill_n(kept_ + r * ld_, seen, T(1));
      drop_weights(p_, factors, b_, h, i, j_);
      kept = kept_;
    }
    table_.gradients(weights, lse2_ + row, delta_ + row, kept, ds);
    if (!(sides & kQuerySide)) return;
    if (g_.dmask.data) {
      for (int64_t r = 0; r < rows; ++r) {
        std::memcpy(row_of<T>(g_.dmask, b_, h, i + r) + j_, ds + r * ld_,
                    static_cast<size_t>(seen) * sizeof(T));
      }
    }
    if (to_.data) {
      return tiles_.multiply(rows, p_.e, seen, {ds, ld_, 1}, k_.panels, to_.row(h, i), p_.e, T(1), true);
    }
    tiles_.multiply(rows, p_.e, seen, {ds, ld_, 1}, k_.panels, row_of<T>(g_.dq, b_, h, i), g_.dq.strides[2],
                    static_cast<T>(p_.scale), j_ > 0);
  }

  const AttentionProblem& p_;
  const AttentionGradients& g_;
  const T *lse2_, *delta_;
  const AttentionTiles<T> tiles_;
  const AttentionTable<T>& table_;
  const int64_t ld_;
  const ScoreMasks<T> masks_;
  const Workspace space_;
  TilePanels<T> kt_{}, vt_{};
  T *kt_space_, *vt_space_, *dk_, *dv_, *prob_, *ds_, *kept_;
  Rows k_, q_, dout_;
  QuerySums<T> to_{};
  int64_t b_ = 0, group_ = 0, j_ = 0, cols_ = 0;
  bool empty_ = true;
};

}  // namespace fastdl::cpu
