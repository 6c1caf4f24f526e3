// All steps of a layer in one kernel: every block keeps the weights of its units in shared memory from the
// first step to the last, and waits after each step for the blocks that have the other units of its sequences
// (Diamos et al. 2016, "Persistent RNNs: Stashing recurrent weights on-chip").
#pragma once

#include "cuda/launch_together.cuh"
#include "cuda/rnn_config.h"
#include "cuda/rnn_steps.cuh"

namespace fastdl::cuda {

constexpr int kResidentStages = 4;

// The weights follow.
template <class S>
struct ResidentShared {
  SharedArray<S, kResidentStages * kStepRows * kStepDepth<S>> a;
};

template <class S>
constexpr int64_t resident_tiles(int64_t k) {
  return (k + kStepDepth<S> - 1) / kStepDepth<S>;
}
template <class S>
size_t resident_bytes(int64_t k, int columns) {
  return sizeof(ResidentShared<S>) +
         static_cast<size_t>(resident_tiles<S>(k) * kStepDepth<S> * columns) * sizeof(S);
}

// arrived: zeros, one for every block of rows and direction.
template <class S, int Planes, class Steps>
__global__ void __launch_bounds__(kStepThreads)
    rnn_all_steps(Steps plan, RnnPlaces places, unsigned* arrived) {
  using Cell = typename Steps::Cell;
  constexpr int kSlots = Cell::kSlots, kColumns = StepBlock<kSlots>::kColumns;
  auto& shared = shared_memory<ResidentShared<S>>();
  S *const tiles = shared.a.data(), *const weights = reinterpret_cast<S*>(&shared + 1);
  const int64_t unit0 = static_cast<int64_t>(blockIdx.y) * StepBlock<kSlots>::kUnits;
  {
    const StepProduct<S>& p = plan.direction[blockIdx.z].hh;
    for (int64_t tile = 0; tile < resident_tiles<S>(p.k); ++tile) {
      fetch_step<S, kColumns>(weights + tile * kStepDepth<S> * kColumns, p.b, tile * kStepDepth<S>, p.k,
                              [&](int j) { return step_weights<kSlots>(p, unit0, j); });
    }
    ptx::cp_async_commit();
    ptx::cp_async_wait<0>();
  }
  unsigned* const count = arrived + blockIdx.z * gridDim.x + blockIdx.x;
  for (int64_t step = 0; step < places.steps; ++step) {
    StepProduct<S> p;
    Cell cell;
    plan.prepare(places, step, blockIdx.z, p, cell);
    const unsigned awaited = static_cast<unsigned>(step * gridDim.y);
    bool waited = false;
    for (int64_t row0 = static_cast<int64_t>(blockIdx.x) * kStepRows; row0 < p.rows;
         row0 += static_cast<int64_t>(gridDim.x) * kStepRows) {
      StepBefore<Cell> before;
      begin_step(p, cell, row0, unit0, before);
      if (!waited) await(count, awaited);
      waited = true;
      bool by_fma = false;
      if (row0 < p.a_rows)
        by_fma = multiply_step<Planes, kSlots, kResidentStages, true>(tiles, weights, p, row0, unit0);
      finish_step(reinterpret_cast<const float*>(tiles), p, cell, row0, unit0, by_fma, before);
      __syncthreads();  // the sums have been read
    }
    if (!waited) await(count, awaited);
    arrive(count);
  }
}

// places: of the device. False if the layer is too large.
template <class S, class Steps>
bool all_steps(Context* context, const Steps& plan, const RnnPlaces& places, int64_t directions) {
  constexpr int kSlots = Steps::Cell::kSlots, kColumns = StepBlock<kSlots>::kColumns,
                kUnits = StepBlock<kSlots>::kUnits;
  const StepProduct<S>& p = plan.direction[0].hh;
  const int64_t unit_blocks = (p.units + kUnits - 1) / kUnits;
  const size_t bytes = resident_bytes<S>(p.k, kColumns);
  const RnnResidentPlan chosen =
      rnn_resident_plan(places.steps, (places.sequences + kStepRows - 1) / kStepRows, unit_blocks, directions,
                        bytes, most_shared_bytes(), multiprocessors());
  if (!chosen.possible || !can_launch_together()) return false;
  const int64_t counts = chosen.row_blocks * directions;
  const Workspace arrived(context, static_cast<size_t>(counts) * sizeof(unsigned));
  check_cuda(cudaMemsetAsync(arrived.as<void>(), 0, static_cast<size_t>(counts) * sizeof(unsigned),
                             stream_of(context)),
             "rnn");
  const dim3 grid(static_cast<unsigned>(chosen.row_blocks), static_cast<unsigned>(unit_blocks),
                  static_cast<unsigned>(directions));
  with_planes<S>(context, [&](auto planes) {
    launch(context, FASTDL_KERNEL(rnn_all_steps<S, decltype(planes)::value, Steps>),
           {grid, kStepThreads, bytes, true}, plan, places, arrived.as<unsigned>());
  });
  return true;
}

}  // namespace fastdl::cuda
