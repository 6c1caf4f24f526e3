// Attention forward by Hopper's warpgroup instructions (Shah et al. 2024, "FlashAttention-3"):
// docs/kernels-cuda/attention.md has the picture.
//
// A block owns 64 queries of a head for each of its consumers, warpgroups that hold scores, weights and
// results in registers. One thread of another warpgroup (the producer) starts the copies: the queries, then
// keys and values, each in a ring of stages with a `full` barrier, whose phase ends when the bytes are there,
// and an `empty` one, when all warps have read them. Steps go from the last keys to the first, so that those
// that need a mask come first.
#pragma once

#include "cuda/attention_config.h"
#include "cuda/attention_sm90.h"
#include "cuda/attention_sm90_forward_work.cuh"
#include "cuda/attention_sm90_tile.cuh"
#include "cuda/launch.h"
#include "cuda/ptx/warpgroup.cuh"

namespace fastdl::cuda {

template <class H, class Shape>
__device__ __forceinline__ void produce(ForwardSm90Shared<Shape>& shared, const ForwardSm90<H>& p) {
  using Keys = typename Shape::Keys;
  Ring<Shape> ring;  // of keys; of values it is the place before
#pragma unroll 1
  for (int round = 0; has_round<Shape>(p, round); ++round) {
    const ForwardSm90Work<Shape::kBits> w(p, Shape::kRows, Shape::kKeys, round);
    const auto load = [&](auto& tiles, auto& fulls, auto& empties, const Sm90Rows& from,
                          const Ring<Shape>& at, int step) {
      const uint32_t full = ptx::shared_address(fulls.data()) + 8 * at.stage;
      ptx::mbarrier_wait(ptx::shared_address(empties.data()) + 8 * at.stage, at.parity ^ 1);
      ptx::mbarrier_arrive_expect(full, Keys::kBytes);
      Keys::load(ptx::shared_address(tiles.data()) + at.stage * Keys::kBytes, from, full,
                 w.key_tile(p, step) * Shape::kKeys, w.group, w.b);
    };
    const uint32_t full_queries = ptx::shared_address(shared.full_queries.data());
    ptx::mbarrier_wait(ptx::shared_address(shared.empty_queries.data()), (round + 1) % 2);
    ptx::mbarrier_arrive_expect(full_queries, Shape::Queries::kBytes);
    Shape::Queries::load(ptx::shared_address(shared.queries.data()), p.q, full_queries, w.first, w.head, w.b);
#pragma unroll 1
    for (int step = 0; step <= w.steps; ++step) {  // in the order in which they are needed
      if (step < w.steps) load(shared.keys, shared.full_keys, shared.empty_keys, p.k, ring, step);
      if (step > 0)
        load(shared.values, shared.full_values, shared.empty_values, p.v, ring.before(), step - 1);
      if (step < w.steps) ring.advance();
    }
  }
}

// The same of the terms of a mask, by a thread for each consumer, for one round: asked for when it has read
// those of the step before.
template <class H, class Shape>
__device__ __forceinline__ void produce_terms(ForwardSm90Shared<Shape>& shared, const ForwardSm90<H>& p,
                                              int group) {
  static_assert(!Shape::kStays);
  const ForwardSm90Work<Shape::kBits> w(p, Shape::kRows, Shape::kKeys, 0);
  const uint32_t full = ptx::shared_address(shared.full_terms.at(group)),
                 empty = ptx::shared_address(shared.empty_terms.at(group)),
                 terms = ptx::shared_address(shared.terms.at(group * Shape::Terms::kElements));
#pragma unroll 1
  for (int step = 0; step < w.steps; ++step) {
    ptx::mbarrier_wait(empty, (step + 1) % 2);
    Shape::Terms::load(terms, p.terms, full, w.first + 64 * group, w.key_tile(p, step) * Shape::kKeys, w.head,
                       w.b);
  }
}

// Turns of the consumers at the tensor cores: while the products of one run, the others have their softmax.
template <class Shape>
struct Turns {
  static constexpr int kFirst = 1;  // barrier kFirst + i: consumer i may issue
  int group;

  __device__ __forceinline__ void wait() const { ptx::named_barrier(kFirst + group, 2 * kWarpgroup); }
  __device__ __forceinline__ void pass_on() const {
    ptx::named_barrier_arrive(kFirst + (group + 1) % Shape::kConsumers, 2 * kWarpgroup);
  }
};

template <class H, int D, class Shape>
__device__ __forceinline__ void consume(ForwardSm90Shared<Shape>& shared, const ForwardSm90<H>& p, int group,
                                        int round, Ring<Shape>& ring) {
  const ForwardSm90Work<Shape::kBits> w(p, Shape::kRows, Shape::kKeys, round);
  using Queries = typename Shape::Queries;
  using Keys = typename Shape::Keys;
  constexpr int kKeys = Shape::kKeys;
  const uint32_t queries = ptx::shared_address(shared.queries.data()),
                 keys = ptx::shared_address(shared.keys.data()),
                 values = ptx::shared_address(shared.values.data()),
                 full_keys = ptx::shared_address(shared.full_keys.data()),
                 empty_keys = ptx::shared_address(shared.empty_keys.data()),
                 full_values = ptx::shared_address(shared.full_values.data()),
                 empty_values = ptx::shared_address(shared.empty_values.data());
  const int warp_row = group * 64 + warp() % 4 * 16, row = w.first + warp_row + lane() / 4;
  using Scores = float[kKeys / 2];
  struct Bits {
    uint32_t seen[2], kept[2];
  };
  const Turns<Shape> turns{group};
  float out[D / 2];
  uint32_t weights[kKeys / 16][4];
  Sm90SoftmaxRows rows;
  float decay[2];
  const float scale2 = Shape::kAdds ? 1.0f : p.scale2;  // of what the softmax gets

  const auto multiply_keys = [&](Scores& scores) {
    const uint32_t tile = keys + ring.stage * Keys::kBytes;
    ptx::mbarrier_wait(full_keys + 8 * ring.stage, ring.parity);
    ptx::wgmma_fence();
#pragma unroll
    for (int k = 0; k < D; k += 16) {
      ptx::wgmma<false, false>(H{}, scores, Queries::along(queries, group * 64, k), Keys::along(tile, 0, k),
                               k > 0);
    }
    ptx::wgmma_commit();
  };
  const auto multiply_values = [&](bool more) {
    const Ring<Shape> at = ring.before();
    const uint32_t tile = values + at.stage * Keys::kBytes;
    ptx::mbarrier_wait(full_values + 8 * at.stage, at.parity);
    ptx::wgmma_fence();
#pragma unroll
    for (int k = 0; k < kKeys; k += 16)
      ptx::wgmma<true>(H{}, out, weights[k / 16], Keys::across(tile, k), more || k > 0);
    ptx::wgmma_commit();
  };
  const auto release = [&](uint32_t empty, const Ring<Shape>& at) {
    if (lane() == 0) ptx::mbarrier_arrive(empty + 8 * at.stage);
  };
  const auto look = [&](Bits& bits, int tile) {
    if (Shape::kBits && p.bits.words)
      p.bits.load(bits.seen, w.b, w.head, row, static_cast<int>(p.n.queries) - 1, tile);
    if (Shape::kBits && p.dropout.drops) {
      const int64_t row_of_all = (w.b * p.n.heads + w.head) * p.n.queries + row;
      p.dropout.template make<kKeys>(
          bits.kept, static_cast<uint64_t>(row_of_all) * p.n.keys + tile * int64_t{kKeys}, p.n.keys);
    }
  };
  const auto soften = [&](Scores& scores, const Bits& bits, int tile, int step) {  // scores become weights
    const int key = tile * kKeys;
    if constexpr (Shape::kAdds) {
      if (p.terms.adds) {
        const uint32_t of = 8 * group;
        ptx::mbarrier_wait(ptx::shared_address(shared.full_terms.data()) + of, step % 2);
        Shape::Terms::template add<H>(scores, shared.terms.at(group * Shape::Terms::kElements), p.terms,
                                      warp_row % 64 + lane() / 4, p.scale2);
        __syncwarp();  // all lanes have read theirs
        if (lane() == 0) ptx::mbarrier_arrive(ptx::shared_address(shared.empty_terms.data()) + of);
      } else {
#pragma unroll
        for (int i = 0; i < kKeys / 2; ++i) scores[i] *= p.scale2;
      }
    }
    if (p.n.key_end(w.first + group * 64 + 1) < key + kKeys) {
      mask_scores(scores, {static_cast<int>(p.n.key_end(row + 1)) - key,
                           static_cast<int>(p.n.key_end(row + 9)) - key});
    }
    if (Shape::kBits && p.bits.words) apply_bits(scores, bits.seen, -INFINITY);
    rows.update(scores, scale2, decay);
    if (Shape::kBits && p.dropout.drops) apply_bits(scores, bits.kept, 0);
  };

  // After the last keys the next queries may come.
  const auto release_queries = [&](bool last) {
    if (last && lane() == 0) ptx::mbarrier_arrive(ptx::shared_address(shared.empty_queries.data()));
  };

  ptx::mbarrier_wait(ptx::shared_address(shared.full_queries.data()), round % 2);
  if (w.steps > 0) {
    {
      Scores scores;
      Bits bits;
      const int tile = w.key_tile(p, 0);
      turns.wait();
      multiply_keys(scores);
      turns.pass_on();
      look(bits, tile);
      ptx::wgmma_wait<0>();
      ptx::wgmma_results(scores);
      release(empty_keys, ring);
      release_queries(w.steps == 1);
      soften(scores, bits, tile, 0);
      pack_factors<H>(scores, weights);
      ring.advance();
    }
#pragma unroll 1
    for (int step = 1; step < w.steps; ++step) {
      Scores scores;
      Bits bits;
      const int tile = w.key_tile(p, step);
      turns.wait();
      multiply_keys(scores);
      multiply_values(step > 1);
      turns.pass_on();
      if constexpr (Shape::kOverlaps) look(bits, tile);
      ptx::wgmma_wait<Shape::kOverlaps ? 1 : 0>();
      ptx::wgmma_results(scores);
      if constexpr (!Shape::kOverlaps) look(bits, tile);
      release(empty_keys, ring);
      release_queries(step + 1 == w.steps);
      soften(scores, bits, tile, step);
      ptx::wgmma_wait<0>();
      ptx::wgmma_results(out);
      release(empty_values, ring.before());
      ring.advance();
#pragma unroll
      for (int i = 0; i < D / 2; ++i) out[i] *= decay[i / 2 % 2];
      pack_factors<H>(scores, weights);
    }
    multiply_values(w.steps > 1);
    ptx::wgmma_wait<0>();
    ptx::wgmma_results(out);
    release(empty_values, ring.before());
  } else {
    release_queries(true);
#pragma unroll
    for (int i = 0; i < D / 2; ++i) out[i] = 0;
  }

  // Worked out anew: kept, it would take registers.
  const ForwardSm90Work<false> late(p, Shape::kRows, Shape::kKeys,
                                    static_cast<int>(ptx::opaque(static_cast<uint32_t>(round))));
  const int late_row = late.first + warp_row + lane() / 4;
  float norm[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float sum = rows.total(half);
    norm[half] = softmax_norm(sum) * (Shape::kBits ? p.dropout.kept_scale : 1.0f);
    const int i = late_row + 8 * half;
    if (p.lse && lane() % 4 == 0 && i < p.n.queries) {
      p.lse[(late.b * p.n.heads + late.head) * p.n.queries + i] = log_sum_exp(rows.top[half] * scale2, sum);
    }
  }
  store_results<H>(p.out, late.b, late.head, late_row, out, norm);
}

template <class H, int D, Sm90Scores Scores>
__global__ void __launch_bounds__(ForwardSm90Shape<D, Scores>::kThreads, 1)
    attention_forward_wgmma(const __grid_constant__ ForwardSm90<H> p) {
  using Shape = ForwardSm90Shape<D, Scores>;
  auto& shared = shared_memory<ForwardSm90Shared<Shape>>();
  if (threadIdx.x == 0) {
    constexpr unsigned kReaders = Shape::kConsumers * kWarpgroup / kWarp;
    ptx::mbarrier_init(ptx::shared_address(shared.full_queries.data()), 1);
    ptx::mbarrier_init(ptx::shared_address(shared.empty_queries.data()), kReaders);
#pragma unroll 1
    for (int stage = 0; stage < Shape::kStages; ++stage) {
      ptx::mbarrier_init(ptx::shared_address(shared.full_keys.at(stage)), 1);
      ptx::mbarrier_init(ptx::shared_address(shared.full_values.at(stage)), 1);
      ptx::mbarrier_init(ptx::shared_address(shared.empty_keys.at(stage)), kReaders);
      ptx::mbarrier_init(ptx::shared_address(shared.empty_values.at(stage)), kReaders);
    }
    if constexpr (Shape::kAdds) {
#pragma unroll
      for (int group = 0; group < Shape::kConsumers; ++group) {
        ptx::mbarrier_init(ptx::shared_address(shared.full_terms.at(group)), 1);
        ptx::mbarrier_init(ptx::shared_address(shared.empty_terms.at(group)), kWarpgroup / kWarp);
      }
      if (p.terms.adds) ptx::prefetch_map(&p.terms.rows.map);
    }
    ptx::mbarrier_fence_init();
    ptx::prefetch_map(&p.q.map);
    ptx::prefetch_map(&p.k.map);
    ptx::prefetch_map(&p.v.map);
  }
  __syncthreads();
  const int role = static_cast<int>(threadIdx.x) / kWarpgroup;
  if (role == 0) {
    ptx::fewer_registers<Shape::kProducerRegisters>();
    if (threadIdx.x == 0) produce<H, Shape>(shared, p);
    if constexpr (Shape::kAdds) {
      if (warp() > 0 && warp() <= Shape::kConsumers && lane() == 0 && p.terms.adds)
        produce_terms<H, Shape>(shared, p, warp() - 1);
    }
    __syncwarp();
  } else {
    ptx::more_registers<Shape::kConsumerRegisters>();
    const Turns<Shape> turns{role - 1};
    Ring<Shape> ring;
    if (role == Shape::kConsumers) turns.pass_on();
#pragma unroll 1
    for (int round = 0; has_round<Shape>(p, round); ++round) {
      consume<H, D, Shape>(shared, p, role - 1, round, ring);
    }
    if (role == 1) turns.wait();  // what the last consumer passed on
  }
}

template <class H, int D, Sm90Scores Scores>
void launch_attention_forward_sm90(Context* context, const AttentionProblem& p, const Sm90Terms& terms,
                                   float* lse) {
  using Shape = ForwardSm90Shape<D, Scores>;
  using Operand = AttentionOperand<H, H, 1>;
  const Operand q(context, p.q, p, nullptr), k(context, p.k, p, nullptr), v(context, p.v, p, nullptr);
  const Sm90BitsOf bits(context, p, false, Shape::kKeys);
  ForwardSm90<H> a{sm90_rows<H, D>(*q, p.q, Shape::kRows),
                   sm90_rows<H, D>(*k, p.k, Shape::kKeys),
                   sm90_rows<H, D>(*v, p.v, Shape::kKeys),
                   AttentionExtents(p),
                   *bits,
                   terms,
                   Sm90Dropout(p),
                   Sm90Results(p.out),
                   lse,
                   static_cast<float>(p.scale * kLog2e),
                   static_cast<int>(p.group_size()),
                   {static_cast<int>((p.queries + Shape::kRows - 1) / Shape::kRows),
                    static_cast<int>(p.heads), static_cast<int>(p.batch),
                    static_cast<int>(heads_at_once(p.keys, p.e + p.ev, p.group_size(), p.heads * p.batch))},
                   {}};
  const SeenLists<float> seen(context, a.n, AttentionMask<float>(p), false, Shape::kRows, Shape::kKeys);
  a.seen = *seen;
  // Lists make tiles of lengths that nobody knows: multiprocessors take them as they become free.
  const unsigned places = static_cast<unsigned>(multiprocessors()),
                 blocks =
                     a.seen.data || !Shape::kStays ? a.order.blocks() : std::min(a.order.blocks(), places);
  launch(context, FASTDL_KERNEL(attention_forward_wgmma<H, D, Scores>),
         {blocks, Shape::kThreads, sizeof(ForwardSm90Shared<Shape>)}, a);
}

template <class H, int D>
void launch_attention_forward_sm90(Context* context, const AttentionProblem& p, float* lse) {
  constexpr auto kTerms = Sm90Scores::terms;
  const Sm90Scores scores = sm90_scores(p);
  if (scores == kTerms) {
    if (!p.mask.data || p.mask.dtype == DType::kBool) {
      launch_attention_forward_sm90<H, D, kTerms>(context, p, {}, lse);
    } else if (p.mask.dtype == DType::kFloat32) {
      launch_attention_forward_sm90<H, D, kTerms>(context, p, *Sm90TermsOf<float>(context, p), lse);
    } else {
      launch_attention_forward_sm90<H, D, kTerms>(context, p, *Sm90TermsOf<H>(context, p), lse);
    }
    return;
  }
  // Bits want registers: 64 and 256 features have a kernel without.
  if constexpr (D == 64 || D == 256) {
    if (scores == Sm90Scores::plain)
      return launch_attention_forward_sm90<H, D, Sm90Scores::plain>(context, p, {}, lse);
  }
  launch_attention_forward_sm90<H, D, Sm90Scores::bits>(context, p, {}, lse);
}

template <class S>
void attention_forward_sm90(Context* context, const AttentionProblem& p, float* lse) {
  with_sm90_features(p, [&](auto features) {
    launch_attention_forward_sm90<S, decltype(features)::value>(context, p, lse);
  });
}

}  // namespace fastdl::cuda
