// Recurrent layers by clusters: what the forward and the backward kernel share. A cluster has a few sequences
// of one direction and all hidden units, a block of it a share of the units: its weights are in its threads'
// registers from the first step to the last, as the left factor of mma.sync, and what the other blocks
// need of its results it stores into their shared memory by st.async, step by step.
#pragma once

#include "cuda/device.cuh"
#include "cuda/ptx/cluster.cuh"
#include "cuda/ptx/exponential.cuh"
#include "cuda/ptx/ldmatrix.cuh"
#include "cuda/ptx/mbarrier.cuh"
#include "cuda/ptx/mma.cuh"
#include "cuda/ptx/relaxed.cuh"
#include "cuda/rnn_steps.cuh"
#include "cuda/shared.cuh"

namespace fastdl::cuda {

// Gates: 4 (LSTM; a GRU leaves the fourth empty) or 1. Blocks: of a cluster. Each: sequences of a lane of the
// product, of which a cluster has so four times as many; the product has columns for 8.
template <int Gates, int Blocks, int Each>
struct ClusterTile {
  static constexpr int kGates = Gates, kBlocks = Blocks, kEach = Each;
  // In the largest cluster two warps share k, whose weights would not fit into one's registers, and then the
  // sequences.
  static constexpr int kSplit = Blocks == 16 ? 2 : 1, kMine = Each / kSplit;
  static constexpr int kGroups = 4, kWarps = kGroups * kSplit, kThreads = kWarps * kWarp;
  static constexpr int kSequences = 4 * Each, kColumns = 8;
  // A lane's rows g, g + 8 (, g + 16, g + 24) of a warp's product: the gates of unit g, or units g and g + 8.
  static constexpr int kTall = Gates == 4 ? 2 : 1, kLaneUnits = 2 * kTall / Gates;
  // Units have places, of which the last of a block are empty where they are fewer.
  static constexpr int kWarpUnits = 8 * kLaneUnits, kUnits = kGroups * kWarpUnits, kAll = Blocks * kUnits;
  static_assert((Gates == 1 || Gates == 4) && kMine >= 1);

  // Which units and sequences of a lane's a warp finishes.
  static __device__ __forceinline__ int group() { return warp() % kGroups; }
  static __device__ __forceinline__ int part() { return warp() / kGroups; }
  static __device__ __forceinline__ int sequence(int e) {
    return Each * (lane() % 4) + (kSplit == 2 ? part() : e);
  }
};

// Which unit has a place.
struct ClusterUnits {
  int hidden, each;  // each: of a block

  // -1: none.
  template <class Tile>
  __device__ __forceinline__ int at(int place) const {
    const int in_block = place % Tile::kUnits, unit = place / Tile::kUnits * each + in_block;
    return in_block < each && unit < hidden ? unit : -1;
  }
};

// The matrices of 8 sequences x 8 k that the right factors are read from: 128 bytes each, one after the
// other, so that neither ldmatrix nor 16-byte stores of rows meet a bank twice.
constexpr int kMatrix = 64;
template <class Tile>
__device__ __forceinline__ int column_of(int sequence) {
  return Tile::kEach == 1 ? 2 * sequence : sequence;
}
template <class Tile>
__device__ __forceinline__ int matrix_place(int k, int sequence) {
  return k / 8 * kMatrix + column_of<Tile>(sequence) * 8 + k % 8;
}

// sums[i] += left[i] times the k of matrices, which are read four of them ahead.
template <class S, int Tall, int Chains, int Steps>
__device__ __forceinline__ void multiply_matrices(const uint32_t (&left)[Tall][Steps][4], const S* matrices,
                                                  float (&sums)[Tall][Chains][4]) {
  static_assert(Steps % 2 == 0);
  constexpr int kPairs = Steps / 2, kAhead = kPairs < 4 ? kPairs : 4;
  uint32_t right[kAhead][4];
  const S* const row = matrices + lane() * 8;
#pragma unroll
  for (int i = 0; i < kAhead; ++i) ptx::ldmatrix<false>(right[i], row + i * 4 * kMatrix);
#pragma unroll
  for (int pair = 0; pair < kPairs; ++pair) {
    uint32_t (&now)[4] = right[pair % kAhead];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint32_t b[2] = {now[2 * half], now[2 * half + 1]};
      const int step = 2 * pair + half;
#pragma unroll
      for (int i = 0; i < Tall; ++i) ptx::mma(S{}, sums[i][step % Chains], left[i][step], b);
    }
    if (pair + kAhead < kPairs) ptx::ldmatrix<false>(now, row + (pair + kAhead) * 4 * kMatrix);
  }
}
// The chains' sums, in one order.
template <int Chains>
__device__ __forceinline__ float chains_sum(const float (&sums)[Chains][4], int i) {
  if constexpr (Chains == 1) return sums[0][i];
  else if constexpr (Chains == 2) return sums[0][i] + sums[1][i];
  else return (sums[0][i] + sums[1][i]) + (sums[2][i] + sums[3][i]);
}

// A lane's left fragments: value(row, k) of 16 rows from row0 on and all k. They go through shared memory, as
// the addresses of them all at once would take more registers than there are.
constexpr int kStagedDepth = 64, kStagedRow = kStagedDepth + 8, kStaged = 16 * kStagedRow;  // of a warp
template <class S, int Steps, class Value>
__device__ __forceinline__ void load_left(S* staged, uint32_t (&left)[Steps][4], int row0, Value&& value) {
  constexpr int kAtOnce = kStagedDepth / 16;
  static_assert(Steps % kAtOnce == 0);
  const S* const from = staged + lane() % 16 * kStagedRow + lane() / 16 * 8;
#pragma unroll
  for (int step = 0; step < Steps; step += kAtOnce) {
    __syncwarp();
#pragma unroll 8
    for (int i = lane(); i < 16 * kStagedDepth; i += kWarp) {
      const int row = i / kStagedDepth, k = i % kStagedDepth;
      shared_store(staged + row * kStagedRow + k, value(row0 + row, 16 * step + k));
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) ptx::ldmatrix<false>(left[step + i], from + 16 * i);
  }
}

// Within some 2^-21 of the truth, which 16-bit results do not show.
struct FastGateFunctions {
  static __device__ __forceinline__ float sigmoid(float x) {
    return __fdividef(1.f, 1.f + ptx::fast_exp2(-1.4426950409f * x));
  }
  // Near 0 by its series, where 1 - 2 / (exp(2 x) + 1) would lose x.
  static __device__ __forceinline__ float tanh(float x) {
    const float z = x * x;
    const float near = fmaf(x * z, fmaf(fmaf(-17.f / 315.f, z, 2.f / 15.f), z, -1.f / 3.f), x);
    const float far = fmaf(-2.f, __fdividef(1.f, 1.f + ptx::fast_exp2(2.8853900818f * x)), 1.f);
    return fabsf(x) < 0.2f ? near : far;
  }
};

// A step's inputs are on their way to the L2 cache so many steps ahead, and to registers one step ahead,
// which is shorter than the slowest read from memory.
constexpr int kAhead = 4;

// Where the rows of a direction's step lie; beyond the last one there is none.
struct StepRows {
  int64_t row, batch;
};
__device__ __forceinline__ StepRows step_rows(const RnnPlaces& places, int64_t step, bool from_the_end) {
  if (step < 0 || step >= places.steps) return {0, 0};
  const int64_t t = from_the_end ? places.steps - 1 - step : step;
  return {places.row(t), places.batch_at(t)};
}

// The two buffers that steps take in turns, and the mbarriers that tell when all of one has come. Nobody
// sends a step before it has all of the step before, and so all blocks have read what it overwrites.
struct Arrivals {
  uint32_t full;  // two mbarriers
  unsigned bytes;

  // By one thread; the cluster has to meet before anything is sent.
  __device__ __forceinline__ void start(int64_t steps) const {
    ptx::mbarrier_init(full, 1), ptx::mbarrier_init(full + 8, 1);
    ptx::mbarrier_fence_init();
    if (steps > 1) expect(1);
    if (steps > 2) expect(2);
  }
  // What is read in `step`.
  __device__ __forceinline__ void expect(int64_t step) const {
    ptx::mbarrier_arrive_expect(full + 8 * static_cast<unsigned>(step % 2), bytes);
  }
  __device__ __forceinline__ void wait(int64_t step, int64_t steps) const {
    ptx::mbarrier_wait(full + 8 * static_cast<unsigned>(step % 2), static_cast<unsigned>((step - 1) / 2 % 2));
    if (threadIdx.x == 0 && step + 2 < steps) expect(step + 2);
  }
};

}  // namespace fastdl::cuda
