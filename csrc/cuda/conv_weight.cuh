// Weight gradients (conv.h): k runs over the output positions of all images, so that both operands lie along
// m and n in memory. A column of B, a chunk of 16 bytes, is some channels of one tap, the same for a thread
// throughout; each row of a tile is another position, worked out anew for every tile. Sums over parts of the
// positions go to scratch memory, and finish_weight adds the parts up in their order.
#pragma once

#include "cuda/conv.h"
#include "cuda/divisor.cuh"
#include "cuda/gemm_fma.cuh"
#include "cuda/gemm_mma.cuh"

namespace fastdl::cuda {

template <class S>
struct ConvWeight {
  Source<S> grad;  // [position][channel], of the first group
  int64_t grad_group_step, grad_c_step;
  ConvImage<const S> in;
  int32_t in_size[3];
  int32_t channels, padded;
  ConvLattice lattice;
  Divisor image, plane, line;  // positions in an image, in a plane, in a line
  int64_t rows, columns;       // channels of a group's gradient; taps * padded
  int64_t positions, k_each, groups;
  compute_t<S>* partial;  // [part][group][rows][columns]
};

// The positions of a block's part: counted from `first`, which lies in image `image`.
template <class S>
struct WeightTask {
  int64_t group, part, k_begin, k_end, image;
  uint32_t first;

  __device__ __forceinline__ explicit WeightTask(const ConvWeight<S>& p) {
    group = blockIdx.z % p.groups, part = blockIdx.z / p.groups;
    k_begin = part * p.k_each;
    k_end = k_begin + p.k_each < p.positions ? k_begin + p.k_each : p.positions;
    image = k_begin / p.image.value;
    first = static_cast<uint32_t>(k_begin - image * p.image.value);
  }
};

// A column: its tap's coordinates and element offset, channel and group included.
template <class S>
struct WeightColumn {
  int32_t at[3], channel;
  int64_t offset;
  bool there;

  __device__ __forceinline__ WeightColumn(const ConvWeight<S>& p, int64_t group, int64_t column) {
    there = column < p.columns;
    auto tap = static_cast<uint32_t>((there ? column : 0) / p.padded);
    channel = static_cast<int32_t>((there ? column : 0) % p.padded);
    offset = group * p.in.group_step + channel * p.in.c_step;
#pragma unroll
    for (int i = 2; i >= 0; --i) {
      const ConvAxis& a = p.lattice.axis[i];
      at[i] = a.first + a.tap_step * static_cast<int32_t>(tap % static_cast<uint32_t>(a.taps));
      tap /= static_cast<uint32_t>(a.taps);
      offset += at[i] * p.in.step[i];
    }
    there = there && channel < p.channels;
  }

  // The element offset of what position k meets, from the image's data; -1 outside.
  __device__ __forceinline__ bool find(const ConvWeight<S>& p, const WeightTask<S>& task, int64_t k,
                                       int64_t& from) const {
    uint32_t index = task.first + static_cast<uint32_t>(k - task.k_begin);
    const uint32_t image = p.image.divide(index);
    const uint32_t j[3] = {p.plane.divide(index), p.line.divide(index), index};
    bool in = there && k < task.k_end;
    from = offset + (task.image + image) * p.in.n_step;
#pragma unroll
    for (int i = 0; i < 3; ++i) {
      const int32_t position = static_cast<int32_t>(j[i]) * p.lattice.axis[i].in_step;
      in = in && static_cast<uint32_t>(position + at[i]) < static_cast<uint32_t>(p.in_size[i]);
      from += position * p.in.step[i];
    }
    return in;
  }
};

template <class S>
__device__ __forceinline__ compute_t<S>& weight_part(const ConvWeight<S>& p, const WeightTask<S>& task,
                                                     int64_t row, int64_t column) {
  return p.partial[((task.part * p.groups + task.group) * p.rows + row) * p.columns + column];
}

template <class S, int Planes, class Block>
__global__ void __launch_bounds__(Block::kThreads) conv_weight_mma(const __grid_constant__ ConvWeight<S> p) {
  constexpr int kDepth = kMmaDepth<S>;
  using TileA = OperandTile<S, false, Block::kRows, kDepth, Block::kThreads>;
  using TileB = OperandTile<S, false, Block::kColumns, kDepth, Block::kThreads>;
  constexpr int kPerChunk = TileB::kPerChunk, kChunks = TileB::kChunks, kStep = Block::kThreads / kChunks;
  static_assert(Block::kThreads % kChunks == 0, "a thread has the same column in every row");
  auto& shared = shared_memory<MmaShared<S, Block>>();
  const WeightTask<S> task(p);
  const int64_t block_row = static_cast<int64_t>(blockIdx.x) * Block::kRows,
                block_column = static_cast<int64_t>(blockIdx.y) * Block::kColumns;
  Source<S> a = p.grad;
  a.data += task.group * p.grad_group_step;
  const int chunk = static_cast<int>(threadIdx.x) % kChunks, first = static_cast<int>(threadIdx.x) / kChunks;
  const WeightColumn<S> column(p, task.group, block_column + chunk * kPerChunk);
  const int32_t left = p.channels - column.channel;
  const int bytes = left >= kPerChunk ? kChunkBytes : left * static_cast<int>(sizeof(S));

  Sums<Block> sums = {};
  const bool by_fma = mma_pipeline<S, Planes, Block, TileA, TileB>(
      shared, (task.k_end - task.k_begin + kDepth - 1) / kDepth, sums,
      [&](S* tile_a, S* tile_b, int64_t step) {
        const int64_t k = task.k_begin + step * kDepth;
        TileA::fetch(tile_a, a, block_row, k);
#pragma unroll
        for (int row = 0; row < kDepth; row += kStep) {
          int64_t from;
          const bool inside = column.find(p, task, k + row + first, from);
          ptx::cp_async_16(tile_b + TileB::at(row + first, chunk * kPerChunk),
                           p.in.data + (inside ? from : 0), inside ? bytes : 0);
        }
      });
  for_results<S, Block>(
      shared, sums, p.rows - block_row, p.columns - block_column, [&](int r, int c, float sum) {
        const int64_t row = block_row + r;
        if (sizeof(S) == 4 && by_fma) {
          const WeightColumn<S> x(p, task.group, block_column + c);
          sum = 0;
#pragma unroll 1
          for (int64_t k = task.k_begin; k < task.k_end; ++k) {
            int64_t from;
            const bool inside = x.find(p, task, k, from);
            sum = fmaf(widen(a.data[k * a.stride + row]), inside ? widen(p.in.data[from]) : 0.0f, sum);
          }
        }
        weight_part(p, task, row, block_column + c) = sum;
      });
}

// The same by multiply-adds.
template <class S>
__global__ void __launch_bounds__(kFmaThreads) conv_weight_fma(const __grid_constant__ ConvWeight<S> p) {
  using T = compute_t<S>;
  auto& shared = shared_memory<FmaShared<T>>();
  const WeightTask<S> task(p);
  const int64_t block_row = static_cast<int64_t>(blockIdx.x) * kFmaTile,
                block_column = static_cast<int64_t>(blockIdx.y) * kFmaTile;
  const S* const grad = p.grad.data + task.group * p.grad_group_step;
  const int i = static_cast<int>(threadIdx.x) % kFmaTile, first = static_cast<int>(threadIdx.x) / kFmaTile;
  const WeightColumn<S> column(p, task.group, block_column + i);
  FmaSums<T> sums = {};
  fma_tiles<T>(shared, task.k_begin, task.k_end, sums, [&](auto& tile_a, auto& tile_b, int64_t k0) {
    for (int k = first; k < kFmaDepth; k += kFmaThreads / kFmaTile) {
      const int64_t row = block_row + i;
      tile_a[k * kFmaRow + i] = row < p.rows && k0 + k < task.k_end
                                    ? widen(grad[(k0 + k) * p.grad.stride + row * p.grad_c_step])
                                    : T{0};
      int64_t from;
      const bool inside = column.find(p, task, k0 + k, from);
      tile_b[k * kFmaRow + i] = inside ? widen(p.in.data[from]) : T{0};
    }
  });
  for_fma_results<T>(sums, p.rows - block_row, p.columns - block_column, [&](int row, int c, T sum) {
    weight_part(p, task, block_row + row, block_column + c) = sum;
  });
}

}  // namespace fastdl::cuda
