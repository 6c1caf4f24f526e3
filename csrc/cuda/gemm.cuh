// gemm<S>: chooses and launches. Each element type is instantiated in a file of its own (gemm_<type>.cu), so
// that they compile side by side.
#pragma once

#include <optional>

#include "cuda/gemm.h"
#include "cuda/gemm_combine.cuh"
#include "cuda/gemm_config.h"
#include "cuda/gemm_fma.cuh"
#include "cuda/gemm_mma.cuh"
#include "cuda/gemm_operand.cuh"
#include "cuda/gemm_sm90.h"
#include "cuda/split.cuh"

namespace fastdl::cuda {

template <class S, int Planes, bool AlongKA, bool AlongKB, class Block>
void launch_gemm_mma(Context* context, const MmaOperands<S>& p, const GemmEnd<S>& end, int64_t parts) {
  const dim3 grid(static_cast<unsigned>((p.m + Block::kRows - 1) / Block::kRows),
                  static_cast<unsigned>((p.n + Block::kColumns - 1) / Block::kColumns),
                  static_cast<unsigned>(p.batch_count * parts));
  launch(context, FASTDL_KERNEL(gemm_mma<S, Planes, AlongKA, AlongKB, Block>),
         {grid, Block::kThreads, sizeof(MmaShared<S, Block>)}, p, end);
}

template <class S, int Planes>
void gemm_by_tensor_cores(Context* context, const Gemm<S>& g, const GemmPlan& plan) {
  const Aligned<S> a(context, g.a, g.m, g.k, g.a_row, g.a_column, g.batch, g.batch.a);
  const Aligned<S> b(context, g.b, g.n, g.k, g.b_column, g.b_row, g.batch, g.batch.b);
  MmaOperands<S> p{};
  p.a = a.source, p.b = b.source;
  p.batch = g.batch;
  for (int i = 0; i < g.batch.ndim; ++i) p.batch.a[i] = a.batch_strides[i], p.batch.b[i] = b.batch_strides[i];
  p.m = g.m, p.n = g.n, p.k = g.k;
  p.k_each = plan.k_each;
  p.batch_count = g.batch.count();
  p.a_row = a.along_k ? a.source.stride : 1, p.a_column = a.along_k ? 1 : a.source.stride;
  p.b_column = b.along_k ? b.source.stride : 1, p.b_row = b.along_k ? 1 : b.source.stride;
  std::optional<Workspace> partial;
  if (plan.parts > 1) {
    partial.emplace(context, static_cast<size_t>(plan.parts * p.batch_count * g.m * g.n) * sizeof(float));
    p.partial = partial->as<float>();
  }
  const GemmEnd<S> end(g);
  const auto with = [&](auto along_a, auto along_b) {
    constexpr bool kA = decltype(along_a)::value, kB = decltype(along_b)::value;
    if (plan.large) launch_gemm_mma<S, Planes, kA, kB, LargeBlock>(context, p, end, plan.parts);
    else if (plan.narrow) launch_gemm_mma<S, Planes, kA, kB, NarrowBlock>(context, p, end, plan.parts);
    else launch_gemm_mma<S, Planes, kA, kB, SmallBlock>(context, p, end, plan.parts);
  };
  if (a.along_k)
    b.along_k ? with(std::true_type{}, std::true_type{}) : with(std::true_type{}, std::false_type{});
  else b.along_k ? with(std::false_type{}, std::true_type{}) : with(std::false_type{}, std::false_type{});
  if (plan.parts > 1) {
    combine_parts(context, plan.parts, g.m, g.n, g.batch, p.partial, end);
  }
}

// Few rows as few columns: C^T = B^T A^T. A bias goes along the rows then, as a residual whose columns are
// all the same; beside a residual there is no place for it.
template <class S>
bool can_turn(const Gemm<S>& g) {
  return !(g.bias && g.residual);
}
template <class S>
Gemm<S> turned(const Gemm<S>& g) {
  Gemm<S> t = g;
  t.m = g.n, t.n = g.m;
  t.a = g.b, t.a_row = g.b_column, t.a_column = g.b_row;
  t.b = g.a, t.b_row = g.a_column, t.b_column = g.a_row;
  t.c_row = g.c_column, t.c_column = g.c_row;
  t.residual_row = g.residual_column, t.residual_column = g.residual_row;
  for (int i = 0; i < g.batch.ndim; ++i) t.batch.a[i] = g.batch.b[i], t.batch.b[i] = g.batch.a[i];
  if (g.bias) {
    t.bias = nullptr;
    t.residual = g.bias, t.residual_row = g.bias_stride, t.residual_column = 0;
    for (int i = 0; i < g.batch.ndim; ++i) t.batch.residual[i] = 0;
  }
  return t;
}

template <class S>
void gemm(Context* context, const Gemm<S>& g) {
  const int64_t count = g.batch.count();
  if (g.m == 0 || g.n == 0 || count == 0) return;
  constexpr int64_t kMostItems = 2048;  // with 32 parts each, what the z dim of a grid holds
  if (count > kMostItems && g.batch.ndim > 0) {
    Gemm<S> part = g;
    const int outer = --part.batch.ndim;
    // The outermost dim in pieces, each small enough together with the inner ones; or one by one.
    const int64_t inner = part.batch.count(), each = inner < kMostItems ? kMostItems / inner : 1;
    for (int64_t i = 0; i < g.batch.shape[outer]; i += each) {
      part.batch.ndim = outer + (each > 1 ? 1 : 0);
      part.batch.shape[outer] = std::min(each, g.batch.shape[outer] - i);
      part.a = g.a + i * g.batch.a[outer];
      part.b = g.b + i * g.batch.b[outer];
      part.c =
          static_cast<char*>(g.c) + i * g.batch.c[outer] * static_cast<int64_t>(g.c_float32 ? 4 : sizeof(S));
      if (g.residual) part.residual = g.residual + i * g.batch.residual[outer];
      gemm(context, part);
    }
    return;
  }
  constexpr int64_t kMostColumns = int64_t{65535} * 64;  // what the y dim of a grid holds, at 64 to a block
  if (g.n > kMostColumns) {
    for (int64_t j = 0; j < g.n; j += kMostColumns) {
      Gemm<S> part = g;
      part.n = std::min(kMostColumns, g.n - j);
      part.b = g.b + j * g.b_column;
      part.c = static_cast<char*>(g.c) + j * g.c_column * static_cast<int64_t>(g.c_float32 ? 4 : sizeof(S));
      if (g.bias) part.bias = g.bias + j * g.bias_stride;
      if (g.residual) part.residual = g.residual + j * g.residual_column;
      gemm(context, part);
    }
    return;
  }
  if constexpr (sizeof(S) < 8) {
    if (gemm_sm90(context, g)) return;
    const bool turns = g.n > g.m && few_columns(g.n, g.m, g.k) && can_turn(g);
    const Gemm<S> p = turns ? turned(g) : g;
    const GemmPlan plan = gemm_plan(p.m, p.n, p.k, count, multiprocessors(), true);
    if (plan.tensor_cores) {
      return with_planes<S>(
          context, [&](auto planes) { gemm_by_tensor_cores<S, decltype(planes)::value>(context, p, plan); });
    }
  }
  launch_gemm_fma(context, g);
}

}  // namespace fastdl::cuda
