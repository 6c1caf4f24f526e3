// Gathers (conv.h): the tensor cores' main loop with the producer of A swapped. A row of A is an output
// position, its chunk of 16 bytes some channels of one tap; what lies outside the image is filled with zeros.
// Where the rows lie is worked out once per block, in shared memory; along k a thread keeps its tap and
// channel and moves on by addition.
#pragma once

#include "cuda/conv.h"
#include "cuda/gemm_fma.cuh"
#include "cuda/gemm_mma.cuh"

namespace fastdl::cuda {

constexpr int kMostLattices = 8;  // of a launch: all of stride 2

// Weights of one group where they lie, columns side by side: of slots[i] of each axis at
//   data[channel * channel_step + ((slot[0] * kernel[1] + slot[1]) * kernel[2] + slot[2]) * tap_step +
//   column]
template <class S>
struct PlainWeights {
  const S* data;  // or NULL
  int64_t channel_step, tap_step;
  int32_t kernel[3];
  __device__ __forceinline__ int32_t tap(const int32_t (&slot)[3]) const {
    return (slot[0] * kernel[1] + slot[1]) * kernel[2] + slot[2];
  }
};

template <class S>
struct ConvGather {
  ConvImage<const S> in;
  int64_t out_n_step, out_step[3], residual_n_step, residual_step[3];
  int32_t in_size[3];
  int32_t channels, padded;  // summed over, of a group; and their places
  const S* weights;          // [group][column][tap of all lattices][padded], or NULL with `plain`
  int64_t weights_row;
  PlainWeights<S> plain;  // for Hopper's kernel
  int64_t images, columns, groups;
  bool merged;            // taps of some axes are channels, as Hopper's kernel wants it
  bool holes;             // what lies outside does not exist; else it is a zero, and 0 * Inf counts
  int64_t k_each;         // of a split along k: how much of it a block sums up
  int64_t most_rows;      // of all lattices
  compute_t<S>* partial;  // [split, item, most_rows, columns] sums, or NULL
  int32_t lattices;
  ConvLattice lattice[kMostLattices];

  __host__ __device__ int64_t items() const { return groups * lattices; }
};

// A position: input coordinates of its first tap (the first is kNowhere where there is no such row), and
// element offsets of that tap, of the output and of the residual.
struct GatherRow {
  Pack<int32_t, 4> at;
  int64_t in, out, residual;
};

// The position `index` of `image`.
template <class S>
__device__ __forceinline__ GatherRow locate(const ConvGather<S>& p, const ConvLattice& l, int64_t image,
                                            uint32_t index) {
  GatherRow r{{{kNowhere, 0, 0, 0}}, 0, 0, 0};
  if (image >= p.images) return r;
  r.in = image * p.in.n_step, r.out = image * p.out_n_step, r.residual = image * p.residual_n_step;
#pragma unroll
  for (int i = 2; i >= 0; --i) {
    const ConvAxis& a = l.axis[i];
    const auto j = static_cast<int32_t>(index % static_cast<uint32_t>(a.count));
    index /= static_cast<uint32_t>(a.count);
    const int32_t position = a.in_step * j + a.first, to = a.out_start + a.out_step * j;
    r.at.at[i] = position;
    r.in += position * p.in.step[i];
    r.out += to * p.out_step[i], r.residual += to * p.residual_step[i];
  }
  return r;
}

template <int Rows>
struct GatherRows {
  SharedArray<Pack<int32_t, 4>, Rows> at;
  SharedArray<int64_t, Rows> in, out, residual;

  // For the rows from `first` on; a barrier has to follow.
  template <int Threads, class S>
  __device__ __forceinline__ void fill(const ConvGather<S>& p, const ConvLattice& l, int64_t first) {
    const int64_t image = first / l.positions();
    const auto rest = static_cast<uint32_t>(first - image * l.positions());
    for (int i = static_cast<int>(threadIdx.x); i < Rows; i += Threads) {
      const uint32_t index = rest + static_cast<uint32_t>(i), images = index / l.positions();
      const GatherRow r = locate(p, l, image + images, index - images * l.positions());
      shared_store(at.at(i), r.at);
      in[i] = r.in, out[i] = r.out, residual[i] = r.residual;
    }
  }
};

// Where along k a thread is: a tap, by its distance from the first one, and a channel.
struct TapCursor {
  int32_t channel, at[3];
  int64_t offset;

  template <class S>
  __device__ __forceinline__ TapCursor(const ConvGather<S>& p, const ConvLattice& l, int64_t k) {
    auto index = k / p.padded;
    channel = static_cast<int32_t>(k % p.padded);
    offset = 0;
#pragma unroll
    for (int i = 2; i >= 0; --i) {
      const int32_t taps = l.axis[i].taps > 0 ? l.axis[i].taps : 1;
      at[i] = static_cast<int32_t>(i > 0 ? index % taps : index) * l.axis[i].tap_step;
      if (i > 0) index /= taps;
      offset += at[i] * p.in.step[i];
    }
  }
  __device__ __forceinline__ bool ended(const ConvLattice& l) const { return past<0>(l); }
  template <int I>
  __device__ __forceinline__ bool past(const ConvLattice& l) const {
    return at[I] >= l.axis[I].taps * l.axis[I].tap_step;
  }
  template <class S>
  __device__ __forceinline__ void advance(const ConvGather<S>& p, const ConvLattice& l, int32_t k) {
    channel += k;
    while (channel >= p.padded && !ended(l)) {
      channel -= p.padded;
      step<2>(p, l);
      if (!past<2>(l)) continue;
      rewind<2>(p, l);
      step<1>(p, l);
      if (!past<1>(l)) continue;
      rewind<1>(p, l);
      step<0>(p, l);
    }
  }
  template <int I, class S>
  __device__ __forceinline__ void step(const ConvGather<S>& p, const ConvLattice& l) {
    at[I] += l.axis[I].tap_step;
    offset += l.axis[I].tap_step * p.in.step[I];
  }
  template <int I, class S>
  __device__ __forceinline__ void rewind(const ConvGather<S>& p, const ConvLattice&) {
    offset -= at[I] * p.in.step[I];
    at[I] = 0;
  }
  template <class S>
  __device__ __forceinline__ bool inside(const ConvGather<S>& p, const Pack<int32_t, 4>& row) const {
    bool in = true;
#pragma unroll
    for (int i = 0; i < 3; ++i) {
      in = in && static_cast<uint32_t>(row.at[i] + at[i]) < static_cast<uint32_t>(p.in_size[i]);
    }
    return in;
  }
};

template <int Rows, int Columns>
struct TileShape {};

// The block's lattice, group, part of k and place.
template <class S>
struct GatherTask {
  const ConvLattice& l;
  int64_t item, group, part, rows, k_begin, k_end, block_row, block_column;
  const S *in, *weights;

  // Blocks with the same rows, of Rows x Columns results each, follow each other: they share what they
  // gather.
  template <int Rows, int Columns>
  __device__ __forceinline__ GatherTask(const ConvGather<S>& p, TileShape<Rows, Columns>)
      : l(p.lattice[blockIdx.y % p.lattices]) {
    const auto across = static_cast<uint32_t>((p.columns + Columns - 1) / Columns);
    block_row = static_cast<int64_t>(blockIdx.x / across) * Rows;
    block_column = static_cast<int64_t>(blockIdx.x % across) * Columns;
    item = blockIdx.y % p.items(), part = blockIdx.y / p.items();
    group = item / p.lattices;
    rows = p.images * l.positions();
    const int64_t k = l.taps() * p.padded;
    k_begin = part * p.k_each, k_end = k_begin + p.k_each < k ? k_begin + p.k_each : k;
    in = p.in.data + group * p.in.group_step;
    weights = p.weights + group * p.columns * p.weights_row + l.first_tap * p.padded;
  }
  // Part of k of all rows of the first lattice and group.
  __device__ __forceinline__ GatherTask(const ConvGather<S>& p, int64_t begin, int64_t end)
      : l(p.lattice[0]),
        item(0),
        group(0),
        part(0),
        rows(p.most_rows),
        k_begin(begin),
        k_end(end),
        block_row(0),
        block_column(0),
        in(p.in.data),
        weights(p.weights + p.lattice[0].first_tap * p.padded) {}
};

// One sum by multiply-adds, exactly as conv.h has it. weight(k, cursor): that of this column.
template <class S, class Weight>
__device__ __forceinline__ compute_t<S> gather_sum(const ConvGather<S>& p, const GatherTask<S>& task,
                                                   const Pack<int32_t, 4>& at, int64_t in, Weight&& weight) {
  compute_t<S> sum = 0;
  TapCursor cursor(p, task.l, task.k_begin);
#pragma unroll 1
  for (int64_t k = task.k_begin; k < task.k_end; ++k, cursor.advance(p, task.l, 1)) {
    if (cursor.channel >= p.channels) continue;
    const bool inside = cursor.inside(p, at);
    if (!inside && p.holes) continue;
    const compute_t<S> x = inside ? widen(task.in[in + cursor.offset + cursor.channel * p.in.c_step]) : 0;
    sum = fma(x, widen(weight(k, cursor)), sum);
  }
  return sum;
}
template <class S>
__device__ __forceinline__ compute_t<S> gather_sum(const ConvGather<S>& p, const GatherTask<S>& task,
                                                   const Pack<int32_t, 4>& at, int64_t in, int64_t column) {
  return gather_sum(p, task, at, in,
                    [&](int64_t k, const TapCursor&) { return task.weights[column * p.weights_row + k]; });
}

template <class T>
__device__ __forceinline__ bool is_finite(T x) {
  return x - x == 0;
}

// What becomes of a sum, or of a Pack of neighbours: a part of it, or the output. The offsets are the row's.
template <class S, class Sums>
__device__ __forceinline__ void finish_gather(const ConvGather<S>& p, const GemmEnd<S>& end,
                                              const GatherTask<S>& task, int64_t row, int64_t column,
                                              int64_t out, int64_t residual, const Sums& sums) {
  if (p.partial) {
    *reinterpret_cast<Sums*>(
        p.partial + ((task.part * p.items() + task.item) * p.most_rows + row) * p.columns + column) = sums;
  } else {
    end.store(out, residual, 0, task.group * p.columns + column, sums);
  }
}

template <class S, class Block>
struct ConvGatherShared {
  MmaShared<S, Block> tiles;
  GatherRows<Block::kRows> rows;
};

template <class S, int Planes, class Block>
__global__ void __launch_bounds__(Block::kThreads)
    conv_gather_mma(const __grid_constant__ ConvGather<S> p, const __grid_constant__ GemmEnd<S> end) {
  constexpr int kDepth = kMmaDepth<S>;
  using TileA = OperandTile<S, true, Block::kRows, kDepth, Block::kThreads>;
  using TileB = OperandTile<S, true, Block::kColumns, kDepth, Block::kThreads>;
  constexpr int kPerChunk = TileA::kPerChunk, kChunks = TileA::kChunks, kStep = Block::kThreads / kChunks;
  auto& shared = shared_memory<ConvGatherShared<S, Block>>();
  const GatherTask<S> task(p, TileShape<Block::kRows, Block::kColumns>{});
  const int64_t block_row = task.block_row, block_column = task.block_column;
  if (block_row >= task.rows) return;
  shared.rows.template fill<Block::kThreads>(p, task.l, block_row);
  __syncthreads();

  const Source<S> b{task.weights, p.weights_row, p.columns, task.k_end};
  const int chunk = static_cast<int>(threadIdx.x) % kChunks, first = static_cast<int>(threadIdx.x) / kChunks;
  TapCursor cursor(p, task.l, task.k_begin + chunk * kPerChunk);
  Sums<Block> sums = {};
  const bool by_fma = mma_pipeline<S, Planes, Block, TileA, TileB>(
      shared.tiles, (task.k_end - task.k_begin + kDepth - 1) / kDepth, sums,
      [&](S* tile_a, S* tile_b, int64_t step) {
        const int32_t left = cursor.ended(task.l) ? 0 : p.channels - cursor.channel;
        const int bytes = left >= kPerChunk ? kChunkBytes : left > 0 ? left * static_cast<int>(sizeof(S)) : 0;
        const S* const tap = task.in + cursor.offset + cursor.channel;
#pragma unroll
        for (int row = 0; row < Block::kRows; row += kStep) {
          const int i = row + first;
          const auto at = shared_load<Pack<int32_t, 4>>(shared.rows.at.at(i));
          const int valid = cursor.inside(p, at) ? bytes : 0;
          const S* const from = valid > 0 ? tap + static_cast<int64_t>(shared.rows.in[i]) : p.in.data;
          ptx::cp_async_16(tile_a + TileA::at(i, chunk * kPerChunk), from, valid);
        }
        cursor.advance(p, task.l, kDepth);
        TileB::fetch(tile_b, b, block_column, task.k_begin + step * kDepth);
      });
  // Zeros stand where nothing is, and zero times Inf is NaN.
  bool exact = sizeof(S) == 4 && by_fma;
  if (p.holes) {
#pragma unroll
    for (int i = 0; i < Block::kTall * Block::kWide * 4; ++i) {
      exact = exact || !is_finite(sums[i / 4 / Block::kWide][i / 4 % Block::kWide][i % 4]);
    }
    exact = __syncthreads_or(exact) != 0;
  }
  for_results<S, Block>(shared.tiles, sums, task.rows - block_row, p.columns - block_column,
                        end.packs && !exact, [&](int row, int c, auto sum) {
                          const int64_t column = block_column + c;
                          if constexpr (sizeof(sum) == sizeof(float)) {
                            if (exact && (by_fma || !is_finite(sum.at[0]))) {
                              sum.at[0] =
                                  gather_sum(p, task, shared_load<Pack<int32_t, 4>>(shared.rows.at.at(row)),
                                             shared.rows.in[row], column);
                            }
                          }
                          finish_gather(p, end, task, block_row + row, column, shared.rows.out[row],
                                        shared.rows.residual[row], sum);
                        });
}

template <class S>
struct ConvGatherFmaShared {
  FmaShared<compute_t<S>> tiles;
  GatherRows<kFmaTile> rows;
};

// The same by multiply-adds.
template <class S>
__global__ void __launch_bounds__(kFmaThreads)
    conv_gather_fma(const __grid_constant__ ConvGather<S> p, const __grid_constant__ GemmEnd<S> end) {
  using T = compute_t<S>;
  auto& shared = shared_memory<ConvGatherFmaShared<S>>();
  const GatherTask<S> task(p, TileShape<kFmaTile, kFmaTile>{});
  const int64_t block_row = task.block_row, block_column = task.block_column;
  if (block_row >= task.rows) return;
  shared.rows.template fill<kFmaThreads>(p, task.l, block_row);
  __syncthreads();
  const int k = static_cast<int>(threadIdx.x) % kFmaDepth, first = static_cast<int>(threadIdx.x) / kFmaDepth;
  TapCursor cursor(p, task.l, task.k_begin + k);
  FmaSums<T> sums = {};
  fma_tiles<T>(shared.tiles, task.k_begin, task.k_end, sums, [&](auto& tile_a, auto& tile_b, int64_t k0) {
    const bool there = k0 + k < task.k_end && cursor.channel < p.channels;
    for (int i = first; i < kFmaTile; i += kFmaThreads / kFmaDepth) {
      const auto at = shared_load<Pack<int32_t, 4>>(shared.rows.at.at(i));
      const bool inside = there && cursor.inside(p, at);
      tile_a[k * kFmaRow + i] =
          inside ? widen(task.in[shared.rows.in[i] + cursor.offset + cursor.channel * p.in.c_step]) : T{0};
      const int64_t column = block_column + i;
      tile_b[k * kFmaRow + i] =
          there && column < p.columns ? widen(task.weights[column * p.weights_row + k0 + k]) : T{0};
    }
    cursor.advance(p, task.l, kFmaDepth);
  });
  for_fma_results<T>(sums, task.rows - block_row, p.columns - block_column, [&](int row, int c, T sum) {
    const int64_t column = block_column + c;
    if (p.holes && !is_finite(sum)) {
      sum = gather_sum(p, task, shared_load<Pack<int32_t, 4>>(shared.rows.at.at(row)), shared.rows.in[row],
                       column);
    }
    finish_gather(p, end, task, block_row + row, column, shared.rows.out[row], shared.rows.residual[row],
                  sum);
  });
}

// The parts of a split along k, added in their order.
template <class S>
__global__ void __launch_bounds__(256)
    conv_gather_combine(int64_t parts, const __grid_constant__ ConvGather<S> p,
                        const __grid_constant__ GemmEnd<S> end) {
  const int64_t size = p.items() * p.most_rows * p.columns, step = static_cast<int64_t>(gridDim.x) * 256;
#pragma unroll 1
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x; i < size; i += step) {
    const int64_t column = i % p.columns, row = i / p.columns % p.most_rows,
                  item = i / p.columns / p.most_rows;
    const ConvLattice& l = p.lattice[item % p.lattices];
    const int64_t image = row / l.positions();
    if (image >= p.images) continue;
    compute_t<S> sum = 0;
#pragma unroll 1
    for (int64_t part = 0; part < parts; ++part) sum += p.partial[part * size + i];
    const GatherRow r = locate(p, l, image, static_cast<uint32_t>(row - image * l.positions()));
    end.store(r.out, r.residual, 0, item / p.lattices * p.columns + column, sum);
  }
}

// Weights in the order in which gathers read them, the places between channels zero.
template <class S>
struct ConvPack {
  const S* from;
  int64_t group_step, column_step, channel_step, tap_step[3];
  MergedTaps merged;
  S* to;
};
template <class S>
__global__ void __launch_bounds__(256)
    conv_pack_weights(const __grid_constant__ ConvGather<S> p, ConvPack<S> w) {
  int64_t taps = 0;
  for (int i = 0; i < p.lattices; ++i) taps += p.lattice[i].taps();
  const int64_t size = p.groups * p.columns * taps * p.padded, stride = static_cast<int64_t>(gridDim.x) * 256;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x; i < size; i += stride) {
    const int64_t channel = i % p.padded, column = i / p.padded / taps % p.columns,
                  group = i / p.padded / taps / p.columns;
    int64_t tap = i / p.padded % taps;
    int lattice = 0;
    while (tap >= p.lattice[lattice].taps()) tap -= p.lattice[lattice++].taps();
    const ConvLattice& l = p.lattice[lattice];  // others may lie between those of p
    const int64_t at = l.first_tap + tap, c = channel % w.merged.places;
    int64_t merged = channel / w.merged.places;
    int64_t from = group * w.group_step + column * w.column_step + c * w.channel_step;
    for (int a = 2; a >= 0; --a) {
      const ConvAxis& axis = l.axis[a];
      from += (axis.slot + tap % axis.taps * axis.slot_step + merged % w.merged.kernel[a]) * w.tap_step[a];
      tap /= axis.taps;
      merged /= w.merged.kernel[a];
    }
    w.to[(group * p.columns + column) * p.weights_row + at * p.padded + channel] =
        c < w.merged.channels && merged == 0 ? w.from[from] : narrow<S>(0);
  }
}

}  // namespace fastdl::cuda
