// The backward pass by multiply-adds: the two kernels of attention_backward.cuh on the blocks of
// attention_fma.cuh.
#pragma once

#include "cuda/attention_backward.cuh"
#include "cuda/attention_fma.cuh"

namespace fastdl::cuda {

template <class S>
struct FmaBackwardArguments {
  using T = compute_t<S>;
  AttentionExtents n;
  AttentionMask<T> mask;
  AttentionRows<const S> q, k, v, dout;
  const T* terms;  // see attention_row_terms
  AttentionRows<S> dq, dk, dv;
  T scale;
  void* dmask;  // [batch, heads, queries, keys] or NULL
  bool dmask_float32;
  const uint32_t* only;
  int64_t tiles, chunks, value_chunks;  // the last `value_chunks` of the chunks are of dV
  SeenTiles seen;
};

template <class S, bool OwnKeys>
__global__ void __launch_bounds__(kAttentionFmaThreads, 1) attention_backward_fma(FmaBackwardArguments<S> p) {
  using T = compute_t<S>;
  auto& shared = shared_memory<AttentionFmaShared<T>>();
  const int64_t own_heads = OwnKeys ? p.n.groups : p.n.heads;
  const int64_t tile = blockIdx.x % p.tiles, chunk = blockIdx.x / p.tiles % p.chunks,
                own_head = blockIdx.x / p.tiles / p.chunks % own_heads,
                b = blockIdx.x / p.tiles / p.chunks / own_heads;
  const int64_t group = OwnKeys ? own_head : p.n.group_of(own_head);
  if (!chosen(p.only, b, group, p.n.groups)) return;
  const bool values = chunk >= p.chunks - p.value_chunks;
  const int64_t feature = (values ? chunk - (p.chunks - p.value_chunks) : chunk) * kAttentionTile;
  const int64_t first = tile * kAttentionTile, length = OwnKeys ? p.n.keys : p.n.queries,
                others = OwnKeys ? p.n.queries : p.n.keys;
  const FmaRows<S> x1(OwnKeys ? p.k : p.q, b, own_head, first, length),
      x2(OwnKeys ? p.v : p.dout, b, own_head, first, length);
  const BackwardRange<OwnKeys> range(p.n, p.seen, b, own_head, tile, kAttentionTile, kAttentionTile);

  T sums[kAttentionEach][kAttentionEach] = {};
  for (BackwardCursor<OwnKeys> now(range); !now.at_end(range); now.advance(range)) {
    const int64_t h = now.head, row = static_cast<int64_t>(now.tile) * kAttentionTile,
                  head = OwnKeys ? h : group, lines = (b * p.n.heads + h) * p.n.queries;
    const FmaRows<S> y1(OwnKeys ? p.q : p.k, b, head, row, others),
        y2(OwnKeys ? p.dout : p.v, b, head, row, others);
    T scores[kAttentionEach][kAttentionEach], grads[kAttentionEach][kAttentionEach] = {};
    fma_rows<S, T>(scores, x1, y1, p.n.e, shared);
    if (!values) fma_rows<S, T>(grads, x2, y2, p.n.ev, shared);
    FmaElements<T> elements;
    elements.template load<OwnKeys>(p.mask, b, h, first, row);
#pragma unroll
    for (int r = 0; r < kAttentionEach; ++r) {
#pragma unroll
      for (int c = 0; c < kAttentionEach; ++c) {
        const int64_t own = first + fma_y() + r * kAttentionSide, other = row + fma_x() + c * kAttentionSide;
        const int64_t i = OwnKeys ? other : own, j = OwnKeys ? own : other;
        const bool in = i < p.n.queries;
        const int n = r * kAttentionEach + c;
        const T factor = p.mask.drops ? elements.factors[n] : T{1};
        const T weight = softmax_weight(elements.score(p.mask, scores[r][c], p.mask.visible(i, j), n),
                                        in ? p.terms[(lines + i) * 2 + kShift] : T{0});
        const T grad = weight * (grads[r][c] * factor - (in ? p.terms[(lines + i) * 2 + kDelta] : T{0}));
        if (!OwnKeys && p.dmask && chunk == 0 && in && j < p.n.keys) {
          const int64_t at = (lines + i) * p.n.keys + j;
          if (p.dmask_float32) static_cast<float*>(p.dmask)[at] = static_cast<float>(grad);
          else static_cast<S*>(p.dmask)[at] = narrow<S>(grad);
        }
        scores[r][c] = values ? weight * factor : grad;
      }
    }
    fma_weights<S, T>(sums, scores, values ? y2 : y1, rows_left(row, others), feature,
                      values ? p.n.ev : p.n.e, shared);
  }

  const AttentionRows<S>& out = !OwnKeys ? p.dq : values ? p.dv : p.dk;
  const int64_t features = values ? p.n.ev : p.n.e;
  for (int r = 0; r < kAttentionEach; ++r) {
    const int64_t row = first + fma_y() + r * kAttentionSide;
    if (row >= length) continue;
    S* const to = out.at(b, own_head, row);
    for (int c = 0; c < kAttentionEach; ++c) {
      const int64_t column = feature + fma_x() + c * kAttentionSide;
      if (column < features) to[column * out.column] = narrow<S>(values ? sums[r][c] : sums[r][c] * p.scale);
    }
  }
}

template <class S, bool OwnKeys>
void launch_attention_backward_fma(Context* context, FmaBackwardArguments<S> a) {
  a.tiles = chunks_of(OwnKeys ? a.n.keys : a.n.queries);
  a.value_chunks = OwnKeys ? chunks_of(a.n.ev) : 0;
  // Without features there may still be the gradient of a mask to make.
  a.chunks = std::max<int64_t>(1, chunks_of(a.n.e) + a.value_chunks);
  const int64_t blocks = a.tiles * a.chunks * (OwnKeys ? a.n.groups : a.n.heads) * a.n.batch;
  if (blocks == 0) return;
  const SeenLists<compute_t<S>> seen(context, a.n, a.mask, OwnKeys, kAttentionTile, kAttentionTile);
  if (!a.dmask) a.seen = *seen;
  launch(context, FASTDL_KERNEL(attention_backward_fma<S, OwnKeys>),
         {static_cast<unsigned>(blocks), kAttentionFmaThreads, sizeof(AttentionFmaShared<compute_t<S>>)}, a);
}

// Of every row (batch, head, query): what is subtracted from its scores, and delta = dO . O, `step` from row
// to row, `plane` from one to the other. Of the `padded` rows of a head those that do not exist get what
// makes weights of 0.
template <class S>
__global__ void __launch_bounds__(kPrepareThreads)
    attention_row_terms(AttentionExtents n, AttentionRows<const S> dout, AttentionRows<const S> out,
                        const compute_t<S>* lse, int64_t padded, int64_t step, int64_t plane,
                        compute_t<S>* terms) {
  using T = compute_t<S>;
  constexpr int kWarps = kPrepareThreads / kWarp;
  const int64_t rows = n.batch * n.heads * padded;
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + warp(); row < rows;
       row += static_cast<int64_t>(gridDim.x) * kWarps) {
    T* const to = terms + row * step;
    const int64_t i = row % padded, h = row / padded % n.heads, b = row / padded / n.heads;
    if (i >= n.queries) {
      if (lane() == 0) to[kShift * plane] = static_cast<T>(INFINITY), to[kDelta * plane] = 0;
      continue;
    }
    const S *const x = dout.at(b, h, i), *const y = out.at(b, h, i);
    T sum = 0;
    for (int64_t c = lane(); c < n.ev; c += kWarp)
      sum = fma(widen(x[c * dout.column]), widen(y[c * out.column]), sum);
    sum = warp_reduce(sum, Sum{});
    if (lane() == 0) {
      to[kShift * plane] = backward_shift(lse[(b * n.heads + h) * n.queries + i]);
      to[kDelta * plane] = sum;
    }
  }
}

}  // namespace fastdl::cuda
