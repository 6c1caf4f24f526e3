// gemm_sm90<S>: checks, makes tensor maps, launches.
#pragma once

#include <limits>
#include <optional>

#include "cuda/gemm_combine.cuh"
#include "cuda/gemm_operand.cuh"
#include "cuda/gemm_sm90.h"
#include "cuda/gemm_sm90_few.h"
#include "cuda/launch_sm90.cuh"
#include "cuda/matmul_sm90_operands.cuh"
#include "cuda/split.cuh"
#include "cuda/split_operand.cuh"

namespace fastdl::cuda {
namespace sm90 {

// Coordinates are 32 bits wide, and a tensor map knows no backward strides.
template <class S>
bool can_map(const Gemm<S>& g) {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max() - 512;
  bool can = g.k > 0 && g.m < kMost && g.n < kMost && g.k < kMost && g.batch.ndim <= kMapBatchDims;
  can = can && g.a_row >= 0 && g.a_column >= 0 && g.b_row >= 0 && g.b_column >= 0;
  for (int i = 0; can && i < g.batch.ndim; ++i) {
    can = g.batch.a[i] >= 0 && g.batch.b[i] >= 0 && g.batch.shape[i] < kMost;
  }
  // Pieces of work are counted in 32 bits (16: the most parts).
  return can && (g.m + 127) / 128 * ((g.n + 127) / 128) < kMost / 16 / std::max<int64_t>(1, g.batch.count());
}

// Launches the kernel on operands in place, and adds up the parts.
template <class S, int Columns, int Planes>
void run(Context* context, const Gemm<S>& g, const Sm90Plan& plan, const Contiguous& a, const Contiguous& b,
         const uint32_t* odd_a, const uint32_t* odd_b) {
  using T = Sm90Tile<S, Columns, Planes>;
  const GemmEnd<S> end(g);
  Sm90Matrices<S> operands{};
  operands.a = operand<T>(a, g.batch, T::kRows);
  operands.b = operand<T>(b, g.batch, T::kColumns / 2);
  operands.odd_a = odd_a, operands.odd_b = odd_b;
  if constexpr (T::kSplit) operands.plain_a = g.a, operands.plain_b = g.b;
  operands.a_row = g.a_row, operands.a_column = g.a_column;
  operands.b_row = g.b_row, operands.b_column = g.b_column;
  Sm90Problem p = cut<T>(g.m, g.n, g.k, g.batch, plan);
  std::optional<Workspace> partial;
  if (plan.parts > 1) {
    partial.emplace(context, static_cast<size_t>(plan.parts * p.items * g.m * g.n) * sizeof(float));
    p.partial = partial->as<float>();
  } else {
    p.store_by_map = map_results(end, g.c, p, &p.c);
  }
  launch_sm90<S, Columns, Planes>(context, p, operands, end);
  if (plan.parts > 1) {
    combine_parts(context, plan.parts, g.m, g.n, g.batch, p.partial, end);
  }
}

template <class S>
Contiguous in_place(const Aligned<S>& a, const GemmBatch& batch) {
  Contiguous c{a.source.data, a.along_k, a.source.stride, a.source.length, a.source.depth, {}, 0};
  for (int i = 0; i < batch.ndim; ++i) c.batch_strides[i] = a.batch_strides[i];
  return c;
}

}  // namespace sm90

template <class S>
bool gemm_sm90(Context* context, const Gemm<S>& g) {
  const sm90::Wanted kernel = sm90::wanted("FASTDL_CUDA_MATMUL");
  if (kernel == sm90::Wanted::portable || !sm90::can_map(g) || !sm90::is_hopper()) return false;
  int planes = 0;
  with_planes<S>(context, [&](auto count) { planes = sizeof(S) == 4 ? decltype(count)::value : 0; });
  if (sizeof(S) == 4 && planes == 1) return false;
  const int64_t items = g.batch.count(), length = std::max(g.m, g.n), count = std::min(g.m, g.n);
  Sm90Choice choice{};
  if (kernel == sm90::Wanted::always) {
    choice.tiles = sm90_plan(g.m, g.n, g.k, items, multiprocessors(), planes, true);
    choice.way = Sm90Way::tiles;
  } else {
    choice = sm90_choice(g.m, g.n, g.k, items, multiprocessors(), planes);
  }
  if (kernel == sm90::Wanted::few) {
    const FewPlan few = few_sm90_plan(length, count, g.k, items, multiprocessors(), planes, true);
    if (few.fits) choice.few = few, choice.way = Sm90Way::few;
  }
  if (choice.way == Sm90Way::portable) return false;
  if (choice.way == Sm90Way::few) return gemm_sm90_few(context, g, choice.few);
  const Sm90Plan& plan = choice.tiles;
  if constexpr (sizeof(S) == 4) {
    const auto with = [&](auto pieces) {
      constexpr int kPlanes = decltype(pieces)::value;
      const sm90::SplitOperand<kPlanes> a(context, g.a, g.m, g.k, g.a_row, g.a_column, g.batch, g.batch.a);
      const sm90::SplitOperand<kPlanes> b(context, g.b, g.n, g.k, g.b_column, g.b_row, g.batch, g.batch.b);
      sm90::run<S, 128, kPlanes>(context, g, plan, a.layout, b.layout, a.odd(), b.odd());
    };
    if (planes == 3) with(std::integral_constant<int, 3>{});
    else with(std::integral_constant<int, 2>{});
  } else {
    const Aligned<S> a(context, g.a, g.m, g.k, g.a_row, g.a_column, g.batch, g.batch.a);
    const Aligned<S> b(context, g.b, g.n, g.k, g.b_column, g.b_row, g.batch, g.batch.b);
    if (a.overlaps() || b.overlaps()) return false;
    const sm90::Contiguous left = sm90::in_place(a, g.batch), right = sm90::in_place(b, g.batch);
    if (plan.columns == 256) sm90::run<S, 256, 1>(context, g, plan, left, right, nullptr, nullptr);
    else sm90::run<S, 128, 1>(context, g, plan, left, right, nullptr, nullptr);
  }
  return true;
}

}  // namespace fastdl::cuda
