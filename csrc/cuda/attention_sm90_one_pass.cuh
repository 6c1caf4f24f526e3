// Attention backward on Hopper in one pass, five products: blocks own 128 keys, go over the queries, and sum
// dK and dV in registers as in two passes (attention_sm90_backward.cuh). dS also goes to shared memory, and
// dS K, their share of dQ, to sums in global memory, which the blocks of a head add to one after the other:
//
//   order of every sum:  tiles of keys ascending: a counter for each tile of queries says how many have added
//   no deadlock:         blocks number themselves when they start, and wait only for lower numbers, which
//                        have started; so of all that have not ended the lowest never waits
#pragma once

#include "cuda/attention_sm90_backward.cuh"
#include "cuda/ptx/bulk.cuh"

namespace fastdl::cuda {

template <int D>
struct OnePassSm90Shape {
  static constexpr bool kOwnKeys = true, kMasks = true, kGradients = true, kValues = true;
  // The last queries first: where blocks that own later keys see fewer queries, they begin together.
  static constexpr bool kQueries = true, kLastFirst = true;
  static constexpr int kConsumers = 2, kThreads = (1 + kConsumers) * kWarpgroup, kRows = 64 * kConsumers;
  static constexpr int kStream = kOnePassQueries;
  // Features of the own keys and values held as factors: those that registers have room for. Shared memory is
  // the limit otherwise.
  static constexpr int kKept1 = D == 64 ? 64 : D == 96 ? 32 : 0, kKept2 = D <= 96 ? D : 16;
  using Own = Sm90RowTile<D, kRows>;
  using Stream = Sm90RowTile<D, kStream>;
  using Gradients = Sm90RowTile<kStream, kRows>;  // dS^T
  // Features of dQ at a time: sums of 128 do not fit into registers beside those of dK and dV.
  static constexpr int kWide = D == 128 ? 64 : D;
  static constexpr int kTerms = 2 * kStream, kQuerySums = kStream * D;
  static constexpr int kOwnBytes = 2 * Own::kBytes, kStageBytes = 2 * Stream::kBytes + 4 * kTerms;
  static constexpr int kFit =
                           (226 * 1024 - kOwnBytes - 2 * (Gradients::kBytes + 4 * kQuerySums)) / kStageBytes,
                       kStages = kFit < 4 ? kFit : 4;
};

template <class H>
struct OnePassSm90 {
  BackwardSm90<H> common;
  float* query_sums;    // dQ, [batch, heads, query_tiles] of what a consumer's threads hold: see add()
  unsigned* added;      // [batch, heads, query_tiles]: tiles of keys
  unsigned* started;    // blocks
  int query_tiles;      // of a head
  SeenTiles seen_keys;  // of each tile of queries

  __device__ __forceinline__ int64_t query_tile(int b, int head, int tile) const {
    return (b * common.n.heads + head) * query_tiles + tile;
  }
};

// One for each consumer, which makes dQ of every other step; dS of both.
template <class Shape>
struct QuerySumsSm90Shared {
  SharedArray<uint16_t, 2 * Shape::Gradients::kElements> gradients;
  SharedArray<float, 2 * Shape::kQuerySums> query_sums;
};
template <class Shape>
struct alignas(1024) OnePassSm90Shared : QuerySumsSm90Shared<Shape>, BackwardSm90Shared<Shape> {
  SharedArray<uint64_t, 2> full_sums, empty_sums;
  SharedArray<int, 4> sums_places;  // tile of queries and head, of each
  SharedArray<int, 4> block;        // the first
};

// The consumers take turns at dQ: one makes that of even steps, the other that of odd ones, while the other
// goes on.
template <class H, int D, class Shape>
struct QuerySums {
  OnePassSm90Shared<Shape>& shared;
  int group;

  static constexpr int kAll = Shape::kConsumers * kWarpgroup;
  __device__ __forceinline__ static int barrier(int step) { return 1 + step % 2; }

  // dS^T, as left factors, to shared memory. What was there two steps ago has been read: by the other
  // consumer, as this one has met it since, or by this one, all of whose warps have released that step's
  // stage, if there are two of them; of more they meet here.
  template <int Count>
  __device__ __forceinline__ void offer(const uint32_t (&gradients)[Count][4], int step) const {
    using Gradients = typename Shape::Gradients;
    uint16_t* const tile = shared.gradients.at(step % 2 * Gradients::kElements);
    const int row = group * 64 + warp() % 4 * 16 + lane() % 16;
    if constexpr (Shape::kStages > 2) ptx::named_barrier(3 + group, kWarpgroup);
#pragma unroll
    for (int k = 0; k < Count; ++k)
      ptx::stmatrix<false>(tile + Gradients::element(row, 2 * k + lane() / 16), gradients[k]);
    ptx::fence_proxy_async();
    if (step % 2 != group) ptx::named_barrier_arrive(barrier(step), kAll);
  }
  __device__ __forceinline__ void add(int step, int row, int head) const {
    using Gradients = typename Shape::Gradients;
    if (step % 2 != group) return;
    constexpr int kWide = Shape::kWide;
    const uint32_t gradients = ptx::shared_address(shared.gradients.data()) + step % 2 * Gradients::kBytes,
                   keys = ptx::shared_address(shared.x1.data());
    ptx::named_barrier(barrier(step), kAll);
    ptx::wgmma_wait<1>();  // dV: its factors' registers
#pragma unroll
    for (int feature = 0; feature < D; feature += kWide) {
      float sums[kWide / 2];
      ptx::wgmma_fence();
#pragma unroll
      for (int k = 0; k < Shape::kRows; k += 16) {
        ptx::wgmma<true, true>(
            H{}, sums, Gradients::across(gradients, k),
            Shape::Own::across(keys + feature / Shape::Own::kChunk * Shape::Own::kBoxBytes, k), k > 0);
      }
      ptx::wgmma_commit();
      ptx::wgmma_wait<0>();
      ptx::wgmma_results(sums);
      if (feature == 0)
        ptx::mbarrier_wait(ptx::shared_address(shared.empty_sums.at(group)), step / 2 % 2 ^ 1u);
      // As the threads hold them, four sums of each at a time.
      float* const to = shared.query_sums.at(group * Shape::kQuerySums + threadIdx.x % kWarpgroup * 4);
#pragma unroll
      for (int i = 0; i < kWide / 2; i += 4) {
        shared_store(to + 64 * feature + i * kWarpgroup,
                     Pack<float, 4>{{sums[i], sums[i + 1], sums[i + 2], sums[i + 3]}});
      }
    }
    if (threadIdx.x % kWarpgroup == 0) {
      shared_store(shared.sums_places.at(2 * group), Pack<int, 2>{{row / Shape::kStream, head}});
    }
    ptx::fence_proxy_async();
    __syncwarp();
    if (lane() == 0) ptx::mbarrier_arrive(ptx::shared_address(shared.full_sums.at(group)));
  }
  // Each reads the keys of both.
  __device__ __forceinline__ void end(int) const { ptx::named_barrier(5, kAll); }
};

// How many blocks add to a tile of queries before the one that owns tile `own` of keys.
template <class H>
__device__ __forceinline__ unsigned blocks_before(const OnePassSm90<H>& p, int b, int head, int tile,
                                                  int own) {
  if (!p.common.seen.data) return static_cast<unsigned>(own);  // causal, too: all that own earlier keys
  // The list ascends: a warp looks at the ends of 32 pieces of what is left.
  int low = 0, high = p.seen_keys.count(b, head, tile);
  while (low < high) {
    const int each = (high - low + kWarp - 1) / kWarp, last = low + each * (lane() + 1) - 1;
    const bool below = last < high && p.seen_keys.entry(last, b, head, tile) < own;
    low += __popc(__ballot_sync(kAllLanes, below)) * each;
    high = high < low + each - 1 ? high : low + each - 1;
  }
  return static_cast<unsigned>(low);
}

// A warp adds what one of the consumers leaves, in its turn.
template <class H, class Shape>
__device__ __forceinline__ void add_query_sums(OnePassSm90Shared<Shape>& shared, const OnePassSm90<H>& p,
                                               const BackwardSm90Work<Shape>& w, int group) {
  constexpr unsigned kBytes = 4 * Shape::kQuerySums;
  const uint32_t full = ptx::shared_address(shared.full_sums.at(group)),
                 empty = ptx::shared_address(shared.empty_sums.at(group)),
                 from = ptx::shared_address(shared.query_sums.data()) + static_cast<unsigned>(group) * kBytes;
  unsigned parity = 0;
#pragma unroll 1
  for (int left = w.steps - group; left > 0; left -= 2, parity ^= 1) {
    ptx::mbarrier_wait(full, parity);
    const auto [tile, head] = shared_load<Pack<int, 2>>(shared.sums_places.at(2 * group)).at;
    const unsigned before = blocks_before(p, w.b, head, tile, w.tile);
    __syncwarp();  // the place has been read
    if (lane() == 0) {
      const int64_t at = p.query_tile(w.b, head, tile);
      unsigned* const added = p.added + at;
      while (*static_cast<const volatile unsigned*>(added) != before) __nanosleep(20);
      __threadfence();
      ptx::fence_proxy_async_global();
      float* const to = p.query_sums + at * Shape::kQuerySums;
      if (before == 0) ptx::bulk_store(to, from, kBytes);
      else ptx::bulk_add(to, from, kBytes);
      ptx::bulk_commit();
      ptx::bulk_wait_read<0>();
      ptx::mbarrier_arrive(empty);
      ptx::bulk_wait_written();
      ptx::fence_proxy_async_global();
      __threadfence();
      atomicAdd(added, 1u);
    }
    __syncwarp();
  }
}

template <class H, int D>
__global__ void __launch_bounds__(OnePassSm90Shape<D>::kThreads, 1)
    attention_backward_one_pass(const __grid_constant__ OnePassSm90<H> p) {
  using Shape = OnePassSm90Shape<D>;
  auto& shared = shared_memory<OnePassSm90Shared<Shape>>();
  if (threadIdx.x == 0) {
    shared.block[0] = static_cast<int>(atomicAdd(p.started, 1u));
    for (int group = 0; group < 2; ++group) {
      ptx::mbarrier_init(ptx::shared_address(shared.full_sums.at(group)), kWarpgroup / kWarp);
      ptx::mbarrier_init(ptx::shared_address(shared.empty_sums.at(group)), 1);
    }
    begin_backward(shared, p.common);
  }
  __syncthreads();
  const BackwardSm90Work<Shape> w(p.common, shared.block[0]);
  const int role = static_cast<int>(threadIdx.x) / kWarpgroup;
  if (role == 0) {
    ptx::fewer_registers<24>();
    if (warp() == 0) {
      if (lane() == 0) produce<H, Shape>(shared, p.common, w);
    } else if (warp() <= 2) {
      add_query_sums<H, Shape>(shared, p, w, warp() - 1);
    }
    __syncwarp();
  } else {
    ptx::more_registers<240>();
    consume<H, D, Shape>(shared, p.common, w, role - 1, QuerySums<H, D, Shape>{shared, role - 1});
  }
}

// dQ from its sums: a block rounds 64 queries of a head.
template <class H, int D>
__global__ void __launch_bounds__(kWarpgroup) attention_query_gradients(OnePassSm90<H> p, Sm90Results dq) {
  using Tile = Sm90RowTile<D, kOnePassQueries>;
  auto& shared = shared_memory<SharedArray<uint16_t, Tile::kElements>>();
  const int tiles = p.query_tiles, heads = static_cast<int>(p.common.n.heads),
            block = static_cast<int>(blockIdx.x);
  const int tile = block % tiles, head = block / tiles % heads, b = block / tiles / heads;
  const bool any = !p.common.seen.data || p.seen_keys.count(b, head, tile) > 0;
  const float* const from =
      p.query_sums + p.query_tile(b, head, tile) * OnePassSm90Shape<D>::kQuerySums + threadIdx.x * 4;
  float sums[D / 2];
#pragma unroll
  for (int i = 0; i < D / 2; i += 4) {
    const auto four =
        any ? *reinterpret_cast<const Pack<float, 4>*>(from + i * kWarpgroup) : Pack<float, 4>{};
#pragma unroll
    for (int e = 0; e < 4; ++e) sums[i + e] = four.at[e];
  }
  const float scale[2] = {p.common.scale, p.common.scale};
  store_results<H, Tile>(shared.data(), warp() * 16, dq, b, head, tile * kOnePassQueries, sums, scale);
}

template <class H, int D>
void launch_attention_one_pass(Context* context, const AttentionProblem& p, const AttentionGradients& g,
                               const float* terms, int64_t padded) {
  using Shape = OnePassSm90Shape<D>;
  const BackwardSm90Operands<H, D> operands(context, p, g);
  const int64_t tiles = (p.queries + Shape::kStream - 1) / Shape::kStream, all = p.batch * p.heads * tiles;
  const Workspace sums(context, static_cast<size_t>(all * Shape::kQuerySums) * sizeof(float)),
      counts(context, static_cast<size_t>(all + 1) * sizeof(unsigned));
  OnePassSm90<H> a{};
  operands.common(a.common, terms, padded);
  operands.template own_keys<Shape>(a.common);
  a.query_sums = sums.template as<float>();
  a.started = counts.template as<unsigned>(), a.added = a.started + 1;
  a.query_tiles = static_cast<int>(tiles);
  // Of a group in the cache: queries, gradients, and sums of twice their bytes.
  const int64_t at_once = heads_at_once(p.queries * p.group_size(), 3 * p.e + p.ev, 1, p.groups * p.batch);
  a.common.order = {static_cast<int>((p.keys + Shape::kRows - 1) / Shape::kRows), static_cast<int>(p.groups),
                    static_cast<int>(p.batch), static_cast<int>(at_once)};
  const AttentionMask<float> mask(p);
  const SeenLists<float> seen(context, a.common.n, mask, true, Shape::kRows, Shape::kStream),
      seen_keys(context, a.common.n, mask, false, Shape::kStream, Shape::kRows);
  a.common.seen = *seen, a.seen_keys = *seen_keys;
  check_cuda(
      cudaMemsetAsync(a.started, 0, static_cast<size_t>(all + 1) * sizeof(unsigned), stream_of(context)),
      "attention");
  launch(context, FASTDL_KERNEL(attention_backward_one_pass<H, D>),
         {a.common.order.blocks(), Shape::kThreads, sizeof(OnePassSm90Shared<Shape>)}, a);
  launch(context, FASTDL_KERNEL(attention_query_gradients<H, D>),
         {static_cast<unsigned>(all), kWarpgroup, sizeof(uint16_t) * kOnePassQueries * D}, a,
         Sm90Results(g.dq));
}

template <class S>
void attention_one_pass_sm90(Context* context, const AttentionProblem& p, const AttentionGradients& g,
                             const float* terms, int64_t padded) {
  switch (sm90_features(p.e, p.ev)) {
    case 64:
      return launch_attention_one_pass<S, 64>(context, p, g, terms, padded);
    case 96:
      return launch_attention_one_pass<S, 96>(context, p, g, terms, padded);
    default:
      return launch_attention_one_pass<S, 128>(context, p, g, terms, padded);
  }
}

}  // namespace fastdl::cuda
