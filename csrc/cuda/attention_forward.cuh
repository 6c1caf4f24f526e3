// Attention forward on the tensor cores (Dao 2023, "FlashAttention-2"): a block of four warps owns 64 Tall
// queries of a head and goes over the keys; scores stay in registers, where they are the left factor of the
// product with the values. Keys and values alternate in a ring of tiles filled by cp.async, Stages - 1 ahead.
#pragma once

#include "cuda/attention_operands.cuh"
#include "cuda/attention_softmax.cuh"

namespace fastdl::cuda {

constexpr int kAttentionThreads = 128, kAttentionWarps = kAttentionThreads / kWarp;

// D: features, the class that holds both E and Ev. Keys per tile and stages: so that two blocks share a
// multiprocessor of an A100 (164 KiB, 65,536 registers), up to 64 features of pieces and 128 of 16 bits.
// Tall: tiles of 16 queries per warp; each piece of a key or value is read from shared memory once for all.
template <int Planes, int D>
struct ForwardShape {
  static constexpr int kTall = Planes == 1 && D <= 128 ? 2 : 1;
  static constexpr int kKeys = D > 64 ? 32 : 64;
  static constexpr int kStages = Planes > 1 ? 2 : D > 128 ? 3 : 4;
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
  const int64_t tile = p.tiles - 1 - blockIdx.x % p.tiles, h = blockIdx.x / p.tiles % p.n.heads,
                b = blockIdx.x / p.tiles / p.n.heads, group = p.n.group_of(h);
  if (p.unfit && p.unfit[b * p.n.groups + group]) return;
  const int64_t first = tile * Shape::kRows, end = p.n.key_end(first + Shape::kRows);
  const int row0 = warp() * 16 * kTall, g = lane() / 4, t = lane() % 4;

  // Counts of tiles fit into 32 bits: so many would be terabytes.
  const int steps = static_cast<int>((end + Shape::kKeys - 1) / Shape::kKeys);
  int filled = 0;  // where the next tile goes
  int next = 0;    // tile 2j holds the keys of step j, tile 2j + 1 their values
  const auto fetch = [&] {
    if (next < 2 * steps) {
      const bool values = next % 2 != 0;
      Keys::fetch(tiles + Queries::kElements + filled * Keys::kElements, values ? p.v : p.k, b, group,
                  static_cast<int64_t>(next / 2) * Shape::kKeys, p.n.keys, values ? p.n.ev : p.n.e);
    }
    ptx::cp_async_commit();  // an empty group too: waiting counts groups
    filled = filled + 1 == kStages ? 0 : filled + 1;
    ++next;
  };
  int used = 0;
  const auto arrived = [&] {
    ptx::cp_async_wait<kStages - 2>();
    __syncthreads();  // all have their part of this tile, and none still reads the one before
    fetch();
    const int at = Queries::kElements + used * Keys::kElements;
    used = used + 1 == kStages ? 0 : used + 1;
    return at;
  };

  Queries::fetch(tiles, p.q, b, h, first, p.n.queries, p.n.e);
#pragma unroll 1
  for (int stage = 0; stage < kStages - 1; ++stage) fetch();

  float out[kTall][D / 8][4] = {};
  SoftmaxRows rows[kTall];
#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    const int64_t key = static_cast<int64_t>(step) * Shape::kKeys;
    const bool plain = p.mask.plain(first, first + Shape::kRows, key + Shape::kKeys);
    const auto mask_of = [&](int i) {
      return TileMask<false, kWide>{p.mask, b, h, first + row0 + 16 * i, key, plain};
    };
    typename TileMask<false, kWide>::Elements elements[kTall];
#pragma unroll
    for (int i = 0; i < kTall; ++i) mask_of(i).load(elements[i]);
    float scores[kTall][kWide][4];
    multiply_rows<Queries, Keys, H, Planes, D>(scores, tiles, row0 * D, arrived());
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
      if (p.mask.drops) {
#pragma unroll
        for (int j = 0; j < kWide; ++j) {
#pragma unroll
          for (int e = 0; e < 4; ++e) scores[i][j][e] *= elements[i].factors[4 * j + e];
        }
      }
    }
    multiply_weights<Keys, H, Planes, D>(out, scores, tiles, arrived());
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
  p.tiles = (p.n.queries + ForwardShape<Planes, D>::kRows - 1) / ForwardShape<Planes, D>::kRows;
  launch(context, FASTDL_KERNEL(attention_forward_mma<H, Planes, D>),
         {static_cast<unsigned>(p.tiles * p.n.heads * p.n.batch), kAttentionThreads,
          sizeof(ForwardShared<H, Planes, D>)},
         p);
}

}  // namespace fastdl::cuda
