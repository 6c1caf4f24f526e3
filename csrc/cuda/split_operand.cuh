// Operands as the copy engine reads them: where they lie, and planes of float32 ones.
#pragma once

#include <optional>

#include "cuda/gemm.h"
#include "cuda/matmul_sm90_operands.cuh"
#include "cuda/split_planes.cuh"
#include "cuda/tensor_map.h"

namespace fastdl::cuda {
namespace sm90 {

// An operand of `length` positions and `depth` of k, contiguous along one of them.
struct Contiguous {
  const void* data;
  bool along_k;
  int64_t stride, length, depth;
  int64_t batch_strides[kMapBatchDims], plane;
};

// A map of boxes of T::kDepth of k: along k by box_length positions, else by 64.
template <class T>
Sm90Operand operand(const Contiguous& c, const GemmBatch& batch, int box_length) {
  Sm90Operand o{};
  o.along_k = c.along_k;
  MapShape shape;
  shape.dims[0] = c.along_k ? c.depth : c.length, shape.dims[1] = c.along_k ? c.length : c.depth;
  shape.strides[1] = c.stride;
  shape.box[0] = c.along_k ? T::kDepth : 64, shape.box[1] = c.along_k ? box_length : T::kDepth;
  for (int i = 0; i < batch.ndim; ++i) {
    o.moves[i] = c.batch_strides[i] != 0 && batch.shape[i] > 1;
    shape.dims[2 + i] = o.moves[i] ? batch.shape[i] : 1;
    shape.strides[2 + i] = c.batch_strides[i];
  }
  shape.dims[4] = T::kPlanes, shape.strides[4] = c.plane;
  o.map = tensor_map(DTypeOf<typename T::E>::value, c.data, shape,
                     c.along_k && T::kDepth == 32 ? CU_TENSOR_MAP_SWIZZLE_64B : CU_TENSOR_MAP_SWIZZLE_128B);
  return o;
}

// float32 operands: planes of bfloat16 in memory of our own.
template <int Planes>
class SplitOperand {
 public:
  SplitOperand(Context* context, const float* data, int64_t length, int64_t depth, int64_t along_length,
               int64_t along_depth, const GemmBatch& batch, const int64_t* strides) {
    SplitShape s{};
    const bool along_k = along_depth == 1 || (along_length != 1 && depth >= length);
    s.rows = along_k ? length : depth, s.columns = along_k ? depth : length;
    s.row = along_k ? along_length : along_depth, s.column = along_k ? along_depth : along_length;
    s.padded = (s.columns + 7) / 8 * 8;
    s.by_row = along_k;
    bool packs = s.column == 1 && s.row % 4 == 0 && reinterpret_cast<uintptr_t>(data) % 16 == 0;
    for (int i = 0; i < kMapBatchDims; ++i) {  // what is repeated along a dim is split once
      const bool moves = i < batch.ndim && strides[i] != 0;
      s.batch[i] = moves ? batch.shape[i] : 1;
      s.batch_strides[i] = moves ? strides[i] : 0;
      packs = packs && s.batch_strides[i] % 4 == 0;
    }
    planes_.emplace(context, static_cast<size_t>(Planes * s.plane()) * sizeof(bfloat16));
    const size_t flags = static_cast<size_t>(s.count() * s.blocks()) * sizeof(uint32_t);
    odd_.emplace(context, flags);
    check_cuda(cudaMemsetAsync(odd_->as<void>(), 0, flags, stream_of(context)), "cudaMemsetAsync");
    launch(context, FASTDL_KERNEL(split_planes<Planes>),
           {blocks_for(s.count() * s.rows * (s.padded / 4), 256), 256}, data, s, packs,
           planes_->as<bfloat16>(), odd_->as<uint32_t>());
    layout = {planes_->as<void>(), along_k, s.padded, length, depth, {}, s.plane()};
    int64_t size = s.rows * s.padded;
    for (int i = 0; i < kMapBatchDims; ++i) {
      layout.batch_strides[i] = s.batch_strides[i] != 0 ? size : 0;
      size *= s.batch[i];
    }
  }
  const uint32_t* odd() const { return odd_->as<uint32_t>(); }
  Contiguous layout{};

 private:
  std::optional<Workspace> planes_, odd_;
};

}  // namespace sm90
}  // namespace fastdl::cuda
