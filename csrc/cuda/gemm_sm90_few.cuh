// gemm_sm90_few<S>: makes tensor maps, launches.
#pragma once

#include <optional>

#include "cuda/gemm_combine.cuh"
#include "cuda/gemm_operand.cuh"
#include "cuda/gemm_sm90_few.h"
#include "cuda/launch.h"
#include "cuda/matmul_sm90_few.cuh"
#include "cuda/tensor_map.h"

namespace fastdl::cuda {
namespace sm90 {

// Boxes of `rows` positions by 64 of k; along the positions, rows of up to 64 of them.
template <class S>
Sm90Operand few_operand(const Aligned<S>& a, const GemmBatch& batch, int rows) {
  Sm90Operand o{};
  o.along_k = a.along_k;
  constexpr int kDepth = 64;
  MapShape shape;
  shape.dims[0] = a.along_k ? a.source.depth : a.source.length;
  shape.dims[1] = a.along_k ? a.source.length : a.source.depth;
  shape.strides[1] = a.source.stride;
  shape.box[0] = a.along_k ? kDepth : std::min(rows, 64), shape.box[1] = a.along_k ? rows : kDepth;
  for (int i = 0; i < batch.ndim; ++i) {
    o.moves[i] = a.batch_strides[i] != 0 && batch.shape[i] > 1;
    shape.dims[2 + i] = o.moves[i] ? batch.shape[i] : 1;
    shape.strides[2 + i] = a.batch_strides[i];
  }
  o.map = tensor_map(DTypeOf<S>::value, a.source.data, shape,
                     shape.box[0] == 64   ? CU_TENSOR_MAP_SWIZZLE_128B
                     : shape.box[0] == 32 ? CU_TENSOR_MAP_SWIZZLE_64B
                                          : CU_TENSOR_MAP_SWIZZLE_32B);
  return o;
}

template <class S, int Few>
void run_few(Context* context, const Gemm<S>& g, const FewPlan& plan, const Aligned<S>& large,
             const Aligned<S>& few) {
  using T = FewTile<S, Few>;
  FewProblem p{};
  p.large = few_operand(large, g.batch, T::kRows);
  p.few = few_operand(few, g.batch, T::kFew);
  p.batch = g.batch;
  p.swapped = g.n > g.m;
  p.rows = static_cast<int>(std::max(g.m, g.n)), p.count = static_cast<int>(std::min(g.m, g.n));
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
}

}  // namespace sm90

template <class S>
bool gemm_sm90_few(Context* context, const Gemm<S>& g, const FewPlan& plan) {
  const Aligned<S> a(context, g.a, g.m, g.k, g.a_row, g.a_column, g.batch, g.batch.a);
  const Aligned<S> b(context, g.b, g.n, g.k, g.b_column, g.b_row, g.batch, g.batch.b);
  if (a.source.stride == 0 || b.source.stride == 0) return false;  // the same row again and again
  const Aligned<S>&large = g.n > g.m ? b : a, &few = g.n > g.m ? a : b;
  switch (plan.few) {
    case 16:
      sm90::run_few<S, 16>(context, g, plan, large, few);
      break;
    case 32:
      sm90::run_few<S, 32>(context, g, plan, large, few);
      break;
    case 64:
      sm90::run_few<S, 64>(context, g, plan, large, few);
      break;
    default:
      sm90::run_few<S, 128>(context, g, plan, large, few);
  }
  return true;
}

}  // namespace fastdl::cuda
