// Products by multiply-adds, for float64 and for whatever has strides or values the tensor cores cannot take.
// A block of 16 x 16 threads makes 64 x 64 results, each thread 4 x 4 of them 16 apart, from tiles of 16 k in
// shared memory.
#pragma once

#include "cuda/gemm.h"
#include "cuda/gemm_end.cuh"
#include "cuda/launch.h"
#include "cuda/shared.cuh"

namespace fastdl::cuda {

constexpr int kFmaTile = 64, kFmaDepth = 16, kFmaSide = 16, kFmaThreads = kFmaSide * kFmaSide;
constexpr int kFmaEach = kFmaTile / kFmaSide;
constexpr int kFmaRow = kFmaTile + 1;  // one more than a multiple of the banks

template <class T>
struct FmaShared {
  SharedArray<T, kFmaDepth * kFmaRow> a, b;
};

template <class T>
using FmaSums = T[kFmaEach][kFmaEach];

// The main loop: fill(a, b, k0) writes the tiles of 16 k from k0 on, element (k, row) of A's and (k, column)
// of B's at k * kFmaRow + it.
template <class T, class Fill>
__device__ __forceinline__ void fma_tiles(FmaShared<T>& shared, int64_t k_begin, int64_t k_end,
                                          FmaSums<T>& sums, Fill&& fill) {
  const int x = static_cast<int>(threadIdx.x) % kFmaSide, y = static_cast<int>(threadIdx.x) / kFmaSide;
  for (int64_t k0 = k_begin; k0 < k_end; k0 += kFmaDepth) {
    fill(shared.a, shared.b, k0);
    __syncthreads();
    const int depth =
        static_cast<int>(k_end - k0 < kFmaDepth ? k_end - k0 : kFmaDepth);  // zeros times Inf are not sums
    for (int k = 0; k < depth; ++k) {
      T left[kFmaEach], right[kFmaEach];
#pragma unroll
      for (int i = 0; i < kFmaEach; ++i) left[i] = shared.a[k * kFmaRow + y + i * kFmaSide];
#pragma unroll
      for (int j = 0; j < kFmaEach; ++j) right[j] = shared.b[k * kFmaRow + x + j * kFmaSide];
#pragma unroll
      for (int i = 0; i < kFmaEach; ++i) {
#pragma unroll
        for (int j = 0; j < kFmaEach; ++j) sums[i][j] = fma(left[i], right[j], sums[i][j]);
      }
    }
    __syncthreads();
  }
}

// finish(row, column, sum) for the block's results within rows x columns.
template <class T, class Finish>
__device__ __forceinline__ void for_fma_results(const FmaSums<T>& sums, int64_t rows, int64_t columns,
                                                Finish&& finish) {
  const int x = static_cast<int>(threadIdx.x) % kFmaSide, y = static_cast<int>(threadIdx.x) / kFmaSide;
  for (int i = 0; i < kFmaEach; ++i) {
    for (int j = 0; j < kFmaEach; ++j) {
      const int row = y + i * kFmaSide, column = x + j * kFmaSide;
      if (row < rows && column < columns) finish(row, column, sums[i][j]);
    }
  }
}

template <class S>
__global__ void __launch_bounds__(kFmaThreads) gemm_fma(Gemm<S> g, GemmEnd<S> end) {
  using T = compute_t<S>;
  auto& shared = shared_memory<FmaShared<T>>();
  const BatchOffsets batch = offsets_of(g.batch, blockIdx.z);
  const S *const a = g.a + batch.a, *const b = g.b + batch.b;
  const int tid = static_cast<int>(threadIdx.x);
  const int64_t row0 = static_cast<int64_t>(blockIdx.x) * kFmaTile,
                column0 = static_cast<int64_t>(blockIdx.y) * kFmaTile;
  FmaSums<T> sums = {};
  fma_tiles<T>(shared, 0, g.k, sums, [&](auto& tile_a, auto& tile_b, int64_t k0) {
    for (int i = tid; i < kFmaTile * kFmaDepth; i += kFmaThreads) {
      // Neighbouring threads read neighbouring memory where one of the strides is 1.
      const int ka = g.a_column == 1 ? i % kFmaDepth : i / kFmaTile,
                ma = g.a_column == 1 ? i / kFmaDepth : i % kFmaTile;
      const int kb = g.b_row == 1 ? i % kFmaDepth : i / kFmaTile,
                nb = g.b_row == 1 ? i / kFmaDepth : i % kFmaTile;
      const bool in_a = row0 + ma < g.m && k0 + ka < g.k, in_b = column0 + nb < g.n && k0 + kb < g.k;
      tile_a[ka * kFmaRow + ma] = in_a ? widen(a[(row0 + ma) * g.a_row + (k0 + ka) * g.a_column]) : T{0};
      tile_b[kb * kFmaRow + nb] = in_b ? widen(b[(k0 + kb) * g.b_row + (column0 + nb) * g.b_column]) : T{0};
    }
  });
  for_fma_results<T>(sums, g.m - row0, g.n - column0, [&](int row, int column, T sum) {
    end.store(batch.c, batch.residual, row0 + row, column0 + column, sum);
  });
}

template <class S>
void launch_gemm_fma(Context* context, const Gemm<S>& g) {
  const dim3 grid(static_cast<unsigned>((g.m + kFmaTile - 1) / kFmaTile),
                  static_cast<unsigned>((g.n + kFmaTile - 1) / kFmaTile),
                  static_cast<unsigned>(g.batch.count()));
  launch(context, FASTDL_KERNEL(gemm_fma<S>), {grid, kFmaThreads, sizeof(FmaShared<compute_t<S>>)}, g,
         GemmEnd<S>(g));
}

}  // namespace fastdl::cuda
