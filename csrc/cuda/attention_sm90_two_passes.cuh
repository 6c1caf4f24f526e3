// Attention backward on Hopper in the two passes of attention_backward.cuh: blocks that own queries make dQ,
// blocks that own keys make dK and dV. No atomics: every sum has one owner and one order.
#pragma once

#include "cuda/attention_sm90_backward.cuh"

namespace fastdl::cuda {

// What blocks make: dK and dV together where their sums fit into registers beside each other.
enum class Sm90Sums { dq, dk_dv, dk, dv };

// Registers of a consumer's thread: D / 2 sums, twice for dK and dV; Stream / 2 of S and of dP; half as many
// for the factors made of dS and of P. The queries or keys of a step are as many as those and two stages of
// shared memory hold.
template <int D, Sm90Sums Sums>
struct BackwardSm90Shape {
  static constexpr bool kOwnKeys = Sums != Sm90Sums::dq, kMasks = D <= 128;
  static constexpr bool kQueries = false, kLastFirst = false;  // see attention_sm90_one_pass.cuh
  static constexpr int kKept1 = 0, kKept2 = 0;
  static constexpr bool kGradients = Sums != Sm90Sums::dv,  // dS and what is made of it
      kValues = Sums == Sm90Sums::dk_dv || Sums == Sm90Sums::dv;
  static constexpr int kConsumers = 2, kThreads = (1 + kConsumers) * kWarpgroup, kRows = 64 * kConsumers;
  static constexpr int kKeys = D <= 96 ? 128 : D == 128 ? 112 : D == 192 ? 64 : 32;
  static constexpr int kStream = kOwnKeys ? sm90_backward_queries(D) : kKeys;
  using Own = Sm90RowTile<D, kRows>;
  using Stream = Sm90RowTile<D, kStream>;
  static constexpr int kTerms = kOwnKeys ? 2 * kStream : 0;  // of a stage: shift and delta of each query
  static constexpr int kOwnBytes = (kGradients ? 2 : 1) * Own::kBytes,
                       kStageBytes = 2 * Stream::kBytes + 4 * kTerms;
  static constexpr int kFit = (224 * 1024 - kOwnBytes) / kStageBytes, kStages = kFit < 4 ? kFit : 4;
};

template <class Shape>
struct alignas(1024) TwoPassesSm90Shared : BackwardSm90Shared<Shape> {};

template <class H, int D, Sm90Sums Sums>
__global__ void __launch_bounds__(BackwardSm90Shape<D, Sums>::kThreads, 1)
    attention_backward_wgmma(const __grid_constant__ BackwardSm90<H> p) {
  using Shape = BackwardSm90Shape<D, Sums>;
  auto& shared = shared_memory<TwoPassesSm90Shared<Shape>>();
  const BackwardSm90Work<Shape> w(p, static_cast<int>(blockIdx.x));
  if (threadIdx.x == 0) begin_backward(shared, p);
  __syncthreads();
  const int role = static_cast<int>(threadIdx.x) / kWarpgroup;
  if (role == 0) {
    ptx::fewer_registers<24>();
    if (threadIdx.x == 0) produce<H, Shape>(shared, p, w);
    __syncwarp();
  } else {
    ptx::more_registers<240>();
    consume<H, D, Shape>(shared, p, w, role - 1, NoQuerySums<Shape>());
  }
}

template <class H, int D, Sm90Sums Sums>
void launch_attention_backward_sm90(Context* context, const AttentionProblem& p, BackwardSm90<H> a) {
  using Shape = BackwardSm90Shape<D, Sums>;
  const int64_t rows = Shape::kOwnKeys ? p.keys : p.queries, heads = Shape::kOwnKeys ? p.groups : p.heads;
  // What blocks of a head or group go over: keys and values, or queries and gradients of the group's heads.
  const int64_t at_once = Shape::kOwnKeys
                              ? heads_at_once(p.queries * p.group_size(), p.e + p.ev, 1, heads * p.batch)
                              : heads_at_once(p.keys, p.e + p.ev, p.group_size(), heads * p.batch);
  a.order = {static_cast<int>((rows + Shape::kRows - 1) / Shape::kRows), static_cast<int>(heads),
             static_cast<int>(p.batch), static_cast<int>(at_once)};
  const SeenLists<float> seen(context, a.n, AttentionMask<float>(p), Shape::kOwnKeys, Shape::kRows,
                              Shape::kStream);
  a.seen = *seen;
  launch(context, FASTDL_KERNEL(attention_backward_wgmma<H, D, Sums>),
         {a.order.blocks(), Shape::kThreads, sizeof(TwoPassesSm90Shared<Shape>)}, a);
}

template <class H, int D>
void launch_attention_two_passes(Context* context, const AttentionProblem& p, const AttentionGradients& g,
                                 const float* terms, int64_t padded) {
  using Queries = BackwardSm90Shape<D, Sm90Sums::dq>;
  using Keys = BackwardSm90Shape<D, Sm90Sums::dk>;
  const BackwardSm90Operands<H, D> operands(context, p, g);
  BackwardSm90<H> a{};
  operands.common(a, terms, padded);
  operands.template own_queries<Queries>(a);
  launch_attention_backward_sm90<H, D, Sm90Sums::dq>(context, p, a);
  operands.template own_keys<Keys>(a);
  if constexpr (D <= 128) {
    launch_attention_backward_sm90<H, D, Sm90Sums::dk_dv>(context, p, a);
  } else {
    launch_attention_backward_sm90<H, D, Sm90Sums::dk>(context, p, a);
    launch_attention_backward_sm90<H, D, Sm90Sums::dv>(context, p, a);
  }
}

template <class S>
void attention_two_passes_sm90(Context* context, const AttentionProblem& p, const AttentionGradients& g,
                               const float* terms, int64_t padded) {
  with_sm90_features(p, [&](auto features) {
    launch_attention_two_passes<S, decltype(features)::value>(context, p, g, terms, padded);
  });
}

}  // namespace fastdl::cuda
