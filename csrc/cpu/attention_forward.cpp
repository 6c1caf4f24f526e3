// Attention by blocks of queries and keys: scores of a few rows at a time, softmax kept online, so that
// scratch does not grow with the lengths (Rabe, Staats 2021, "Self-attention Does Not Need O(n^2) Memory";
// Dao 2023, "FlashAttention-2").
#include <cmath>
#include <cstring>
#include <limits>

#include "cpu/attention.h"
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

// The queries [first, first + count) of all heads of a group, and what is known of them so far.
template <class T>
class ForwardBlock {
 public:
  ForwardBlock(Context* context, const AttentionProblem& p, int64_t b, int64_t group, int64_t first,
               int64_t count)
      : p_(p),
        b_(b),
        group_(group),
        first_(first),
        count_(count),
        rows_(count * p.group_size()),
        kernel_(gemm_kernels_of<T>(*kernels().gemm)),
        table_(table_for<T>(*kernels().attention)),
        block_(std::min(kKeys, round_up(std::max<int64_t>(1, p.keys), kernel_.nr))),
        direct_v_(p.v.strides[3] == 1 && p.v.strides[2] == p.ev),
        direct_q_(p.q.strides[3] == 1 && p.q.strides[2] == p.e),
        masks_(context, p, kernel_.mr, block_),
        space_(context, static_cast<size_t>(elements()) * sizeof(T)) {
    T* at = space_.template as<T>();
    const auto take = [&](int64_t n) {
      T* r = at;
      at += round_up(n, 16);
      return r;
    };
    keys_ = take(block_ * p.e);
    values_ = take(direct_v_ ? 0 : block_ * round_up(p.ev, kernel_.nr));
    scores_ = take(kernel_.mr * block_);
    out_ = take(rows_ * p.ev);
    q_ = take(direct_q_ ? 0 : kernel_.mr * p.e);
    sums_ = take(rows_ * table_.width);
    top_ = take(rows_);
    decay_ = take(rows_);
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
  int64_t elements() const {
    return block_ * p_.e + block_ * round_up(p_.ev, kernel_.nr) + kernel_.mr * (block_ + p_.e) +
           rows_ * (p_.ev + table_.width + 2) + 8 * 16;
  }

  void add_keys(int64_t j, int64_t cols) {
    const T* k = row_of<const T>(p_.k, b_, group_, j);
    pack_transposed(kernel_, k, p_.k.strides[2], p_.k.strides[3], cols, p_.e, keys_);
    const T* v = row_of<const T>(p_.v, b_, group_, j);
    int64_t v_row = p_.ev, panel = kernel_.nr;
    if (!direct_v_) {
      pack_panels(kernel_, v, p_.v.strides[2], p_.v.strides[3], cols, p_.ev, values_);
      v = values_;
      v_row = kernel_.nr;
      panel = kernel_.nr * cols;
    }
    const EvenParts tiles(count_, kernel_.mr);
    for (int64_t head = 0; head < p_.group_size(); ++head) {
      for (int64_t t = 0; t < tiles.parts; ++t) {
        const int64_t i = tiles.begin(t), rows = tiles.size(t);
        const int64_t seen = std::min(cols, p_.key_end(first_ + i + rows) - j);
        if (seen > 0) add_tile(head, i, rows, j, seen, v, v_row, panel);
      }
    }
  }

  // Queries i.. of one head and keys [j, j + cols).
  void add_tile(int64_t head, int64_t i, int64_t rows, int64_t j, int64_t cols, const T* v, int64_t v_row,
                int64_t panel) {
    const int64_t h = group_ * p_.group_size() + head, r = head * count_ + i;
    const ScoreRows<T> block{scores_, rows, cols, block_};
    const T scale = static_cast<T>(p_.scale * 1.44269504088896340736);  // log2(e)
    tile_row(kernel_, rows, cols, p_.e, queries(h, i, rows), keys_, kernel_.nr, kernel_.nr * p_.e, scores_,
             block_, scale, T(0));
    masks_.apply(block, b_, h, first_ + i, j);
    T* out = out_ + r * p_.ev;
    if (table_.softmax(block, top_ + r, sums_ + r * table_.width, decay_ + r) && j > 0)
      table_.scale_rows(rows, p_.ev, out, p_.ev, decay_ + r, out, p_.ev);
    drop_weights(p_, block, b_, h, first_ + i, j);
    tile_row(kernel_, rows, p_.ev, cols, TileRows<T>{scores_, block_, 1}, v, v_row, panel, out, p_.ev, T(1),
             j > 0 ? T(1) : T(0));
  }

  // Rows far apart may fall into few sets of the L1 cache: those are copied.
  TileRows<T> queries(int64_t h, int64_t i, int64_t rows) {
    const T* q = row_of<const T>(p_.q, b_, h, first_ + i);
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
      const int64_t r = head * count_;
      table_.scale_rows(count_, p_.ev, out_ + r * p_.ev, p_.ev, decay_ + r,
                        row_of<T>(p_.out, b_, group_ * p_.group_size() + head, first_), p_.out.strides[2]);
    }
  }

  const AttentionProblem& p_;
  const int64_t b_, group_, first_, count_, rows_;
  const GemmKernelsOf<T>& kernel_;
  const AttentionTable<T>& table_;
  const int64_t block_;
  const bool direct_v_, direct_q_;
  const ScoreMasks<T> masks_;
  const Workspace space_;
  T *keys_, *values_, *scores_, *out_, *q_, *sums_, *top_, *decay_;
};

}  // namespace

template <class T>
void attention_forward(Context* context, const AttentionProblem& p, T* lse) {
  if (p.queries == 0 || p.heads == 0) return;
  if (attention_is_decode(p)) return attention_decode<T>(context, p, lse);
  const EvenParts blocks(p.queries, queries_per_task(p));
  const double cost = static_cast<double>(p.heads * p.queries) /
                      static_cast<double>(p.groups * blocks.parts) * static_cast<double>(p.keys) *
                      static_cast<double>(p.e + p.ev) / 32;
  parallel_for(context, p.batch * p.groups * blocks.parts, cost, [&](int64_t task) {
    const int64_t pair = task / blocks.parts;
    // Causal: the longest first, so that no thread is left with one at the end.
    const int64_t i = blocks.parts - 1 - task % blocks.parts;
    ForwardBlock<T>(context, p, pair / p.groups, pair % p.groups, blocks.begin(i), blocks.size(i)).run(lse);
  });
}

template void attention_forward<float>(Context*, const AttentionProblem&, float*);
template void attention_forward<double>(Context*, const AttentionProblem&, double*);

}  // namespace fastdl::cpu
