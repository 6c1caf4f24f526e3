// Gradients of attention of few queries: keys and values are read once, their gradients written once, all
// rows at a time, and nothing is packed. Sums are of the type computed with, and weights are not rounded.
#include "cpu/attention_decode.h"
#include "cpu/parallel.h"
#include "cpu/stream.h"

namespace fastdl::cpu {
namespace {

// Where the rows of a gradient go: past the cache if it is large and its rows are dense.
template <class S>
class GradientRows {
 public:
  explicit GradientRows(const View& x) : view_(x), output_(x.nbytes()), dense_(x.strides[2] == x.shape[3]) {}
  // write(to, stride, first, count): rows first.. of the `rows` from row j on.
  template <class Write>
  void put(Context* context, int64_t b, int64_t group, int64_t j, int64_t rows, Write&& write) const {
    S* const to = row_of<S>(view_, b, group, j);
    const int64_t n = view_.shape[3];
    if (n == 0) return;
    if (!dense_) return write(to, view_.strides[2], int64_t{0}, rows);
    output_.put_rows(context, to, rows, n,
                     [&](S* p, int64_t first, int64_t count) { write(p, n, first, count); });
  }

 private:
  const View view_;
  const Output output_;
  const bool dense_;
};

// Keys [begin, end) of one group: the gradients of keys and values, and what they give to the queries'.
template <class S>
class DecodeBackwardPart {
  using T = compute_t<S>;

 public:
  DecodeBackwardPart(Context* context, const AttentionProblem& p, const AttentionGradients& g, int64_t b,
                     int64_t group, T* dq)
      : context_(context),
        p_(p),
        g_(g),
        rows_{p, b, group},
        decode_(decode_table_for<S>(*kernels().attention)),
        masks_(context, p, p.queries, kDecodeKeys),
        dk_(g.dk),
        dv_(g.dv),
        space_(context,
               static_cast<size_t>(rows_.count() * (2 * p.e + p.ev + 3 * kDecodeKeys + 2)) * sizeof(T)),
        dq_(dq) {
    const int64_t n = rows_.count();
    scores_ = space_.template as<T>();  // rows of whole vectors first
    dp_ = scores_ + n * kDecodeKeys;
    kept_ = dp_ + n * kDecodeKeys;
    q_ = kept_ + n * kDecodeKeys;
    scaled_q_ = q_ + n * p.e;
    dout_ = scaled_q_ + n * p.e;
    lse2_ = dout_ + n * p.ev;
    delta_ = lse2_ + n;
  }

  void run(int64_t begin, int64_t end, const T* lse2, const T* delta) {
    rows_.template read<S>(p_.q, p_.e, static_cast<T>(p_.scale * kLog2e), q_);
    rows_.template read<S>(p_.q, p_.e, static_cast<T>(p_.scale), scaled_q_);
    rows_.template read<S>(g_.dout, p_.ev, T(1), dout_);
    for (int64_t r = 0; r < rows_.count(); ++r) {
      lse2_[r] = lse2[rows_.index(r)];
      delta_[r] = delta[rows_.index(r)];
    }
    std::fill(dq_, dq_ + rows_.count() * p_.e, T(0));
    for (int64_t j = begin; j < end; j += kDecodeKeys) add(j, std::min(kDecodeKeys, end - j));
  }

  // Keys that no query sees.
  void zero(int64_t begin, int64_t end) const {
    const auto zeros = [](int64_t n) {
      return [n](S* to, int64_t stride, int64_t, int64_t count) {
        for (int64_t j = 0; j < count; ++j)
          std::memset(to + j * stride, 0, static_cast<size_t>(n) * sizeof(S));
      };
    };
    dk_.put(context_, rows_.b, rows_.group, begin, end - begin, zeros(p_.e));
    dv_.put(context_, rows_.b, rows_.group, begin, end - begin, zeros(p_.ev));
  }

 private:
  void add(int64_t j, int64_t cols) {
    const int64_t n = rows_.count();
    const S* k = row_of<const S>(p_.k, rows_.b, rows_.group, j);
    const S* v = row_of<const S>(p_.v, rows_.b, rows_.group, j);
    decode_scores(decode_, n, p_.e, q_, cols, k, p_.k.strides[2], scores_);
    decode_scores(decode_, n, p_.ev, dout_, cols, v, p_.v.strides[2], dp_);
    if (p_.dropout > 0) std::fill(kept_, kept_ + n * kDecodeKeys, T(1));
    for (int64_t h = 0; h < p_.group_size(); ++h) {
      ScoreRows<T> scores = head(scores_, h, cols);
      masks_.apply(scores, rows_.b, rows_.group * p_.group_size() + h, 0, j);
      drop_weights(p_, head(kept_, h, cols), rows_.b, rows_.group * p_.group_size() + h, 0, j);
    }
    const ScoreRows<T> all{scores_, n, cols, kDecodeKeys, T(1)};  // the queries were scaled
    table_for<T>(*kernels().attention).gradients(all, lse2_, delta_, p_.dropout > 0 ? kept_ : nullptr, dp_);
    write_mask(j, cols);
    decode_weighted(decode_, n, p_.e, dp_, cols, k, p_.k.strides[2], dq_);
    dk_.put(context_, rows_.b, rows_.group, j, cols,
            [&](S* to, int64_t stride, int64_t first, int64_t count) {
              decode_.outer(n, p_.e, dp_ + first, kDecodeKeys, count, scaled_q_, to, stride);
            });
    dv_.put(context_, rows_.b, rows_.group, j, cols,
            [&](S* to, int64_t stride, int64_t first, int64_t count) {
              decode_.outer(n, p_.ev, scores_ + first, kDecodeKeys, count, dout_, to, stride);
            });
  }

  void write_mask(int64_t j, int64_t cols) const {
    if constexpr (std::is_same_v<S, T>) {
      for (int64_t r = 0; r < rows_.count() && g_.dmask.data; ++r)
        copy_row(dp_ + r * kDecodeKeys, 1, cols, rows_.template of<T>(g_.dmask, r) + j);
    }
  }

  // The rows of one head of the group.
  ScoreRows<T> head(T* s, int64_t n, int64_t cols) const {
    return {s + n * p_.queries * kDecodeKeys, p_.queries, cols, kDecodeKeys, T(1)};
  }

  Context* const context_;
  const AttentionProblem& p_;
  const AttentionGradients& g_;
  const DecodeRows rows_;
  const DecodeTable<S, T>& decode_;
  const ScoreMasks<T> masks_;
  const GradientRows<S> dk_, dv_;
  const Workspace space_;
  T *const dq_, *scores_, *dp_, *kept_, *q_, *scaled_q_, *dout_, *lse2_, *delta_;
};

// The gradient of a group's queries: the sum over the parts, in their order.
template <class S, class T = compute_t<S>>
void add_parts(const AttentionProblem& p, const DecodeRows& rows, int64_t parts, int64_t part_size, T* sums,
               const View& dq) {
  const T scale = static_cast<T>(p.scale);
  const int64_t n = rows.count() * p.e;
  for (int64_t part = 1; part < parts; ++part)
    for (int64_t i = 0; i < n; ++i) sums[i] += sums[part * part_size + i];
  for (int64_t i = 0; i < n; ++i) sums[i] *= scale;
  for (int64_t r = 0; r < rows.count(); ++r) copy_row(sums + r * p.e, 1, p.e, rows.of<S>(dq, r));
}

}  // namespace

template <class S>
void attention_decode_backward(Context* context, const AttentionProblem& p, const AttentionGradients& g,
                               const compute_t<S>* lse2, const compute_t<S>* delta) {
  using T = compute_t<S>;
  const DecodeParts cuts(p);
  const int64_t groups = p.batch * p.groups, parts = cuts.parts();
  const int64_t size = round_up(p.group_size() * p.queries * p.e, 16);
  const Workspace space(context, static_cast<size_t>(groups * parts * size) * sizeof(T));
  T* const sums = space.as<T>();
  const auto rows = [&](int64_t pair) { return DecodeRows{p, pair / p.groups, pair % p.groups}; };
  parallel_for(context, groups * parts, 3 * cuts.cost(p), [&](int64_t task) {
    const int64_t pair = task / parts, n = task % parts;
    DecodeBackwardPart<S> part(context, p, g, rows(pair).b, rows(pair).group, sums + task * size);
    part.run(cuts.begin(n), cuts.begin(n + 1), lse2, delta);
    if (n + 1 == parts) part.zero(cuts.end, p.keys);
    if (parts == 1) add_parts<S>(p, rows(pair), 1, size, sums + task * size, g.dq);
  });
  if (parts == 1) return;
  for (int64_t pair = 0; pair < groups; ++pair)
    add_parts<S>(p, rows(pair), parts, size, sums + pair * parts * size, g.dq);
}

template void attention_decode_backward<float>(Context*, const AttentionProblem&, const AttentionGradients&,
                                               const float*, const float*);
template void attention_decode_backward<double>(Context*, const AttentionProblem&, const AttentionGradients&,
                                                const double*, const double*);
template void attention_decode_backward<bfloat16>(Context*, const AttentionProblem&,
                                                  const AttentionGradients&, const float*, const float*);

}  // namespace fastdl::cpu
