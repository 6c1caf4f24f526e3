// The end of bfloat16 tiles: their activation.
#pragma once

#include "cpu/kernels.h"

namespace fastdl::cpu {

inline bool in_registers(const fastdl_activation& f) {
  return f.kind == FASTDL_ACT_NONE || f.kind == FASTDL_ACT_RELU;
}

// run(tile), through the activation. Those that are not done in registers are computed on float32 numbers,
// before the one rounding: a bfloat16 C goes through `scratch` (rows x cols) on its way.
template <class Run>
void run_end(const fastdl_activation& activation, const Bf16Tile& t, float* scratch, Run&& run) {
  if (!t.finish || in_registers(activation)) return run(t);
  Bf16Tile through = t;
  if (!t.c32) {
    through.c32 = scratch;
    through.ldc = t.cols;
    if (t.beta != 0) {
      for (int64_t r = 0; r < t.rows; ++r)
        kernels().convert->bf16.widen(t.cols, t.c + r * t.ldc, 1, scratch + r * t.cols, 1);
    }
  }
  run(through);
  const auto& table = table_for<float>(*kernels().activation);
  for (int64_t r = 0; r < t.rows; ++r) {
    float* const row = through.c32 + r * through.ldc;
    table.forward(activation, t.cols, row, row);
    if (!t.c32) kernels().convert->bf16.narrow(t.cols, row, 1, t.c + r * t.ldc, 1);
  }
}

}  // namespace fastdl::cpu
