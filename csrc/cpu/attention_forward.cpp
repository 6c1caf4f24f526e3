// Attention by blocks of queries and keys: scores of a few rows at a time, softmax kept online, so that
// scratch does not grow with the lengths (Rabe, Staats 2021, "Self-attention Does Not Need O(n^2) Memory";
// Dao 2023, "FlashAttention-2").
#include <cmath>
#include <cstring>
#include <limits>

#include "cpu/attention.h"
#include "cpu/attention_tiles.h"
#include "cpu/parallel.h"

namespace fastdl::cpu {
namespace {

// Keys of a block: scores of one register tile's rows (14 x 128 floats, 7 KiB) stay in the L1 cache, and with
// 128 features its keys and values (64 KiB each) in the L2 cache.
constexpr int64_t kKeys = 128;
// Elements of query or output rows of a task: so many rows share what it costs to pack a block of keys, and
// their output (128 KiB of floats) stays in the L2 cache with that block.
constexpr int64_t kRowElements = 32768;
// Tasks a problem should have, if its queries suffice, so that threads finish together.
constexpr int64_t kEnoughTasks = 32;
constexpr int64_t kFewestQueries = 56;

int64_t queries_per_task(const AttentionProblem& p) {
  const int64_t fits =
      std::max<int64_t>(1, kRowElements / std::max<int64_t>(1, std::max(p.e, p.ev)) / p.group_size());
  const int64_t pairs = p.batch * p.groups;
  const int64_t fair = std::max(kFewestQueries, p.queries * pairs / kEnoughTasks);
  return std::min(std::max<int64_t>(fits, kFewestQueries / p.group_size()), fair);
}

// The queries [first, first + count) of all heads of a group, and what is known of them so far. Operands are
// stored as S; scores, weights and sums are T, weights are rounded to S for their product with the values.
template <class S>
class ForwardBlock {
  using T = compute_t<S>;
  static constexpr bool kNarrow = !std::is_same_v<S, T>;

 public:
  ForwardBlock(Context* context, const AttentionProblem& p, int64_t b, int64_t group, int64_t first,
               int64_t count)
      : p_(p),
        b_(b),
        group_(group),
        first_(first),
        count_(count),
        rows_(count * p.group_size()),
        table_(table_for<T>(*kernels().attention)),
        // Two panels at least: rows one step of bfloat16 products long would pass for a packed panel.
        block_(std::min(kKeys, round_up(std::max<int64_t>(1, p.keys), 2 * tiles_.nr()))),
        direct_v_(!kNarrow && p.v.strides[3] == 1 && p.v.strides[2] == p.ev),
        direct_q_(p.q.strides[3] == 1 && p.q.strides[2] == p.e),
        masks_(context, p, tiles_.mr(), block_),
        packed_(context, static_cast<size_t>(packed_elements()) * sizeof(S)),
        sums_space_(context, static_cast<size_t>(sum_elements()) * sizeof(T)) {
    keys_ = packed_.template as<S>();
    values_ = keys_ + block_ * tiles_.depth(p.e);
    weights_ = values_ + tiles_.depth(block_) * round_up(p.ev, tiles_.nr());
    q_ = weights_ + tiles_.mr() * block_;
    scores_ = sums_space_.template as<T>();
    out_ = scores_ + tiles_.mr() * block_;
    sums_ = out_ + round_up(rows_ * p.ev, 16);
    top_ = sums_ + rows_ * table_.width;
    decay_ = top_ + rows_;
    std::fill(top_, top_ + rows_, -std::numeric_limits<T>::infinity());
    std::fill(sums_, sums_ + rows_ * table_.width, T(0));
  }

  void run(T* lse) {
    const int64_t end = p_.key_end(first_ + count_);
    if (end == 0) std::fill(out_, out_ + rows_ * p_.ev, T(0));
    for (int64_t j = 0; j < end; j += block_) add_keys(j, std::min(block_, end - j));
    finish(lse);
  }

 private:
  int64_t packed_elements() const {
    return block_ * tiles_.depth(p_.e) + tiles_.depth(block_) * round_up(p_.ev, tiles_.nr()) +
           tiles_.mr() * (block_ + p_.e);
  }
  int64_t sum_elements() const {
    return tiles_.mr() * block_ + round_up(rows_ * p_.ev, 16) + rows_ * (table_.width + 2);
  }

  void add_keys(int64_t j, int64_t cols) {
    const S* k = row_of<const S>(p_.k, b_, group_, j);
    const TilePanels<S> keys = tiles_.pack(k, p_.k.strides[3], p_.k.strides[2], p_.e, cols, keys_);
    const S* v = row_of<const S>(p_.v, b_, group_, j);
    TilePanels<S> values{v, p_.ev, tiles_.nr()};
    if (!direct_v_) values = tiles_.pack(v, p_.v.strides[2], p_.v.strides[3], cols, p_.ev, values_);
    const EvenParts parts(count_, tiles_.mr());
    for (int64_t head = 0; head < p_.group_size(); ++head) {
      for (int64_t t = 0; t < parts.parts; ++t) {
        const int64_t i = parts.begin(t), rows = parts.size(t);
        const int64_t seen = std::min(cols, p_.key_end(first_ + i + rows) - j);
        if (seen > 0) add_tile(head, i, rows, j, seen, keys, values);
      }
    }
  }

  // Queries i.. of one head and keys [j, j + cols).
  void add_tile(int64_t head, int64_t i, int64_t rows, int64_t j, int64_t cols, TilePanels<S> keys,
                TilePanels<S> values) {
    const int64_t h = group_ * p_.group_size() + head, r = head * count_ + i;
    // log2(e): the exponentials are powers of two.
    ScoreRows<T> block{scores_, rows, cols, block_, static_cast<T>(p_.scale * kLog2e)};
    tiles_.multiply(rows, cols, p_.e, queries(h, i, rows), keys, scores_, block_, T(1), false);
    masks_.apply(block, b_, h, first_ + i, j);
    T* out = out_ + r * p_.ev;
    bfloat16* rounded = nullptr;
    if constexpr (kNarrow) rounded = p_.dropout > 0 ? nullptr : weights_;
    if (table_.softmax(block, top_ + r, sums_ + r * table_.width, decay_ + r, rounded) && j > 0)
      table_.scale_rows(rows, p_.ev, out, p_.ev, decay_ + r, out, p_.ev);
    if (p_.dropout > 0) {
      drop_weights(p_, block, b_, h, first_ + i, j);
      if constexpr (kNarrow) {
        for (int64_t n = 0; n < rows; ++n) copy_row(scores_ + n * block_, 1, cols, weights_ + n * block_);
      }
    }
    const S* weights;
    if constexpr (kNarrow) weights = weights_;
    else weights = scores_;
    tiles_.multiply(rows, p_.ev, cols, TileRows<S>{weights, block_, 1}, values, out, p_.ev, T(1), j > 0);
  }

  // Rows far apart may fall into few sets of the L1 cache: those are copied.
  TileRows<S> queries(int64_t h, int64_t i, int64_t rows) {
    const S* q = row_of<const S>(p_.q, b_, h, first_ + i);
    if (direct_q_) return {q, p_.e, 1};
    for (int64_t r = 0; r < rows; ++r)
      copy_row(q + r * p_.q.strides[2], p_.q.strides[3], p_.e, q_ + r * p_.e);
    return {q_, p_.e, 1};
  }

  void finish(T* lse) {
    for (int64_t r = 0; r < rows_; ++r) {
      const T sum = table_.total(sums_ + r * table_.width);
      if (lse) {
        const int64_t h = group_ * p_.group_size() + r / count_, i = first_ + r % count_;
        lse[(b_ * p_.heads + h) * p_.queries + i] =
            static_cast<T>(top_[r] * T(0.69314718055994530942)) + std::log(sum);
      }
      decay_[r] = sum == 0 ? T(0) : T(1) / sum;
    }
    for (int64_t head = 0; head < p_.group_size(); ++head) {
      const int64_t r = head * count_, h = group_ * p_.group_size() + head;
      T* from = out_ + r * p_.ev;
      S* to = row_of<S>(p_.out, b_, h, first_);
      if constexpr (kNarrow) {
        table_.scale_rows(count_, p_.ev, from, p_.ev, decay_ + r, from, p_.ev);
        for (int64_t i = 0; i < count_; ++i) copy_row(from + i * p_.ev, 1, p_.ev, to + i * p_.out.strides[2]);
      } else {
        table_.scale_rows(count_, p_.ev, from, p_.ev, decay_ + r, to, p_.out.strides[2]);
      }
    }
  }

  const AttentionProblem& p_;
  const int64_t b_, group_, first_, count_, rows_;
  const AttentionTiles<S> tiles_;
  const AttentionTable<T>& table_;
  const int64_t block_;
  const bool direct_v_, direct_q_;
  const ScoreMasks<T> masks_;
  const Workspace packed_, sums_space_;
  S *keys_, *values_, *weights_, *q_;
  T *scores_, *out_, *sums_, *top_, *decay_;
};

}  // namespace

template <class S>
void attention_forward(Context* context, const AttentionProblem& p, compute_t<S>* lse) {
  if (p.queries == 0 || p.heads == 0) return;
  if (attention_is_decode(p)) return attention_decode<S>(context, p, lse);
  const EvenParts blocks(p.queries, queries_per_task(p));
  const double cost = static_cast<double>(p.heads * p.queries) /
                      static_cast<double>(p.groups * blocks.parts) * static_cast<double>(p.keys) *
                      static_cast<double>(p.e + p.ev) / 32;
  parallel_for(context, p.batch * p.groups * blocks.parts, cost, [&](int64_t task) {
    const int64_t pair = task / blocks.parts;
    // Causal: the longest first, so that no thread is left with one at the end.
    const int64_t i = blocks.parts - 1 - task % blocks.parts;
    ForwardBlock<S>(context, p, pair / p.groups, pair % p.groups, blocks.begin(i), blocks.size(i)).run(lse);
  });
}

template void attention_forward<float>(Context*, const AttentionProblem&, float*);
template void attention_forward<double>(Context*, const AttentionProblem&, double*);
template void attention_forward<bfloat16>(Context*, const AttentionProblem&, float*);

}  // namespace fastdl::cpu
