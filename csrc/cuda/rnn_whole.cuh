// The way into the kernels that take a layer through all its steps over the whole device.
#pragma once

#include "cuda/rnn_parts.cuh"

namespace fastdl::cuda {

template <class S, int Tall, class Steps>
void launch_all_steps(Context* context, const Steps& plan, const RnnPlaces& places, int64_t directions,
                      const RnnResidentPlan& chosen, int planes) {
  const dim3 grid(static_cast<unsigned>(chosen.row_blocks), static_cast<unsigned>(chosen.unit_blocks),
                  static_cast<unsigned>(directions));
  launch(context, FASTDL_KERNEL(rnn_all_steps<S, Tall, Steps>),
         {grid, kResidentThreads, chosen.shared_bytes, true}, plan, places, static_cast<int>(chosen.units),
         chosen.buffers, planes);
}

// places: of the device; what steps hand on is all ones. False if the layer is too large.
template <class S, class Steps>
bool all_steps(Context* context, const Steps& plan, const RnnPlaces& places, int64_t directions) {
  using Cell = typename Steps::Cell;
  constexpr int kLeast = kLeastTall<Cell>, kMost = kMostTall<S, Cell>;
  const StepProduct<S>& p = plan.direction[0].hh;
  const RnnResidentPlan chosen =
      rnn_resident_plan(places.steps, places.sequences, p.units, p.gates, p.k, sizeof(S), directions, kLeast,
                        kMost, most_shared_bytes(), multiprocessors());
  if (!can_launch_together()) return false;
  if constexpr (sizeof(S) == 2 && std::is_same_v<Cell, BackwardCell<S>>) {
    if (all_steps_in_parts(context, plan, places, directions, chosen)) return true;
  }
  if (!chosen.possible) return false;
  int planes = 0;
  with_planes<S>(context, [&](auto count) { planes = count; });
  const auto launch_tall = [&](auto tall) {
    if constexpr (tall <= kMost) launch_all_steps<S, tall>(context, plan, places, directions, chosen, planes);
  };
  switch (chosen.tall - kLeast) {
    case 0:
      launch_tall(std::integral_constant<int, kLeast>{});
      break;
    case 1:
      launch_tall(std::integral_constant<int, kLeast + 1>{});
      break;
    default:
      launch_tall(std::integral_constant<int, kLeast + 2>{});
  }
  return true;
}

}  // namespace fastdl::cuda
