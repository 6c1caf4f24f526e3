// Few queries: every key and value is read once and used little, so memory decides and multiply-adds suffice.
// The keys are cut into parts, one block each (Dao et al. 2023, "Flash-Decoding"), whose sums a second kernel
// puts together in their order. In a block, teams of 8 to 32 lanes take a key each, a lane 8 of its features;
// nothing goes through shared memory until the teams are put together.
#pragma once

#include "cuda/attention.h"
#include "cuda/attention_config.h"
#include "cuda/attention_softmax.cuh"
#include "cuda/launch.h"
#include "cuda/shared.cuh"

namespace fastdl::cuda {

constexpr int kDecodeThreads = 128, kDecodeWarps = kDecodeThreads / kWarp;
constexpr int kDecodeEach = 8, kDecodeFeatures = kWarp * kDecodeEach;
// Rows of a block that has more than one: of float64 the registers hold one.
template <class S>
constexpr int kDecodeRows = sizeof(S) == 8 ? 1 : 4;

// The weighted values of a row so far, by the maximum and sum of its softmax.
template <class T, int N>
struct DecodeRow {
  T top = -static_cast<T>(INFINITY), sum = 0, out[N] = {};

  __device__ __forceinline__ void add(const DecodeRow& other) {
    const T high = Max{}(top, other.top), mine = softmax_decay(top, high),
            theirs = softmax_decay(other.top, high);
    top = high;
    sum = sum * mine + other.sum * theirs;
#pragma unroll
    for (int i = 0; i < N; ++i) out[i] = out[i] * mine + other.out[i] * theirs;
  }
};

template <class T, int R>
struct DecodeShared {
  SharedArray<T, kDecodeWarps * R * kDecodeFeatures> out;
  SharedArray<T, kDecodeWarps * R> top, sum;
};

template <class S>
struct DecodeArguments {
  using T = compute_t<S>;
  AttentionExtents n;
  AttentionMask<T> mask;
  AttentionRows<const S> q, k, v;
  AttentionRows<S> out;
  T* lse;       // [batch, heads, queries] or NULL
  T* partial;   // [parts][batch, heads, queries][Ev + 2]: sums, then maximum and sum of weights
  int64_t end;  // keys that any query sees
  int64_t parts, keys_each, row_groups;
  int team;               // lanes per key
  bool packs_k, packs_v;  // rows can be read 16 bytes at a time
};

// Eight features of a row, zeros beyond its end.
template <class S>
__device__ __forceinline__ void load_features(S (&x)[kDecodeEach], const S* row, int64_t stride,
                                              int64_t first, int64_t features, bool packs) {
  constexpr int kPer = 16 / static_cast<int>(sizeof(S));
  if (packs && first + kDecodeEach <= features) {
#pragma unroll
    for (int i = 0; i < kDecodeEach; i += kPer) {
      const auto pack = *reinterpret_cast<const Pack<S, kPer>*>(row + first + i);
#pragma unroll
      for (int e = 0; e < kPer; ++e) x[i + e] = pack.at[e];
    }
  } else {
#pragma unroll
    for (int i = 0; i < kDecodeEach; ++i) x[i] = first + i < features ? row[(first + i) * stride] : S{};
  }
}

// Where a row's result goes, or what a part contributes to it.
template <class S>
struct DecodeResult {
  using T = compute_t<S>;
  T* to = nullptr;  // of a part
  S* out;
  T* lse;
  int64_t ev, column;
  T top, sum, norm;

  __device__ __forceinline__ DecodeResult(const DecodeArguments<S>& p, int64_t part, int64_t b, int64_t h,
                                          int64_t i, T top_, T sum_)
      : out(p.out.at(b, h, i)),
        lse(nullptr),
        ev(p.n.ev),
        column(p.out.column),
        top(top_),
        sum(sum_),
        norm(softmax_norm(sum_)) {
    const int64_t line = (b * p.n.heads + h) * p.n.queries + i, lines = p.n.batch * p.n.heads * p.n.queries;
    if (p.parts > 1) to = p.partial + (part * lines + line) * (ev + 2);
    else if (p.lse) lse = p.lse + line;
  }
  // The weighted values of feature c.
  __device__ __forceinline__ void put(int64_t c, T value) const {
    if (c >= ev) return;
    if (to) to[c] = value;
    else out[c * column] = narrow<S>(value * norm);
  }
  // Once a row.
  __device__ __forceinline__ void put_sums() const {
    if (to) to[ev] = top, to[ev + 1] = sum;
    else if (lse) *lse = log_sum_exp(top, sum);
  }
};

// R rows (of a group's heads, their queries one after the other) per block.
template <class S, int R>
__global__ void __launch_bounds__(kDecodeThreads) attention_decode(DecodeArguments<S> p) {
  using T = compute_t<S>;
  constexpr int kKeys = sizeof(S) == 2   ? 4
                        : sizeof(S) == 4 ? 2
                                         : 1;  // of a team at a time, in flight together
  auto& shared = shared_memory<DecodeShared<T, R>>();
  const int64_t part = blockIdx.x % p.parts, first_row = blockIdx.x / p.parts % p.row_groups * R,
                group = blockIdx.x / p.parts / p.row_groups % p.n.groups,
                b = blockIdx.x / p.parts / p.row_groups / p.n.groups;
  const int64_t heads = p.n.heads / p.n.groups, rows = heads * p.n.queries;
  const int64_t begin = part * p.keys_each, end = begin + p.keys_each < p.end ? begin + p.keys_each : p.end;
  const int teams = kDecodeThreads / p.team, team = static_cast<int>(threadIdx.x) / p.team;
  const int64_t c = static_cast<int>(threadIdx.x) % p.team * kDecodeEach;
  // A row too many is the last one again, and not written.
  const auto row_at = [&](int r) { return first_row + r < rows ? first_row + r : rows - 1; };
  const auto head_of = [&](int r) { return group * heads + row_at(r) / p.n.queries; };
  const auto query_of = [&](int r) { return row_at(r) % p.n.queries; };

  T q[R][kDecodeEach];
#pragma unroll
  for (int r = 0; r < R; ++r) {
    S x[kDecodeEach];
    load_features(x, p.q.at(b, head_of(r), query_of(r)), p.q.column, c, p.n.e, false);
#pragma unroll
    for (int e = 0; e < kDecodeEach; ++e) q[r][e] = widen(x[e]);
  }
  DecodeRow<T, kDecodeEach> state[R];
  int64_t seen[R];  // the end of the keys of this part that a row sees
#pragma unroll
  for (int r = 0; r < R; ++r) seen[r] = p.n.causal && query_of(r) < end ? query_of(r) + 1 : end;
  const bool extra = p.mask.data || p.mask.drops;
  const S *const keys = p.k.at(b, group, 0), *const values = p.v.at(b, group, 0);
#pragma unroll 1
  for (int64_t base = begin; base < end; base += teams * kKeys) {  // the same for all lanes: they shuffle
    S k[kKeys][kDecodeEach], v[kKeys][kDecodeEach];
#pragma unroll
    for (int u = 0; u < kKeys; ++u) {
      const int64_t key = base + u * teams + team;
      load_features(k[u], keys + key * p.k.row, p.k.column, c, key < end ? p.n.e : 0, p.packs_k);
      load_features(v[u], values + key * p.v.row, p.v.column, c, key < end ? p.n.ev : 0, p.packs_v);
    }
    // The caller's mask and dropout in a loop that stays one (see TileMask::each).
    T terms[R * kKeys] = {}, factors[R * kKeys] = {};
    if (extra) {
#pragma unroll 1
      for (int n = 0; n < R * kKeys; ++n) {
        const int64_t key = base + n % kKeys * teams + team, h = head_of(n / kKeys), i = query_of(n / kKeys);
        terms[n] = p.mask.data && key < end ? p.mask.term(b, h, i, key) : T{0};
        factors[n] = p.mask.drops ? p.mask.keep(b, h, i, key) : T{1};
      }
    }
#pragma unroll
    for (int r = 0; r < R; ++r) {
      T score[kKeys], high = state[r].top;
#pragma unroll
      for (int u = 0; u < kKeys; ++u) {
        T sum = 0;
#pragma unroll
        for (int e = 0; e < kDecodeEach; ++e) sum = fma(q[r][e], widen(k[u][e]), sum);
        for (int step = p.team / 2; step > 0; step /= 2) sum += __shfl_xor_sync(kAllLanes, sum, step);
        score[u] = base + u * teams + team < seen[r] ? sum * p.mask.scale2 : -static_cast<T>(INFINITY);
        if (extra) score[u] = AttentionMask<T>::with_term(score[u], terms[r * kKeys + u]);
        high = Max{}(high, score[u]);
      }
      const T decay = softmax_decay(state[r].top, high), shift = softmax_shift(high);
      state[r].top = high;
      state[r].sum *= decay;
#pragma unroll
      for (int e = 0; e < kDecodeEach; ++e) state[r].out[e] *= decay;
#pragma unroll
      for (int u = 0; u < kKeys; ++u) {
        T weight = softmax_weight(score[u], shift);
        state[r].sum += weight;
        if (extra) weight *= factors[r * kKeys + u];
#pragma unroll
        for (int e = 0; e < kDecodeEach; ++e) state[r].out[e] = fma(weight, widen(v[u][e]), state[r].out[e]);
      }
    }
  }

  // The teams of a warp, then the warps, each in their order.
#pragma unroll
  for (int r = 0; r < R; ++r) {
    for (int step = p.team; step < kWarp; step *= 2) {
      DecodeRow<T, kDecodeEach> other;
      other.top = __shfl_xor_sync(kAllLanes, state[r].top, step);
      other.sum = __shfl_xor_sync(kAllLanes, state[r].sum, step);
#pragma unroll
      for (int e = 0; e < kDecodeEach; ++e) other.out[e] = __shfl_xor_sync(kAllLanes, state[r].out[e], step);
      state[r].add(other);
    }
    if (lane() < p.team) {
#pragma unroll
      for (int e = 0; e < kDecodeEach; ++e)
        shared.out[(warp() * R + r) * kDecodeFeatures + static_cast<int>(c) + e] = state[r].out[e];
      if (lane() == 0) shared.top[warp() * R + r] = state[r].top, shared.sum[warp() * R + r] = state[r].sum;
    }
  }
  __syncthreads();
  for (int at = static_cast<int>(threadIdx.x); at < R * p.team * kDecodeEach; at += kDecodeThreads) {
    const int r = at / (p.team * kDecodeEach), feature = at % (p.team * kDecodeEach);
    if (first_row + r >= rows) continue;
    DecodeRow<T, 1> total;
    for (int w = 0; w < kDecodeWarps; ++w) {
      DecodeRow<T, 1> other;
      other.top = shared.top[w * R + r], other.sum = shared.sum[w * R + r];
      other.out[0] = shared.out[(w * R + r) * kDecodeFeatures + feature];
      total.add(other);
    }
    const DecodeResult<S> result(p, part, b, head_of(r), query_of(r), total.top, total.sum);
    result.put(feature, total.out[0]);
    if (feature == 0) result.put_sums();
  }
}

// The parts of every row, in their order.
template <class S>
__global__ void __launch_bounds__(kDecodeThreads) attention_decode_combine(DecodeArguments<S> p) {
  using T = compute_t<S>;
  const int64_t lines = p.n.batch * p.n.heads * p.n.queries, width = p.n.ev + 1;  // at least the log-sum-exp
  DecodeArguments<S> whole = p;
  whole.parts = 1;
  for (int64_t at = static_cast<int64_t>(blockIdx.x) * kDecodeThreads + threadIdx.x; at < lines * width;
       at += static_cast<int64_t>(gridDim.x) * kDecodeThreads) {
    const int64_t line = at / width, c = at % width;
    if (c == p.n.ev && c > 0) continue;
    const T* const from = p.partial + line * (p.n.ev + 2);
    const int64_t step = lines * (p.n.ev + 2);
    // The maximum first: then no part waits for the one before, and loads of several are under way.
    T high = -static_cast<T>(INFINITY), sum = 0, out = 0;
#pragma unroll 8
    for (int64_t part = 0; part < p.parts; ++part) high = Max{}(high, from[part * step + p.n.ev]);
    // Exponentials of float64 take the registers of several.
    [[maybe_unused]] constexpr int kAhead = sizeof(T) == 4 ? 4 : 1;
#pragma unroll kAhead
    for (int64_t part = 0; part < p.parts; ++part) {
      const T* const of = from + part * step;
      const T decay = softmax_decay(of[p.n.ev], high);
      sum = fma(of[p.n.ev + 1], decay, sum);
      if (c < p.n.ev) out = fma(of[c], decay, out);
    }
    const DecodeResult<S> result(whole, 0, line / p.n.queries / p.n.heads, line / p.n.queries % p.n.heads,
                                 line % p.n.queries, high, sum);
    result.put(c, out);
    if (c == 0) result.put_sums();
  }
}

// A call's arguments, and its partial results.
template <class S>
class DecodeParts {
 public:
  using T = compute_t<S>;
  DecodeParts(Context* context, const AttentionProblem& p, T* lse, const DecodePlan& plan)
      : context_(context),
        space_(context, plan.parts > 1 ? bytes(p, plan) : 0),
        arguments_{AttentionExtents(p),
                   AttentionMask<T>(p),
                   AttentionRows<const S>(p.q),
                   AttentionRows<const S>(p.k),
                   AttentionRows<const S>(p.v),
                   AttentionRows<S>(p.out),
                   lse,
                   plan.parts > 1 ? space_.as<T>() : nullptr,
                   p.key_end(p.queries),
                   plan.parts,
                   plan.keys_each,
                   plan.row_groups,
                   plan.team,
                   in_packs(p.k),
                   in_packs(p.v)} {}
  const DecodeArguments<S>& operator*() const { return arguments_; }

  unsigned blocks() const {
    const AttentionExtents& n = arguments_.n;
    return static_cast<unsigned>(arguments_.parts * arguments_.row_groups * n.groups * n.batch);
  }
  // After the kernel that makes the parts.
  void combine() const {
    if (arguments_.parts == 1) return;
    const AttentionExtents& n = arguments_.n;
    const int64_t results = n.batch * n.heads * n.queries * (n.ev + 1);
    launch(context_, FASTDL_KERNEL(attention_decode_combine<S>),
           {blocks_for(results, kDecodeThreads), kDecodeThreads}, arguments_);
  }

 private:
  static size_t bytes(const AttentionProblem& p, const DecodePlan& plan) {
    return static_cast<size_t>(plan.parts * p.batch * p.heads * p.queries * (p.ev + 2)) * sizeof(T);
  }
  Context* context_;
  Workspace space_;
  DecodeArguments<S> arguments_;
};

template <class S>
void attention_decode_forward(Context* context, const AttentionProblem& p, compute_t<S>* lse,
                              const DecodePlan& plan) {
  using T = compute_t<S>;
  const DecodeParts<S> parts(context, p, lse, plan);
  if (plan.rows_each == 1) {
    launch(context, FASTDL_KERNEL(attention_decode<S, 1>),
           {parts.blocks(), kDecodeThreads, sizeof(DecodeShared<T, 1>)}, *parts);
  } else {
    launch(context, FASTDL_KERNEL(attention_decode<S, kDecodeRows<S>>),
           {parts.blocks(), kDecodeThreads, sizeof(DecodeShared<T, kDecodeRows<S>>)}, *parts);
  }
  parts.combine();
}

}  // namespace fastdl::cuda
