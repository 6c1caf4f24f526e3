// One step of a recurrent layer in one kernel: the product of the sequences' states with the recurrent
// weights, and what the cell makes of the sums. Both directions of a layer go side by side (gridDim.z).
//
// Sequences are few and rows long, so a block makes only 32 sequences x 32 (or 16) sums, and its four warps
// share k: each multiplies a quarter of every tile, and their sums are added in the order of the warps.
#pragma once

#include "cuda/device.cuh"
#include "cuda/gemm_mma.cuh"
#include "cuda/launch.h"
#include "cuda/shared.cuh"
#include "cuda/split.cuh"

namespace fastdl::cuda {

constexpr int kStepRows = 32, kStepThreads = 128, kStepWarps = kStepThreads / kWarp, kStepStages = 3;

// sums[slot] of row i and unit u: row i of a times row slot * units + u of b. Rows are aligned to 16 bytes.
template <class S>
struct StepProduct {
  int64_t rows, units, k, gates;
  const S* a;
  int64_t a_stride, a_rows;  // the rows from a_rows on have no state: their sums are 0 whatever b holds
  const S* b;
  int64_t b_stride;
};

template <class T>
struct Both {
  T of[2];
};

// The slots of a block's columns: units of four gates (a GRU leaves the fourth empty), or of one.
template <int Slots>
struct StepBlock {
  static constexpr int kColumns = Slots == 4 ? 32 : 16, kUnits = kColumns / Slots;
};

template <class S>
constexpr int kStepDepth = kMmaDepth<S> * kStepWarps;  // k of a stage: 256 bytes of every row

template <class S, int Columns>
struct StepShared {
  SharedArray<S, kStepStages * kStepRows * kStepDepth<S>> a;
  SharedArray<S, kStepStages * Columns * kStepDepth<S>> b;
  static_assert(sizeof(S) == 8 || sizeof(a) + sizeof(b) <= kDefaultSharedBytes);
};
constexpr int kStepFmaDepth = 16;
template <int Columns>
struct StepShared<double, Columns> {
  SharedArray<double, kStepFmaDepth*(kStepRows + 1)> a;
  SharedArray<double, kStepFmaDepth*(Columns + 1)> b;
  SharedArray<double, kStepRows * Columns> sums;
};

// Where a warp's sum of a row and column lies: four (two) rows that are written together in different banks.
template <int Columns>
__device__ __forceinline__ int step_place(int part, int row, int column) {
  return (part * kStepRows + row) * Columns + (column ^ (row % (Columns / 8) * 8));
}

// Starts the copy of k .. k + kStepDepth of Length rows; row(i) is where row i begins, or NULL for zeros.
template <class S, int Length, class Row>
__device__ __forceinline__ void fetch_step(S* stage, const S* anywhere, int64_t k, int64_t depth, Row&& row) {
  using Tile = OperandTile<S, true, Length, kMmaDepth<S>, kWarp>;
  constexpr int kPerChunk = Tile::kPerChunk, kChunks = Tile::kChunks * kStepWarps;
#pragma unroll
  for (int i = 0; i < Length * kChunks / kStepThreads; ++i) {
    const int index = i * kStepThreads + static_cast<int>(threadIdx.x), r = index / kChunks,
              chunk = index % kChunks;
    const int64_t at = k + chunk * kPerChunk, left = depth - at;
    const S* const from = row(r);
    const int valid = !from || left <= 0  ? 0
                      : left >= kPerChunk ? kChunkBytes
                                          : static_cast<int>(left * static_cast<int64_t>(sizeof(S)));
    ptx::cp_async_16(
        stage + chunk / Tile::kChunks * Tile::kElements + Tile::at(r, chunk % Tile::kChunks * kPerChunk),
        valid > 0 ? from + at : anywhere, valid);
  }
}

// Row of b for a column of the block.
template <int Slots, class S>
__device__ __forceinline__ const S* step_weights(const StepProduct<S>& p, int64_t unit0, int column) {
  constexpr int kUnits = StepBlock<Slots>::kUnits;
  const int64_t unit = unit0 + column % kUnits, slot = column / kUnits;
  return unit < p.units && slot < p.gates ? p.b + (slot * p.units + unit) * p.b_stride : nullptr;
}

// The four warps' sums into tiles_a's memory; true if some value could not be split and they are void. The
// tiles of a take turns in Stages places, those of b too, unless all of b is Resident.
template <int Planes, int Slots, int Stages, bool Resident, class S>
__device__ __forceinline__ bool multiply_step(S* tiles_a, S* tiles_b, const StepProduct<S>& p, int64_t row0,
                                              int64_t unit0) {
  constexpr int kColumns = StepBlock<Slots>::kColumns;
  using Block = BlockShape<kStepRows, kColumns, kStepRows, kColumns>;  // of every warp
  using TileA = OperandTile<S, true, kStepRows, kMmaDepth<S>, kWarp>;
  using TileB = OperandTile<S, true, kColumns, kMmaDepth<S>, kWarp>;
  const auto fetch = [&](int64_t step) {
    const int stage = static_cast<int>(step % Stages);
    const int64_t k = step * kStepDepth<S>;
    if (k < p.k) {
      fetch_step<S, kStepRows>(tiles_a + stage * kStepWarps * TileA::kElements, p.a, k, p.k, [&](int i) {
        return row0 + i < p.a_rows ? p.a + (row0 + i) * p.a_stride : nullptr;
      });
      if constexpr (!Resident) {
        fetch_step<S, kColumns>(tiles_b + stage * kStepWarps * TileB::kElements, p.b, k, p.k,
                                [&](int j) { return step_weights<Slots>(p, unit0, j); });
      }
    }
    ptx::cp_async_commit();  // an empty group too: waiting counts groups
  };
  Sums<Block> sums = {};
  bool fit = true;
  const int64_t steps = (p.k + kStepDepth<S> - 1) / kStepDepth<S>;
  for (int step = 0; step < Stages - 1; ++step) fetch(step);
  for (int64_t step = 0; step < steps; ++step) {
    ptx::cp_async_wait<Stages - 2>();
    __syncthreads();  // all parts of this tile are there, and the tile overwritten next has been read
    fetch(step + Stages - 1);
    const int64_t stage = step % Stages, stage_b = Resident ? step : stage;
    const S* const a = tiles_a + (stage * kStepWarps + warp()) * TileA::kElements;
    const S* const b = tiles_b + (stage_b * kStepWarps + warp()) * TileB::kElements;
    if constexpr (sizeof(S) == 2) {
      multiply_16<S, Block, TileA, TileB>(a, b, 0, 0, sums);
    } else {
      fit = multiply_split<Planes, Block, TileA, TileB>(a, b, 0, 0, sums) && fit;
    }
  }
  ptx::cp_async_wait<0>();
  const bool by_fma = __syncthreads_or(!fit);  // and the tiles' memory is free
  float* const block = reinterpret_cast<float*>(tiles_a);
  const int g = lane() / 4, t = lane() % 4;
#pragma unroll
  for (int i = 0; i < Block::kTall; ++i) {
#pragma unroll
    for (int j = 0; j < Block::kWide; ++j) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const Pack<float, 2> two{{sums[i][j][2 * half], sums[i][j][2 * half + 1]}};
        shared_store(block + step_place<kColumns>(warp(), 16 * i + g + 8 * half, 8 * j + 2 * t), two);
      }
    }
  }
  __syncthreads();
  return by_fma;
}

// The same by multiply-adds: a thread has one column and every fourth (eighth) row.
template <int Slots>
__device__ __forceinline__ void multiply_step_by_fma(StepShared<double, StepBlock<Slots>::kColumns>& shared,
                                                     const StepProduct<double>& p, int64_t row0,
                                                     int64_t unit0) {
  constexpr int kColumns = StepBlock<Slots>::kColumns, kApart = kStepThreads / kColumns,
                kEach = kStepRows / kApart;
  const int tid = static_cast<int>(threadIdx.x), column = tid % kColumns, first = tid / kColumns;
  double sums[kEach] = {};
  for (int64_t k0 = 0; k0 < p.k; k0 += kStepFmaDepth) {
    const auto depth = static_cast<int>(p.k - k0 < kStepFmaDepth ? p.k - k0 : kStepFmaDepth);
    for (int i = tid; i < kStepRows * kStepFmaDepth; i += kStepThreads) {
      const int r = i / kStepFmaDepth, k = i % kStepFmaDepth;
      const bool in = row0 + r < p.a_rows && k < depth;
      shared.a[k * (kStepRows + 1) + r] = in ? p.a[(row0 + r) * p.a_stride + k0 + k] : 0;
    }
    for (int i = tid; i < kColumns * kStepFmaDepth; i += kStepThreads) {
      const int j = i / kStepFmaDepth, k = i % kStepFmaDepth;
      const double* const from = step_weights<Slots>(p, unit0, j);
      shared.b[k * (kColumns + 1) + j] = from && k < depth ? from[k0 + k] : 0;
    }
    __syncthreads();
    for (int k = 0; k < depth; ++k) {
      const double right = shared.b[k * (kColumns + 1) + column];
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        sums[i] =
            fma(static_cast<double>(shared.a[k * (kStepRows + 1) + first + i * kApart]), right, sums[i]);
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < kEach; ++i) shared.sums[(first + i * kApart) * kColumns + column] = sums[i];
  __syncthreads();
}

// A sum of a row and column of the block, of all warps.
template <int Columns>
__device__ __forceinline__ float step_sum(const float* sums, int row, int column) {
  float sum = shared_load<float>(sums + step_place<Columns>(0, row, column));
#pragma unroll
  for (int part = 1; part < kStepWarps; ++part)
    sum += shared_load<float>(sums + step_place<Columns>(part, row, column));
  return sum;
}
template <int Columns>
__device__ __forceinline__ double step_sum(const double* sums, int row, int column) {
  return shared_load<double>(sums + row * Columns + column);
}

// The sum of a row and a row of weights, or NULL. a may be the work of other blocks of this kernel, so it is
// read past the L1 cache.
__device__ __forceinline__ float step_sum_by_fma(const StepProduct<float>& p, int64_t row,
                                                 const float* weights) {
  float sum = 0;
#pragma unroll 1
  for (int64_t k = 0; weights && k < p.k; ++k)
    sum = fmaf(__ldcg(p.a + row * p.a_stride + k), weights[k], sum);
  return sum;
}

// The rows and units of a block that a thread finishes: f(i, row of the block, unit of the block).
template <class Cell>
constexpr int kStepEach = kStepRows * StepBlock<Cell::kSlots>::kUnits / kStepThreads;
template <class Cell, class S, class F>
__device__ __forceinline__ void each_of_thread(const StepProduct<S>& p, int64_t row0, int64_t unit0, F&& f) {
  constexpr int kUnits = StepBlock<Cell::kSlots>::kUnits;
#pragma unroll
  for (int i = 0; i < kStepEach<Cell>; ++i) {
    const int at = i * kStepThreads + static_cast<int>(threadIdx.x), r = at / kUnits, u = at % kUnits;
    if (row0 + r < p.rows && unit0 + u < p.units) f(i, r, u);
  }
}

// What a thread's cells need beside the sums.
template <class Cell>
struct StepBefore {
  typename Cell::Before of[kStepEach<Cell>];
};
template <class S, class Cell>
__device__ __forceinline__ void begin_step(const StepProduct<S>& p, const Cell& cell, int64_t row0,
                                           int64_t unit0, StepBefore<Cell>& before) {
  each_of_thread<Cell>(p, row0, unit0,
                       [&](int i, int r, int u) { before.of[i] = cell.before(row0 + r, unit0 + u); });
}
template <class S, class Cell>
__device__ __forceinline__ void finish_step(const compute_t<S>* block, const StepProduct<S>& p,
                                            const Cell& cell, int64_t row0, int64_t unit0, bool by_fma,
                                            const StepBefore<Cell>& before) {
  constexpr int kSlots = Cell::kSlots, kColumns = StepBlock<kSlots>::kColumns,
                kUnits = StepBlock<kSlots>::kUnits;
  each_of_thread<Cell>(p, row0, unit0, [&](int i, int r, int u) {
    const int64_t row = row0 + r;
    compute_t<S> sums[kSlots] = {};
    if (row < p.a_rows) {
#pragma unroll
      for (int slot = 0; slot < kSlots; ++slot) {
        const int column = slot * kUnits + u;
        sums[slot] = step_sum<kColumns>(block, r, column);
        if constexpr (sizeof(S) == 4) {
          if (by_fma) sums[slot] = step_sum_by_fma(p, row, step_weights<kSlots>(p, unit0, column));
        }
      }
    }
    cell(row, unit0 + u, sums, before.of[i]);
  });
}

template <class S, int Planes, class Cell>
__global__ void __launch_bounds__(kStepThreads) rnn_step(Both<StepProduct<S>> products, Both<Cell> cells) {
  constexpr int kSlots = Cell::kSlots;
  const StepProduct<S>& p = products.of[blockIdx.z];
  const Cell& cell = cells.of[blockIdx.z];
  const int64_t row0 = static_cast<int64_t>(blockIdx.x) * kStepRows,
                unit0 = static_cast<int64_t>(blockIdx.y) * StepBlock<kSlots>::kUnits;
  if (row0 >= p.rows) return;
  auto& shared = shared_memory<StepShared<S, StepBlock<kSlots>::kColumns>>();
  StepBefore<Cell> before;
  begin_step(p, cell, row0, unit0, before);
  bool by_fma = false;
  const compute_t<S>* sums;
  if constexpr (sizeof(S) == 8) {
    sums = shared.sums.data();
    if (row0 < p.a_rows) multiply_step_by_fma<kSlots>(shared, p, row0, unit0);
  } else {
    sums = reinterpret_cast<const float*>(shared.a.data());
    if (row0 < p.a_rows) {
      by_fma =
          multiply_step<Planes, kSlots, kStepStages, false>(shared.a.data(), shared.b.data(), p, row0, unit0);
    }
  }
  finish_step(sums, p, cell, row0, unit0, by_fma, before);
}

template <class S, int Planes, class Cell>
void launch_step(Context* context, const Both<StepProduct<S>>& products, const Both<Cell>& cells,
                 int64_t directions) {
  const auto& of = products.of;
  const int64_t rows = directions == 2 && of[1].rows > of[0].rows ? of[1].rows : of[0].rows;
  if (rows == 0) return;
  constexpr int64_t kUnits = StepBlock<Cell::kSlots>::kUnits;
  const dim3 grid(static_cast<unsigned>((rows + kStepRows - 1) / kStepRows),
                  static_cast<unsigned>((of[0].units + kUnits - 1) / kUnits),
                  static_cast<unsigned>(directions));
  launch(context, FASTDL_KERNEL(rnn_step<S, Planes, Cell>),
         {grid, kStepThreads, sizeof(StepShared<S, StepBlock<Cell::kSlots>::kColumns>)}, products, cells);
}

template <class S, class Cell>
void step(Context* context, const Both<StepProduct<S>>& products, const Both<Cell>& cells,
          int64_t directions) {
  with_planes<S>(context, [&](auto planes) {
    launch_step<S, decltype(planes)::value>(context, products, cells, directions);
  });
}

}  // namespace fastdl::cuda
