// Gradients of attention: the probabilities of a block are computed again from the saved log-sum-exp, and
// what the block contributes to all three gradients is added before the next (Dao 2023, "FlashAttention-2",
// section 3.1).
#include <cmath>
#include <type_traits>

#include "cpu/attention_backward.h"
#include "cpu/attention_backward_block.h"
#include "cpu/attention_decode.h"
#include "cpu/parallel.h"

namespace fastdl::cpu {
namespace {

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

// Sums of the gradients of queries never take more memory than this, all threads' together.
constexpr int64_t kSumBytes = 32 << 20;

template <class S>
class Backward {
  using T = compute_t<S>;
  using Block = std::conditional_t<std::is_same_v<S, bfloat16>, Bf16BackwardBlock, BackwardBlock<T>>;

 public:
  Backward(Context* context, const AttentionProblem& p, const AttentionGradients& g, const T* lse2,
           const T* delta)
      : context_(context),
        p_(p),
        g_(g),
        lse2_(lse2),
        delta_(delta),
        pairs_(p.batch * p.groups),
        head_size_(p.queries * p.e),
        block_(keys_per_block(p)),
        key_blocks_(ceil_div(p.keys, block_)),
        shares_(shares()),
        pair_cost_(static_cast<double>(p.group_size() * p.queries) * static_cast<double>(p.keys) *
                   static_cast<double>(p.e + p.ev) * 2.5 / 32) {}

  // One pass (five products a block) where samples, groups and shares are enough to keep all threads busy;
  // else queries and keys in two passes (seven products), which split finer. Both add in the same order, so
  // the bits do not depend on the choice.
  void run() const {
    if (!one_pass()) {
      query_pass();
      key_pass();
    } else if (shares_ == 1) {
      pass_of_pairs();
    } else {
      pass_of_shares();
    }
  }

 private:
  // Where (batch, group) pairs are few, the blocks of keys are dealt out to shares, each with its own sums of
  // the queries' gradients, added in order at the end. By shape alone.
  int64_t shares() const {
    constexpr int64_t kEnoughTasks = 8, kFewestBlocks = 2;
    int64_t n = 1;
    while (2 * n * pairs_ <= kEnoughTasks && 2 * n * kFewestBlocks <= key_blocks_ &&
           2 * n * p_.batch * p_.heads * head_size_ * static_cast<int64_t>(sizeof(T)) <= kSumBytes)
      n *= 2;
    return n;
  }

  // Whether the gradients of queries have sums of their own, rather than to be summed where they belong.
  bool has_sums() const { return shares_ > 1 || sizeof(S) < sizeof(T); }

  bool one_pass() const {
    const int64_t tasks = pairs_ * shares_, threads = num_threads(context_);
    const bool idle = 5 * round_up(tasks, threads) > 7 * tasks;
    if (idle && key_blocks_ * p_.group_size() * p_.queries > 2 * kBackwardQueries) return false;
    const int64_t held = p_.group_size() * head_size_ * static_cast<int64_t>(sizeof(T));
    return shares_ > 1 || !has_sums() || held * std::min(threads, pairs_) <= kSumBytes;
  }

  void add_keys(Block& work, int64_t pair, int64_t n, int sides, const QuerySums<T>& sums) const {
    const int64_t j = n * block_, group = pair % p_.groups, gs = p_.group_size();
    work.set_keys(pair / p_.groups, group, j, std::min(block_, p_.keys - j));
    for (int64_t h = group * gs; h < (group + 1) * gs; ++h)
      work.add_queries(h, p_.causal ? std::min(j, p_.queries) : 0, p_.queries, sides, sums);
    work.finish();
  }

  // The sums of all queries of a pair.
  QuerySums<T> sums_of_pair(int64_t pair, T* data) const {
    return {data, p_.e, pair % p_.groups * p_.group_size(), 0, p_.queries};
  }

  void pass_of_pairs() const {
    const int64_t size = p_.group_size() * head_size_;
    parallel_for(context_, pairs_, pair_cost_, [&](int64_t pair) {
      Block work(context_, p_, g_, lse2_, delta_);
      const Workspace space(context_, has_sums() ? static_cast<size_t>(size) * sizeof(T) : 0);
      QuerySums<T> sums{};
      if (has_sums()) {
        sums = sums_of_pair(pair, space.as<T>());
        std::fill(sums.data, sums.data + size, T(0));
      }
      for (int64_t n = 0; n < key_blocks_; ++n) add_keys(work, pair, n, kQuerySide | kKeySide, sums);
      for (int64_t h = 0; h < p_.group_size() && has_sums(); ++h)
        write_queries(pair / p_.groups, sums.head + h, 0, p_.queries, sums.data + h * head_size_, 1, 0);
    });
  }

  void pass_of_shares() const {
    const int64_t size = p_.group_size() * head_size_, all = pairs_ * size;
    const Workspace space(context_, static_cast<size_t>(shares_ * all) * sizeof(T));
    parallel_for(context_, pairs_ * shares_, pair_cost_ / static_cast<double>(shares_), [&](int64_t task) {
      const int64_t pair = task / shares_, share = task % shares_;
      Block work(context_, p_, g_, lse2_, delta_);
      const QuerySums<T> sums = sums_of_pair(pair, space.as<T>() + share * all + pair * size);
      std::fill(sums.data, sums.data + size, T(0));
      for (int64_t n = share; n < key_blocks_; n += shares_)
        add_keys(work, pair, n, kQuerySide | kKeySide, sums);
    });
    const EvenParts parts(p_.queries, kBackwardQueries);
    parallel_for(context_, p_.batch * p_.heads * parts.parts,
                 static_cast<double>(shares_ * kBackwardQueries * p_.e) / 8, [&](int64_t task) {
                   const int64_t head = task / parts.parts, i = parts.begin(task % parts.parts);
                   write_queries(head / p_.heads, head % p_.heads, i, parts.size(task % parts.parts),
                                 space.as<T>() + head * head_size_ + i * p_.e, shares_, all);
                 });
  }

  void query_pass() const {
    const EvenParts parts(p_.queries, kBackwardQueries);
    const int64_t heads = p_.batch * p_.heads, size = has_sums() ? kBackwardQueries * p_.e : 0;
    parallel_for(context_, heads * parts.parts,
                 pair_cost_ * 0.6 / static_cast<double>(p_.group_size() * parts.parts), [&](int64_t task) {
                   const int64_t h = task / parts.parts % p_.heads, b = task / (parts.parts * p_.heads);
                   const int64_t part = parts.parts - 1 - task % parts.parts;
                   const int64_t begin = parts.begin(part), end = parts.begin(part + 1);
                   Block work(context_, p_, g_, lse2_, delta_);
                   const Workspace space(context_, static_cast<size_t>(shares_ * size) * sizeof(T));
                   T* const data = space.as<T>();
                   std::fill(data, data + shares_ * size, T(0));
                   for (int64_t j = 0, n = 0; j < p_.key_end(end); j += block_, ++n) {
                     work.set_keys(b, h / p_.group_size(), j, std::min(block_, p_.keys - j));
                     QuerySums<T> sums{};
                     if (has_sums()) sums = {data + n % shares_ * size, p_.e, h, begin, end - begin};
                     work.add_queries(h, begin, end, kQuerySide, sums);
                   }
                   if (has_sums()) write_queries(b, h, begin, end - begin, data, shares_, size);
                 });
  }

  void key_pass() const {
    parallel_for(context_, pairs_ * key_blocks_, pair_cost_ * 0.8 / static_cast<double>(key_blocks_),
                 [&](int64_t task) {
                   Block work(context_, p_, g_, lse2_, delta_);
                   add_keys(work, task / key_blocks_, task % key_blocks_, kKeySide, {});
                 });
  }

  // The gradients of queries [i, i + rows) of one head: scale times the shares' sums, `stride` apart.
  void write_queries(int64_t b, int64_t h, int64_t i, int64_t rows, T* sums, int64_t shares,
                     int64_t stride) const {
    const T scale = static_cast<T>(p_.scale);
    for (int64_t r = 0; r < rows; ++r, sums += p_.e) {
      for (int64_t n = 1; n < shares; ++n)
        for (int64_t c = 0; c < p_.e; ++c) sums[c] += sums[n * stride + c];
      for (int64_t c = 0; c < p_.e; ++c) sums[c] *= scale;
      copy_row(sums, 1, p_.e, row_of<S>(g_.dq, b, h, i + r));
    }
  }

  Context* const context_;
  const AttentionProblem& p_;
  const AttentionGradients& g_;
  const T *const lse2_, *const delta_;
  const int64_t pairs_, head_size_, block_, key_blocks_, shares_;
  const double pair_cost_;
};

}  // namespace

template <class S>
void attention_backward(Context* context, const AttentionProblem& p, const AttentionGradients& g,
                        const compute_t<S>* lse) {
  using T = compute_t<S>;
  const int64_t rows = p.batch * p.heads * p.queries;
  if (p.batch * p.groups == 0) return;
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
  Backward<S>(context, p, g, lse2, delta).run();
}

template void attention_backward<float>(Context*, const AttentionProblem&, const AttentionGradients&,
                                        const float*);
template void attention_backward<double>(Context*, const AttentionProblem&, const AttentionGradients&,
                                         const double*);
template void attention_backward<bfloat16>(Context*, const AttentionProblem&, const AttentionGradients&,
                                           const float*);

}  // namespace fastdl::cpu
