// Attention backward on the tensor cores, scores made anew from the log-sum-exp: one kernel that owns 64
// queries of a head and goes over the keys (dQ), and the same one with the roles exchanged, which owns 64
// keys of a group and goes over the queries of all its heads (dK, dV). Each result has one block that sums
// it, in a fixed order: no atomics, and two products more than with them.
//
//   own queries:  X1 = Q, X2 = dO,  Y1 = K, Y2 = V;   own keys:  X1 = K, X2 = V,  Y1 = Q, Y2 = dO
//   scores = X1 Y1^T, P = 2^(score2 - shift), dP = X2 Y2^T, dS = P (dropped dP - delta)
//   dQ or dK += dS Y1;  own keys:  dV += (dropped P) Y2
#pragma once

#include "cuda/attention_operands.cuh"
#include "cuda/attention_softmax.cuh"

namespace fastdl::cuda {

constexpr int kBackwardThreads = 128, kBackwardRows = 64;  // each warp owns 16 rows

// Rows of the other side per step: what fits into registers, and two steps into the 163 KiB of an A100 beside
// the block's own rows.
template <int Planes, int D>
struct BackwardShape {
  static constexpr int kStream = D <= 64 || (Planes == 1 && D <= 128) ? 32 : 16;
  static constexpr int kStages = 2;
  // dK and dV of 256 features do not fit into registers together: half of the blocks make each.
  static constexpr bool kTogether = D <= 128;
};

template <class H, int Planes, int D>
struct BackwardShared {
  using Shape = BackwardShape<Planes, D>;
  static constexpr int kOwn = 2 * Planes * kBackwardRows * D,
                       kRing = 2 * Shape::kStages * Planes * Shape::kStream * D;
  SharedArray<H, kOwn + kRing> tiles;  // X1, X2, then Y1, Y2 of every stage
};

template <class H>
struct BackwardArguments {
  AttentionExtents n;
  AttentionMask<float> mask;
  AttentionPlanes<H> q, k, v, dout;
  const float *shift, *delta;  // [batch, heads, queries]
  AttentionOut dq, dk, dv, dmask;
  const uint32_t* unfit;  // as in ForwardArguments
  float scale;
  int64_t tiles;  // of the side that is owned
};

// What a block goes over, Rows at a time: the rows [begin, end) of every head [head, last).
struct BackwardRange {
  int64_t begin, end;
  int64_t head, last;

  __device__ __forceinline__ BackwardRange(const AttentionExtents& n, bool own_keys, int64_t head_or_group,
                                           int64_t first, int64_t own, int64_t rows) {
    const int64_t heads = own_keys ? n.heads / n.groups : 1;
    head = head_or_group * heads;
    begin = own_keys ? n.query_begin(first) / rows * rows : 0;
    end = own_keys ? n.queries : n.key_end(first + own);
    last = begin < end ? head + heads : head;
  }
};
struct BackwardCursor {
  int64_t row, head;

  __device__ __forceinline__ explicit BackwardCursor(const BackwardRange& range)
      : row(range.begin), head(range.head) {}
  __device__ __forceinline__ bool at_end(const BackwardRange& range) const { return head >= range.last; }
  __device__ __forceinline__ void advance(const BackwardRange& range, int64_t rows) {
    row += rows;
    if (row >= range.end) row = range.begin, ++head;
  }
};

// From products and dP of one step to weights and dS. `shift` and `delta` are those of the rows' queries, or,
// OwnKeys, begin at the first column's, of which `count` are left.
template <bool OwnKeys, int Wide>
__device__ __forceinline__ void score_gradients(const TileMask<OwnKeys, Wide>& tile,
                                                const typename TileMask<OwnKeys, Wide>::Elements& elements,
                                                float (&scores)[Wide][4], float (&grads)[Wide][4],
                                                const float* shift, const float* delta, int64_t count) {
  tile.apply(scores, elements);
  const bool drops = tile.mask.drops;
  const int left = static_cast<int>(count < 8 * Wide ? count : 8 * Wide);
#pragma unroll
  for (int j = 0; j < Wide; ++j) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int at = OwnKeys ? tile.column_of(j, e) : e / 2;
      const bool in = !OwnKeys || at < left;
      const float weight = softmax_weight(scores[j][e], in ? shift[at] : 0.0f);
      const float factor = drops ? elements.factors[4 * j + e] : 1.0f;
      grads[j][e] = weight * (grads[j][e] * factor - (in ? delta[at] : 0.0f));
      scores[j][e] = weight * factor;
    }
  }
}

template <class H, int Planes, int D, bool OwnKeys>
__global__ void __launch_bounds__(kBackwardThreads) attention_backward_mma(BackwardArguments<H> p) {
  using Shape = BackwardShape<Planes, D>;
  using Own = AttentionTile<H, Planes, kBackwardRows, D, kBackwardThreads>;
  using Stream = AttentionTile<H, Planes, Shape::kStream, D, kBackwardThreads>;
  constexpr int kWide = Shape::kStream / 8, kStages = Shape::kStages;
  constexpr bool kBoth = OwnKeys && Shape::kTogether;
  constexpr int kKinds = OwnKeys && !kBoth ? 2 : 1;
  auto& shared = shared_memory<BackwardShared<H, Planes, D>>();
  H* const tiles = shared.tiles.data();
  constexpr int kX2 = Own::kElements, kRing = 2 * Own::kElements;

  const int64_t block = blockIdx.x / kKinds, tile = block % p.tiles,
                own_heads = OwnKeys ? p.n.groups : p.n.heads, own_head = block / p.tiles % own_heads,
                b = block / p.tiles / own_heads, group = OwnKeys ? own_head : p.n.group_of(own_head);
  const bool values = kKinds == 2 && blockIdx.x % 2 != 0;  // makes dV, not dK
  if (p.unfit && p.unfit[b * p.n.groups + group]) return;
  const int64_t first = tile * kBackwardRows, length = OwnKeys ? p.n.keys : p.n.queries;
  const BackwardRange range(p.n, OwnKeys, own_head, first, kBackwardRows, Shape::kStream);
  const int row0 = warp() * 16;

  BackwardCursor next(range);
  int filled = 0, used = 0;  // stages
  const auto fetch = [&] {
    if (!next.at_end(range)) {
      H* const at = tiles + kRing + filled * 2 * Stream::kElements;
      const int64_t head = OwnKeys ? next.head : group, rows = OwnKeys ? p.n.queries : p.n.keys;
      Stream::fetch(at, OwnKeys ? p.q : p.k, b, head, next.row, rows, p.n.e);
      Stream::fetch(at + Stream::kElements, OwnKeys ? p.dout : p.v, b, head, next.row, rows, p.n.ev);
    }
    ptx::cp_async_commit();
    filled = filled + 1 == kStages ? 0 : filled + 1;
    next.advance(range, Shape::kStream);
  };
  Own::fetch(tiles, OwnKeys ? p.k : p.q, b, own_head, first, length, p.n.e);
  Own::fetch(tiles + kX2, OwnKeys ? p.v : p.dout, b, own_head, first, length, p.n.ev);
#pragma unroll 1
  for (int stage = 0; stage < kStages - 1; ++stage) fetch();

  float shift[2] = {0, 0}, delta[2] = {0, 0};  // of rows g and g + 8, where those are queries
  if constexpr (!OwnKeys) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t i = first + row0 + lane() / 4 + 8 * half;
      if (i >= length) continue;
      shift[half] = p.shift[(b * p.n.heads + own_head) * length + i];
      delta[half] = p.delta[(b * p.n.heads + own_head) * length + i];
    }
  }
  float sums[1][D / 8][4] = {};                    // dQ or dK, or dV where `values`
  float value_sums[1][kBoth ? D / 8 : 1][4] = {};  // dV
#pragma unroll 1
  for (BackwardCursor now(range); !now.at_end(range); now.advance(range, Shape::kStream)) {
    ptx::cp_async_wait<kStages - 2>();
    __syncthreads();  // all have their part of this step, and none still reads the one before
    fetch();
    const int y1 = kRing + used * 2 * Stream::kElements, y2 = y1 + Stream::kElements;
    used = used + 1 == kStages ? 0 : used + 1;
    const int64_t h = now.head, row = now.row;
    const bool plain = OwnKeys ? p.mask.plain(row, row + Shape::kStream, first + kBackwardRows)
                               : p.mask.plain(first, first + kBackwardRows, row + Shape::kStream);
    const TileMask<OwnKeys, kWide> mask{p.mask, b, h, first + row0, row, plain};
    typename TileMask<OwnKeys, kWide>::Elements elements;
    mask.load(elements);
    float scores[1][kWide][4], grads[1][kWide][4] = {};
    multiply_rows<Own, Stream, H, Planes, D>(scores, tiles, row0 * D, y1);
    if (!values) multiply_rows<Own, Stream, H, Planes, D>(grads, tiles, kX2 + row0 * D, y2);
    if constexpr (OwnKeys) {
      const int64_t at = (b * p.n.heads + h) * p.n.queries + row;
      score_gradients(mask, elements, scores[0], grads[0], p.shift + at, p.delta + at, p.n.queries - row);
    } else {
      score_gradients(mask, elements, scores[0], grads[0], shift, delta, 0);
    }
    if constexpr (!OwnKeys) {
      if (p.dmask.data) {
#pragma unroll
        for (int j = 0; j < kWide; ++j) {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const int64_t i = first + row0 + lane() / 4 + e / 2 * 8,
                          key = row + 8 * j + lane() % 4 * 2 + e % 2;
            if (i < p.n.queries && key < p.n.keys) p.dmask.template store<H>(b, h, i, key, grads[0][j][e]);
          }
        }
      }
    }
    if (values) multiply_weights<Stream, H, Planes, D>(sums, scores, tiles, y2);
    else multiply_weights<Stream, H, Planes, D>(sums, grads, tiles, y1);
    if constexpr (kBoth) multiply_weights<Stream, H, Planes, D>(value_sums, scores, tiles, y2);
  }
  ptx::cp_async_wait<0>();

  const float scale[2] = {p.scale, p.scale}, one[2] = {1, 1};
  const int64_t at = first + row0;
  if (values) return store_rows<H, D>(p.dv, sums[0], one, b, own_head, at, length, p.n.ev);
  store_rows<H, D>(OwnKeys ? p.dk : p.dq, sums[0], scale, b, own_head, at, length, p.n.e);
  if constexpr (kBoth) store_rows<H, D>(p.dv, value_sums[0], one, b, own_head, at, length, p.n.ev);
}

template <class H, int Planes, int D, bool OwnKeys>
void launch_attention_backward(Context* context, BackwardArguments<H> p) {
  const int64_t rows = OwnKeys ? p.n.keys : p.n.queries, heads = OwnKeys ? p.n.groups : p.n.heads;
  p.tiles = (rows + kBackwardRows - 1) / kBackwardRows;
  const int64_t kinds = OwnKeys && !BackwardShape<Planes, D>::kTogether ? 2 : 1;
  if (p.tiles == 0) return;
  launch(context, FASTDL_KERNEL(attention_backward_mma<H, Planes, D, OwnKeys>),
         {static_cast<unsigned>(p.tiles * heads * p.n.batch * kinds), kBackwardThreads,
          sizeof(BackwardShared<H, Planes, D>)},
         p);
}

}  // namespace fastdl::cuda
