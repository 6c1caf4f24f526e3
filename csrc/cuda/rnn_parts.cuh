// All steps of a layer in one kernel where a step's product is long (backward, whose k are the gates of all
// units): k is cut between the blocks of a group, too, so that each reads a part of what the step before made
// instead of all of it. The group's sums of its 64 units go through the L2 cache once more, each to the block
// that has the unit's cells.
#pragma once

#include <cstdlib>
#include <cstring>

#include "cuda/rnn_resident.cuh"

namespace fastdl::cuda {

struct RnnPartsShape {
  int groups, parts, finished, buffers;  // as in RnnPartsPlan
  int64_t k_each;
  uint64_t* sums;  // [directions, 2, groups, parts, sequences, units of a group]: of the steps in turns
};

// A sum and the number of the step it belongs to are one word, so whoever reads it sees whether it has come.
// Two places take turns: nobody writes a step's sums before all of the group have read those of two steps
// before, since the gradients it multiplies are made from what they read.
__device__ __forceinline__ uint64_t sum_word(float sum, uint32_t step) {
  return uint64_t{step} << 32 | __float_as_uint(sum);
}

template <class S, class Steps>
__global__ void __launch_bounds__(kResidentThreads, 1)
    rnn_all_steps_in_parts(Steps plan, RnnPlaces places, RnnPartsShape shape) {
  using Cell = typename Steps::Cell;
  static_assert(Cell::kSlots == 1 && sizeof(S) == 2);
  constexpr int Tall = kPartsTall, kUnits = 16 * Tall, kSums = kResidentWarps * kUnits * kResidentRows;
  auto& sums_of = shared_memory<SharedArray<float, kSums>>();
  const int tid = static_cast<int>(threadIdx.x);
  const int group = static_cast<int>(blockIdx.y) / shape.parts,
            part = static_cast<int>(blockIdx.y) % shape.parts;
  const int64_t unit0 = static_cast<int64_t>(group) * kUnits, d = blockIdx.z, k0 = part * shape.k_each;
  const auto of_part = [&](StepProduct<S>& p) {
    p.a += k0, p.b += k0;
    p.k = p.k - k0 < shape.k_each ? p.k - k0 : shape.k_each;
  };
  StepProduct<S> hh = plan.direction[d].hh;
  hh.a = hh.b;  // none yet
  of_part(hh);
  ResidentWeights<S, Tall> weights;
  weights.rest = reinterpret_cast<Handed<S>*>(&sums_of + shape.buffers) + tid;
  const int count = resident_count<S>(hh.k);
  weights.load({hh, unit0, kUnits}, count);
  // The cell that this thread finishes.
  const int sequence = tid / shape.finished, unit = part * shape.finished + tid % shape.finished;
  int parity = 0;
  for (int64_t step = 0; step < places.steps; ++step) {
    StepProduct<S> p;
    Cell cell;
    plan.prepare(places, step, d, p, cell);
    of_part(p);
    const auto tag = static_cast<uint32_t>(step + 1);
    const int64_t apart = places.sequences * kUnits;
    uint64_t* const sums_to = shape.sums + ((d * 2 + step % 2) * shape.groups + group) * shape.parts * apart;
    bool early = true;
    for (int64_t row0 = static_cast<int64_t>(blockIdx.x) * kResidentRows; row0 < p.rows;
         row0 += static_cast<int64_t>(gridDim.x) * kResidentRows) {
      const int64_t row = row0 + sequence;
      const bool mine = sequence < kResidentRows && row < p.rows && unit < kUnits && unit0 + unit < p.units;
      typename Cell::Before before = {};
      if (mine) before = cell.before(row, unit0 + unit);
      if (row0 < p.a_rows) {
        ResidentSums<Tall> sums = {};
        multiply_resident<S, Tall>(sums, weights, {p, row0}, count, early, 1);
        early = false;
        float* const buffer = sums_of.data() + parity * kSums;
        // A barrier stands between those who read sums and those who next write there.
        if (shape.buffers == 1) __syncthreads();
        else parity ^= 1;
        store_sums<Tall>(buffer, sums);
        __syncthreads();
#pragma unroll 2  // all four at once take registers that weights have
        for (int i = 0; i < kUnits * kResidentRows / kResidentThreads; ++i) {
          const int at = i * kResidentThreads + tid, u = at % kUnits, r = at / kUnits;
          if (row0 + r < p.a_rows && unit0 + u < p.units) {
            ptx::store_relaxed(sums_to + part * apart + (row0 + r) * kUnits + u,
                               sum_word(load_sum<Tall>(buffer, u, r), tag));
          }
        }
      }
      if (!mine) continue;
      float sum[1] = {};
      if (row < p.a_rows) {
        const uint64_t* const from = sums_to + row * kUnits + unit;
        uint64_t words[kMostParts];
#pragma unroll
        for (int i = 0; i < kMostParts; ++i) {
          if (i < shape.parts) words[i] = ptx::load_relaxed(from + i * apart);
        }
#pragma unroll
        for (int i = 0; i < kMostParts; ++i) {
          if (i >= shape.parts) continue;
          while (static_cast<uint32_t>(words[i] >> 32) != tag) {
            ptx::look_again();
            words[i] = ptx::load_relaxed(from + i * apart);
          }
          sum[0] += __uint_as_float(static_cast<uint32_t>(words[i]));
        }
      }
      cell(row, unit0 + unit, sum, before);
      plan.prefetch(places, step + kResidentPrefetch, d, row, unit0 + unit);
    }
  }
}

// FASTDL_CUDA_RNN_PARTS: always (where it can be), never, or unset: where it suits.
inline bool parts_wanted(const RnnPartsPlan& plan) {
  const char* const text = std::getenv("FASTDL_CUDA_RNN_PARTS");
  if (text && std::strcmp(text, "never") == 0) return false;
  return text && std::strcmp(text, "always") == 0 ? plan.possible : plan.suits;
}

// whole: how the layer would be cut otherwise. False if that is to be done.
template <class S>
bool all_steps_in_parts(Context* context, const BackwardSteps<S>& plan, const RnnPlaces& places,
                        int64_t directions, const RnnResidentPlan& whole) {
  const StepProduct<S>& p = plan.direction[0].hh;
  const RnnPartsPlan chosen = rnn_parts_plan(places.steps, places.sequences, p.units, p.k, directions, whole,
                                             most_shared_bytes(), multiprocessors());
  if (!parts_wanted(chosen)) return false;
  const auto words =
      static_cast<size_t>(2 * directions * chosen.groups * chosen.parts * places.sequences) * 16 * kPartsTall;
  const Workspace sums(context, words * sizeof(uint64_t));
  check_cuda(cudaMemsetAsync(sums.as<void>(), 0, words * sizeof(uint64_t), stream_of(context)), "rnn");
  const RnnPartsShape shape{static_cast<int>(chosen.groups),
                            chosen.parts,
                            chosen.finished,
                            chosen.buffers,
                            chosen.k_each,
                            sums.as<uint64_t>()};
  const dim3 grid(static_cast<unsigned>(chosen.row_blocks),
                  static_cast<unsigned>(chosen.groups * chosen.parts), static_cast<unsigned>(directions));
  launch(context, FASTDL_KERNEL(rnn_all_steps_in_parts<S, BackwardSteps<S>>),
         {grid, kResidentThreads, chosen.shared_bytes, true}, plan, places, shape);
  return true;
}

}  // namespace fastdl::cuda
