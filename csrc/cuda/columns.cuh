// Sums down the columns of partial results, in an order that the shapes fix: the second stage of every
// reduction over rows.
#pragma once

#include "cuda/device.cuh"
#include "cuda/launch.h"
#include "cuda/shared.cuh"

namespace fastdl::cuda {

constexpr int kSumColumns = 32, kSumRows = 16;  // threads of a block: so many columns, and rows side by side

template <class T>
struct SumShared {
  SharedArray<T, kSumColumns * kSumRows> sums;
};

// out[c * stride] = sum over r of partial[r * pitch + c], added up in Acc: thread row k takes rows k, k + 16,
// ...; then the 16 sums in order.
template <class Acc, class T, class Out>
__global__ void __launch_bounds__(kSumColumns* kSumRows)
    sum_columns(int64_t rows, int64_t columns, int64_t pitch, const T* partial, Out* out, int64_t stride) {
  auto& shared = shared_memory<SumShared<Acc>>();
  const int column = static_cast<int>(threadIdx.x), row = static_cast<int>(threadIdx.y);
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * kSumColumns; first < columns;
       first += static_cast<int64_t>(gridDim.x) * kSumColumns) {
    const int64_t c = first + column;
    Acc sum = 0;
    if (c < columns) {
      for (int64_t r = row; r < rows; r += kSumRows) sum += static_cast<Acc>(partial[r * pitch + c]);
    }
    shared.sums[row * kSumColumns + column] = sum;
    __syncthreads();
    if (row == 0 && c < columns) {
      Acc total = shared.sums[column];
      for (int k = 1; k < kSumRows; ++k) total += static_cast<Acc>(shared.sums[k * kSumColumns + column]);
      out[c * stride] = narrow<Out>(static_cast<compute_t<Out>>(total));
    }
    __syncthreads();
  }
}

// The same, launched.
template <class Acc, class T, class Out>
void add_up_columns(Context* context, int64_t rows, int64_t columns, int64_t pitch, const T* partial,
                    Out* out, int64_t stride = 1) {
  if (columns == 0) return;
  const Launch shape{blocks_for(columns, kSumColumns), {kSumColumns, kSumRows}, sizeof(SumShared<Acc>)};
  launch(context, FASTDL_KERNEL(sum_columns<Acc, T, Out>), shape, rows, columns, pitch, partial, out, stride);
}

}  // namespace fastdl::cuda
