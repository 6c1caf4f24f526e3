// All steps of a layer, backward: see rnn_sm90_tile.cuh. A block multiplies the gradients of its own units'
// gates with their weights, which gives a part of the gradient of every unit's h, and sends each block the
// parts of its units; those are added in the order of the blocks. (Sending the gates' gradients instead and
// having all of them multiplied by the weights of a block's units would move twice as much: four gates of 2
// bytes to every block, for 4 bytes to one.)
#pragma once

#include "cuda/rnn_sm90_tile.cuh"

namespace fastdl::cuda {

template <class S, class Tile>
struct ClusterBackwardShared {
  static constexpr int kPart = Tile::kUnits * Tile::kSequences;  // of one block
  SharedArray<float, 2 * Tile::kBlocks * kPart> parts;
  // The gates' gradients, k being 4 times the unit and the gate.
  SharedArray<S, 2 * Tile::kGates * Tile::kUnits * Tile::kColumns> gates;
  SharedArray<S, Tile::kWarps * kStaged> staged;
  SharedArray<uint64_t, 2> full;
};

// What a lane needs of a step beside the sums, as it lies in memory.
template <class S, class Tile>
struct BackwardInputs {
  float gate[Tile::kLaneUnits][Tile::kMine][Tile::kGates];
  float state[Tile::kLaneUnits][Tile::kMine], before[Tile::kLaneUnits][Tile::kMine];
  S h[Tile::kLaneUnits][Tile::kMine], grad[Tile::kLaneUnits][Tile::kMine];
};

template <class S, class Tile, class Steps>
__global__ void __launch_bounds__(Tile::kThreads, 1)
    rnn_backward_cluster(Steps plan, RnnPlaces places, int units_each, int sequences_each) {
  constexpr int kMine = Tile::kMine, kEach = Tile::kEach, kUnits = Tile::kLaneUnits, kGates = Tile::kGates;
  constexpr int kDepth = kGates * Tile::kUnits, kSteps = kDepth / 16;
  constexpr int kTall = Tile::kAll / 16 / Tile::kWarps, kChains = kTall >= 4 ? 1 : 2;
  using Shared = ClusterBackwardShared<S, Tile>;
  auto& shared = shared_memory<Shared>();
  const BackwardDirection<S>& dir = plan.direction[blockIdx.y];
  const int kind = plan.kind;
  const bool from_the_end = blockIdx.y == 0, lstm = kind == FASTDL_RNN_LSTM, gru = kind == FASTDL_RNN_GRU;
  const int rank = static_cast<int>(ptx::cluster_rank()), g = lane() / 4, t = lane() % 4;
  const int hidden = static_cast<int>(plan.hidden), gates = kGates == 1 ? 1 : lstm ? 4 : 3;
  const ClusterUnits units{hidden, units_each};
  const int64_t first = blockIdx.x / Tile::kBlocks * static_cast<int64_t>(sequences_each);
  const int sequences =
      static_cast<int>(places.sequences - first < sequences_each ? places.sequences - first : sequences_each);
  const int own0 = Tile::group() * Tile::kWarpUnits, place0 = rank * Tile::kUnits + own0;

  // Of all units' rows a warp has kTall times 16.
  uint32_t left[kTall][kSteps][4];
#pragma unroll
  for (int i = 0; i < kTall; ++i) {
    load_left(shared.staged.at(warp() * kStaged), left[i], (warp() * kTall + i) * 16, [&](int row, int k) {
      const int gate = k % kGates, from = units.at<Tile>(rank * Tile::kUnits + k / kGates),
                unit = units.at<Tile>(row);
      if (unit < 0 || from < 0 || gate >= gates) return S{};
      return dir.hh.b[unit * dir.hh.b_stride + gate * hidden + from];
    });
  }
  const int lanes = (sequences + kEach - 1) / kEach;  // of four, that have sequences
  const Arrivals arrivals{ptx::shared_address(shared.full.data()),
                          static_cast<unsigned>(Tile::kAll * lanes * kEach * 4)};
  if (threadIdx.x == 0) arrivals.start(places.steps);
  for (int i = static_cast<int>(threadIdx.x); i < shared.gates.size(); i += Tile::kThreads)
    shared.gates[i] = S{};

  int unit[kUnits];
  int64_t sequence[kMine];
  float carry[kUnits][kMine], last[kUnits][kMine], start[kUnits][kMine];
#pragma unroll
  for (int e = 0; e < kMine; ++e) {
    const int i = Tile::sequence(e);
    sequence[e] = i < sequences ? first + i : places.sequences;
  }
#pragma unroll
  for (int j = 0; j < kUnits; ++j) {
    unit[j] = units.at<Tile>(place0 + 8 * j + g);
#pragma unroll
    for (int e = 0; e < kMine; ++e) {
      const bool there = unit[j] >= 0 && sequence[e] < places.sequences;
      const int64_t i = there ? sequence[e] * hidden + unit[j] : 0;
      carry[j][e] = there && kGates == 4 ? dir.carry[i] : 0.f;
      last[j][e] = there && dir.grad_h_n ? widen(dir.grad_h_n[i]) : 0.f;
      start[j][e] = there && dir.first_state ? widen(dir.first_state[i]) : 0.f;
    }
  }

  // before: where the rows of the step before, in the order of the layer, lie.
  const auto read = [&](const StepRows& rows, const StepRows& before, BackwardInputs<S, Tile>& in) {
#pragma unroll
    for (int j = 0; j < kUnits; ++j) {
#pragma unroll
      for (int e = 0; e < kMine; ++e) {
        if (unit[j] < 0 || sequence[e] >= rows.batch) continue;
        const int64_t row = rows.row + sequence[e], row_before = before.row + sequence[e];
        const bool has_before = sequence[e] < before.batch;
        const int64_t y = blockIdx.y * plan.state + unit[j];
        if (plan.grad_y) in.grad[j][e] = plan.grad_y[row * plan.width + y];
        if constexpr (kGates == 1) {
          in.h[j][e] = plan.y[row * plan.width + y];
        } else {
          const float* const gate = dir.gates + row * plan.count + unit[j];
#pragma unroll
          for (int i = 0; i < kGates; ++i) {
            if (i < gates) in.gate[j][e][i] = gate[i * hidden];
          }
          in.state[j][e] = dir.state[row * hidden + unit[j]];
          if (has_before && lstm) in.before[j][e] = dir.state[row_before * hidden + unit[j]];
          if (has_before && gru) in.h[j][e] = plan.y[row_before * plan.width + y];
        }
      }
    }
  };

  const auto prefetch = [&](const StepRows& rows) {
#pragma unroll
    for (int j = 0; j < kUnits; ++j) {
#pragma unroll
      for (int e = 0; e < kMine; ++e) {
        if (unit[j] < 0 || sequence[e] >= rows.batch) continue;
        const int64_t row = rows.row + sequence[e], y = row * plan.width + blockIdx.y * plan.state + unit[j];
        if (plan.grad_y) ptx::prefetch_l2(plan.grad_y + y);
        if (!lstm) ptx::prefetch_l2(plan.y + y);
        if constexpr (kGates == 4) {
#pragma unroll
          for (int i = 0; i < kGates; ++i) {
            if (i < gates) ptx::prefetch_l2(dir.gates + row * plan.count + i * hidden + unit[j]);
          }
          ptx::prefetch_l2(dir.state + row * hidden + unit[j]);
        }
      }
    }
  };

  StepRows after{0, 0}, rows = step_rows(places, 0, from_the_end), next = step_rows(places, 1, from_the_end),
                        then = step_rows(places, 2, from_the_end),
                        far = step_rows(places, kAhead, from_the_end);
  BackwardInputs<S, Tile> inputs{}, coming{};
  read(rows, next, inputs);
  __syncthreads();
  ptx::cluster_arrive();
  ptx::cluster_wait();

  for (int64_t step = 0; step < places.steps; ++step) {
    read(next, then, coming);
    prefetch(far);
    const StepRows later = step_rows(places, step + 3, from_the_end);
    far = step_rows(places, step + 1 + kAhead, from_the_end);
    BackwardTerms<float> terms[kUnits][kMine];
    float outside[kUnits][kMine];
#pragma unroll
    for (int j = 0; j < kUnits; ++j) {
#pragma unroll
      for (int e = 0; e < kMine; ++e) {
        const bool begun = sequence[e] < after.batch, has_before = sequence[e] < next.batch;
        outside[j][e] = plan.grad_y ? widen(inputs.grad[j][e]) : 0.f;
        if (!begun) outside[j][e] += last[j][e];
        if constexpr (kGates == 4) {
          if (lstm) {
            terms[j][e] = lstm_terms<FastGateFunctions>(inputs.gate[j][e], inputs.state[j][e],
                                                        has_before ? inputs.before[j][e] : start[j][e]);
          } else {
            terms[j][e] = gru_terms(inputs.gate[j][e], inputs.state[j][e],
                                    has_before ? widen(inputs.h[j][e]) : start[j][e]);
          }
        }
      }
    }
    if (step > 0) arrivals.wait(step, places.steps);

    S gradients[kUnits][kMine][kGates], recurrent[kUnits][kMine];  // recurrent: of a GRU's new gate
    bool now[kUnits][kMine];
#pragma unroll
    for (int j = 0; j < kUnits; ++j) {
      float sums[kMine] = {};
      const float* const parts = shared.parts.data() + step % 2 * (Tile::kBlocks * Shared::kPart) +
                                 (own0 + 8 * j + g) * Tile::kSequences + Tile::sequence(0);
      if (step > 0) {
#pragma unroll
        for (int block = 0; block < Tile::kBlocks; ++block) {
          const auto part = shared_load<Pack<float, kMine>>(parts + block * Shared::kPart);
#pragma unroll
          for (int e = 0; e < kMine; ++e) sums[e] += part.at[e];
        }
      }
#pragma unroll
      for (int e = 0; e < kMine; ++e) {
        now[j][e] = unit[j] >= 0 && sequence[e] < rows.batch;
        const float dh = (sequence[e] < after.batch ? sums[e] : 0.f) + outside[j][e];
        Pack<S, kGates> row{};
        if constexpr (kGates == 4) {
          float reaches = carry[j][e];
          const GateGradients<float> d = gate_gradients(lstm, terms[j][e], dh, reaches);
          if (now[j][e]) carry[j][e] = reaches;
#pragma unroll
          for (int i = 0; i < 4; ++i) row.at[i] = gradients[j][e][i] = narrow<S>(d.gate[i]);
          recurrent[j][e] = narrow<S>(d.recurrent);
          if (gru) row.at[2] = recurrent[j][e];
        } else {
          row.at[0] = gradients[j][e][0] = narrow<S>(plain_gradient(kind, widen(inputs.h[j][e]), dh));
        }
        if (!now[j][e]) row = {};
        const int k = (own0 + 8 * j + g) * kGates;
        shared_store(shared.gates.data() + step % 2 * (kDepth * Tile::kColumns) +
                         matrix_place<Tile>(k, Tile::sequence(e)),
                     row);
      }
    }
    __syncthreads();
    if (step + 1 < places.steps) {
      float sums[kTall][kChains][4] = {};
      multiply_matrices<S>(left, shared.gates.data() + step % 2 * (kDepth * Tile::kColumns), sums);
      const auto buffer = static_cast<unsigned>((step + 1) % 2);
#pragma unroll
      for (int i = 0; i < kTall; ++i) {
        const int row = (warp() * kTall + i) * 16, in_block = row % Tile::kUnits + g;
        const auto block = static_cast<unsigned>(row / Tile::kUnits);
        const uint32_t barrier = ptx::map_shared(arrivals.full + 8u * buffer, block);
        const uint32_t to = ptx::map_shared(
            ptx::shared_address(
                shared.parts.at((static_cast<int>(buffer) * Tile::kBlocks + rank) * Shared::kPart +
                                in_block * Tile::kSequences + kEach * t)),
            block);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          uint32_t words[kEach];
#pragma unroll
          for (int e = 0; e < kEach; ++e) words[e] = __float_as_uint(chains_sum(sums[i], 2 * half + e));
          if (t < lanes)
            ptx::store_async(to + static_cast<uint32_t>(half * 8 * Tile::kSequences * 4), words, barrier);
        }
      }
    }

    // Nobody waits for what follows.
#pragma unroll
    for (int j = 0; j < kUnits; ++j) {
#pragma unroll
      for (int e = 0; e < kMine; ++e) {
        if (!now[j][e]) continue;
        const int64_t at = (rows.row + sequence[e]) * plan.gates_stride + unit[j];
#pragma unroll
        for (int i = 0; i < kGates; ++i) {
          if (i >= gates) continue;
          dir.gates_x[at + i * hidden] = gradients[j][e][i];
          if (gru) dir.gates_h[at + i * hidden] = i == 2 ? recurrent[j][e] : gradients[j][e][i];
        }
      }
    }
    after = rows, rows = next, next = then, then = later;
    inputs = coming;
  }
#pragma unroll
  for (int j = 0; j < kUnits; ++j) {
#pragma unroll
    for (int e = 0; e < kMine; ++e) {
      if (kGates == 4 && unit[j] >= 0 && sequence[e] < places.sequences)
        dir.carry[sequence[e] * hidden + unit[j]] = carry[j][e];
    }
  }
  ptx::cluster_arrive();
  ptx::cluster_wait();
}

}  // namespace fastdl::cuda
