// gemm_sm90_few<S>: makes tensor maps, launches.
#pragma once

#include <algorithm>
#include <optional>
#include <type_traits>

#include "cuda/gemm_combine.cuh"
#include "cuda/gemm_operand.cuh"
#include "cuda/gemm_sm90_few.h"
#include "cuda/launch.h"
#include "cuda/matmul_sm90_few_entry.cuh"
#include "cuda/split_operand.cuh"

namespace fastdl::cuda {
namespace sm90 {

// Boxes of T::kDepth of k, along it by `rows` positions, else by as many as T::kBox of them.
template <class T>
Sm90Operand few_operand(const Aligned<typename T::S>& a, const GemmBatch& batch, int rows) {
  Sm90Operand o{};
  o.along_k = a.along_k;
  MapShape shape;
  shape.dims[0] = a.along_k ? a.source.depth : a.source.length;
  shape.dims[1] = a.along_k ? a.source.length : a.source.depth;
  shape.strides[1] = a.source.stride;
  shape.box[0] = a.along_k ? T::kDepth : std::min(rows, T::kBox), shape.box[1] = a.along_k ? rows : T::kDepth;
  for (int i = 0; i < batch.ndim; ++i) {
    o.moves[i] = a.batch_strides[i] != 0 && batch.shape[i] > 1;
    shape.dims[2 + i] = o.moves[i] ? batch.shape[i] : 1;
    shape.strides[2 + i] = a.batch_strides[i];
  }
  const size_t bytes = static_cast<size_t>(shape.box[0]) * sizeof(typename T::S);
  o.map = tensor_map(DTypeOf<typename T::S>::value, a.source.data, shape,
                     bytes == 128  ? CU_TENSOR_MAP_SWIZZLE_128B
                     : bytes == 64 ? CU_TENSOR_MAP_SWIZZLE_64B
                                   : CU_TENSOR_MAP_SWIZZLE_32B);
  return o;
}

// An operand of a product, and its strides.
template <class S>
struct FewSide {
  const S* data;
  int64_t length, along_length, along_k;
  const int64_t* batch;
};

template <class S, int Few>
bool run_few(Context* context, const Gemm<S>& g, const FewPlan& plan) {
  using T = FewTile<S, Few>;
  const FewSide<S> a{g.a, g.m, g.a_row, g.a_column, g.batch.a}, b{g.b, g.n, g.b_column, g.b_row, g.batch.b};
  FewProblem p{};
  p.swapped = g.n > g.m;
  const FewSide<S>&rows = p.swapped ? b : a, &count = p.swapped ? a : b;
  const OperandLayout<S> layout(rows.data, rows.length, g.k, rows.along_length, rows.along_k, g.batch,
                                rows.batch);
  std::optional<Aligned<S>> large;
  if (layout.contiguous && !layout.aligned && layout.stride > 0) {
    // A copy would cost two passes over what is read once.
    p.loose = rows.data, p.loose_row = layout.stride;
    p.large.along_k = layout.along_k;
  } else {
    large.emplace(context, rows.data, rows.length, g.k, rows.along_length, rows.along_k, g.batch, rows.batch);
    if (large->overlaps()) return false;
    p.large = few_operand<T>(*large, g.batch, T::kRows);
  }
  const std::conditional_t<T::kSplit, SplitOperand<3>, Aligned<S>> few(
      context, count.data, count.length, g.k, count.along_length, count.along_k, g.batch, count.batch);
  if constexpr (T::kSplit) {
    p.few = operand<T>(few.layout, g.batch, T::kFew);
    p.split = {rows.data,          count.data,    rows.along_length, rows.along_k,
               count.along_length, count.along_k, few.odd()};
  } else {
    if (few.overlaps()) return false;
    p.few = few_operand<T>(few, g.batch, T::kFew);
  }
  p.batch = g.batch;
  p.rows = static_cast<int>(rows.length), p.count = static_cast<int>(count.length);
  p.k = static_cast<int>(g.k), p.k_each = static_cast<int>(plan.k_each);
  p.cluster = plan.cluster;
  const int64_t tiles = (p.rows + T::kRows - 1) / T::kRows, items = g.batch.count();
  p.tiles = static_cast<unsigned>(tiles), p.items = static_cast<unsigned>(items);
  p.inner_items = g.batch.ndim > 0 ? static_cast<int>(g.batch.shape[0]) : 1;
  std::optional<Workspace> partial;
  if (plan.parts > 1) {
    partial.emplace(context, static_cast<size_t>(plan.parts * items * g.m * g.n) * sizeof(float));
    p.partial = partial->template as<float>();
  }
  const GemmEnd<S> end(g);
  Launch shape{static_cast<unsigned>(tiles * items * plan.parts * plan.cluster), T::kThreads,
               sizeof(FewShared<T>)};
  shape.cluster = static_cast<unsigned>(plan.cluster);
  launch(context, FASTDL_KERNEL(gemm_few_sm90<S, Few>), shape, p, end);
  if (plan.parts > 1) combine_parts(context, plan.parts, g.m, g.n, g.batch, p.partial, end);
  return true;
}

}  // namespace sm90

template <class S>
bool gemm_sm90_few(Context* context, const Gemm<S>& g, const FewPlan& plan) {
  if constexpr (sizeof(S) == 2) {
    if (plan.few == 16) return sm90::run_few<S, 16>(context, g, plan);
    if (plan.few == 32) return sm90::run_few<S, 32>(context, g, plan);
  }
  if (plan.few == 64) return sm90::run_few<S, 64>(context, g, plan);
  return sm90::run_few<S, 128>(context, g, plan);
}

}  // namespace fastdl::cuda
