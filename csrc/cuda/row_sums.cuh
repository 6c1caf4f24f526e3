// Sums over the rows of a matrix, in two stages whose order the shapes fix: the gradient of a bias.
#pragma once

#include <algorithm>

#include "cuda/columns.cuh"
#include "cuda/device.cuh"
#include "cuda/launch.h"
#include "cuda/shared.cuh"

namespace fastdl::cuda {

constexpr int64_t kRowsOfSum = 512;  // of a block

// Element (i, j) lies at i * row + j / group * group_step + j % group * column.
template <class S>
struct RowsToSum {
  const S* data;
  int64_t rows, columns, row, column, group, group_step;
};

// partial[block, j] = sum of column j over the block's rows; neighbouring threads have neighbouring columns.
template <class S>
__global__ void __launch_bounds__(kSumColumns* kSumRows)
    sum_rows_partly(RowsToSum<S> m, compute_t<S>* partial) {
  using T = compute_t<S>;
  auto& shared = shared_memory<SumShared<T>>();
  const int x = static_cast<int>(threadIdx.x), y = static_cast<int>(threadIdx.y);
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * kRowsOfSum,
                end = begin + kRowsOfSum < m.rows ? begin + kRowsOfSum : m.rows;
  for (int64_t first = static_cast<int64_t>(blockIdx.y) * kSumColumns; first < m.columns;
       first += static_cast<int64_t>(gridDim.y) * kSumColumns) {
    const int64_t j = first + x;
    T sum = 0;
    if (j < m.columns) {
      const S* const from = m.data + j / m.group * m.group_step + j % m.group * m.column;
      for (int64_t i = begin + y; i < end; i += kSumRows) sum += widen(from[i * m.row]);
    }
    shared.sums[y * kSumColumns + x] = sum;
    __syncthreads();
    if (y == 0 && j < m.columns) {
      for (int i = 1; i < kSumRows; ++i) sum += static_cast<T>(shared.sums[i * kSumColumns + x]);
      partial[blockIdx.x * m.columns + j] = sum;
    }
    __syncthreads();
  }
}

// out: a vector of S, or of float32 beside 16-bit elements.
template <class S>
void sum_rows(Context* context, const RowsToSum<S>& m, const View& out) {
  using T = compute_t<S>;
  if (m.columns == 0) return;
  const int64_t parts = m.rows == 0 ? 1 : (m.rows + kRowsOfSum - 1) / kRowsOfSum;
  const Workspace partial(context, static_cast<size_t>(parts * m.columns) * sizeof(T));
  const dim3 grid(static_cast<unsigned>(parts), static_cast<unsigned>(std::min<int64_t>(
                                                    (m.columns + kSumColumns - 1) / kSumColumns, 65535)));
  launch(context, FASTDL_KERNEL(sum_rows_partly<S>), {grid, {kSumColumns, kSumRows}, sizeof(SumShared<T>)}, m,
         partial.as<T>());
  const auto add_up = [&](auto zero) {
    using Out = decltype(zero);
    add_up_columns<T>(context, parts, m.columns, m.columns, partial.as<const T>(), out.as<Out>(),
                      out.strides[0]);
  };
  if constexpr (std::is_same_v<T, S>) add_up(S{});
  else if (out.dtype == DType::kFloat32) add_up(float{});
  else add_up(S{});
}

}  // namespace fastdl::cuda
