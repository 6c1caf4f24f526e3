// Gradients of attention: the probabilities of a block are computed again from the saved log-sum-exp, and
// what the block contributes to all three gradients is added before the next (Dao 2023, "FlashAttention-2",
// section 3.1).
#include <cmath>
#include <type_traits>

#include "cpu/attention_backward.h"
#include "cpu/attention_decode.h"
#include "cpu/parallel.h"

namespace fastdl::cpu {
namespace {

// Rows of probabilities are read along columns too: a cache line more keeps those off each other's cache
// sets.
constexpr int64_t kSkew = 16;
// The keys [j, j + cols) of one group, with what queries contribute to their gradients.
template <class T>
class BackwardBlock {
 public:
  BackwardBlock(Context* context, const AttentionProblem& p, const AttentionGradients& g, const T* lse2,
                const T* delta, const QueryRange&)
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

  // Queries [begin, end) of head h.
  void add_queries(int64_t h, int64_t begin, int64_t end, int sides) {
    const EvenParts blocks(end - begin, kBackwardQueries);
    for (int64_t n = 0; n < blocks.parts; ++n) add_block(h, begin + blocks.begin(n), blocks.size(n), sides);
  }

  void finish_queries() {}  // their gradients are summed where they belong

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
  int64_t b_ = 0, group_ = 0, j_ = 0, cols_ = 0;
  bool empty_ = true;
};

// lse2 = lse to base 2, 0 for rows that see nothing (2^-inf is 0 whatever is taken away), and
// delta = rowsum(dout * out), which is rowsum(p * dp) (FlashAttention-2, section 3.1).
template <class S, class T = compute_t<S>>
void row_statistics(Context* context, const AttentionProblem& p, const AttentionGradients& g, const T* lse,
                    T* lse2, T* delta) {
  const auto& table = decode_table_for<S>(*kernels().attention);
  const int64_t rows = p.batch * p.heads * p.queries;
  parallel_ranges(context, rows, 64, static_cast<double>(p.ev) / 8, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t b = row / (p.heads * p.queries), h = row / p.queries % p.heads, i = row % p.queries;
      delta[row] = table.dot(p.ev, row_of<const S>(g.dout, b, h, i), row_of<const S>(p.out, b, h, i));
      const double l = static_cast<double>(lse[row]) * kLog2e;
      lse2[row] = l == -HUGE_VAL ? T(0) : static_cast<T>(l);
    }
  });
}

// One pass (five products a block) where samples and groups are enough to keep all threads busy; else queries
// and keys in two passes (seven products), which split finer. Both add in the same order, so the bits do not
// depend on the choice.
template <class S>
bool one_pass(Context* context, const AttentionProblem& p, int64_t key_blocks) {
  const int64_t pairs = p.batch * p.groups, threads = num_threads(context);
  const bool idle = 5 * round_up(pairs, threads) > 7 * pairs;
  if (idle && key_blocks * p.group_size() * p.queries > 2 * kBackwardQueries) return false;
  // bfloat16 holds float32 sums for all queries of a group while its keys pass: never more than this in all.
  constexpr double kHeldBytes = 48 << 20;
  const double held = 4.0 * static_cast<double>(p.group_size() * p.queries) * static_cast<double>(p.e);
  return !std::is_same_v<S, bfloat16> || held * static_cast<double>(threads) <= kHeldBytes;
}

}  // namespace

template <class S>
void attention_backward(Context* context, const AttentionProblem& p, const AttentionGradients& g,
                        const compute_t<S>* lse) {
  using T = compute_t<S>;
  using Block = std::conditional_t<std::is_same_v<S, bfloat16>, Bf16BackwardBlock, BackwardBlock<T>>;
  const int64_t rows = p.batch * p.heads * p.queries, pairs = p.batch * p.groups;
  if (pairs == 0) return;
  const int64_t gs = p.group_size();
  const Workspace space(context, 2 * static_cast<size_t>(rows) * sizeof(T));
  T *lse2 = space.as<T>(), *delta = lse2 + rows;
  row_statistics<S>(context, p, g, lse, lse2, delta);
  if (g.dmask.data)
    std::memset(g.dmask.data, 0, static_cast<size_t>(g.dmask.nbytes()));  // masked blocks are skipped
  if (p.keys == 0) {
    for (int64_t row = 0; row < p.batch * p.heads; ++row)
      zero_rows<S>(g.dq, row / p.heads, row % p.heads, 0, p.queries);
    return;
  }
  if (attention_is_decode(p)) return attention_decode_backward<S>(context, p, g, lse2, delta);
  const int64_t block = keys_per_block(p), key_blocks = ceil_div(p.keys, block);
  const double pair_cost = static_cast<double>(gs * p.queries) * static_cast<double>(p.keys) *
                           static_cast<double>(p.e + p.ev) * 2.5 / 32;
  const auto add_keys = [&](Block& work, int64_t pair, int64_t n, int sides) {
    const int64_t j = n * block, group = pair % p.groups;
    work.set_keys(pair / p.groups, group, j, std::min(block, p.keys - j));
    for (int64_t h = group * gs; h < (group + 1) * gs; ++h)
      work.add_queries(h, p.causal ? std::min(j, p.queries) : 0, p.queries, sides);
    work.finish();
  };
  if (one_pass<S>(context, p, key_blocks)) {
    parallel_for(context, pairs, pair_cost, [&](int64_t pair) {
      Block work(context, p, g, lse2, delta, {pair % p.groups * gs, gs, 0, p.queries});
      for (int64_t n = 0; n < key_blocks; ++n) add_keys(work, pair, n, kQuerySide | kKeySide);
      work.finish_queries();
    });
    return;
  }
  const EvenParts parts(p.queries, kBackwardQueries);
  parallel_for(context, pairs * gs * parts.parts, pair_cost * 0.6 / static_cast<double>(gs * parts.parts),
               [&](int64_t task) {
                 const int64_t h = task / parts.parts % p.heads, b = task / (parts.parts * p.heads);
                 const int64_t part = parts.parts - 1 - task % parts.parts;
                 const int64_t begin = parts.begin(part), end = parts.begin(part + 1);
                 Block work(context, p, g, lse2, delta, {h, 1, begin, end - begin});
                 for (int64_t j = 0; j < p.key_end(end); j += block) {
                   work.set_keys(b, h / gs, j, std::min(block, p.keys - j));
                   work.add_queries(h, begin, end, kQuerySide);
                 }
                 work.finish_queries();
               });
  parallel_for(context, pairs * key_blocks, pair_cost * 0.8 / static_cast<double>(key_blocks),
               [&](int64_t task) {
                 Block work(context, p, g, lse2, delta, {0, 0, 0, 0});
                 add_keys(work, task / key_blocks, task % key_blocks, kKeySide);
               });
}

template void attention_backward<float>(Context*, const AttentionProblem&, const AttentionGradients&,
                                        const float*);
template void attention_backward<double>(Context*, const AttentionProblem&, const AttentionGradients&,
                                         const double*);
template void attention_backward<bfloat16>(Context*, const AttentionProblem&, const AttentionGradients&,
                                           const float*);

}  // namespace fastdl::cpu
