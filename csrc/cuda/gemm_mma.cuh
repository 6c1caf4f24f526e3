// Products by the tensor cores: a block of 256 threads makes 128 x 128 (or 64 x 64 or 128 x 32, 128 threads)
// results, each warp 64 x 32 (32 x 32) of them; tiles come by cp.async, Stages - 1 of them ahead of the
// arithmetic. Goto and van de Geijn's loops with shared memory as the cache; NVIDIA's CUTLASS documents the
// same hierarchy ("Efficient GEMM in CUDA").
//
// float32: Planes bfloat16 pieces of each factor (3: six products, 2: three, 1: one), products from the
// smallest to the largest. The tensor cores cut off what they cannot keep of a sum; so each 16 of k is summed
// from zero, where the small products lose nothing that counts, and then added to the result by an ordinary,
// rounded addition.
#pragma once

#include "cuda/gemm.h"
#include "cuda/gemm_end.cuh"
#include "cuda/gemm_tile.cuh"
#include "cuda/launch.h"
#include "cuda/ptx/mma.cuh"
#include "cuda/split.cuh"

namespace fastdl::cuda {

template <class S>
struct MmaOperands {
  Source<S> a, b;
  GemmBatch batch;
  int64_t m, n, k;
  int64_t k_each;  // of a split along k: how much of it a block sums up; k if there is none
  float* partial;  // [split, batch, m, n] sums, or NULL
  int64_t batch_count;
  // float32: element strides, for tiles with values that cannot be split.
  int64_t a_row, a_column, b_row, b_column;
};

template <class S>
constexpr int kMmaDepth = sizeof(S) == 2 ? 32 : 16;  // 64-byte rows
constexpr int kMmaStages = 4;

// Rows x Columns results of a block by warps of WarpRows x WarpColumns.
template <int Rows, int Columns, int WarpRows, int WarpColumns>
struct BlockShape {
  static constexpr int kRows = Rows, kColumns = Columns, kWarpRows = WarpRows, kWarpColumns = WarpColumns;
  static constexpr int kThreads = Rows / WarpRows * (Columns / WarpColumns) * kWarp;
  static constexpr int kTall = WarpRows / 16, kWide = WarpColumns / 8;  // mma tiles of a warp
};
using LargeBlock = BlockShape<128, 128, 64, 32>;
using SmallBlock = BlockShape<64, 64, 32, 32>;
using NarrowBlock = BlockShape<128, 32, 32, 32>;

template <class S, class Block>
struct MmaShared {
  SharedArray<S, kMmaStages * Block::kRows * kMmaDepth<S>> a;
  SharedArray<S, kMmaStages * Block::kColumns * kMmaDepth<S>> b;
  // In the end the whole is one tile of sums.
  static_assert(kMmaStages * (Block::kRows + Block::kColumns) * 64 >= Block::kRows * Block::kColumns * 4);
};

template <class Block>
using Sums = float[Block::kTall][Block::kWide][4];

// One tile of 16-bit elements: two steps of 16 k.
template <class S, class Block, class TileA, class TileB>
__device__ __forceinline__ void multiply_16(const S* a, const S* b, int row0, int column0,
                                            Sums<Block>& sums) {
#pragma unroll
  for (int k = 0; k < kMmaDepth<S>; k += 16) {
    uint32_t left[Block::kTall][4], right[Block::kWide][2];
    const int l = lane();
#pragma unroll
    for (int i = 0; i < Block::kTall; ++i) {
      // The four 8 x 8 matrices: rows 0-7 and 8-15 of columns 0-7, then of columns 8-15.
      const int row = row0 + 16 * i + l % 16, column = k + l / 16 * 8;
      if constexpr (TileA::kAlongK) ptx::ldmatrix<false>(left[i], a + TileA::at(row, column));
      else ptx::ldmatrix<true>(left[i], a + TileA::at(k + l % 8 + l / 16 * 8, row0 + 16 * i + l / 8 % 2 * 8));
    }
#pragma unroll
    for (int j = 0; j < Block::kWide; j += 2) {
      // Columns 0-7 with k 0-7 and 8-15, then columns 8-15.
      uint32_t four[4];
      const int column = column0 + 8 * j + l / 16 * 8;
      if constexpr (TileB::kAlongK) {
        ptx::ldmatrix<false>(four, b + TileB::at(column + l % 8, k + l / 8 % 2 * 8));
      } else {
        ptx::ldmatrix<true>(four, b + TileB::at(k + l % 16, column));
      }
      right[j][0] = four[0], right[j][1] = four[1], right[j + 1][0] = four[2], right[j + 1][1] = four[3];
    }
#pragma unroll
    for (int i = 0; i < Block::kTall; ++i) {
#pragma unroll
      for (int j = 0; j < Block::kWide; ++j) ptx::mma(S{}, sums[i][j], left[i], right[j]);
    }
  }
}

// One tile of float32, 16 k: true if all its values could be split.
template <int Planes, class Block, class TileA, class TileB>
__device__ __forceinline__ bool multiply_split(const float* a, const float* b, int row0, int column0,
                                               Sums<Block>& sums) {
  const int g = lane() / 4, t = lane() % 4;
  bool fit = true;
  uint32_t right[Block::kWide][2][Planes];
#pragma unroll
  for (int j = 0; j < Block::kWide; ++j) {
    float x[4];
    load_four<TileB>(x, b, column0 + 8 * j + g, t);
#pragma unroll
    for (int i = 0; i < 4; ++i) fit = fit && splits(x[i]);
    split(x[0], x[1], right[j][0]);
    split(x[2], x[3], right[j][1]);
  }
#pragma unroll
  for (int i = 0; i < Block::kTall; ++i) {
    uint32_t left[4][Planes];
#pragma unroll
    for (int half = 0; half < 2; ++half) {  // rows g and g + 8
      float x[4];
      load_four<TileA>(x, a, row0 + 16 * i + g + 8 * half, t);
#pragma unroll
      for (int e = 0; e < 4; ++e) fit = fit && splits(x[e]);
      split(x[0], x[1], left[half]);
      split(x[2], x[3], left[half + 2]);
    }
    float step[Block::kWide][4] = {};
#pragma unroll
    for (int order = Planes - 1; order >= 0; --order) {  // pieces p of A and order - p of B
#pragma unroll
      for (int p = 0; p <= order; ++p) {
        const uint32_t factor[4] = {left[0][p], left[1][p], left[2][p], left[3][p]};
#pragma unroll
        for (int j = 0; j < Block::kWide; ++j) {
          const uint32_t other[2] = {right[j][0][order - p], right[j][1][order - p]};
          ptx::mma(bfloat16{}, step[j], factor, other);
        }
      }
    }
#pragma unroll
    for (int j = 0; j < Block::kWide; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) sums[i][j][e] += step[j][e];
    }
  }
  return fit;
}

// The place of this warp's results in the block's.
template <class Block>
struct WarpPlace {
  static constexpr int kAcross = Block::kColumns / Block::kWarpColumns;
  __device__ static __forceinline__ int row() { return warp() / kAcross * Block::kWarpRows; }
  __device__ static __forceinline__ int column() { return warp() % kAcross * Block::kWarpColumns; }
};

// The main loop of every product: `steps` tiles along k, kMmaStages - 1 of them on their way while one is
// multiplied. fetch(a, b, step) starts the copies of a step's two tiles by cp.async; it is called for one
// step after the other. True if values were met that cannot be split; the tiles' memory is then free again.
template <class S, int Planes, class Block, class TileA, class TileB, class Fetch>
__device__ __forceinline__ bool mma_pipeline(MmaShared<S, Block>& shared, int64_t steps, Sums<Block>& sums,
                                             Fetch&& fetch) {
  S *const tiles_a = shared.a.data(), *const tiles_b = shared.b.data();
  const int row0 = WarpPlace<Block>::row(), column0 = WarpPlace<Block>::column();
  const auto start = [&](int64_t step) {
    const int stage = static_cast<int>(step % kMmaStages);
    if (step < steps) fetch(tiles_a + stage * TileA::kElements, tiles_b + stage * TileB::kElements, step);
    ptx::cp_async_commit();  // an empty group too: waiting counts groups
  };
  bool fit = true;
  for (int step = 0; step < kMmaStages - 1; ++step) start(step);
  for (int64_t step = 0; step < steps; ++step) {
    ptx::cp_async_wait<kMmaStages - 2>();
    __syncthreads();  // all have their part of this tile, and none still reads the one before, overwritten
                      // next
    start(step + kMmaStages - 1);
    const int stage = static_cast<int>(step % kMmaStages);
    const S *const ta = tiles_a + stage * TileA::kElements, *const tb = tiles_b + stage * TileB::kElements;
    if constexpr (sizeof(S) == 2) {
      multiply_16<S, Block, TileA, TileB>(ta, tb, row0, column0, sums);
    } else {
      fit = multiply_split<Planes, Block, TileA, TileB>(ta, tb, row0, column0, sums) && fit;
    }
  }
  ptx::cp_async_wait<0>();
  return __syncthreads_or(!fit) != 0;
}

// finish(row, column, sums) for the block's results within rows x columns, a Pack of four neighbouring
// columns if `packs` (columns is then a multiple of four), else of one. They go by way of shared memory, so
// that neighbouring threads end up with neighbouring columns. Columns are permuted by the row: the four rows
// that half a warp writes then lie in different banks.
template <class S, class Block, class Finish>
__device__ __forceinline__ void for_results(MmaShared<S, Block>& shared, const Sums<Block>& sums,
                                            int64_t rows, int64_t columns, bool packs, Finish&& finish) {
  float* const block = reinterpret_cast<float*>(shared.a.data());
  const auto place = [](int row, int column) { return row * Block::kColumns + (column ^ (row % 4 * 8)); };
  const int g = lane() / 4, t = lane() % 4;
  const int row0 = WarpPlace<Block>::row(), column0 = WarpPlace<Block>::column();
#pragma unroll
  for (int i = 0; i < Block::kTall; ++i) {
#pragma unroll
    for (int j = 0; j < Block::kWide; ++j) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const Pack<float, 2> two{{sums[i][j][2 * half], sums[i][j][2 * half + 1]}};
        shared_store(block + place(row0 + 16 * i + g + 8 * half, column0 + 8 * j + 2 * t), two);
      }
    }
  }
  __syncthreads();
  const auto each = [&](auto width) {
    constexpr int kWidth = decltype(width)::value;
    using P = Pack<float, kWidth>;
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x) * kWidth; i < Block::kRows * Block::kColumns;
         i += Block::kThreads * kWidth) {
      const int row = i / Block::kColumns, column = i % Block::kColumns;
      if (row < rows && column < columns) finish(row, column, shared_load<P>(block + place(row, column)));
    }
  };
  if (packs) each(std::integral_constant<int, 4>{});
  else each(std::integral_constant<int, 1>{});
}

template <class S, int Planes, bool AlongKA, bool AlongKB, class Block>
__global__ void __launch_bounds__(Block::kThreads) gemm_mma(MmaOperands<S> p, GemmEnd<S> end) {
  constexpr int kDepth = kMmaDepth<S>;
  using TileA = OperandTile<S, AlongKA, Block::kRows, kDepth, Block::kThreads>;
  using TileB = OperandTile<S, AlongKB, Block::kColumns, kDepth, Block::kThreads>;
  auto& shared = shared_memory<MmaShared<S, Block>>();

  const int64_t item = blockIdx.z % p.batch_count, part = blockIdx.z / p.batch_count;
  const BatchOffsets batch = offsets_of(p.batch, item);
  Source<S> a = p.a, b = p.b;
  a.data += batch.a;
  b.data += batch.b;
  const int64_t k_begin = part * p.k_each, k_end = k_begin + p.k_each < p.k ? k_begin + p.k_each : p.k;
  const int64_t block_row = static_cast<int64_t>(blockIdx.x) * Block::kRows,
                block_column = static_cast<int64_t>(blockIdx.y) * Block::kColumns;

  Sums<Block> sums = {};
  const bool by_fma = mma_pipeline<S, Planes, Block, TileA, TileB>(
      shared, (k_end - k_begin + kDepth - 1) / kDepth, sums, [&](S* tile_a, S* tile_b, int64_t step) {
        TileA::fetch(tile_a, a, block_row, k_begin + step * kDepth);
        TileB::fetch(tile_b, b, block_column, k_begin + step * kDepth);
      });
  const bool packs = end.packs && !(sizeof(S) == 4 && by_fma);
  for_results<S, Block>(
      shared, sums, p.m - block_row, p.n - block_column, packs, [&](int r, int c, auto sum) {
        const int64_t row = block_row + r, column = block_column + c;
        if constexpr (sizeof(S) == 4 && sizeof(sum) == sizeof(float)) {
          if (by_fma) {
            float& total = sum.at[0] = 0;
#pragma unroll 1
            for (int64_t k = k_begin; k < k_end; ++k) {
              total = fmaf(widen(a.data[row * p.a_row + k * p.a_column]),
                           widen(b.data[k * p.b_row + column * p.b_column]), total);
            }
          }
        }
        if (p.partial) {
          *reinterpret_cast<decltype(sum)*>(p.partial + ((part * p.batch_count + item) * p.m + row) * p.n +
                                            column) = sum;
        } else {
          end.store(batch.c, batch.residual, row, column, sum);
        }
      });
}

}  // namespace fastdl::cuda
