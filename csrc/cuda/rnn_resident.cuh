// All steps of a layer in one kernel over the whole device: every block keeps the weights of its units on
// chip from the first step to the last (Diamos et al. 2016, "Persistent RNNs: Stashing recurrent weights
// on-chip") and hands its part of each step's states to the others through the L2 cache (rnn_exchange.cuh).
//
// Weights are the left factor of a product, 16 Tall rows to a block, so that sequences need be padded to
// eight only; its warps share k. Which k an mma calls which is free as long as both factors agree: a lane
// takes 16 neighbouring bytes of a row, so that states go from the L2 cache into the registers that mma
// wants, and weights stay in registers, or in shared memory where they do not fit. Only sums go from warp to
// warp.
#pragma once

#include "cuda/launch_together.cuh"
#include "cuda/rnn_config.h"
#include "cuda/rnn_steps.cuh"

namespace fastdl::cuda {

// Blocks of k whose states are on their way while another is multiplied, 1 KB of them to a warp.
template <class S, int Tall>
constexpr int kResidentAhead = sizeof(S) == 2 && Tall < 3 ? 4
                               : Tall < 4                 ? 3
                                                          : 2;
// Steps between the prefetch of a place and its use: longer than memory takes.
constexpr int64_t kResidentPrefetch = 4;

template <class S>
constexpr int kResidentDepth = 64 / static_cast<int>(sizeof(S));  // k of a block

template <int Tall>
using ResidentSums = float[Tall][2][4];  // 16 Tall rows of weights, 2 x 8 sequences

// The heights there are kernels of.
template <class Cell>
constexpr int kLeastTall = Cell::kSlots == 4 ? 2 : 1;
template <class S, class Cell>
constexpr int kMostTall = kLeastTall<Cell> + (sizeof(S) == 4      ? 1
                                              : Cell::kSlots == 4 ? 2
                                                                  : 1);

// Which rows of weights a block has: unit u's of slot s is its row s * units + u.
template <class S>
struct ResidentRows {
  const StepProduct<S>& p;
  int64_t unit0;
  int units;

  __device__ __forceinline__ const S* operator()(int row) const {
    const int slot = row / units, unit = row % units;
    return slot < p.gates && unit0 + unit < p.units ? p.b + (slot * p.units + unit0 + unit) * p.b_stride
                                                    : nullptr;
  }
};

// A thread's share of the weights: of its warp's blocks of k (every eighth), rows g and g + 8 of each 16, and
// of a block the 16 bytes at t.
template <class S, int Tall>
struct ResidentWeights {
  using Chunk = Handed<S>;
  static constexpr int kHeld = resident_held(Tall, sizeof(S));
  Chunk held[kHeld][Tall][2];
  Chunk* rest;  // this thread's part of shared memory

  __device__ __forceinline__ Chunk* place(int j, int i, int half) const {
    return rest + ((j - kHeld) * Tall * 2 + i * 2 + half) * kResidentThreads;
  }
  __device__ __forceinline__ Chunk read(const ResidentRows<S>& rows, int j, int i, int half) const {
    const S* const row = rows(16 * i + lane() / 4 + 8 * half);
    const int64_t k = (j * kResidentWarps + warp()) * kResidentDepth<S> + lane() % 4 * Chunk::kCount;
    Chunk chunk;
    chunk.clear();
    if (row && k < rows.p.k) {
      chunk.load(row + k);
      if (k + Chunk::kCount > rows.p.k) chunk.keep(rows.p.k - k);
    }
    return chunk;
  }
  // count: the warp's blocks of k.
  __device__ __forceinline__ void load(const ResidentRows<S>& rows, int count) {
#pragma unroll
    for (int j = 0; j < kHeld; ++j) {
#pragma unroll
      for (int i = 0; i < Tall; ++i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) held[j][i][half] = read(rows, j, i, half);
      }
    }
    for (int j = kHeld; j < count; ++j) {
#pragma unroll
      for (int i = 0; i < Tall; ++i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) shared_store(place(j, i, half), read(rows, j, i, half));
      }
    }
  }
};

// sums += weights (rows g and g + 8 of 16) times states of 2 x 8 sequences, 64 bytes of k. False if some
// value cannot be split.
template <class S>
__device__ __forceinline__ bool multiply_handed(float (&sums)[2][4], const Handed<S> (&weights)[2],
                                                const Handed<S> (&states)[2], int planes) {
  if constexpr (sizeof(S) == 2) {
#pragma unroll
    for (int k = 0; k < 4; k += 2) {
      const uint32_t left[4] = {weights[0].words[k], weights[1].words[k], weights[0].words[k + 1],
                                weights[1].words[k + 1]};
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const uint32_t right[2] = {states[j].words[k], states[j].words[k + 1]};
        ptx::mma(S{}, sums[j], left, right);
      }
    }
    return true;
  } else {
    bool fit = true;
    const auto pieces = [&](const Handed<S>& of, int word, uint32_t (&to)[3]) {
      const float low = __uint_as_float(of.words[word]), high = __uint_as_float(of.words[word + 1]);
      fit = fit && splits(low) && splits(high);
      split(low, high, to);
    };
    uint32_t left[4][3], right[2][2][3];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      pieces(weights[half], 0, left[half]);
      pieces(weights[half], 2, left[half + 2]);
#pragma unroll
      for (int j = 0; j < 2; ++j) pieces(states[j], 2 * half, right[j][half]);
    }
    float step[2][4] = {};
#pragma unroll
    for (int order = 2; order >= 0; --order) {  // pieces i of the weights and order - i of the states
      if (order >= planes) continue;
#pragma unroll
      for (int i = 0; i <= order; ++i) {
        const uint32_t factor[4] = {left[0][i], left[1][i], left[2][i], left[3][i]};
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const uint32_t other[2] = {right[j][0][order - i], right[j][1][order - i]};
          ptx::mma(bfloat16{}, step[j], factor, other);
        }
      }
    }
#pragma unroll
    for (int j = 0; j < 2; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) sums[j][e] += step[j][e];
    }
    return fit;
  }
}

// The states of 16 sequences as this lane multiplies them: sequences g and g + 8, NULL where there are none.
template <class S>
struct ResidentStates {
  const S* row[2];  // from this lane's bytes of the warp's first block on
  int k;            // elements left there

  __device__ __forceinline__ ResidentStates(const StepProduct<S>& p, int64_t row0) {
    const int first = warp() * kResidentDepth<S> + lane() % 4 * Handed<S>::kCount;
    k = static_cast<int>(p.k) - first;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t sequence = row0 + lane() / 4 + 8 * half;
      row[half] = sequence < p.a_rows ? p.a + sequence * p.a_stride + first : nullptr;
    }
  }
  __device__ __forceinline__ void load(int j, int half, Handed<S>& to) const {
    const int at = j * kResidentWarps * kResidentDepth<S>;
    if (!row[half] || at >= k) return to.clear();
    to.load(row[half] + at);
    if (at + Handed<S>::kCount > k) to.keep(k - at);
  }
  // Of the warp's block j.
  __device__ __forceinline__ void ask(int j, Handed<S> (&to)[2]) const {
    load(j, 0, to[0]);
    load(j, 1, to[1]);
  }
  // Until all of them are there, for all lanes.
  __device__ __forceinline__ void wait(int j, Handed<S> (&to)[2]) const {
    while (__any_sync(kAllLanes, to[0].unset() || to[1].unset())) {
      ptx::look_again();
      if (to[0].unset()) load(j, 0, to[0]);
      if (to[1].unset()) load(j, 1, to[1]);
    }
  }
};

// This warp's sums over its blocks of k. early: the states are likely still to come; one block of k is then
// looked for, and the others, which come at about the same time, are asked for when it is there.
template <class S, int Tall>
__device__ __forceinline__ bool multiply_resident(ResidentSums<Tall>& sums,
                                                  const ResidentWeights<S, Tall>& weights,
                                                  const ResidentStates<S>& states, int count, bool early,
                                                  int planes) {
  constexpr int kHeld = ResidentWeights<S, Tall>::kHeld, kAhead = kResidentAhead<S, Tall>;
  Handed<S> ring[kAhead][2];
  bool fit = true;
  const auto multiply = [&](int j, Handed<S>(&now)[2], auto&& weight) {
    states.wait(j, now);
#pragma unroll
    for (int i = 0; i < Tall; ++i) {
      const Handed<S> two[2] = {weight(i, 0), weight(i, 1)};
      fit = multiply_handed(sums[i], two, now, planes) && fit;
    }
    if (j + kAhead < count) states.ask(j + kAhead, now);
  };
  if (count == 0) return true;
  states.ask(0, ring[0]);
  if (early) states.wait(0, ring[0]);
#pragma unroll
  for (int j = 1; j < kAhead; ++j) {
    if (j < count) states.ask(j, ring[j]);
  }
#pragma unroll
  for (int j = 0; j < kHeld; ++j) {
    if (j < count) multiply(j, ring[j % kAhead], [&](int i, int half) { return weights.held[j][i][half]; });
  }
#pragma unroll 1
  for (int j0 = kHeld; j0 < count; j0 += kAhead) {
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      if (j0 + u < count)
        multiply(j0 + u, ring[(kHeld + u) % kAhead],
                 [&](int i, int half) { return shared_load<Handed<S>>(weights.place(j0 + u, i, half)); });
    }
  }
  return fit;
}

// Where a warp's sum of a row of weights and a sequence lies: those that are written, or read, together in
// different banks.
template <int Tall>
__device__ __forceinline__ int resident_place(int part, int row, int sequence) {
  return (part * 16 * Tall + row) * kResidentRows + (sequence ^ ((row >> 1 & 1) * 8 + (row >> 2 & 1) * 4));
}

// A warp's sums into its part of a buffer.
template <int Tall>
__device__ __forceinline__ void store_sums(float* buffer, const ResidentSums<Tall>& sums) {
  const int g = lane() / 4, t = lane() % 4;
#pragma unroll
  for (int i = 0; i < Tall; ++i) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const Pack<float, 2> two{{sums[i][j][2 * half], sums[i][j][2 * half + 1]}};
        shared_store(buffer + resident_place<Tall>(warp(), 16 * i + g + 8 * half, 8 * j + 2 * t), two);
      }
    }
  }
}
// The sum of all warps.
template <int Tall>
__device__ __forceinline__ float load_sum(const float* buffer, int row, int sequence) {
  float sum = 0;
#pragma unroll
  for (int part = 0; part < kResidentWarps; ++part)
    sum += shared_load<float>(buffer + resident_place<Tall>(part, row, sequence));
  return sum;
}
// A warp's blocks of k.
template <class S>
__device__ __forceinline__ int resident_count(int64_t k) {
  const int blocks = static_cast<int>((k + kResidentDepth<S> - 1) / kResidentDepth<S>);
  return blocks > warp() ? (blocks - warp() + kResidentWarps - 1) / kResidentWarps : 0;
}

// units: of a block; buffers: for sums; planes: of float32.
template <class S, int Tall, class Steps>
__global__ void __launch_bounds__(kResidentThreads, 1)
    rnn_all_steps(Steps plan, RnnPlaces places, int units, int buffers, int planes) {
  using Cell = typename Steps::Cell;
  constexpr int kSlots = Cell::kSlots, kEach = kSlots == 1 ? Tall : 1;
  constexpr int kSums = kResidentWarps * 16 * Tall * kResidentRows;
  auto& sums_of = shared_memory<SharedArray<float, kSums>>();
  const int64_t unit0 = static_cast<int64_t>(blockIdx.y) * units, d = blockIdx.z;
  ResidentWeights<S, Tall> weights;
  weights.rest = reinterpret_cast<Handed<S>*>(&sums_of + buffers) + threadIdx.x;
  const StepProduct<S>& hh = plan.direction[d].hh;
  const int count = resident_count<S>(hh.k);
  weights.load({hh, unit0, units}, count);
  // The cells that this thread finishes.
  int sequence[kEach], unit[kEach];
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int at = i * kResidentThreads + static_cast<int>(threadIdx.x);
    sequence[i] = at / units, unit[i] = at % units;
  }
  int parity = 0;
  for (int64_t step = 0; step < places.steps; ++step) {
    StepProduct<S> p;
    Cell cell;
    plan.prepare(places, step, d, p, cell);
    bool early = true;
    for (int64_t row0 = static_cast<int64_t>(blockIdx.x) * kResidentRows; row0 < p.rows;
         row0 += static_cast<int64_t>(gridDim.x) * kResidentRows) {
      const auto mine = [&](int i) {
        return sequence[i] < kResidentRows && row0 + sequence[i] < p.rows && unit0 + unit[i] < p.units;
      };
      typename Cell::Before before[kEach] = {};
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        if (mine(i)) before[i] = cell.before(row0 + sequence[i], unit0 + unit[i]);
      }
      float* const block = sums_of.data() + parity * kSums;
      bool by_fma = false;
      if (row0 < p.a_rows) {
        ResidentSums<Tall> sums = {};
        const bool fit = multiply_resident<S, Tall>(sums, weights, {p, row0}, count, early, planes);
        early = false;
        // A barrier stands between those who read sums and those who next write there.
        if (buffers == 1) __syncthreads();
        else parity ^= 1;
        store_sums<Tall>(block, sums);
        if constexpr (sizeof(S) == 4) by_fma = __syncthreads_or(!fit);
        else __syncthreads();
      }
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        if (!mine(i)) continue;
        const int64_t row = row0 + sequence[i];
        float sums[kSlots] = {};
        if (row < p.a_rows) {
#pragma unroll
          for (int slot = 0; slot < kSlots; ++slot) {
            if (slot >= p.gates) continue;
            const int at = slot * units + unit[i];
            sums[slot] = load_sum<Tall>(block, at, sequence[i]);
            if constexpr (sizeof(S) == 4) {
              if (by_fma) sums[slot] = step_sum_by_fma(p, row, ResidentRows<S>{p, unit0, units}(at));
            }
          }
        }
        cell(row, unit0 + unit[i], sums, before[i]);
        plan.prefetch(places, step + kResidentPrefetch, d, row, unit0 + unit[i]);
      }
    }
  }
}

}  // namespace fastdl::cuda
