// How C is cut into tasks. Shared by the float32 / float64 and the bfloat16 products.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/parallel.h"
#include "cpu/round.h"

namespace fastdl::cpu {

// parallel_for counts in elementary operations; some `rate` multiply-adds take the time of one.
inline double gemm_cost(int64_t m, int64_t n, int64_t k, int rate) {
  return static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k) / rate;
}

struct GemmCut {
  int64_t rows, cols;  // of a task's block
};

// Tiles of mr x nr; at most `most_tiles` tiles of rows per task (their panels of A should stay in the L2
// cache).
inline GemmCut cut_of(int64_t mr, int64_t nr, int64_t most_tiles, int64_t m, int64_t n, double cost) {
  const int64_t row_tiles = ceil_div(m, mr), panels = ceil_div(n, nr);
  int64_t tiles = std::min(row_tiles, most_tiles), strips = 1;
  if (cost > kSerialCost) {
    constexpr int64_t kTasks = 16;  // balance a few threads
    if (row_tiles > most_tiles || panels < kTasks) {
      // Rows first: a block of A is then packed once, not once per strip of B.
      tiles = std::max(std::min(tiles, row_tiles / kTasks), std::min<int64_t>(row_tiles, 3));
    }
    strips = std::min(panels, ceil_div(kTasks, ceil_div(row_tiles, tiles)));
  }
  tiles = ceil_div(row_tiles, ceil_div(row_tiles, tiles));  // even blocks
  return {tiles * mr, ceil_div(panels, strips) * nr};
}

}  // namespace fastdl::cpu
