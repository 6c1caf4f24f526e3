// Attention forward on the tensor cores (Dao 2023, "FlashAttention-2"): a block of four warps owns 64 Tall
// queries of a head and goes over the keys; scores stay in registers, where they are the left factor of the
// product with the values. Keys and values alternate in a ring of tiles filled by cp.async, Stages - 1 ahead.
#pragma once

#include "cuda/attention_operands.cuh"
#include "cuda/attention_seen.cuh"
#include "cuda/attention_softmax.cuh"

namespace fastdl::cuda {

constexpr int kAttentionThreads = 128, kAttentionWarps = kAttentionThreads / kWarp;

// D: features, the class that holds both E and Ev. Keys per tile and stages: so that two blocks share a
// multiprocessor of an A100 (164 KiB, 65,536 registers), up to 64 features of pieces and 128 of 16 bits.
// Tall: tiles of 16 queries per warp; each piece of a key or value is read from shared memory once for all.
template <int Planes, int D>
struct ForwardShape {
  static constexpr int kTall = Planes == 1 && D <= 128 ? 2 : 1;
  static constexpr int kKeys = D > 128 || (D > 64 && Planes == 3) ? 16 : D > 64 ? 32 : 64;
  static constexpr int kStages = Planes > 1 ? 2 : 4;
  static constexpr int kRows = 16 * kTall * kAttentionWarps;
};

template <class H, int Planes, int D>
struct ForwardShared {
  using Shape = ForwardShape<Planes, D>;
  static constexpr int kQueries = Planes * Shape::kRows * D,
                       kRing = Shape::kStages * Planes * Shape::kKeys * D;
  SharedArray<H, kQueries + kRing> tiles;  // the queries first
};

template <class H>
struct ForwardArguments {
  AttentionExtents n;
  AttentionMask<float> mask;
  AttentionPlanes<H> q, k, v;
  AttentionOut out;
  float* lse;             // [batch, heads, queries] or NULL
  const uint32_t* unfit;  // [batch, groups]: not 0 where there is nothing to do; or NULL
  int64_t tiles;          // of queries
  SeenTiles seen;         // of keys
};

template <class H, int Planes, int D>
__global__ void __launch_bounds__(kAttentionThreads) attention_forward_mma(ForwardArguments<H> p) {
  using Shape = ForwardShape<Planes, D>;
  using Queries = AttentionTile<H, Planes, Shape::kRows, D, kAttentionThreads>;
  using Keys = AttentionTile<H, Planes, Shape::kKeys, D, kAttentionThreads>;
  constexpr int kTall = Shape::kTall, kWide = Shape::kKeys / 8, kStages = Shape::kStages;
  auto& shared = shared_memory<ForwardShared<H, Planes, D>>();
  H* const tiles = shared.tiles.data();

  // Causal: the longest rows first, so that no multiprocessor begins with them at the end.
  const int block = static_cast<int>(blockIdx.x), tiles_of = static_cast<int>(p.tiles),
            heads = static_cast<int>(p.n.heads);
  const int tile = tiles_of - 1 - block % tiles_of, h = block / tiles_of % heads,
            b = block / tiles_of / heads, group = static_cast<int>(p.n.group_of(h));
  if (p.unfit && p.unfit[b * p.n.groups + group]) return;
  const int64_t first = static_cast<int64_t>(tile) * Shape::kRows, end = p.n.key_end(first + Shape::kRows);
  const int row0 = warp() * 16 * kTall, g = lane() / 4, t = lane() % 4;

  // Counts of tiles fit into 32 bits: so many would be terabytes.
  const int steps =
      p.seen.data ? p.seen.count(b, h, tile) : static_cast<int>((end + Shape::kKeys - 1) / Shape::kKeys);
  const auto first_key = [&](int step) {
    return static_cast<int64_t>(p.seen.data ? p.seen.entry(step, b, h, tile) : step) * Shape::kKeys;
  };
  // Tile 2s of the ring's turns holds the keys of step s, tile 2s + 1 their values.
  const auto slot = [](int n) { return Queries::kElements + n % kStages * Keys::kElements; };
  const auto fetch = [&](int step, bool values) {
    if (step < steps)
      Keys::fetch(tiles + slot(2 * step + values), values ? p.v : p.k, b, group, first_key(step), p.n.keys,
                  values ? p.n.ev : p.n.e);
    ptx::cp_async_commit();  // an empty group too: waiting counts groups
  };
  const auto arrived = [&](int step, bool values) {
    ptx::cp_async_wait<kStages - 2>();
    __syncthreads();  // all have their part of this tile, and none still reads the one before
    fetch(step + (kStages - 2) / 2 + values, !values);  // kStages - 1 tiles on
    return slot(2 * step + values);
  };

  Queries::fetch(tiles, p.q, b, h, first, p.n.queries, p.n.e);
#pragma unroll
  for (int n = 0; n < kStages - 1; ++n) fetch(n / 2, n % 2 != 0);

  float out[kTall][D / 8][4] = {};
  SoftmaxRows rows[kTall];
#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    const int64_t key = first_key(step);
    const bool plain = p.mask.plain(first, first + Shape::kRows, key + Shape::kKeys);
    const auto mask_of = [&](int i) {
      return TileMask<false, kWide>{p.mask, b, h, first + row0 + 16 * i, key, plain};
    };
    TileElements<kWide> elements[kTall];
#pragma unroll
    for (int i = 0; i < kTall; ++i) mask_of(i).load(elements[i]);
    float scores[kTall][kWide][4];
    multiply_rows<Queries, Keys, H, Planes, D>(scores, tiles, row0 * D, arrived(step, false));
#pragma unroll
    for (int i = 0; i < kTall; ++i) {
      mask_of(i).apply(scores[i], elements[i]);
      float decay[2];
      rows[i].update(scores[i], decay);
#pragma unroll
      for (int n = 0; n < D / 8; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) out[i][n][e] *= decay[e / 2];
      }
      if (p.mask.drops) elements[i].drop(scores[i]);
    }
    multiply_weights<Keys, H, Planes, D>(out, scores, tiles, arrived(step, true));
  }
  ptx::cp_async_wait<0>();

#pragma unroll
  for (int i = 0; i < kTall; ++i) {
    float norm[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float sum = rows[i].total(half);
      const int64_t row = first + row0 + 16 * i + g + 8 * half;
      norm[half] = softmax_norm(sum);
      if (p.lse && t == 0 && row < p.n.queries)
        p.lse[(b * p.n.heads + h) * p.n.queries + row] = log_sum_exp(rows[i].top[half], sum);
    }
    store_rows<H, D>(p.out, out[i], norm, b, h, first + row0 + 16 * i, p.n.queries, p.n.ev);
  }
}

template <class H, int Planes, int D>
void launch_attention_forward(Context* context, ForwardArguments<H> p) {
  using Shape = ForwardShape<Planes, D>;
  p.tiles = (p.n.queries + Shape::kRows - 1) / Shape::kRows;
  const SeenLists<float> seen(context, p.n, p.mask, false, Shape::kRows, Shape::kKeys);
  p.seen = *seen;
  launch(context, FASTDL_KERNEL(attention_forward_mma<H, Planes, D>),
         {static_cast<unsigned>(p.tiles * p.n.heads * p.n.batch), kAttentionThreads,
          sizeof(ForwardShared<H, Planes, D>)},
         p);
}

}  // namespace fastdl::cuda
