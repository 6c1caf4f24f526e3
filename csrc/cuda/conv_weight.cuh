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
  MergedTaps merged;
  ConvLattice lattice;
  Divisor image, plane, line;  // positions in an image, in a plane, in a line
  int64_t rows, columns;       // channels of a group's gradient; taps * padded
  int64_t positions, k_each, groups;
  compute_t<S>* partial;  // [part][group][rows][columns]
};

// The positions of a block's part: `length` of them from `first` on, which lies in image `image`.
template <class S>
struct WeightTask {
  int64_t group, part, k_begin, image;
  uint32_t first, length;

  __device__ __forceinline__ explicit WeightTask(const ConvWeight<S>& p) {
    group = blockIdx.z % p.groups, part = blockIdx.z / p.groups;
    k_begin = part * p.k_each;
    const int64_t rest = p.positions - k_begin;
    length = static_cast<uint32_t>(rest < p.k_each ? rest : p.k_each);
    image = k_begin / p.image.value;
    first = static_cast<uint32_t>(k_begin - image * p.image.value);
  }
  // So many positions from `begin` on, of the first group.
  __device__ __forceinline__ WeightTask(const ConvWeight<S>& p, int64_t begin, uint32_t count)
      : group(0), part(0), k_begin(begin), image(begin / p.image.value), length(count) {
    first = static_cast<uint32_t>(k_begin - image * p.image.value);
  }
};

// A column: its tap's coordinates and element offset, channel and group included.
template <class S>
struct WeightColumn {
  int32_t at[3], channel;
  int64_t offset;

  __device__ __forceinline__ WeightColumn(const ConvWeight<S>& p, int64_t group, int64_t column) {
    const bool there = column < p.columns;
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
    if (!there || channel >= p.channels) at[0] = kNowhere;
  }

  // Whether position k of the part meets something inside the image, and its element offset.
  __device__ __forceinline__ bool find(const ConvWeight<S>& p, const WeightTask<S>& task, uint32_t k,
                                       int64_t& from) const {
    uint32_t index = task.first + k;
    const uint32_t image = p.image.divide(index);
    const uint32_t j[3] = {p.plane.divide(index), p.line.divide(index), index};
    bool in = k < task.length;
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
  const int64_t block_row = static_cast<int64_t>(blockIdx.y) * Block::kRows,
                block_column = static_cast<int64_t>(blockIdx.x) * Block::kColumns;
  Source<S> a = p.grad;
  a.data += task.group * p.grad_group_step;
  const int chunk = static_cast<int>(threadIdx.x) % kChunks, first = static_cast<int>(threadIdx.x) / kChunks;
  const WeightColumn<S> column(p, task.group, block_column + chunk * kPerChunk);
  const int32_t left = p.channels - column.channel;
  const int bytes = left >= kPerChunk ? kChunkBytes : left * static_cast<int>(sizeof(S));

  Sums<Block> sums = {};
  const bool by_fma = mma_pipeline<S, Planes, Block, TileA, TileB>(
      shared, (task.length + kDepth - 1) / kDepth, sums, [&](S* tile_a, S* tile_b, int64_t step) {
        const uint32_t k = static_cast<uint32_t>(step) * kDepth;
        TileA::fetch(tile_a, a, block_row, task.k_begin + k);
#pragma unroll
        for (int row = 0; row < kDepth; row += kStep) {
          int64_t from;
          const bool inside = column.find(p, task, k + row + first, from);
          ptx::cp_async_16(tile_b + TileB::at(row + first, chunk * kPerChunk),
                           p.in.data + (inside ? from : 0), inside ? bytes : 0);
        }
      });
  const bool exact = sizeof(S) == 4 && by_fma;
  for_results<S, Block>(  // columns come in whole chunks
      shared, sums, p.rows - block_row, p.columns - block_column, !exact, [&](int r, int c, auto sum) {
        const int64_t row = block_row + r;
        if constexpr (sizeof(S) == 4 && sizeof(sum) == sizeof(float)) {
          const WeightColumn<S> x(p, task.group, block_column + c);
          sum.at[0] = 0;
#pragma unroll 1
          for (uint32_t k = 0; k < task.length; ++k) {
            int64_t from;
            const bool inside = x.find(p, task, k, from);
            sum.at[0] = fmaf(widen(a.data[(task.k_begin + k) * a.stride + row]),
                             inside ? widen(p.in.data[from]) : 0.0f, sum.at[0]);
          }
        }
        *reinterpret_cast<decltype(sum)*>(&weight_part(p, task, row, block_column + c)) = sum;
      });
}

// The same by multiply-adds.
template <class S>
__global__ void __launch_bounds__(kFmaThreads) conv_weight_fma(const __grid_constant__ ConvWeight<S> p) {
  using T = compute_t<S>;
  auto& shared = shared_memory<FmaShared<T>>();
  const WeightTask<S> task(p);
  const int64_t block_row = static_cast<int64_t>(blockIdx.y) * kFmaTile,
                block_column = static_cast<int64_t>(blockIdx.x) * kFmaTile;
  const S* const grad = p.grad.data + task.group * p.grad_group_step;
  const int i = static_cast<int>(threadIdx.x) % kFmaTile, first = static_cast<int>(threadIdx.x) / kFmaTile;
  const WeightColumn<S> column(p, task.group, block_column + i);
  FmaSums<T> sums = {};
  fma_tiles<T>(shared, 0, task.length, sums, [&](auto& tile_a, auto& tile_b, int64_t k0) {
    for (int k = first; k < kFmaDepth; k += kFmaThreads / kFmaTile) {
      const int64_t row = block_row + i;
      tile_a[k * kFmaRow + i] =
          row < p.rows && k0 + k < task.length
              ? widen(grad[(task.k_begin + k0 + k) * p.grad.stride + row * p.grad_c_step])
              : T{0};
      int64_t from;
      const bool inside = column.find(p, task, static_cast<uint32_t>(k0) + k, from);
      tile_b[k * kFmaRow + i] = inside ? widen(p.in.data[from]) : T{0};
    }
  });
  for_fma_results<T>(sums, p.rows - block_row, p.columns - block_column, [&](int row, int c, T sum) {
    weight_part(p, task, block_row + row, block_column + c) = sum;
  });
}

}  // namespace fastdl::cuda
