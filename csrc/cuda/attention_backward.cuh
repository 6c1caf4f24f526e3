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
#include "cuda/attention_seen.cuh"
#include "cuda/attention_softmax.cuh"

namespace fastdl::cuda {

constexpr int kBackwardThreads = 128, kBackwardWarps = kBackwardThreads / kWarp;

// Rows of the other side per step: what fits into registers, and two steps into the 163 KiB of an A100 beside
// the block's own rows.
template <int Planes, int D, bool OwnKeys>
struct BackwardShape {
  // Tiles of 16 rows per warp: what is read of the other side is read once for all of them.
  static constexpr int kTall = Planes == 1 && D <= 128 && !OwnKeys ? 2 : 1;
  static constexpr int kRows = 16 * kTall * kBackwardWarps;
  static constexpr int kStream =
      (D <= 64 && !(OwnKeys && Planes == 3)) || (D <= 128 && Planes == 1 && kTall == 1) ? 32 : 16;
  // dK and dV of many features do not fit into registers together: half of the blocks make each.
  static constexpr bool kTogether = D <= 64 || (D <= 128 && Planes == 1);
  // Per multiprocessor at least. With 1 the compiler takes all the registers it can use, without (0) it stops
  // earlier; each spills where the other does not.
  static constexpr int kBlocks = D <= 64 && (Planes == 2 || (Planes == 3 && OwnKeys)) ? 0 : 1;
};

template <class H, int Planes, int D, bool OwnKeys>
struct BackwardShared {
  using Shape = BackwardShape<Planes, D, OwnKeys>;
  static constexpr int kOwn = 2 * Planes * Shape::kRows * D, kRing = 4 * Planes * Shape::kStream * D;
  SharedArray<H, kOwn + kRing> tiles;  // X1, X2, then Y1, Y2 of every stage
};

template <class H>
struct BackwardArguments {
  AttentionExtents n;
  AttentionMask<float> mask;
  AttentionPlanes<H> q, k, v, dout;
  const float* terms;  // [batch, heads, queries][2]: see attention_row_terms
  AttentionOut dq, dk, dv, dmask;
  const uint32_t* unfit;  // as in ForwardArguments
  float scale;
  int64_t tiles;   // of the side that is owned
  SeenTiles seen;  // of the other
};

// What a block goes over, step by step: `width` tiles from `begin` on of one head after the other, or those
// of a list. Counts of tiles fit into 32 bits: so many would be terabytes.
template <bool OwnKeys>
struct BackwardRange {
  const SeenTiles& lists;
  int b, owner, own_tile;
  int begin, width, head, steps;

  // `owner`: the head or group a block belongs to; it owns rows [own_tile * own, (own_tile + 1) * own).
  __device__ __forceinline__ BackwardRange(const AttentionExtents& n, const SeenTiles& seen, int64_t b_,
                                           int64_t owner_, int64_t own_tile_, int64_t own, int64_t rows)
      : lists(seen),
        b(static_cast<int>(b_)),
        owner(static_cast<int>(owner_)),
        own_tile(static_cast<int>(own_tile_)) {
    const int heads = OwnKeys ? static_cast<int>(n.heads / n.groups) : 1;
    const int64_t first = own_tile_ * own, length = OwnKeys ? n.queries : n.key_end(first + own);
    head = owner * heads;
    begin = OwnKeys && !lists.data ? static_cast<int>(n.query_begin(first) / rows) : 0;
    const int end = static_cast<int>((length + rows - 1) / rows);
    width = lists.data ? lists.others : begin < end ? end - begin : 0;
    steps = lists.data ? lists.count(b, owner, own_tile) : heads * width;
  }
};
template <bool OwnKeys>
struct BackwardCursor {
  int step = 0, tile = 0, head = 0;

  __device__ __forceinline__ explicit BackwardCursor(const BackwardRange<OwnKeys>& range) { find(range); }
  __device__ __forceinline__ bool at_end(const BackwardRange<OwnKeys>& range) const {
    return step >= range.steps;
  }
  __device__ __forceinline__ void advance(const BackwardRange<OwnKeys>& range) {
    ++step;
    find(range);
  }

 private:
  __device__ __forceinline__ void find(const BackwardRange<OwnKeys>& range) {
    if (at_end(range)) return;
    const int entry = range.lists.data ? range.lists.entry(step, range.b, range.owner, range.own_tile) : step;
    // Of queries there is one head.
    tile = range.begin + (OwnKeys ? entry % range.width : entry);
    head = range.head + (OwnKeys ? entry / range.width : 0);
  }
};

enum RowTerm { kShift, kDelta };
// That of a lane's row, or, OwnKeys, of the column of an element; of the columns `left` exist.
template <bool OwnKeys, class Tile>
__device__ __forceinline__ float row_term(const Tile& tile, const float* terms, RowTerm which, int j, int e,
                                          int left) {
  if constexpr (!OwnKeys) return terms[e / 2 * 2 + which];
  const int column = tile.column_of(j, e);
  return column < left ? terms[2 * column + which] : 0.0f;
}
// Products to weights.
template <bool OwnKeys, int Wide>
__device__ __forceinline__ void make_weights(const TileMask<OwnKeys, Wide>& tile,
                                             const TileElements<Wide>& elements, float (&scores)[Wide][4],
                                             const float* terms, int left) {
  tile.apply(scores, elements);
#pragma unroll
  for (int j = 0; j < Wide; ++j) {
#pragma unroll
    for (int e = 0; e < 4; ++e)
      scores[j][e] = softmax_weight(scores[j][e], row_term<OwnKeys>(tile, terms, kShift, j, e, left));
  }
}
// Weights and dP to dropped weights and dS. Dropout has branches of its own: its factors are in memory, and
// to be read where they are needed.
template <bool OwnKeys, int Wide>
__device__ __forceinline__ void make_gradients(const TileMask<OwnKeys, Wide>& tile,
                                               const TileElements<Wide>& elements, float (&weights)[Wide][4],
                                               float (&grads)[Wide][4], const float* terms, int left) {
  if (tile.mask.drops) elements.drop(grads);
#pragma unroll
  for (int j = 0; j < Wide; ++j) {
#pragma unroll
    for (int e = 0; e < 4; ++e)
      grads[j][e] = weights[j][e] * (grads[j][e] - row_term<OwnKeys>(tile, terms, kDelta, j, e, left));
  }
  if (tile.mask.drops) elements.drop(weights);
}

template <class H, int Wide>
__device__ __forceinline__ void store_mask_gradients(const AttentionOut& out,
                                                     const TileMask<false, Wide>& tile,
                                                     const float (&grads)[Wide][4]) {
#pragma unroll
  for (int j = 0; j < Wide; ++j) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int64_t i = tile.query(tile.row_of(e), 0), key = tile.key(0, tile.column_of(j, e));
      if (i < tile.mask.queries && key < tile.mask.keys)
        out.template store<H>(out.at(tile.b, tile.h, i) + key, grads[j][e]);
    }
  }
}

template <class H, int Planes, int D, bool OwnKeys>
__global__ void __launch_bounds__(kBackwardThreads, BackwardShape<Planes, D, OwnKeys>::kBlocks)
    attention_backward_mma(BackwardArguments<H> p) {
  using Shape = BackwardShape<Planes, D, OwnKeys>;
  using Own = AttentionTile<H, Planes, Shape::kRows, D, kBackwardThreads>;
  using Stream = AttentionTile<H, Planes, Shape::kStream, D, kBackwardThreads>;
  constexpr int kTall = Shape::kTall, kWide = Shape::kStream / 8;
  constexpr bool kBoth = OwnKeys && Shape::kTogether;
  constexpr int kKinds = OwnKeys && !kBoth ? 2 : 1;
  auto& shared = shared_memory<BackwardShared<H, Planes, D, OwnKeys>>();
  H* const tiles = shared.tiles.data();
  constexpr int kX2 = Own::kElements, kRing = 2 * Own::kElements;

  // Causal: the longest rows of queries and of keys first.
  const int own_heads = static_cast<int>(OwnKeys ? p.n.groups : p.n.heads),
            tiles_of = static_cast<int>(p.tiles);
  const int block = static_cast<int>(blockIdx.x) / kKinds, index = block % tiles_of,
            own_head = block / tiles_of % own_heads, b = block / tiles_of / own_heads;
  const int tile = OwnKeys ? index : tiles_of - 1 - index,
            group = OwnKeys ? own_head : static_cast<int>(p.n.group_of(own_head));
  const bool values = kKinds == 2 && blockIdx.x % 2 != 0;  // makes dV, not dK
  if (p.unfit && p.unfit[b * p.n.groups + group]) return;
  const int64_t first = static_cast<int64_t>(tile) * Shape::kRows, length = OwnKeys ? p.n.keys : p.n.queries;
  const BackwardRange<OwnKeys> range(p.n, p.seen, b, own_head, tile, Shape::kRows, Shape::kStream);
  const int row0 = warp() * 16 * kTall;

  // Two stages take turns: while one is worked on, the other is filled.
  const auto stage_of = [](int step) { return kRing + step % 2 * 2 * Stream::kElements; };
  const auto fetch = [&](const BackwardCursor<OwnKeys>& step) {
    if (!step.at_end(range)) {
      H* const at = tiles + stage_of(step.step);
      const int head = OwnKeys ? step.head : group;
      const int64_t row = static_cast<int64_t>(step.tile) * Shape::kStream,
                    rows = OwnKeys ? p.n.queries : p.n.keys;
      Stream::fetch(at, OwnKeys ? p.q : p.k, b, head, row, rows, p.n.e);
      Stream::fetch(at + Stream::kElements, OwnKeys ? p.dout : p.v, b, head, row, rows, p.n.ev);
    }
    ptx::cp_async_commit();
  };
  Own::fetch(tiles, OwnKeys ? p.k : p.q, b, own_head, first, length, p.n.e);
  Own::fetch(tiles + kX2, OwnKeys ? p.v : p.dout, b, own_head, first, length, p.n.ev);
  fetch(BackwardCursor<OwnKeys>(range));

  float terms[kTall][4] = {};  // of rows g and g + 8, where those are queries
  if constexpr (!OwnKeys) {
#pragma unroll
    for (int n = 0; n < 4 * kTall; ++n) {
      const int64_t i = first + row0 + lane() / 4 + n / 2 * 8;
      if (i < length) terms[n / 4][n % 4] = p.terms[((b * p.n.heads + own_head) * length + i) * 2 + n % 2];
    }
  }
  float sums[kTall][D / 8][4] = {};                    // dQ or dK, or dV where `values`
  float value_sums[kTall][kBoth ? D / 8 : 1][4] = {};  // dV
#pragma unroll 1
  for (BackwardCursor<OwnKeys> now(range); !now.at_end(range); now.advance(range)) {
    ptx::cp_async_wait<0>();
    __syncthreads();  // all have their part of this step, and none still reads the one before
    BackwardCursor<OwnKeys> next = now;
    next.advance(range);
    fetch(next);
    const int y1 = stage_of(now.step), y2 = y1 + Stream::kElements;
    const int h = now.head;
    const int64_t row = static_cast<int64_t>(now.tile) * Shape::kStream;
    const bool plain = OwnKeys ? p.mask.plain(row, row + Shape::kStream, first + Shape::kRows)
                               : p.mask.plain(first, first + Shape::kRows, row + Shape::kStream);
    // Worked out anew where it is used: kept, it would take registers that the sums need.
    const auto late = [](int x) -> int64_t {
      return static_cast<int>(ptx::opaque(static_cast<uint32_t>(x)));
    };
    const auto mask_of = [&](int i) {
      return TileMask<OwnKeys, kWide>{
          p.mask, b, h, late(tile) * Shape::kRows + row0 + 16 * i, late(now.tile) * Shape::kStream, plain};
    };
    TileElements<kWide> elements[kTall];
#pragma unroll
    for (int i = 0; i < kTall; ++i) mask_of(i).load(elements[i]);
    // Of the rows or columns; the address worked out where it is used. Of columns so many are left.
    const auto terms_of = [&](int i) {
      return OwnKeys
                 ? p.terms + ((b * p.n.heads + late(h)) * p.n.queries + late(now.tile) * Shape::kStream) * 2
                 : terms[i];
    };
    const int64_t more = p.n.queries - row;
    const int left = static_cast<int>(more < Shape::kStream ? more : Shape::kStream);
    float scores[kTall][kWide][4], grads[kTall][kWide][4] = {};
    multiply_rows<Own, Stream, H, Planes, D>(scores, tiles, row0 * D, y1);
#pragma unroll
    for (int i = 0; i < kTall; ++i) make_weights(mask_of(i), elements[i], scores[i], terms_of(i), left);
    if (!values) multiply_rows<Own, Stream, H, Planes, D>(grads, tiles, kX2 + row0 * D, y2);
#pragma unroll
    for (int i = 0; i < kTall; ++i) {
      make_gradients(mask_of(i), elements[i], scores[i], grads[i], terms_of(i), left);
      if constexpr (!OwnKeys) {
        if (p.dmask.data) store_mask_gradients<H>(p.dmask, mask_of(i), grads[i]);
      }
    }
    if constexpr (kBoth) multiply_weights<Stream, H, Planes, D>(value_sums, scores, tiles, y2);
    if (values) multiply_weights<Stream, H, Planes, D>(sums, scores, tiles, y2);
    else multiply_weights<Stream, H, Planes, D>(sums, grads, tiles, y1);
  }
  ptx::cp_async_wait<0>();

  const float scale[2] = {p.scale, p.scale}, one[2] = {1, 1};
#pragma unroll
  for (int i = 0; i < kTall; ++i) {
    const int64_t at = first + row0 + 16 * i;
    if (values) {
      store_rows<H, D>(p.dv, sums[i], one, b, own_head, at, length, p.n.ev);
    } else {
      store_rows<H, D>(OwnKeys ? p.dk : p.dq, sums[i], scale, b, own_head, at, length, p.n.e);
      if constexpr (kBoth) store_rows<H, D>(p.dv, value_sums[i], one, b, own_head, at, length, p.n.ev);
    }
  }
}

template <class H, int Planes, int D, bool OwnKeys>
void launch_attention_backward(Context* context, BackwardArguments<H> p) {
  const int64_t rows = OwnKeys ? p.n.keys : p.n.queries, heads = OwnKeys ? p.n.groups : p.n.heads;
  using Shape = BackwardShape<Planes, D, OwnKeys>;
  p.tiles = (rows + Shape::kRows - 1) / Shape::kRows;
  const int64_t kinds = OwnKeys && !Shape::kTogether ? 2 : 1;
  if (p.tiles == 0) return;
  const SeenLists<float> seen(context, p.n, p.mask, OwnKeys, Shape::kRows, Shape::kStream);
  // The gradient of a mask is wanted everywhere.
  if (!p.dmask.data) p.seen = *seen;
  launch(context, FASTDL_KERNEL(attention_backward_mma<H, Planes, D, OwnKeys>),
         {static_cast<unsigned>(p.tiles * heads * p.n.batch * kinds), kBackwardThreads,
          sizeof(BackwardShared<H, Planes, D, OwnKeys>)},
         p);
}

}  // namespace fastdl::cuda
