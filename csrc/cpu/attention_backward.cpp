// Gradients of attention: the probabilities of a block are computed again from the saved log-sum-exp, and
// what the block contributes to all three gradients is added before the next (Dao 2023, "FlashAttention-2",
// section 3.1).
#include <cmath>
#include <cstring>

#include "cpu/attention.h"
#include "cpu/parallel.h"

namespace fastdl::cpu {
namespace {

// A block's probabilities and their gradients (2 x 128 x 128 floats) stay in the L2 cache with the five
// operands of its keys and the three of its queries, up to 128 features; beyond, half as many keys do.
constexpr int64_t kQueries = 128, kKeys = 128, kKeysWide = 64, kWide = 192;
// Rows of probabilities are read along columns too: a cache line more keeps those off each other's cache
// sets.
constexpr int64_t kSkew = 16;
constexpr double kLog2e = 1.44269504088896340736;

int64_t keys_per_block(const AttentionProblem& p) { return std::max(p.e, p.ev) > kWide ? kKeysWide : kKeys; }

template <class T>
void zero_rows(const View& x, int64_t b, int64_t h, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i)
    std::memset(row_of<T>(x, b, h, i), 0, static_cast<size_t>(x.shape[3]) * sizeof(T));
}

enum Sides { kQuerySide = 1, kKeySide = 2 };

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
        kernel_(gemm_kernels_of<T>(*kernels().gemm)),
        table_(table_for<T>(*kernels().attention)),
        ld_(keys_per_block(p) + kSkew),
        masks_(context, p, kernel_.mr, keys_per_block(p)),
        space_(context, static_cast<size_t>(elements()) * sizeof(T)) {
    T* at = space_.template as<T>();
    const int64_t block = keys_per_block(p);
    const auto take = [&](int64_t n) {
      T* r = at;
      at += round_up(n, 16);
      return r;
    };
    kt_ = take(block * p.e);
    vt_ = take(block * p.ev);
    k_.space = take(block * round_up(p.e, kernel_.nr));
    dk_ = take(block * p.e);
    dv_ = take(block * p.ev);
    prob_ = take(kQueries * ld_);
    ds_ = take(kQueries * ld_);
    kept_ = take(kernel_.mr * ld_);
    q_.space = take(kQueries * round_up(p.e, kernel_.nr));
    dout_.space = take(kQueries * round_up(p.ev, kernel_.nr));
  }

  void set_keys(int64_t b, int64_t group, int64_t j, int64_t cols) {
    b_ = b;
    group_ = group;
    j_ = j;
    cols_ = cols;
    empty_ = true;
    pack_transposed(kernel_, row_of<const T>(p_.k, b, group, j), p_.k.strides[2], p_.k.strides[3], cols, p_.e,
                    kt_);
    pack_transposed(kernel_, row_of<const T>(p_.v, b, group, j), p_.v.strides[2], p_.v.strides[3], cols,
                    p_.ev, vt_);
    k_.set(kernel_, p_.k, b, group, j, cols);
  }

  // Queries [begin, end) of head h.
  void add_queries(int64_t h, int64_t begin, int64_t end, int sides) {
    const EvenParts blocks(end - begin, kQueries);
    for (int64_t n = 0; n < blocks.parts; ++n) add_block(h, begin + blocks.begin(n), blocks.size(n), sides);
  }

  // Writes the gradients of the keys and values.
  void finish() {
    if (empty_) {
      zero_rows<T>(g_.dk, b_, group_, j_, j_ + cols_);
      zero_rows<T>(g_.dv, b_, group_, j_, j_ + cols_);
      return;
    }
    T scale[kKeys];
    std::fill(scale, scale + cols_, static_cast<T>(p_.scale));
    table_.scale_rows(cols_, p_.e, dk_, p_.e, scale, row_of<T>(g_.dk, b_, group_, j_), g_.dk.strides[2]);
    std::fill(scale, scale + cols_, T(1));
    table_.scale_rows(cols_, p_.ev, dv_, p_.ev, scale, row_of<T>(g_.dv, b_, group_, j_), g_.dv.strides[2]);
  }

 private:
  // Rows of an operand as the second factor of a product: where they lie if they are dense, else in panels.
  struct Rows {
    T* space;
    const T* data;
    int64_t row, panel;
    void set(const GemmKernelsOf<T>& kernel, const View& x, int64_t b, int64_t h, int64_t i, int64_t n) {
      data = row_of<const T>(x, b, h, i);
      row = x.strides[2];
      panel = kernel.nr;
      if (x.strides[3] == 1 && row == x.shape[3]) return;
      pack_panels(kernel, data, row, x.strides[3], n, x.shape[3], space);
      data = space;
      row = kernel.nr;
      panel = kernel.nr * n;
    }
  };

  int64_t elements() const {
    const int64_t block = keys_per_block(p_), nr = kernel_.nr;
    return block * (2 * p_.e + 2 * p_.ev + round_up(p_.e, nr)) + (2 * kQueries + kernel_.mr) * ld_ +
           kQueries * (round_up(p_.e, nr) + round_up(p_.ev, nr)) + 10 * 16;
  }

  void add_block(int64_t h, int64_t i, int64_t rows, int sides) {
    const EvenParts tiles(rows, kernel_.mr);
    if (sides & kKeySide) {
      q_.set(kernel_, p_.q, b_, h, i, rows);
      dout_.set(kernel_, g_.dout, b_, h, i, rows);
    }
    for (int64_t t = 0; t < tiles.parts; ++t) add_tile(h, i, tiles.begin(t), tiles.size(t), sides);
    if (!(sides & kKeySide)) return;
    const EvenParts key_tiles(cols_, kernel_.mr);
    const T beta = empty_ ? T(0) : T(1);
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
      tile_row(kernel_, count, p_.ev, rows - first, TileRows<T>{prob_ + at, 1, ld_},
               dout_.data + first * dout_.row, dout_.row, dout_.panel, dv_ + c * p_.ev, p_.ev, T(1), beta);
      tile_row(kernel_, count, p_.e, rows - first, TileRows<T>{ds_ + at, 1, ld_}, q_.data + first * q_.row,
               q_.row, q_.panel, dk_ + c * p_.e, p_.e, T(1), beta);
    }
  }

  // Keys of this block, in whole panels, that queries before `end` see.
  int64_t seen_by(int64_t end) const {
    const int64_t seen = p_.key_end(end) - j_;
    return seen <= 0 ? 0 : std::min(cols_, round_up(seen, kernel_.nr));
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
    const int64_t nr = kernel_.nr;
    tile_row(kernel_, rows, seen, p_.e, q, kt_, nr, nr * p_.e, prob, ld_, static_cast<T>(p_.scale * kLog2e),
             T(0));
    tile_row(kernel_, rows, seen, p_.ev, dout, vt_, nr, nr * p_.ev, ds, ld_, T(1), T(0));
    const ScoreRows<T> weights{prob, rows, seen, ld_};
    masks_.apply(weights, b_, h, i, j_);
    const T* kept = nullptr;
    if (p_.dropout > 0) {
      const ScoreRows<T> factors{kept_, rows, seen, ld_};
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
    tile_row(kernel_, rows, p_.e, seen, TileRows<T>{ds, ld_, 1}, k_.data, k_.row, k_.panel,
             row_of<T>(g_.dq, b_, h, i), g_.dq.strides[2], static_cast<T>(p_.scale), j_ > 0 ? T(1) : T(0));
  }

  const AttentionProblem& p_;
  const AttentionGradients& g_;
  const T *lse2_, *delta_;
  const GemmKernelsOf<T>& kernel_;
  const AttentionTable<T>& table_;
  const int64_t ld_;
  const ScoreMasks<T> masks_;
  const Workspace space_;
  T *kt_, *vt_, *dk_, *dv_, *prob_, *ds_, *kept_;
  Rows k_, q_, dout_;
  int64_t b_ = 0, group_ = 0, j_ = 0, cols_ = 0;
  bool empty_ = true;
};

// lse2 = lse to base 2, 0 for rows that see nothing (2^-inf is 0 whatever is taken away), and
// delta = rowsum(dout * out), which is rowsum(p * dp) (FlashAttention-2, section 3.1).
template <class T>
void row_statistics(Context* context, const AttentionProblem& p, const AttentionGradients& g, const T* lse,
                    T* lse2, T* delta) {
  const auto& table = table_for<T>(*kernels().attention);
  const int64_t rows = p.batch * p.heads * p.queries;
  parallel_ranges(context, rows, 64, static_cast<double>(p.ev) / 8, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t b = row / (p.heads * p.queries), h = row / p.queries % p.heads, i = row % p.queries;
      delta[row] = table.dot(p.ev, row_of<const T>(g.dout, b, h, i), row_of<const T>(p.out, b, h, i));
      const double l = static_cast<double>(lse[row]) * kLog2e;
      lse2[row] = l == -HUGE_VAL ? T(0) : static_cast<T>(l);
    }
  });
}

}  // namespace

template <class T>
void attention_backward(Context* context, const AttentionProblem& p, const AttentionGradients& g,
                        const T* lse) {
  const int64_t rows = p.batch * p.heads * p.queries, pairs = p.batch * p.groups,
                gs = pairs ? p.group_size() : 0;
  const Workspace space(context, 2 * static_cast<size_t>(rows) * sizeof(T));
  T *lse2 = space.as<T>(), *delta = lse2 + rows;
  row_statistics<T>(context, p, g, lse, lse2, delta);
  if (g.dmask.data)
    std::memset(g.dmask.data, 0, static_cast<size_t>(g.dmask.nbytes()));  // masked blocks are skipped
  if (p.keys == 0) {
    for (int64_t row = 0; row < p.batch * p.heads; ++row)
      zero_rows<T>(g.dq, row / p.heads, row % p.heads, 0, p.queries);
    return;
  }
  const int64_t block = keys_per_block(p), key_blocks = ceil_div(p.keys, block);
  const double pair_cost = static_cast<double>(gs * p.queries) * static_cast<double>(p.keys) *
                           static_cast<double>(p.e + p.ev) * 2.5 / 32;
  const auto add_keys = [&](BackwardBlock<T>& work, int64_t pair, int64_t n, int sides) {
    const int64_t j = n * block, group = pair % p.groups;
    work.set_keys(pair / p.groups, group, j, std::min(block, p.keys - j));
    for (int64_t h = group * gs; h < (group + 1) * gs; ++h)
      work.add_queries(h, p.causal ? std::min(j, p.queries) : 0, p.queries, sides);
    work.finish();
  };
  // One pass (five products a block) where samples and groups are enough to share out; else queries and keys
  // in two passes (seven products) that split finer. The shape alone decides.
  constexpr int64_t kEnough = 8;
  if (pairs >= kEnough || key_blocks * gs * p.queries <= 2 * kQueries) {
    parallel_for(context, pairs, pair_cost, [&](int64_t pair) {
      BackwardBlock<T> work(context, p, g, lse2, delta);
      for (int64_t n = 0; n < key_blocks; ++n) add_keys(work, pair, n, kQuerySide | kKeySide);
    });
    return;
  }
  const EvenParts parts(p.queries, kQueries);
  parallel_for(context, pairs * gs * parts.parts, pair_cost * 0.6 / static_cast<double>(gs * parts.parts),
               [&](int64_t task) {
                 BackwardBlock<T> work(context, p, g, lse2, delta);
                 const int64_t h = task / parts.parts % p.heads, b = task / (parts.parts * p.heads);
                 const int64_t part = parts.parts - 1 - task % parts.parts;
                 const int64_t end = p.key_end(parts.begin(part + 1));
                 for (int64_t j = 0; j < end; j += block) {
                   work.set_keys(b, h / gs, j, std::min(block, p.keys - j));
                   work.add_queries(h, parts.begin(part), parts.begin(part + 1), kQuerySide);
                 }
               });
  parallel_for(context, pairs * key_blocks, pair_cost * 0.8 / static_cast<double>(key_blocks),
               [&](int64_t task) {
                 BackwardBlock<T> work(context, p, g, lse2, delta);
                 add_keys(work, task / key_blocks, task % key_blocks, kKeySide);
               });
}

template void attention_backward<float>(Context*, const AttentionProblem&, const AttentionGradients&,
                                        const float*);
template void attention_backward<double>(Context*, const AttentionProblem&, const AttentionGradients&,
                                         const double*);

}  // namespace fastdl::cpu
