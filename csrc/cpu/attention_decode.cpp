// Attention of few queries, as when a model writes token by token: keys and values are read once, straight
// from where they lie, for all query heads that share them; long sequences of few heads are cut into parts
// whose results are merged by their log-sum-exps ("Flash-Decoding", Dao et al. 2023).
#include <cmath>
#include <limits>
#include <vector>

#include "cpu/attention.h"
#include "cpu/parallel.h"

namespace fastdl::cpu {
namespace {

// Rows of queries (heads of a group times length) up to which reading keys and values is what takes the time.
constexpr int64_t kMostRows = 8;
constexpr int64_t kKeys =
    128;  // of a block: its values are still in the L1 or L2 cache for every further row
// Parts a problem should have, and keys a part must have to be worth merging; by shape alone.
constexpr int64_t kEnoughTasks = 16, kFewestKeys = 512;
constexpr double kLog2e = 1.44269504088896340736;

int64_t parts_of_keys(const AttentionProblem& p, int64_t end) {
  const int64_t wanted = ceil_div(kEnoughTasks, p.batch * p.groups);
  return std::max<int64_t>(1, std::min(wanted, end / kFewestKeys));
}

// Keys [begin, end) of one group: per row, the weighted sum of values, the maximum and the sum of the
// weights.
template <class S>
class DecodePart {
  using T = compute_t<S>;

 public:
  // sums: rows x ev, then the rows' maxima and sums.
  DecodePart(Context* context, const AttentionProblem& p, int64_t b, int64_t group, T* sums)
      : p_(p),
        b_(b),
        group_(group),
        rows_(p.group_size() * p.queries),
        table_(table_for<T>(*kernels().attention)),
        masks_(context, p, p.queries, kKeys),
        space_(context, static_cast<size_t>(rows_ * (p.e + kKeys + table_.width + 1)) * sizeof(T)),
        o_(sums),
        top_(sums + rows_ * p.ev) {
    q_ = space_.template as<T>();
    scores_ = q_ + rows_ * p.e;
    lanes_ = scores_ + rows_ * kKeys;
    decay_ = lanes_ + rows_ * table_.width;
  }

  void run(int64_t begin, int64_t end) {
    std::fill(o_, o_ + rows_ * p_.ev, T(0));
    std::fill(top_, top_ + rows_, -std::numeric_limits<T>::infinity());
    std::fill(lanes_, lanes_ + rows_ * table_.width, T(0));
    scale_queries();
    for (int64_t j = begin; j < end; j += kKeys) add(j, std::min(kKeys, end - j));
    for (int64_t r = 0; r < rows_; ++r) top_[rows_ + r] = table_.total(lanes_ + r * table_.width);
  }

 private:
  void scale_queries() {
    const T scale = static_cast<T>(p_.scale * kLog2e);
    for (int64_t r = 0; r < rows_; ++r) {
      const S* from = row_of<const S>(p_.q, b_, group_ * p_.group_size() + r / p_.queries, r % p_.queries);
      T* q = q_ + r * p_.e;
      copy_row(from, p_.q.strides[3], p_.e, q);
      for (int64_t c = 0; c < p_.e; ++c) q[c] *= scale;
    }
  }

  void add(int64_t j, int64_t cols) {
    const auto& decode = decode_table_for<S>(*kernels().attention);
    const S* k = row_of<const S>(p_.k, b_, group_, j);
    const S* v = row_of<const S>(p_.v, b_, group_, j);
    constexpr int kStep = DecodeTable<S, T>::kMaxRows;
    for (int64_t r = 0; r < rows_; r += kStep) {
      const int rows = static_cast<int>(std::min<int64_t>(kStep, rows_ - r));
      decode.scores(rows, p_.e, q_ + r * p_.e, cols, k, p_.k.strides[2], scores_ + r * kKeys, kKeys);
    }
    const ScoreRows<T> all{scores_, rows_, cols, kKeys, T(1)};  // the queries were scaled
    for (int64_t n = 0; n < p_.group_size(); ++n) {
      ScoreRows<T> scores = head(n, cols);
      masks_.apply(scores, b_, group_ * p_.group_size() + n, 0, j);
    }
    if (table_.softmax(all, top_, lanes_, decay_, nullptr))
      table_.scale_rows(rows_, p_.ev, o_, p_.ev, decay_, o_, p_.ev);
    for (int64_t n = 0; n < p_.group_size(); ++n)
      drop_weights(p_, head(n, cols), b_, group_ * p_.group_size() + n, 0, j);
    for (int64_t r = 0; r < rows_; r += kStep) {
      const int rows = static_cast<int>(std::min<int64_t>(kStep, rows_ - r));
      decode.weighted(rows, p_.ev, scores_ + r * kKeys, kKeys, cols, v, p_.v.strides[2], o_ + r * p_.ev);
    }
  }

  // The scores of one head of the group.
  ScoreRows<T> head(int64_t n, int64_t cols) const {
    return {scores_ + n * p_.queries * kKeys, p_.queries, cols, kKeys, T(1)};
  }

  const AttentionProblem& p_;
  const int64_t b_, group_, rows_;
  const AttentionTable<T>& table_;
  const ScoreMasks<T> masks_;
  const Workspace space_;
  T *o_, *top_, *q_, *scores_, *lanes_, *decay_;
};

// Adds the parts of one group, the first of which gets the result, and writes rows and log-sum-exps.
template <class S, class T = compute_t<S>>
void merge(const AttentionProblem& p, int64_t b, int64_t group, int64_t parts, int64_t part_size, T* sums,
           T* lse) {
  const int64_t rows = p.group_size() * p.queries;
  for (int64_t r = 0; r < rows; ++r) {
    const T* tops = sums + rows * p.ev + r;
    T top = tops[0], total = T(0);
    for (int64_t n = 1; n < parts; ++n) top = std::max(top, tops[n * part_size]);
    T* out = sums + r * p.ev;
    for (int64_t n = 0; n < parts; ++n) {
      // Of parts without a key to see nothing is taken, not 2^(-inf + inf).
      const T own = tops[n * part_size];
      const T weight = parts == 1 ? T(1) : own == -HUGE_VAL ? T(0) : std::exp2(own - top);
      total += weight * tops[n * part_size + rows];
      const T* from = out + n * part_size;
      for (int64_t c = 0; c < p.ev; ++c) out[c] = n == 0 ? weight * from[c] : out[c] + weight * from[c];
    }
    const int64_t h = group * p.group_size() + r / p.queries, i = r % p.queries;
    if (lse) {
      lse[(b * p.heads + h) * p.queries + i] =
          static_cast<T>(top * T(0.69314718055994530942)) + std::log(total);
    }
    const T inverse = total == 0 ? T(0) : T(1) / total;
    for (int64_t c = 0; c < p.ev; ++c) out[c] *= inverse;
    copy_row(out, 1, p.ev, row_of<S>(p.out, b, h, i));
  }
}

}  // namespace

bool attention_is_decode(const AttentionProblem& p) {
  return p.heads > 0 && p.group_size() * p.queries <= kMostRows && p.k.strides[3] == 1 && p.v.strides[3] == 1;
}

template <class S>
void attention_decode(Context* context, const AttentionProblem& p, compute_t<S>* lse) {
  using T = compute_t<S>;
  if (p.queries == 0) return;
  const int64_t end = p.key_end(p.queries), parts = parts_of_keys(p, end), groups = p.batch * p.groups;
  const int64_t rows = p.group_size() * p.queries, size = round_up(rows * (p.ev + 2), 16);
  const Workspace space(context, static_cast<size_t>(groups * parts * size) * sizeof(T));
  T* sums = space.as<T>();
  // A key costs its transfer from memory: some 8 operations' time per vector of 16 elements.
  const double cost =
      static_cast<double>(end) * static_cast<double>(p.e + p.ev) / 2 / static_cast<double>(parts);
  const EvenParts cuts(std::max<int64_t>(1, ceil_div(end, kKeys)),
                       ceil_div(std::max<int64_t>(1, ceil_div(end, kKeys)), parts));
  parallel_for(context, groups * cuts.parts, cost, [&](int64_t task) {
    const int64_t pair = task / cuts.parts, n = task % cuts.parts;
    DecodePart<S> part(context, p, pair / p.groups, pair % p.groups, sums + task * size);
    part.run(cuts.begin(n) * kKeys, std::min(end, cuts.begin(n + 1) * kKeys));
    if (cuts.parts == 1) merge<S>(p, pair / p.groups, pair % p.groups, 1, size, sums + task * size, lse);
  });
  if (cuts.parts == 1) return;
  for (int64_t pair = 0; pair < groups; ++pair)
    merge<S>(p, pair / p.groups, pair % p.groups, cuts.parts, size, sums + pair * cuts.parts * size, lse);
}

template void attention_decode<float>(Context*, const AttentionProblem&, float*);
template void attention_decode<double>(Context*, const AttentionProblem&, double*);
template void attention_decode<bfloat16>(Context*, const AttentionProblem&, float*);

}  // namespace fastdl::cpu
