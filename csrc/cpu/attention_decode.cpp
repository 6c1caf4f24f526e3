// Attention of few queries, as when a model writes token by token: keys and values are read once, straight
// from where they lie, for all query heads that share them; long sequences of few heads are cut into parts
// whose results are merged by their log-sum-exps ("Flash-Decoding", Dao et al. 2023).
#include <cmath>
#include <limits>

#include "cpu/attention_decode.h"
#include "cpu/parallel.h"

namespace fastdl::cpu {
namespace {

// Rows of queries (heads of a group times length) up to which reading keys and values is what takes the time.
constexpr int64_t kMostRows = 8;

// Keys [begin, end) of one group: per row, the weighted sum of values, the maximum and the sum of the
// weights.
template <class S>
class DecodePart {
  using T = compute_t<S>;

 public:
  // sums: rows x ev, then the rows' maxima and sums.
  DecodePart(Context* context, const AttentionProblem& p, const DecodeRows& rows, T* sums)
      : p_(p),
        rows_(rows),
        table_(table_for<T>(*kernels().attention)),
        masks_(context, p, p.queries, kDecodeKeys),
        space_(context,
               static_cast<size_t>(rows_.count() * (p.e + kDecodeKeys + table_.width + 1)) * sizeof(T)),
        o_(sums),
        top_(sums + rows_.count() * p.ev) {
    q_ = space_.template as<T>();
    scores_ = q_ + rows_.count() * p.e;
    lanes_ = scores_ + rows_.count() * kDecodeKeys;
    decay_ = lanes_ + rows_.count() * table_.width;
  }

  void run(int64_t begin, int64_t end) {
    const int64_t n = rows_.count();
    std::fill(o_, o_ + n * p_.ev, T(0));
    std::fill(top_, top_ + n, -std::numeric_limits<T>::infinity());
    std::fill(lanes_, lanes_ + n * table_.width, T(0));
    rows_.template read<S>(p_.q, p_.e, static_cast<T>(p_.scale * kLog2e), q_);
    for (int64_t j = begin; j < end; j += kDecodeKeys) add(j, std::min(kDecodeKeys, end - j));
    for (int64_t r = 0; r < n; ++r) top_[n + r] = table_.total(lanes_ + r * table_.width);
  }

 private:
  void add(int64_t j, int64_t cols) {
    const auto& decode = decode_table_for<S>(*kernels().attention);
    const int64_t n = rows_.count(), first = rows_.head(0);
    const S* k = row_of<const S>(p_.k, rows_.b, rows_.group, j);
    const S* v = row_of<const S>(p_.v, rows_.b, rows_.group, j);
    decode_scores(decode, n, p_.e, q_, cols, k, p_.k.strides[2], scores_);
    const ScoreRows<T> all{scores_, n, cols, kDecodeKeys, T(1)};  // the queries were scaled
    for (int64_t h = 0; h < p_.group_size(); ++h) {
      ScoreRows<T> scores = head(h, cols);
      masks_.apply(scores, rows_.b, first + h, 0, j);
    }
    if (table_.softmax(all, top_, lanes_, decay_, nullptr))
      table_.scale_rows(n, p_.ev, o_, p_.ev, decay_, o_, p_.ev);
    for (int64_t h = 0; h < p_.group_size(); ++h) drop_weights(p_, head(h, cols), rows_.b, first + h, 0, j);
    decode_weighted(decode, n, p_.ev, scores_, cols, v, p_.v.strides[2], o_);
  }

  // The scores of one head of the group.
  ScoreRows<T> head(int64_t h, int64_t cols) const {
    return {scores_ + h * p_.queries * kDecodeKeys, p_.queries, cols, kDecodeKeys, T(1)};
  }

  const AttentionProblem& p_;
  const DecodeRows rows_;
  const AttentionTable<T>& table_;
  const ScoreMasks<T> masks_;
  const Workspace space_;
  T *o_, *top_, *q_, *scores_, *lanes_, *decay_;
};

// Adds the parts of one group, the first of which gets the result, and writes rows and log-sum-exps.
template <class S, class T = compute_t<S>>
void merge(const AttentionProblem& p, const DecodeRows& rows, int64_t parts, int64_t part_size, T* sums,
           T* lse) {
  for (int64_t r = 0; r < rows.count(); ++r) {
    const T* tops = sums + rows.count() * p.ev + r;
    T top = tops[0], total = T(0);
    for (int64_t n = 1; n < parts; ++n) top = std::max(top, tops[n * part_size]);
    T* out = sums + r * p.ev;
    for (int64_t n = 0; n < parts; ++n) {
      // Of parts without a key to see nothing is taken, not 2^(-inf + inf).
      const T own = tops[n * part_size];
      const T weight = parts == 1 ? T(1) : own == -HUGE_VAL ? T(0) : std::exp2(own - top);
      total += weight * tops[n * part_size + rows.count()];
      const T* from = out + n * part_size;
      for (int64_t c = 0; c < p.ev; ++c) out[c] = n == 0 ? weight * from[c] : out[c] + weight * from[c];
    }
    if (lse) lse[rows.index(r)] = static_cast<T>(top * T(0.69314718055994530942)) + std::log(total);
    const T inverse = total == 0 ? T(0) : T(1) / total;
    for (int64_t c = 0; c < p.ev; ++c) out[c] *= inverse;
    copy_row(out, 1, p.ev, rows.of<S>(p.out, r));
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
  const DecodeParts cuts(p);
  const int64_t groups = p.batch * p.groups, parts = cuts.parts();
  const int64_t size = round_up(p.group_size() * p.queries * (p.ev + 2), 16);
  const Workspace space(context, static_cast<size_t>(groups * parts * size) * sizeof(T));
  T* const sums = space.as<T>();
  const auto rows = [&](int64_t pair) { return DecodeRows{p, pair / p.groups, pair % p.groups}; };
  parallel_for(context, groups * parts, cuts.cost(p), [&](int64_t task) {
    const int64_t pair = task / parts, n = task % parts;
    DecodePart<S>(context, p, rows(pair), sums + task * size).run(cuts.begin(n), cuts.begin(n + 1));
    if (parts == 1) merge<S>(p, rows(pair), 1, size, sums + task * size, lse);
  });
  if (parts == 1) return;
  for (int64_t pair = 0; pair < groups; ++pair)
    merge<S>(p, rows(pair), parts, size, sums + pair * parts * size, lse);
}

template void attention_decode<float>(Context*, const AttentionProblem&, float*);
template void attention_decode<double>(Context*, const AttentionProblem&, double*);
template void attention_decode<bfloat16>(Context*, const AttentionProblem&, float*);

}  // namespace fastdl::cpu
