// Operands of matrix products as the kernels' copies can read them.
#pragma once

#include <optional>

#include "cuda/gemm.h"
#include "cuda/gemm_tile.cuh"
#include "cuda/tensor.h"

namespace fastdl::cuda {

// How an operand lies: which dim is, or would have to be, the contiguous one.
template <class S>
struct OperandLayout {
  static constexpr int64_t kPerChunk = kChunkBytes / static_cast<int64_t>(sizeof(S));
  bool along_k;
  bool contiguous;  // along that dim
  bool aligned;     // every row, to 16 bytes
  int64_t stride;   // of the other dim; a single row, whose own may be anything, has that of padded ones
  int64_t columns;  // of a row

  OperandLayout(const S* data, int64_t length, int64_t depth, int64_t along_length, int64_t along_depth,
                const GemmBatch& batch, const int64_t* strides)
      : along_k(along_depth == 1 || (along_length != 1 && depth >= length)),
        contiguous((along_k ? along_depth : along_length) == 1),
        aligned(reinterpret_cast<uintptr_t>(data) % 16 == 0),
        stride(along_k ? along_length : along_depth),
        columns(along_k ? depth : length) {
    if ((along_k ? length : depth) == 1) stride = padded();
    aligned = aligned && stride % kPerChunk == 0;
    for (int i = 0; i < batch.ndim; ++i) aligned = aligned && strides[i] % kPerChunk == 0;
  }
  int64_t padded() const { return (columns + kPerChunk - 1) / kPerChunk * kPerChunk; }
};

// An operand as cp.async can read it: contiguous along one of its dims, every row aligned to 16 bytes. Any
// other is copied, rows padded.
template <class S>
class Aligned {
 public:
  Aligned(Context* context, const S* data, int64_t length, int64_t depth, int64_t along_length,
          int64_t along_depth, const GemmBatch& batch, const int64_t* strides) {
    const OperandLayout<S> layout(data, length, depth, along_length, along_depth, batch, strides);
    const bool by_k = along_k = layout.along_k;
    const int64_t stride = layout.stride;
    for (int i = 0; i < batch.ndim; ++i) batch_strides[i] = strides[i];
    source = {data, stride, length, depth};
    if (layout.contiguous && layout.aligned && stride >= 0) return;
    const int64_t columns = layout.columns, rows = by_k ? length : depth;
    View from, to;
    from.dtype = to.dtype = DTypeOf<S>::value;
    const int ndim = batch.ndim + 2;
    from.ndim = to.ndim = ndim;
    source.stride = layout.padded();
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
  std::optional<Workspace> space_;
};

}  // namespace fastdl::cuda
