// Operands of matrix products as the kernels' copies can read them.
#pragma once

#include <optional>

#include "cuda/gemm.h"
#include "cuda/gemm_tile.cuh"
#include "cuda/tensor.h"

namespace fastdl::cuda {

// An operand as cp.async can read it: contiguous along one of its dims, every row aligned to 16 bytes. Any
// other is copied, rows padded.
template <class S>
class Aligned {
 public:
  Aligned(Context* context, const S* data, int64_t length, int64_t depth, int64_t along_length,
          int64_t along_depth, const GemmBatch& batch, const int64_t* strides) {
    const bool by_k = along_depth == 1 || (along_length != 1 && depth >= length);
    along_k = by_k;
    const int64_t columns = by_k ? depth : length, rows = by_k ? length : depth;
    const int64_t padded = (columns + kPerChunk - 1) / kPerChunk * kPerChunk;
    // A vector's single row has any stride, which is never used.
    const int64_t stride = rows == 1 ? padded : by_k ? along_length : along_depth;
    bool fits = (by_k ? along_depth : along_length) == 1 && stride >= 0 &&
                reinterpret_cast<uintptr_t>(data) % 16 == 0 && stride % kPerChunk == 0;
    for (int i = 0; i < batch.ndim; ++i) fits = fits && strides[i] % kPerChunk == 0;
    for (int i = 0; i < batch.ndim; ++i) batch_strides[i] = strides[i];
    source = {data, stride, length, depth};
    if (fits) return;
    View from, to;
    from.dtype = to.dtype = DTypeOf<S>::value;
    const int ndim = batch.ndim + 2;
    from.ndim = to.ndim = ndim;
    source.stride = padded;
    from.shape[ndim - 1] = columns, from.strides[ndim - 1] = by_k ? along_depth : along_length;
    from.shape[ndim - 2] = rows, from.strides[ndim - 2] = stride;
    to.strides[ndim - 1] = 1, to.strides[ndim - 2] = source.stride;
    int64_t size = rows * source.stride;
    for (int i = 0; i < batch.ndim; ++i) {  // what is repeated along a dim is copied once
      const int dim = batch.ndim - 1 - i;
      from.shape[dim] = strides[i] == 0 ? 1 : batch.shape[i];
      from.strides[dim] = strides[i];
      batch_strides[i] = to.strides[dim] = strides[i] == 0 ? 0 : size;
      size *= from.shape[dim];
    }
    for (int i = 0; i < ndim; ++i) to.shape[i] = from.shape[i];
    space_.emplace(context, static_cast<size_t>(size) * sizeof(S));
    from.data = const_cast<S*>(data);
    to.data = space_->as<void>();
    source.data = space_->as<S>();
    copy(context, from, to);
  }

  // Rows that have elements in common, the same row again and again among them: nobody says that a tensor map
  // may have such.
  bool overlaps() const { return source.stride < (along_k ? source.depth : source.length); }

  bool along_k;
  Source<S> source;
  int64_t batch_strides[FASTDL_MAX_NDIM];

 private:
  static constexpr int64_t kPerChunk = kChunkBytes / static_cast<int64_t>(sizeof(S));
  std::optional<Workspace> space_;
};

}  // namespace fastdl::cuda
