// Attention by multiply-adds, for float64, for any number of features, and for float32 values that have no
// split into bfloat16. A block of 16 x 16 threads owns 64 rows of one side (queries or keys) and 64 features
// of a result, and goes over the other side 64 rows at a time: scores are made anew for every 64 features,
// each thread 4 x 4 of them 16 apart, from slices of 16 features in shared memory.
#pragma once

#include "cuda/attention.h"
#include "cuda/attention_seen.cuh"
#include "cuda/attention_softmax.cuh"
#include "cuda/launch.h"
#include "cuda/shared.cuh"

namespace fastdl::cuda {

constexpr int kAttentionTile = 64, kAttentionDepth = 16, kAttentionSide = 16,
              kAttentionEach = kAttentionTile / kAttentionSide;
__host__ __device__ constexpr int64_t chunks_of(int64_t n) {
  return (n + kAttentionTile - 1) / kAttentionTile;
}
constexpr int kAttentionFmaThreads = kAttentionSide * kAttentionSide;
constexpr int kAttentionRow = kAttentionTile + 1;  // one more than a multiple of the banks

template <class T>
struct AttentionFmaShared {
  SharedArray<T, kAttentionDepth * kAttentionRow> a, b;
  SharedArray<T, kAttentionTile * kAttentionRow> weights;
};
template <class T>
using FmaSums = T[kAttentionEach][kAttentionEach];

// 64 rows of one head, from `first` on; those from `end` on are zero.
template <class S>
struct FmaRows {
  const S* data;
  int64_t row, column, first, end;

  __device__ __forceinline__ FmaRows(const AttentionRows<const S>& x, int64_t b, int64_t h, int64_t first_,
                                     int64_t end_)
      : data(x.at(b, h, 0)), row(x.row), column(x.column), first(first_), end(end_) {}
  __device__ __forceinline__ compute_t<S> at(int64_t i, int64_t c, int64_t features) const {
    return first + i < end && c < features ? widen(data[(first + i) * row + c * column]) : compute_t<S>{0};
  }
};

__device__ __forceinline__ int fma_x() { return static_cast<int>(threadIdx.x) % kAttentionSide; }
__device__ __forceinline__ int fma_y() { return static_cast<int>(threadIdx.x) / kAttentionSide; }

// sums += a[k][row] b[k][column] over the first `depth` k in shared memory.
template <class T, class A, class B>
__device__ __forceinline__ void fma_slice(FmaSums<T>& sums, int depth, const A& a, const B& b) {
#pragma unroll 2
  for (int k = 0; k < depth; ++k) {
    T left[kAttentionEach], right[kAttentionEach];
#pragma unroll
    for (int i = 0; i < kAttentionEach; ++i) left[i] = a(k, fma_y() + i * kAttentionSide);
#pragma unroll
    for (int j = 0; j < kAttentionEach; ++j) right[j] = b(k, fma_x() + j * kAttentionSide);
#pragma unroll
    for (int i = 0; i < kAttentionEach; ++i) {
#pragma unroll
      for (int j = 0; j < kAttentionEach; ++j) sums[i][j] = fma(left[i], right[j], sums[i][j]);
    }
  }
}

// sums = X Y^T over `features`.
template <class S, class T>
__device__ __forceinline__ void fma_rows(FmaSums<T>& sums, const FmaRows<S>& x, const FmaRows<S>& y,
                                         int64_t features, AttentionFmaShared<T>& shared) {
  for (int i = 0; i < kAttentionEach; ++i) {
    for (int j = 0; j < kAttentionEach; ++j) sums[i][j] = 0;
  }
  for (int64_t c0 = 0; c0 < features; c0 += kAttentionDepth) {
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x); i < kAttentionTile * kAttentionDepth;
         i += kAttentionFmaThreads) {
      const int c = i % kAttentionDepth, row = i / kAttentionDepth;
      shared.a[c * kAttentionRow + row] = x.at(row, c0 + c, features);
      shared.b[c * kAttentionRow + row] = y.at(row, c0 + c, features);
    }
    __syncthreads();
    const int depth = static_cast<int>(features - c0 < kAttentionDepth ? features - c0 : kAttentionDepth);
    fma_slice<T>(
        sums, depth, [&](int k, int row) -> T { return shared.a[k * kAttentionRow + row]; },
        [&](int k, int column) -> T { return shared.b[k * kAttentionRow + column]; });
    __syncthreads();
  }
}

// sums += W Y[:, first_feature ..]: the weights of 64 rows, which are put into shared memory, by `count` rows
// of Y.
template <class S, class T>
__device__ __forceinline__ void fma_weights(FmaSums<T>& sums, const FmaSums<T>& weights, const FmaRows<S>& y,
                                            int count, int64_t first_feature, int64_t features,
                                            AttentionFmaShared<T>& shared) {
  for (int i = 0; i < kAttentionEach; ++i) {
    for (int j = 0; j < kAttentionEach; ++j)
      shared.weights[(fma_x() + j * kAttentionSide) * kAttentionRow + fma_y() + i * kAttentionSide] =
          weights[i][j];
  }
  for (int k0 = 0; k0 < count; k0 += kAttentionDepth) {
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x); i < kAttentionTile * kAttentionDepth;
         i += kAttentionFmaThreads) {
      const int c = i % kAttentionTile, k = i / kAttentionTile;
      shared.b[k * kAttentionRow + c] = y.at(k0 + k, first_feature + c, features);
    }
    __syncthreads();
    const int depth = count - k0 < kAttentionDepth ? count - k0 : kAttentionDepth;
    fma_slice<T>(
        sums, depth, [&](int k, int row) -> T { return shared.weights[(k0 + k) * kAttentionRow + row]; },
        [&](int k, int column) -> T { return shared.b[k * kAttentionRow + column]; });
    __syncthreads();
  }
}

__device__ __forceinline__ int rows_left(int64_t first, int64_t end) {
  return static_cast<int>(end - first < kAttentionTile ? end - first : kAttentionTile);
}

// Over the 16 threads that share rows.
template <class T, class F>
__device__ __forceinline__ T side_reduce(T x, F combine) {
#pragma unroll
  for (int step = kAttentionSide / 2; step > 0; step /= 2)
    x = combine(x, __shfl_xor_sync(kAllLanes, x, step));
  return x;
}

// The terms of the caller's mask and the factors of dropout of a thread's 4 x 4 elements (see TileElements).
template <class T>
struct FmaElements {
  T terms[kAttentionEach * kAttentionEach] = {}, factors[kAttentionEach * kAttentionEach] = {};

  template <bool OwnKeys>
  __device__ __forceinline__ void load(const AttentionMask<T>& mask, int64_t b, int64_t h, int64_t first,
                                       int64_t stream) {
    if (!mask.data && !mask.drops) return;
#pragma unroll 1
    for (int n = 0; n < kAttentionEach * kAttentionEach; ++n) {
      const int64_t own = first + fma_y() + n / kAttentionEach * kAttentionSide,
                    other = stream + fma_x() + n % kAttentionEach * kAttentionSide;
      const int64_t i = OwnKeys ? other : own, j = OwnKeys ? own : other;
      if (!mask.visible(i, j)) continue;
      if (mask.data) terms[n] = mask.term(b, h, i, j);
      if (mask.drops) factors[n] = mask.keep(b, h, i, j);
    }
  }
  __device__ __forceinline__ T score(const AttentionMask<T>& mask, T product, bool visible, int n) const {
    if (!visible) return -static_cast<T>(INFINITY);
    return mask.data ? AttentionMask<T>::with_term(product * mask.scale2, terms[n]) : product * mask.scale2;
  }
};

// What is to be done: everything (NULL), or the groups of heads whose word is not 0.
__device__ __forceinline__ bool chosen(const uint32_t* only, int64_t b, int64_t group, int64_t groups) {
  return !only || only[b * groups + group] != 0;
}

template <class S>
struct FmaForwardArguments {
  AttentionExtents n;
  AttentionMask<compute_t<S>> mask;
  AttentionRows<const S> q, k, v;
  AttentionRows<S> out;
  compute_t<S>* lse;     // or NULL
  const uint32_t* only;  // see chosen()
  int64_t tiles, chunks;
  SeenTiles seen;
};

template <class S>
__global__ void __launch_bounds__(kAttentionFmaThreads, 1) attention_forward_fma(FmaForwardArguments<S> p) {
  using T = compute_t<S>;
  auto& shared = shared_memory<AttentionFmaShared<T>>();
  const int64_t tile = blockIdx.x % p.tiles, chunk = blockIdx.x / p.tiles % p.chunks,
                h = blockIdx.x / p.tiles / p.chunks % p.n.heads,
                b = blockIdx.x / p.tiles / p.chunks / p.n.heads, group = p.n.group_of(h);
  if (!chosen(p.only, b, group, p.n.groups)) return;
  const int64_t first = tile * kAttentionTile, feature = chunk * kAttentionTile;
  const FmaRows<S> queries(p.q, b, h, first, p.n.queries);
  T out[kAttentionEach][kAttentionEach] = {}, top[kAttentionEach], sum[kAttentionEach] = {};
  for (int i = 0; i < kAttentionEach; ++i) top[i] = -static_cast<T>(INFINITY);

  const int64_t steps =
      p.seen.data ? p.seen.count(b, h, tile) : chunks_of(p.n.key_end(first + kAttentionTile));
  for (int64_t step = 0; step < steps; ++step) {
    const int64_t key =
        (p.seen.data ? p.seen.entry(static_cast<int32_t>(step), b, h, tile) : step) * kAttentionTile;
    T scores[kAttentionEach][kAttentionEach];
    fma_rows<S, T>(scores, queries, FmaRows<S>(p.k, b, group, key, p.n.keys), p.n.e, shared);
    FmaElements<T> elements;
    elements.template load<false>(p.mask, b, h, first, key);
#pragma unroll
    for (int i = 0; i < kAttentionEach; ++i) {
      const int64_t row = first + fma_y() + i * kAttentionSide;
      T high = top[i];
#pragma unroll
      for (int j = 0; j < kAttentionEach; ++j) {
        const bool visible = p.mask.visible(row, key + fma_x() + j * kAttentionSide);
        scores[i][j] = elements.score(p.mask, scores[i][j], visible, i * kAttentionEach + j);
        high = Max{}(high, scores[i][j]);
      }
      high = side_reduce(high, Max{});
      const T decay = softmax_decay(top[i], high), shift = softmax_shift(high);
      top[i] = high;
      T here = 0;
#pragma unroll
      for (int j = 0; j < kAttentionEach; ++j) {
        T& w = scores[i][j];
        w = softmax_weight(w, shift);
        here += w;
        if (p.mask.drops) w *= elements.factors[i * kAttentionEach + j];
        out[i][j] *= decay;
      }
      sum[i] = sum[i] * decay + here;
    }
    fma_weights<S, T>(out, scores, FmaRows<S>(p.v, b, group, key, p.n.keys), rows_left(key, p.n.keys),
                      feature, p.n.ev, shared);
  }

  for (int i = 0; i < kAttentionEach; ++i) {
    const int64_t row = first + fma_y() + i * kAttentionSide;
    const T total = side_reduce(sum[i], Sum{});
    if (row >= p.n.queries) continue;
    if (p.lse && chunk == 0 && fma_x() == 0)
      p.lse[(b * p.n.heads + h) * p.n.queries + row] = log_sum_exp(top[i], total);
    S* const to = p.out.at(b, h, row);
    for (int j = 0; j < kAttentionEach; ++j) {
      const int64_t c = feature + fma_x() + j * kAttentionSide;
      if (c < p.n.ev) to[c * p.out.column] = narrow<S>(out[i][j] * softmax_norm(total));
    }
  }
}

template <class S>
void launch_attention_forward_fma(Context* context, const AttentionProblem& p, compute_t<S>* lse,
                                  const uint32_t* only) {
  FmaForwardArguments<S> a{AttentionExtents(p),
                           AttentionMask<compute_t<S>>(p),
                           AttentionRows<const S>(p.q),
                           AttentionRows<const S>(p.k),
                           AttentionRows<const S>(p.v),
                           AttentionRows<S>(p.out),
                           lse,
                           only,
                           chunks_of(p.queries),
                           std::max<int64_t>(1, chunks_of(p.ev)),
                           {}};
  const SeenLists<compute_t<S>> seen(context, a.n, a.mask, false, kAttentionTile, kAttentionTile);
  a.seen = *seen;
  launch(context, FASTDL_KERNEL(attention_forward_fma<S>),
         {static_cast<unsigned>(a.tiles * a.chunks * p.heads * p.batch), kAttentionFmaThreads,
          sizeof(AttentionFmaShared<compute_t<S>>)},
         a);
}

}  // namespace fastdl::cuda
