// Attention forward on Hopper (attention_sm90_forward.cuh): what a block has of registers and shared memory,
// its arguments, and which tiles of queries and keys it goes over.
#pragma once

#include "cuda/attention_config.h"
#include "cuda/attention_sm90_mask.cuh"
#include "cuda/attention_sm90_tile.cuh"

namespace fastdl::cuda {

// Registers of a consumer's thread: Keys / 2 scores, Keys / 4 for the weights of the step before, D / 2
// results, and some 30 others. With 64 features three consumers have enough of them, but not for masks. Terms
// of a mask are in shared memory beside keys and values, in boxes of 64.
template <int D, Sm90Scores Scores>
struct ForwardSm90Shape {
  static constexpr bool kBits = Scores != Sm90Scores::plain, kAdds = Scores == Sm90Scores::terms;
  // Whether a step's softmax runs beside the product of the step before with the values, whose factors then
  // take registers.
  static constexpr bool kOverlaps = !kAdds && !(kBits && D == 256);
  // Whether blocks take tiles of queries one after another, which takes registers, too.
  static constexpr bool kStays = kBits && kOverlaps && D <= 128;
  static constexpr int kConsumers = D == 64 && !kBits ? 3 : 2, kThreads = (1 + kConsumers) * kWarpgroup;
  static constexpr int kRows = 64 * kConsumers, kKeys = D <= 128     ? 128
                                                        : !kOverlaps ? 64
                                                        : D == 192   ? 112
                                                                     : 80;
  using Queries = Sm90RowTile<D, kRows>;
  using Keys = Sm90RowTile<D, kKeys>;               // and values
  using Terms = Sm90TermsTile<kAdds ? kKeys : 64>;  // of a consumer's queries
  static constexpr int kTerms = kAdds ? kConsumers * Terms::kElements : 0;
  static constexpr int kFit = (224 * 1024 - Queries::kBytes - 2 * kTerms) / (2 * Keys::kBytes),
                       kStages = kFit < 4 ? kFit : 4;
  // Of 65,536, which the block begins with in equal shares.
  static constexpr int kConsumerRegisters = kConsumers == 3 ? 160 : 240,
                       kProducerRegisters = kConsumers == 3 ? 32 : 24;
};

template <class H>
struct ForwardSm90 {
  Sm90Rows q, k, v;
  AttentionExtents n;
  Sm90Bits bits;
  Sm90Terms terms;
  Sm90Dropout dropout;
  Sm90Results out;
  float* lse;       // [batch, heads, queries] or NULL
  float scale2;     // of scores to base 2
  int group_size;   // heads that share keys
  Sm90Order order;  // of tiles of queries
  SeenTiles seen;   // of keys
};

template <class Shape>
struct alignas(1024) ForwardSm90Shared {
  SharedArray<uint16_t, Shape::Queries::kElements> queries;
  SharedArray<uint16_t, Shape::kStages * Shape::Keys::kElements> keys, values;
  SharedArray<uint16_t, (Shape::kTerms > 0 ? Shape::kTerms : 8)> terms;  // of each consumer
  SharedArray<uint64_t, Shape::kStages> full_keys, empty_keys, full_values, empty_values;
  SharedArray<uint64_t, 2> full_queries, empty_queries;  // the first of each
  SharedArray<uint64_t, 2 * Shape::kConsumers> full_terms, empty_terms;
};

// A block stays on its multiprocessor and takes a tile of queries in every round: from left to right in one,
// back in the next, as the longest rows of all heads come first (causal).
__device__ __forceinline__ int round_index(int round) {
  const unsigned blocks = ptx::opaque(gridDim.x);
  return static_cast<int>(round * blocks + (round % 2 == 0 ? blockIdx.x : blocks - 1 - blockIdx.x));
}
template <class Shape, class H>
__device__ __forceinline__ bool has_round(const ForwardSm90<H>& p, int round) {
  if constexpr (!Shape::kStays) return round == 0;
  return static_cast<unsigned>(round_index(round)) < p.order.late().blocks();
}

// What it does then. Lists: of tiles that a mask leaves something of, if there are any.
template <bool Lists>
struct ForwardSm90Work {
  int tile, first, head, group, b;
  int steps;

  template <class H>
  __device__ __forceinline__ ForwardSm90Work(const ForwardSm90<H>& p, int rows, int keys, int round) {
    const Sm90Order order = p.order.late();
    const Sm90Order::Place at = order.place(round_index(round));
    tile = order.tiles - 1 - at.tile;
    first = tile * rows;
    head = at.head, group = head / p.group_size, b = at.b;
    steps = Lists && p.seen.data ? p.seen.count(b, head, tile)
                                 : static_cast<int>((p.n.key_end(first + rows) + keys - 1) / keys);
  }
  // Which tile of keys, from the last to the first.
  template <class H>
  __device__ __forceinline__ int key_tile(const ForwardSm90<H>& p, int step) const {
    const int place = steps - 1 - step;
    return Lists && p.seen.data ? p.seen.entry(place, b, head, tile) : place;
  }
};

}  // namespace fastdl::cuda
