// Few queries by Hopper's warpgroup instructions: docs/kernels-cuda/attention.md has the picture.
//
// The queries of all heads that share keys are the rows of one 64-row factor, so that keys and values come
// once for all of them; more than 64 rows are several blocks that run side by side. The keys are cut into
// parts as in attention_decode.cuh, whose second kernel puts them together here, too. A block has one
// consumer, a warpgroup that multiplies and has the softmax in registers, and a warp that starts the copies
// of keys and values, in turns, into a ring of stages. Memory decides: two blocks to a multiprocessor fill
// each other's pauses.
#pragma once

#include "cuda/attention_decode.cuh"
#include "cuda/attention_sm90.h"
#include "cuda/attention_sm90_tile.cuh"
#include "cuda/launch.h"
#include "cuda/ptx/warpgroup.cuh"

namespace fastdl::cuda {

template <int D>
struct DecodeSm90Shape {
  static constexpr int kRows = kSm90DecodeRows, kKeys = kSm90DecodeKeys;
  static constexpr int kConsumerWarps = kWarpgroup / kWarp, kThreads = kWarpgroup + kWarp;
  // Of a multiprocessor: 168 registers a thread do for up to 128 features, 255 for all.
  static constexpr int kBlocks = sm90_decode_blocks(D);
  using Queries = Sm90RowTile<D, kRows>;
  using Keys = Sm90RowTile<D, kKeys>;  // and values
  static constexpr int kSums = D + 8;  // floats of a row of results on their way out: no bank conflicts
  // Of 227 KiB, or 113 each; barriers take less than one.
  static constexpr int kBytes = (kBlocks == 2 ? 112 : 226) * 1024,
                       kStages = (kBytes - Queries::kBytes) / Keys::kBytes;
};

template <class H>
struct DecodeSm90 {
  Sm90Rows k, v;
  DecodeArguments<H> a;
  SeenTiles seen;  // of queries of a group, for each tile of keys
  Sm90Scores scores;
  bool packs_q;
};

template <class Shape>
struct alignas(1024) DecodeSm90Shared {
  SharedArray<uint16_t, Shape::Queries::kElements> queries;
  SharedArray<uint16_t, Shape::kStages * Shape::Keys::kElements> tiles;  // keys and values in turns
  SharedArray<uint64_t, Shape::kStages> full, empty;
};

// What a block does: blocks that share keys and values are neighbours.
struct DecodeSm90Work {
  int first, rows;     // of the group's
  int heads, queries;  // whose product they are
  int begin, end;      // keys
  int part, group, b;

  template <class H>
  __device__ __forceinline__ explicit DecodeSm90Work(const DecodeArguments<H>& a) {
    // 32 bits: divisions of 64 take longer than the first copies.
    const auto small = [](int64_t x) { return static_cast<unsigned>(x); };
    unsigned rest = blockIdx.x;
    first = static_cast<int>(rest % small(a.row_groups)) * kSm90DecodeRows, rest /= small(a.row_groups);
    part = static_cast<int>(rest % small(a.parts)), rest /= small(a.parts);
    group = static_cast<int>(rest % small(a.n.groups)), b = static_cast<int>(rest / small(a.n.groups));
    queries = static_cast<int>(a.n.queries), heads = static_cast<int>(small(a.n.heads) / small(a.n.groups));
    rows = heads * queries;
    const int64_t from = part * a.keys_each, to = from + a.keys_each;
    begin = static_cast<int>(from), end = static_cast<int>(to < a.end ? to : a.end);
  }
  __device__ __forceinline__ int head_of(int row) const { return group * heads + row / queries; }
};

// The tiles of a part that some query sees, in their order, for all lanes of a warp: 32 at a time are looked
// up. Both roles go by it.
template <int Keys>
struct DecodeSm90Tiles {
  uint32_t left = 0;  // those of the last 32 that are still to come
  int window, ahead;  // their first one; the next 32

  __device__ __forceinline__ explicit DecodeSm90Tiles(const DecodeSm90Work& w) : ahead(w.begin / Keys) {}
  template <class H>
  __device__ __forceinline__ bool next(const DecodeSm90<H>& p, const DecodeSm90Work& w, int& key) {
    while (left == 0) {
      if (ahead * Keys >= w.end) return false;
      window = ahead, ahead += kWarp;
      const int tile = window + lane();
      left = __ballot_sync(kAllLanes,
                           tile * Keys < w.end && (!p.seen.data || p.seen.count(w.b, w.group, tile) > 0));
    }
    key = (window + __ffs(static_cast<int>(left)) - 1) * Keys;
    left &= left - 1;
    return true;
  }
};

template <class H, class Shape>
__device__ __forceinline__ void produce(DecodeSm90Shared<Shape>& shared, const DecodeSm90<H>& p,
                                        const DecodeSm90Work& w) {
  using Keys = typename Shape::Keys;
  const uint32_t tiles = ptx::shared_address(shared.tiles.data()),
                 full0 = ptx::shared_address(shared.full.data()),
                 empty0 = ptx::shared_address(shared.empty.data());
  Ring<Shape> ring;
  const auto bring = [&](const Sm90Rows& from, int key) {
    if (lane() == 0) {
      const uint32_t full = full0 + 8 * ring.stage;
      ptx::mbarrier_wait(empty0 + 8 * ring.stage, ring.parity ^ 1);
      ptx::mbarrier_arrive_expect(full, Keys::kBytes);
      Keys::load(tiles + ring.stage * Keys::kBytes, from, full, key, w.group, w.b);
    }
    ring.advance();
  };
  DecodeSm90Tiles<Shape::kKeys> seen(w);
  int key;
  while (seen.next(p, w, key)) {
    bring(p.k, key);
    bring(p.v, key);
  }
}

// The block's rows of queries as a left factor, zeros where there are none.
template <class H, class Shape>
__device__ __forceinline__ void load_queries(DecodeSm90Shared<Shape>& shared, const DecodeSm90<H>& p,
                                             const DecodeSm90Work& w) {
  constexpr int kEights = Shape::Queries::kElements / Shape::kRows / 8;
#pragma unroll 4
  for (int at = static_cast<int>(threadIdx.x); at < Shape::kRows * kEights; at += kWarpgroup) {
    const int row = w.first + at / kEights, eight = at % kEights;
    Pack<H, 8> x{};
    if (row < w.rows) {
      load_features(x.at, p.a.q.at(w.b, w.head_of(row), row % w.queries), p.a.q.column, 8 * eight, p.a.n.e,
                    p.packs_q);
    }
    shared_store(shared.queries.data() + Shape::Queries::element(at / kEights, eight), x);
  }
  ptx::fence_proxy_async();
  ptx::named_barrier(1, kWarpgroup);
}

// Products of keys from `key` on to scores to base 2, with the terms of an added mask of float32 or of H, if
// there is one. rows: where those of rows g and g + 8 begin.
template <class M, int Count>
__device__ __forceinline__ void add_terms_of(float (&scores)[Count], const AttentionMask<float>& mask,
                                             const int64_t (&rows)[2], int key, int last_key) {
  const M* const terms = static_cast<const M*>(mask.data);
#pragma unroll
  for (int j = 0; j < Count / 4; ++j) {
    if (j % 2 == 0) __syncwarp();  // so that not all are read at once, into as many registers
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int at = key + 8 * j + lane() % 4 * 2 + i % 2;
      const float term = widen(terms[rows[i / 2] + (at < last_key ? at : last_key) * mask.stride[3]]);
      float& s = scores[4 * j + i];
      s = AttentionMask<float>::with_term(s * mask.scale2, term * static_cast<float>(kLog2e));
    }
  }
}
template <class H, int Count>
__device__ __forceinline__ void add_terms(float (&scores)[Count], const AttentionMask<float>& mask,
                                          const int64_t (&rows)[2], int key, int last_key) {
  if (mask.data && mask.dtype == DType::kFloat32) {
    add_terms_of<float>(scores, mask, rows, key, last_key);
  } else if (mask.data && mask.dtype != DType::kBool) {
    add_terms_of<H>(scores, mask, rows, key, last_key);
  } else {
#pragma unroll
    for (float& s : scores) s *= mask.scale2;
  }
}

template <class H, int D, class Shape>
__device__ __forceinline__ void consume(DecodeSm90Shared<Shape>& shared, const DecodeSm90<H>& p,
                                        const DecodeSm90Work& w) {
  using Queries = typename Shape::Queries;
  using Keys = typename Shape::Keys;
  constexpr int kKeys = Shape::kKeys;
  const uint32_t queries = ptx::shared_address(shared.queries.data()),
                 tiles = ptx::shared_address(shared.tiles.data()),
                 full0 = ptx::shared_address(shared.full.data()),
                 empty0 = ptx::shared_address(shared.empty.data());
  // A row too many is the last one again, and not written; a warp that has no others has no softmax.
  const int warp_row = w.first + warp() * 16;
  const bool works = warp_row < w.rows;
  // Of rows g and g + 8, worked out anew each time: kept, it would take registers that the sums need.
  const auto row_of = [&](int half) {
    const int row = warp_row + lane() / 4 + 8 * half + static_cast<int>(ptx::opaque(0u));
    return row < w.rows ? row : w.rows - 1;
  };
  const auto row_end = [&](int half) {
    const int query = row_of(half) % w.queries;
    return p.a.n.causal && query < w.end ? query + 1 : w.end;
  };
  const auto mask_row = [&](int half) {
    const int row = row_of(half);
    return w.b * p.a.mask.stride[0] + w.head_of(row) * p.a.mask.stride[1] +
           row % w.queries * p.a.mask.stride[2];
  };
  float out[D / 2];
#pragma unroll
  for (int i = 0; i < D / 2; ++i) out[i] = 0;
  uint32_t weights[kKeys / 16][4] = {};
  Sm90SoftmaxRows rows;
  const bool has_bits = p.a.mask.data && p.a.mask.dtype == DType::kBool;
  const float scale2 = p.scores == Sm90Scores::terms ? 1.0f : p.a.mask.scale2;  // of what the softmax gets
  Ring<Shape> ring;
  const auto wait = [&] {
    ptx::mbarrier_wait(full0 + 8 * ring.stage, ring.parity);
    ptx::wgmma_fence();
    return tiles + ring.stage * Keys::kBytes;
  };
  const auto release = [&] {
    if (lane() == 0) ptx::mbarrier_arrive(empty0 + 8 * ring.stage);
    ring.advance();
  };

  load_queries<H, Shape>(shared, p, w);
  DecodeSm90Tiles<kKeys> seen(w);
  int key;
  while (seen.next(p, w, key)) {
    float scores[kKeys / 2];
    const uint32_t keys = wait();
#pragma unroll
    for (int k = 0; k < D; k += 16) {
      ptx::wgmma<false, false>(H{}, scores, Queries::along(queries, 0, k), Keys::along(keys, 0, k), k > 0);
    }
    ptx::wgmma_commit();
    SeenBits<kKeys / 2> bits;
    if (works && has_bits) {
      const auto* const mask = static_cast<const uint8_t*>(p.a.mask.data);
      bits.load({mask + mask_row(0), mask + mask_row(1)}, p.a.mask.stride[3], key, w.end - 1);
    }
    ptx::wgmma_wait<0>();
    ptx::wgmma_results(scores);
    release();
    if (works) {
      if (p.scores == Sm90Scores::terms)
        add_terms<H>(scores, p.a.mask, {mask_row(0), mask_row(1)}, key, w.end - 1);
      if (p.a.n.causal || key + kKeys > w.end) mask_scores(scores, {row_end(0) - key, row_end(1) - key});
      if (has_bits) bits.apply(scores, -INFINITY);
      float decay[2];
      rows.update(scores, scale2, decay);
#pragma unroll
      for (int i = 0; i < D / 2; ++i) out[i] *= decay[i / 2 % 2];
      pack_factors<H>(scores, weights);
    }
    const uint32_t values = wait();
#pragma unroll
    for (int k = 0; k < kKeys; k += 16)
      ptx::wgmma<true>(H{}, out, weights[k / 16], Keys::across(values, k), true);
    ptx::wgmma_commit();
    ptx::wgmma_wait<0>();
    ptx::wgmma_results(out);
    release();
  }
  // By way of the ring, when all warps have read it, so that lanes write neighbours.
  ptx::named_barrier(1, kWarpgroup);
  float* const sums = reinterpret_cast<float*>(shared.tiles.data()) + warp() * 16 * Shape::kSums;
  float top2[2], total[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    top2[half] = __fmul_rn(rows.top[half], scale2), total[half] = rows.total(half);
#pragma unroll
    for (int j = 0; j < D / 8; ++j) {
      const float* const two = out + 4 * j + 2 * half;
      shared_store(sums + (lane() / 4 + 8 * half) * Shape::kSums + 8 * j + lane() % 4 * 2,
                   Pack<float, 2>{two[0], two[1]});
    }
  }
  __syncwarp();
#pragma unroll 1
  for (int i = 0; i < 16 && warp_row + i < w.rows; ++i) {
    const int from = i % 8 * 4, row = warp_row + i;
    const float top = __shfl_sync(kAllLanes, i < 8 ? top2[0] : top2[1], from),
                sum = __shfl_sync(kAllLanes, i < 8 ? total[0] : total[1], from);
    const DecodeResult<H> result(p.a, w.part, w.b, w.head_of(row), row % w.queries, top, sum);
    for (int c = lane(); c < D; c += kWarp) result.put(c, shared_load<float>(sums + i * Shape::kSums + c));
    if (lane() == 0) result.put_sums();
  }
}

template <class H, int D>
__global__ void __launch_bounds__(DecodeSm90Shape<D>::kThreads, DecodeSm90Shape<D>::kBlocks)
    attention_decode_wgmma(const __grid_constant__ DecodeSm90<H> p) {
  using Shape = DecodeSm90Shape<D>;
  auto& shared = shared_memory<DecodeSm90Shared<Shape>>();
  const DecodeSm90Work w(p.a);
  if (threadIdx.x == kWarpgroup) {
#pragma unroll 1
    for (int stage = 0; stage < Shape::kStages; ++stage) {
      ptx::mbarrier_init(ptx::shared_address(shared.full.at(stage)), 1);
      ptx::mbarrier_init(ptx::shared_address(shared.empty.at(stage)), Shape::kConsumerWarps);
    }
    ptx::mbarrier_fence_init();
    ptx::prefetch_map(&p.k.map);
    ptx::prefetch_map(&p.v.map);
  }
  __syncthreads();
  if (warp() < Shape::kConsumerWarps) consume<H, D, Shape>(shared, p, w);
  else produce<H, Shape>(shared, p, w);
}

template <class H, int D>
void launch_attention_decode_sm90(Context* context, const AttentionProblem& p, float* lse,
                                  const DecodePlan& plan) {
  using Shape = DecodeSm90Shape<D>;
  using Operand = AttentionOperand<H, H, 1>;
  // Keys that no query sees are zeros, not what may be NaN: they count as if they did not exist.
  View keys = p.k, values = p.v;
  keys.shape[2] = values.shape[2] = p.key_end(p.queries);
  const Operand k(context, keys, p, nullptr), v(context, values, p, nullptr);
  const DecodeParts<H> parts(context, p, lse, plan);
  DecodeSm90<H> a{sm90_rows<H, D>(*k, keys, Shape::kKeys),
                  sm90_rows<H, D>(*v, values, Shape::kKeys),
                  *parts,
                  {},
                  sm90_scores(p),
                  in_packs(p.q)};
  const SeenLists<float> seen(context, a.a.n, a.a.mask, true, Shape::kKeys, Shape::kRows);
  a.seen = *seen;
  launch(context, FASTDL_KERNEL(attention_decode_wgmma<H, D>),
         {parts.blocks(), Shape::kThreads, sizeof(DecodeSm90Shared<Shape>)}, a);
  parts.combine();
}

template <class S>
void attention_decode_sm90(Context* context, const AttentionProblem& p, float* lse) {
  with_sm90_features(p, [&](auto features) {
    constexpr int kFeatures = decltype(features)::value;
    const DecodePlan plan = sm90_decode_plan(p.group_size() * p.queries, p.batch * p.groups,
                                             p.key_end(p.queries), kFeatures, multiprocessors());
    launch_attention_decode_sm90<S, kFeatures>(context, p, lse, plan);
  });
}

}  // namespace fastdl::cuda
