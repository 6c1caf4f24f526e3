// Attention backward by Hopper's warpgroup instructions: what blocks do, in two passes
// (attention_sm90_two_passes.cuh) or in one (attention_sm90_one_pass.cuh). Scores are made anew from the
// log-sum-exp. Of every block two consumers own 64 rows each, one thread of another warpgroup starts the
// copies: of the own rows, then of the other side's in a ring of stages.
//
//   own queries:  X1 = Q, X2 = dO,  Y1 = K, Y2 = V;   own keys:  X1 = K, X2 = V,  Y1 = Q, Y2 = dO
//   S = X1 Y1^T, P = 2^(scale2 S - shift), dP = X2 Y2^T, dS = P (dP - delta)
//   dQ or dK += dS Y1;  own keys:  dV += P Y2
#pragma once

#include "cuda/attention_backward.cuh"
#include "cuda/attention_sm90.h"
#include "cuda/attention_sm90_tile.cuh"
#include "cuda/launch.h"
#include "cuda/ptx/ldmatrix.cuh"
#include "cuda/ptx/warpgroup.cuh"

namespace fastdl::cuda {

template <class H>
struct BackwardSm90 {
  Sm90Rows x1, x2, y1, y2;
  CUtensorMap terms_map;  // of the terms, by which keys' blocks get them
  const float* terms;     // [2][batch, heads, padded]: see attention_row_terms
  int padded;
  AttentionExtents n;
  Sm90Mask mask;
  Sm90Results sums, value_sums;  // dQ, or dK and dV
  float scale, scale2;
  Sm90Order order;  // of tiles of the own side
  SeenTiles seen;   // of the other
};

// Begins at a multiple of 1024 bytes.
template <class Shape>
struct BackwardSm90Shared {
  SharedArray<uint16_t, Shape::Own::kElements> x1;  // afterwards dQ or dK, or dV alone
  SharedArray<uint16_t, (Shape::kGradients ? Shape::Own::kElements : 512)> x2;  // afterwards dV beside dK
  SharedArray<uint16_t, Shape::kStages * Shape::Stream::kElements> y1, y2;
  SharedArray<float, (Shape::kTerms > 0 ? Shape::kStages * Shape::kTerms : 4)> terms;
  SharedArray<int, (Shape::kStages > 2 ? 2 * Shape::kStages : 4)> places;  // of each stage: its row and head
  SharedArray<uint64_t, Shape::kStages> full, empty;
  SharedArray<uint64_t, 2> full_own;  // the first
};

// What a block does: `width` tiles of the other side from `begin` on of one head after the other, or those of
// a list; kLastFirst: from the last to the first. Causal: the longest rows of all heads first.
template <class Shape>
struct BackwardSm90Work {
  static constexpr bool kOwnKeys = Shape::kOwnKeys;
  int tile, first, head, b;
  int stream_head, begin, width, steps;

  template <class H>
  __device__ __forceinline__ BackwardSm90Work(const BackwardSm90<H>& p, int block) {
    const Sm90Order::Place at = p.order.place(block);
    tile = kOwnKeys ? at.tile : p.order.tiles - 1 - at.tile;
    first = tile * Shape::kRows;
    head = at.head, b = at.b;
    const int heads = kOwnKeys ? static_cast<int>(p.n.heads / p.n.groups) : 1;
    stream_head = kOwnKeys ? head * heads : static_cast<int>(p.n.group_of(head));
    if (p.seen.data) {
      begin = 0, width = p.seen.others;
      steps = p.seen.count(b, head, tile);
    } else {
      const int length = static_cast<int>(kOwnKeys ? p.n.queries : p.n.key_end(first + Shape::kRows));
      begin = kOwnKeys ? static_cast<int>(p.n.query_begin(first)) / Shape::kStream : 0;
      width = (length + Shape::kStream - 1) / Shape::kStream - begin;
      if (width < 0) width = 0;
      steps = heads * width;
    }
  }
  struct Place {
    int row, head;
  };
  template <class H>
  __device__ __forceinline__ Place place(const BackwardSm90<H>& p, int step) const {
    const int n = Shape::kLastFirst ? steps - 1 - step : step,
              entry = p.seen.data ? p.seen.entry(n, b, head, tile) : n;
    return {(begin + entry % width) * Shape::kStream, stream_head + entry / width};
  }
};

template <class H, class Shape>
__device__ __forceinline__ void begin_backward(BackwardSm90Shared<Shape>& shared, const BackwardSm90<H>& p) {
  ptx::mbarrier_init(ptx::shared_address(shared.full_own.data()), 1);
#pragma unroll 1
  for (int stage = 0; stage < Shape::kStages; ++stage) {
    ptx::mbarrier_init(ptx::shared_address(shared.full.at(stage)), 1);
    ptx::mbarrier_init(ptx::shared_address(shared.empty.at(stage)), Shape::kConsumers * kWarpgroup / kWarp);
  }
  ptx::mbarrier_fence_init();
  ptx::prefetch_map(&p.x1.map);
  ptx::prefetch_map(&p.x2.map);
  ptx::prefetch_map(&p.y1.map);
  ptx::prefetch_map(&p.y2.map);
}

template <class H, class Shape>
__device__ __forceinline__ void produce(BackwardSm90Shared<Shape>& shared, const BackwardSm90<H>& p,
                                        const BackwardSm90Work<Shape>& w) {
  using Stream = typename Shape::Stream;
  const uint32_t full_own = ptx::shared_address(shared.full_own.data()),
                 y1 = ptx::shared_address(shared.y1.data()), y2 = ptx::shared_address(shared.y2.data()),
                 terms = ptx::shared_address(shared.terms.data()),
                 full0 = ptx::shared_address(shared.full.data()),
                 empty0 = ptx::shared_address(shared.empty.data());
  ptx::mbarrier_arrive_expect(full_own, Shape::kOwnBytes);
  Shape::Own::load(ptx::shared_address(shared.x1.data()), p.x1, full_own, w.first, w.head, w.b);
  if constexpr (Shape::kGradients)
    Shape::Own::load(ptx::shared_address(shared.x2.data()), p.x2, full_own, w.first, w.head, w.b);
  Ring<Shape> ring;
#pragma unroll 1
  for (int step = 0; step < w.steps; ++step) {
    const uint32_t full = full0 + 8 * ring.stage;
    const auto [row, head] = w.place(p, step);
    ptx::mbarrier_wait(empty0 + 8 * ring.stage, ring.parity ^ 1);
    shared_store(shared.places.at(2 * ring.stage), Pack<int, 2>{{row, head}});
    ptx::mbarrier_arrive_expect(full, Shape::kStageBytes);
    Stream::load(y1 + ring.stage * Stream::kBytes, p.y1, full, row, head, w.b);
    Stream::load(y2 + ring.stage * Stream::kBytes, p.y2, full, row, head, w.b);
    if constexpr (Shape::kOwnKeys)
      ptx::tensor_load(terms + ring.stage * Shape::kTerms * 4, &p.terms_map, full, {row, 0, head, w.b, 0});
    ring.advance();
  }
}

// Products to weights and products of gradients to gradients of scores, of a thread's rows g and g + 8 of
// queries, whose terms are in registers, by the keys of a tile from `key` on.
struct OwnQueryTerms {
  float shift[2], delta[2];

  template <int Count>
  __device__ __forceinline__ void weights(float (&scores)[Count], const AttentionExtents& n, float scale2,
                                          bool masked, int row, int key) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int end = masked ? static_cast<int>(n.key_end(row + 8 * half + 1)) - key - lane() % 4 * 2 : Count;
#pragma unroll
      for (int j = 0; j < Count / 4; ++j) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& s = scores[4 * j + 2 * half + e];
          const float weight = ptx::fast_exp2(fmaf(s, scale2, -shift[half]));
          s = masked && 8 * j + e >= end ? 0.0f : weight;
        }
      }
    }
  }
  template <int Count>
  __device__ __forceinline__ void gradients(const float (&weights)[Count], float (&grads)[Count]) const {
#pragma unroll
    for (int i = 0; i < Count; ++i) grads[i] = weights[i] * (grads[i] - delta[i / 2 % 2]);
  }
};
// The same of rows of keys by the queries of a tile from `query` on, whose terms are in shared memory; those
// of queries that do not exist make their weights 0.
template <int Count>
struct OwnKeyTerms {
  const float* terms;  // shifts of the tile's queries, then deltas

  // Of the thread's two columns of eight; which: kShift or kDelta.
  __device__ __forceinline__ Pack<float, 2> of(RowTerm which, int eight) const {
    return shared_load<Pack<float, 2>>(terms + which * 2 * Count + 8 * eight + lane() % 4 * 2);
  }
  // `from`: the first of the tile's queries that sees each of the rows, if `masked`.
  __device__ __forceinline__ void weights(float (&scores)[Count], float scale2, bool masked,
                                          const int (&from)[2]) const {
#pragma unroll
    for (int j = 0; j < Count / 4; ++j) {
      const Pack<float, 2> shift = of(kShift, j);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        float& s = scores[4 * j + e];
        const float weight = ptx::fast_exp2(fmaf(s, scale2, -shift.at[e % 2]));
        s = masked && 8 * j + lane() % 4 * 2 + e % 2 < from[e / 2] ? 0.0f : weight;
      }
    }
  }
  __device__ __forceinline__ void gradients(const float (&weights)[Count], float (&grads)[Count]) const {
#pragma unroll
    for (int j = 0; j < Count / 4; ++j) {
      const Pack<float, 2> delta = of(kDelta, j);
#pragma unroll
      for (int e = 0; e < 4; ++e)
        grads[4 * j + e] = weights[4 * j + e] * (grads[4 * j + e] - delta.at[e % 2]);
    }
  }
};

// 64 rows of the own tile as left factors. Those of the first Kept features are held in registers: from
// shared memory they would be read anew for each product.
template <class Own, int Kept>
struct OwnFactors {
  uint32_t tile;
  int first;
  uint32_t kept[Kept > 0 ? Kept / 16 : 1][4];

  __device__ __forceinline__ OwnFactors(uint16_t* rows, int first_row)
      : tile(ptx::shared_address(rows)), first(first_row) {
    const int row = first + warp() % 4 * 16 + lane() % 16;
#pragma unroll
    for (int k = 0; k < Kept; k += 16)
      ptx::ldmatrix<false>(kept[k / 16], rows + Own::element(row, k / 8 + lane() / 16));
  }
  // Begins the products with the rows of `other` as columns.
  template <class H, int D, class Stream, int Count>
  __device__ __forceinline__ void multiply(float (&sums)[Count], uint32_t other) const {
#pragma unroll
    for (int k = 0; k < D; k += 16) {
      const uint64_t columns = Stream::along(other, 0, k);
      if constexpr (Kept > 0) {
        if (k < Kept) {
          ptx::wgmma<false>(H{}, sums, kept[k / 16], columns, k > 0);
          continue;
        }
      }
      ptx::wgmma<false, false>(H{}, sums, Own::along(tile, first, k), columns, k > 0);
    }
    ptx::wgmma_commit();
  }
};

// What a consumer does with a step's dS beside dK: nothing, where another pass makes dQ.
template <class Shape>
struct NoQuerySums {
  template <int Count>
  __device__ __forceinline__ void offer(const uint32_t (&)[Count][4], int) const {}
  __device__ __forceinline__ void add(int, int, int) const {}
  // All that read the own rows of this consumer have done so.
  __device__ __forceinline__ void end(int group) const { ptx::named_barrier(1 + group, kWarpgroup); }
};

template <class H, int D, class Shape, class QuerySums>
__device__ __forceinline__ void consume(BackwardSm90Shared<Shape>& shared, const BackwardSm90<H>& p,
                                        const BackwardSm90Work<Shape>& w, int group,
                                        const QuerySums& query_sums) {
  using Own = typename Shape::Own;
  using Stream = typename Shape::Stream;
  constexpr int kStream = Shape::kStream;
  constexpr bool kOwnKeys = Shape::kOwnKeys, kGradients = Shape::kGradients, kValues = Shape::kValues;
  const uint32_t y1 = ptx::shared_address(shared.y1.data()), y2 = ptx::shared_address(shared.y2.data()),
                 full0 = ptx::shared_address(shared.full.data()),
                 empty0 = ptx::shared_address(shared.empty.data());
  const int warp_row = group * 64 + warp() % 4 * 16, row = w.first + warp_row + lane() / 4;
  OwnQueryTerms own_terms;
  if constexpr (!kOwnKeys) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int i = row + 8 * half < p.padded ? row + 8 * half : p.padded - 1;
      const float* const of = p.terms + (w.b * p.n.heads + w.head) * p.padded + i;
      const int64_t plane = p.n.batch * p.n.heads * p.padded;
      own_terms.shift[half] = of[kShift * plane], own_terms.delta[half] = of[kDelta * plane];
    }
  }
  float sums[kGradients ? D / 2 : 1], value_sums[kValues ? D / 2 : 1];  // dQ or dK; dV
  uint32_t gradients[kStream / 16][4], weights[kStream / 16][4];
  const auto release = [&](int stage) {
    if (lane() == 0) ptx::mbarrier_arrive(empty0 + 8 * stage);
  };

  ptx::mbarrier_wait(ptx::shared_address(shared.full_own.data()), 0);
  const OwnFactors<Own, Shape::kKept1> own1(shared.x1.data(), group * 64);
  const OwnFactors<Own, Shape::kKept2> own2(shared.x2.data(), group * 64);
  Ring<Shape> ring;
#pragma unroll 1
  for (int step = 0; step < w.steps; ++step) {
    const uint32_t tile1 = y1 + ring.stage * Stream::kBytes, tile2 = y2 + ring.stage * Stream::kBytes;
    float scores[kStream / 2], grads[kStream / 2];
    ptx::mbarrier_wait(full0 + 8 * ring.stage, ring.parity);
    ptx::wgmma_fence();
    own1.template multiply<H, D, Stream>(scores, tile1);
    if constexpr (kGradients) own2.template multiply<H, D, Stream>(grads, tile2);
    const auto [first, head] = shared_load<Pack<int, 2>>(shared.places.at(2 * ring.stage)).at;
    SeenBits<kStream / 2> bits;
    if (Shape::kMasks && p.mask.data)
      bits.template load<kOwnKeys>(p.mask, p.n, w.b, kOwnKeys ? head : w.head, row, first);
    ptx::wgmma_wait<kGradients ? 1 : 0>();
    ptx::wgmma_results(scores);
    const OwnKeyTerms<kStream / 2> terms{shared.terms.at(kOwnKeys ? ring.stage * Shape::kTerms : 0)};
    if constexpr (kOwnKeys) {
      // Keys that do not exist have no weight, either: dQ is summed over all.
      const bool masked = (p.n.causal && first < w.first + group * 64 + 63) ||
                          (Shape::kQueries && w.first + group * 64 + 64 > p.n.keys);
      int from[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int key = row + 8 * half;
        from[half] = Shape::kQueries && key >= p.n.keys ? kStream : p.n.causal ? key - first : 0;
      }
      terms.weights(scores, p.scale2, masked, from);
    } else {
      const bool masked = p.n.key_end(w.first + group * 64 + 1) < first + kStream;
      own_terms.weights(scores, p.n, p.scale2, masked, row, first);
    }
    if (Shape::kMasks && p.mask.data) bits.apply(scores, 0);
    if constexpr (kGradients) {
      ptx::wgmma_wait<0>();
      ptx::wgmma_results(grads);
      if constexpr (kOwnKeys) terms.gradients(scores, grads);
      else own_terms.gradients(scores, grads);
      pack_factors<H>(grads, gradients);
      query_sums.offer(gradients, step);
    }
    if constexpr (kValues) pack_factors<H>(scores, weights);
    ptx::wgmma_fence();
#pragma unroll
    for (int k = 0; k < kStream; k += 16) {
      if constexpr (kValues)
        ptx::wgmma<true>(H{}, value_sums, weights[k / 16], Stream::across(tile2, k), step > 0 || k > 0);
    }
    if constexpr (kValues) ptx::wgmma_commit();
#pragma unroll
    for (int k = 0; k < kStream; k += 16) {
      if constexpr (kGradients)
        ptx::wgmma<true>(H{}, sums, gradients[k / 16], Stream::across(tile1, k), step > 0 || k > 0);
    }
    if constexpr (kGradients) ptx::wgmma_commit();
    query_sums.add(step, first, head);
    ptx::wgmma_wait<0>();
    ptx::wgmma_results(sums);
    ptx::wgmma_results(value_sums);
    release(ring.stage);
    ring.advance();
  }
  if (w.steps == 0) {
#pragma unroll
    for (float& sum : sums) sum = 0;
#pragma unroll
    for (float& sum : value_sums) sum = 0;
  }

  const float scale[2] = {p.scale, p.scale}, one[2] = {1, 1};
  query_sums.end(group);
  if constexpr (kGradients)
    store_results<H, Own>(shared.x1.data(), warp_row, p.sums, w.b, w.head, w.first, sums, scale);
  if constexpr (kValues) {
    uint16_t* const tile = kGradients ? shared.x2.data() : shared.x1.data();
    store_results<H, Own>(tile, warp_row, p.value_sums, w.b, w.head, w.first, value_sums, one);
  }
}

// The operands as TMA can read them, and what every kernel is called with.
template <class H, int D>
struct BackwardSm90Operands {
  using Operand = AttentionOperand<H, H, 1>;
  const AttentionProblem& p;
  const AttentionGradients& g;
  Operand q, k, v, dout;

  BackwardSm90Operands(Context* context, const AttentionProblem& problem, const AttentionGradients& gradients)
      : p(problem),
        g(gradients),
        q(context, p.q, p, nullptr),
        k(context, p.k, p, nullptr),
        v(context, p.v, p, nullptr),
        dout(context, g.dout, p, nullptr) {}

  void common(BackwardSm90<H>& a, const float* terms, int64_t padded) const {
    a.terms = terms, a.padded = static_cast<int>(padded);
    a.n = AttentionExtents(p);
    a.mask = Sm90Mask(p.mask);
    a.scale = static_cast<float>(p.scale), a.scale2 = static_cast<float>(p.scale * kLog2e);
  }
  template <class Shape>
  void own_queries(BackwardSm90<H>& a) const {
    a.x1 = sm90_rows<H, D>(*q, p.q, Shape::kRows), a.x2 = sm90_rows<H, D>(*dout, g.dout, Shape::kRows);
    a.y1 = sm90_rows<H, D>(*k, p.k, Shape::kStream), a.y2 = sm90_rows<H, D>(*v, p.v, Shape::kStream);
    a.sums = Sm90Results(g.dq);
  }
  template <class Shape>
  void own_keys(BackwardSm90<H>& a) const {
    a.x1 = sm90_rows<H, D>(*k, p.k, Shape::kRows), a.x2 = sm90_rows<H, D>(*v, p.v, Shape::kRows);
    a.y1 = sm90_rows<H, D>(*q, p.q, Shape::kStream), a.y2 = sm90_rows<H, D>(*dout, g.dout, Shape::kStream);
    a.sums = Sm90Results(g.dk), a.value_sums = Sm90Results(g.dv);
    MapShape shape;
    shape.dims[0] = a.padded, shape.dims[1] = 2, shape.dims[2] = p.heads, shape.dims[3] = p.batch;
    shape.strides[1] = a.padded * p.heads * p.batch;
    shape.strides[2] = a.padded, shape.strides[3] = a.padded * p.heads;
    shape.box[0] = Shape::kStream, shape.box[1] = 2;
    a.terms_map = tensor_map(DType::kFloat32, a.terms, shape, CU_TENSOR_MAP_SWIZZLE_NONE);
  }
};

}  // namespace fastdl::cuda
