// All steps of a layer, forward: see rnn_sm90_tile.cuh. A block multiplies the weights of its units' gates
// with the whole h of the step before, which its blocks have sent each other.
#pragma once

#include "cuda/ptx/warpgroup.cuh"
#include "cuda/rnn_sm90_tile.cuh"

namespace fastdl::cuda {

template <class S, class Tile>
struct ClusterForwardShared {
  SharedArray<S, 2 * Tile::kAll * Tile::kColumns> h;
  SharedArray<float, Tile::kSplit == 1 ? 1 : 2 * Tile::kThreads * 2 * Tile::kTall>
      sums;  // of the other half of k
  SharedArray<S, Tile::kWarps * kStaged> staged;
  SharedArray<uint64_t, 2> full;
};

// What a lane needs of a step beside the sums; it is on its way during the step before.
template <class Tile>
struct ForwardInputs {
  float x[Tile::kLaneUnits][Tile::kMine][Tile::kGates];
};

// Sends a warp's new h, value(unit of the lane, its sequence), to the same place of all blocks: after
// an exchange between lanes a lane has 8 units of a sequence, 16 bytes.
template <class S, class Tile, class Value>
__device__ __forceinline__ void send_states(uint32_t place, uint32_t barrier, int sequences, Value&& value) {
  constexpr int kRows = 4 * Tile::kMine, kAtOnce = kWarp / kRows;
  const int g = lane() / 4, row = lane() % kRows, sequence = Tile::kSplit == 2 ? 2 * row + Tile::part() : row;
  const bool odd = g % 2 != 0;
#pragma unroll
  for (int j = 0; j < Tile::kLaneUnits; ++j) {
    uint32_t mine, given;
    if constexpr (Tile::kMine == 2) {  // even units go on with the even sequence
      mine = odd ? value(j, 1).bits : value(j, 0).bits, given = odd ? value(j, 0).bits : value(j, 1).bits;
    } else {
      mine = given = value(j, 0).bits;
    }
    const uint32_t got = __shfl_xor_sync(kAllLanes, given, 4),
                   pair = odd ? got | mine << 16 : mine | got << 16;
    uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int from = Tile::kMine == 2 ? 4 * (2 * i + row % 2) + row / 2 : 8 * i + row;
      words[i] = __shfl_sync(kAllLanes, pair, from);
    }
    const uint32_t to =
        place + static_cast<uint32_t>((j * kMatrix + column_of<Tile>(sequence) * 8) * sizeof(S));
#pragma unroll
    for (int first = 0; first < Tile::kBlocks; first += kAtOnce) {
      const unsigned block = static_cast<unsigned>(first + lane() / kRows);
      if (sequence < sequences && block < Tile::kBlocks)
        ptx::store_async(ptx::map_shared(to, block), words, ptx::map_shared(barrier, block));
    }
  }
}

// The sums of a lane's rows, for its sequences: where two warps share k, of both, of which each gives the
// other the sums it does not finish itself. Two buffers take turns: the barrier of the next step is between.
template <class Tile, int Chains>
__device__ __forceinline__ void finish_sums(const float (&sums)[Tile::kTall][Chains][4], float* buffer,
                                            float (&rows)[2 * Tile::kTall][Tile::kMine]) {
  constexpr int kRows = 2 * Tile::kTall;
  if constexpr (Tile::kSplit == 1) {
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
#pragma unroll
      for (int e = 0; e < Tile::kMine; ++e) rows[row][e] = chains_sum(sums[row / 2], row % 2 * 2 + e);
    }
  } else {
    const bool second = Tile::part() == 1;
    Pack<float, kRows> given;
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      const float even = chains_sum(sums[row / 2], row % 2 * 2),
                  odd = chains_sum(sums[row / 2], row % 2 * 2 + 1);
      rows[row][0] = second ? odd : even, given.at[row] = second ? even : odd;
    }
    const int thread = static_cast<int>(threadIdx.x), other = thread ^ (Tile::kThreads / 2);
    shared_store(buffer + thread * kRows, given);
    ptx::named_barrier(1 + Tile::group(), 2 * kWarp);
    const auto got = shared_load<Pack<float, kRows>>(buffer + other * kRows);
#pragma unroll
    for (int row = 0; row < kRows; ++row) rows[row][0] += got.at[row];
  }
}

template <class S, class Tile, class Steps>
__global__ void __launch_bounds__(Tile::kThreads, 1)
    rnn_forward_cluster(Steps plan, RnnPlaces places, int units_each, int sequences_each) {
  constexpr int kMine = Tile::kMine, kUnits = Tile::kLaneUnits, kGates = Tile::kGates;
  constexpr int kSteps = Tile::kAll / 16 / Tile::kSplit, kChains = Tile::kTall == 1 ? 4 : 2;
  auto& shared = shared_memory<ClusterForwardShared<S, Tile>>();
  const ForwardDirection<S>& dir = plan.direction[blockIdx.y];
  const bool from_the_end = blockIdx.y == 1, lstm = plan.kind == FASTDL_RNN_LSTM;
  const int rank = static_cast<int>(ptx::cluster_rank()), g = lane() / 4, k0 = Tile::part() * kSteps * 16;
  const int hidden = static_cast<int>(plan.hidden), gates = kGates == 1 ? 1 : lstm ? 4 : 3;
  const ClusterUnits units{hidden, units_each};
  const int64_t first = blockIdx.x / Tile::kBlocks * static_cast<int64_t>(sequences_each);
  const int sequences =
      static_cast<int>(places.sequences - first < sequences_each ? places.sequences - first : sequences_each);
  const int place0 = rank * Tile::kUnits + Tile::group() * Tile::kWarpUnits;

  uint32_t left[Tile::kTall][kSteps][4];
#pragma unroll
  for (int i = 0; i < Tile::kTall; ++i) {
    load_left(shared.staged.at(warp() * kStaged), left[i], 16 * i, [&](int row, int k) {
      const int gate = kGates == 1 ? 0 : row / 8,
                unit = units.at<Tile>(place0 + (kGates == 1 ? row : row % 8)), from = units.at<Tile>(k0 + k);
      if (unit < 0 || from < 0 || gate >= gates) return S{};
      return dir.hh.b[(static_cast<int64_t>(gate) * hidden + unit) * dir.hh.b_stride + from];
    });
  }
  const Arrivals arrivals{ptx::shared_address(shared.full.data()),
                          static_cast<unsigned>(Tile::kAll / 8 * sequences * 16)};
  if (threadIdx.x == 0) arrivals.start(places.steps);
  for (int i = static_cast<int>(threadIdx.x); i < shared.h.size(); i += Tile::kThreads) shared.h[i] = S{};
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); dir.first && i < Tile::kAll * sequences; i += Tile::kThreads) {
    const int k = i / sequences, j = i % sequences, unit = units.at<Tile>(k);
    if (unit >= 0) shared.h[matrix_place<Tile>(k, j)] = dir.first[(first + j) * plan.state + unit];
  }

  // Of a lane: its units (-1: none), sequences and what they have from step to step.
  int unit[kUnits];
  int64_t sequence[kMine];
  S h[kUnits][kMine];
  float state[kUnits][kMine], bias[kUnits][kGates];
#pragma unroll
  for (int e = 0; e < kMine; ++e) {
    const int i = Tile::sequence(e);
    sequence[e] = i < sequences ? first + i : places.sequences;
  }
#pragma unroll
  for (int j = 0; j < kUnits; ++j) {
    unit[j] = units.at<Tile>(place0 + 8 * j + g);
#pragma unroll
    for (int i = 0; i < kGates; ++i) {
      bias[j][i] = dir.bias && unit[j] >= 0 && i < gates ? widen(dir.bias[i * hidden + unit[j]]) : 0.f;
    }
#pragma unroll
    for (int e = 0; e < kMine; ++e) {
      const bool there = unit[j] >= 0 && sequence[e] < places.sequences;
      h[j][e] = there && dir.first ? dir.first[sequence[e] * plan.state + unit[j]] : S{};
      state[j][e] = there && kGates == 4 ? dir.cell[sequence[e] * hidden + unit[j]] : 0.f;
    }
  }

  const auto each_input = [&](const StepRows& rows, auto&& f) {
#pragma unroll
    for (int j = 0; j < kUnits; ++j) {
#pragma unroll
      for (int e = 0; e < kMine; ++e) {
        if (unit[j] < 0 || sequence[e] >= rows.batch) continue;
        const float* const x = dir.gates + (rows.row + sequence[e]) * plan.count + unit[j];
#pragma unroll
        for (int i = 0; i < kGates; ++i) {
          if (i < gates) f(x + i * hidden, j, e, i);
        }
      }
    }
  };
  const auto read = [&](const StepRows& rows, ForwardInputs<Tile>& in) {
    each_input(rows, [&](const float* x, int j, int e, int i) { in.x[j][e][i] = *x; });
  };

  StepRows before{0, 0}, rows = step_rows(places, 0, from_the_end), next = step_rows(places, 1, from_the_end),
                         far = step_rows(places, kAhead, from_the_end);
  ForwardInputs<Tile> inputs{}, coming{};
  read(rows, inputs);
  ptx::cluster_arrive();
  ptx::cluster_wait();

  for (int64_t step = 0; step < places.steps; ++step) {
    read(next, coming);
    each_input(far, [](const float* x, int, int, int) { ptx::prefetch_l2(x); });
    const StepRows after = step_rows(places, step + 2, from_the_end);
    far = step_rows(places, step + 1 + kAhead, from_the_end);
    if (step > 0) arrivals.wait(step, places.steps);
    float sums[Tile::kTall][kChains][4] = {};
    multiply_matrices<S>(
        left, shared.h.data() + step % 2 * (Tile::kAll * Tile::kColumns) + k0 * Tile::kColumns, sums);
    float rows_of[2 * Tile::kTall][kMine];
    finish_sums<Tile>(sums, shared.sums.data() + step % 2 * (Tile::kThreads * 2 * Tile::kTall), rows_of);

    GateValues<float> values[kUnits][kMine];
    bool now[kUnits][kMine];
#pragma unroll
    for (int j = 0; j < kUnits; ++j) {
#pragma unroll
      for (int e = 0; e < kMine; ++e) {
        now[j][e] = unit[j] >= 0 && sequence[e] < rows.batch;
        // A sequence that begins without h0 has nothing that may be multiplied, were it by infinite weights.
        const bool begun = dir.first || sequence[e] < before.batch;
        const float (&x)[kGates] = inputs.x[j][e];
        if constexpr (kGates == 4) {
          float z[4], in[4];
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            z[i] = begun ? rows_of[i][e] : 0.f;
            in[i] = x[i] + bias[j][i];
          }
          if (!lstm) in[2] = x[2], in[3] = bias[j][2];
          values[j][e] = gate_values<FastGateFunctions>(lstm, z, in, state[j][e]);
          if (now[j][e]) state[j][e] = values[j][e].state;
        } else {
          const float z = (begun ? rows_of[j][e] : 0.f) + (x[0] + bias[j][0]);
          values[j][e].h = plan.kind == FASTDL_RNN_TANH ? FastGateFunctions::tanh(z) : at_least(0.f, z);
        }
        if (now[j][e]) h[j][e] = narrow<S>(values[j][e].h);
      }
    }
    if (step + 1 < places.steps) {
      const auto buffer = static_cast<int>((step + 1) % 2);
      send_states<S, Tile>(
          ptx::shared_address(shared.h.at(buffer * (Tile::kAll * Tile::kColumns) + place0 / 8 * kMatrix)),
          arrivals.full + 8u * static_cast<unsigned>(buffer), sequences,
          [&](int j, int e) { return h[j][e]; });
    }

    // Nobody waits for what follows.
#pragma unroll
    for (int j = 0; j < kUnits; ++j) {
#pragma unroll
      for (int e = 0; e < kMine; ++e) {
        if (!now[j][e]) continue;
        const int64_t row = rows.row + sequence[e];
        plan.y[row * plan.width + blockIdx.y * plan.state + unit[j]] = h[j][e];
        if (kGates == 1 || !dir.saved) continue;
        dir.saved[row * hidden + unit[j]] = values[j][e].saved;
#pragma unroll
        for (int i = 0; i < kGates; ++i) {
          if (i < gates) dir.gates[row * plan.count + i * hidden + unit[j]] = values[j][e].gate[i];
        }
      }
    }
    before = rows, rows = next, next = after;
    inputs = coming;
  }
#pragma unroll
  for (int j = 0; j < kUnits; ++j) {
#pragma unroll
    for (int e = 0; e < kMine; ++e) {
      if (unit[j] < 0 || sequence[e] >= places.sequences) continue;
      if (dir.h_n) dir.h_n[sequence[e] * plan.state + unit[j]] = h[j][e];
      if (dir.c_n) dir.c_n[sequence[e] * hidden + unit[j]] = narrow<S>(state[j][e]);
    }
  }
  ptx::cluster_arrive();
  ptx::cluster_wait();
}

}  // namespace fastdl::cuda
