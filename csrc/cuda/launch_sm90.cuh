// What every use of matmul_sm90.cuh needs on the host: whether it is wanted, how its work is cut, its launch.
#pragma once

#include <algorithm>

#include "cuda/launch.h"
#include "cuda/matmul_sm90_end.cuh"
#include "cuda/sm90_wanted.h"
#include "cuda/tensor_map.h"

namespace fastdl::cuda {
namespace sm90 {

// The product in tiles and parts; its results are still to be said.
template <class T>
Sm90Problem cut(int64_t m, int64_t n, int64_t k, const GemmBatch& batch, const Sm90Plan& plan) {
  Sm90Problem p{};
  p.batch = batch;
  p.m = static_cast<int>(m), p.n = static_cast<int>(n), p.k = static_cast<int>(k);
  p.k_each = static_cast<int>(plan.k_each);
  p.cluster = plan.cluster;
  const int64_t items = batch.count(), tall = (m + T::kRows * p.cluster - 1) / (T::kRows * p.cluster),
                wide = (n + T::kColumns - 1) / T::kColumns;
  p.tall = static_cast<unsigned>(tall), p.wide = static_cast<unsigned>(wide);
  p.tiles = p.tall * p.wide;
  p.items = static_cast<unsigned>(items);
  p.work = static_cast<unsigned>(tall * wide * items * plan.parts);
  p.inner_items = batch.ndim > 0 ? static_cast<int>(batch.shape[0]) : 1;
  return p;
}

// Whether the copy engine can store the results at c, and the map for it.
template <class S>
bool map_results(const GemmEnd<S>& end, const void* c, const Sm90Problem& p, CUtensorMap* map) {
  if constexpr (sizeof(S) != 2) return false;
  else {
    constexpr int64_t kAligned = 8;  // elements in 16 bytes
    // The engine leaves out whole chunks of 16 bytes past the end of a row, not elements: n ends with a
    // chunk.
    bool can = end.packs && !end.c_float32 && p.n % kAligned == 0 && end.row > 0 && end.row % kAligned == 0 &&
               reinterpret_cast<uintptr_t>(c) % 16 == 0;
    MapShape shape;
    shape.dims[0] = p.n, shape.dims[1] = p.m;
    shape.strides[1] = end.row;
    shape.box[0] = shape.box[1] = 64;
    for (int i = 0; i < p.batch.ndim; ++i) {
      can = can && (p.batch.shape[i] == 1 || (p.batch.c[i] > 0 && p.batch.c[i] % kAligned == 0));
      shape.dims[2 + i] = p.batch.shape[i], shape.strides[2 + i] = p.batch.c[i];
    }
    if (can) *map = tensor_map(DTypeOf<S>::value, c, shape, CU_TENSOR_MAP_SWIZZLE_128B);
    return can;
  }
}

template <class S, int Columns, int Planes, class Operands>
void launch_sm90(Context* context, const Sm90Problem& p, const Operands& operands, const GemmEnd<S>& end) {
  const int64_t clusters = std::min<int64_t>(p.work, std::max(1, multiprocessors() / p.cluster));
  Launch shape{static_cast<unsigned>(clusters * p.cluster), kSm90Threads,
               sizeof(Sm90Shared<Sm90Tile<S, Columns, Planes, Operands::kNarrow>>)};
  shape.cluster = static_cast<unsigned>(p.cluster);
  launch(context, FASTDL_KERNEL(gemm_sm90<S, Columns, Planes, Operands>), shape, p, operands, end);
}

}  // namespace sm90
}  // namespace fastdl::cuda
