// Which products go to Hopper's kernel (matmul_sm90.cuh) and how they are cut: functions of shapes alone.
#pragma once

#include <algorithm>
#include <cstdint>

namespace fastdl::cuda {

struct Sm90Plan {
  bool fits;
  int columns;  // of a tile, whose rows are 128
  int cluster;  // blocks above each other that share the tiles of B
  int64_t parts, k_each;
};

constexpr int64_t kSm90Rows = 128;

// The tile of 128 x 128 is taken where it fills the multiprocessors better than that of 128 x 256. 1.25: what
// it costs per result, as it needs 160 bytes of shared memory per clock of the tensor cores, of which there
// are 128 (docs/kernels-cuda.md); until a GPU says. `planes`: of float32, 0 for 16-bit types; their sums take
// the registers of the larger tile.
inline Sm90Plan sm90_plan(int64_t m, int64_t n, int64_t k, int64_t batch, int multiprocessors, int planes,
                          bool whatever_shape = false) {
  Sm90Plan plan{};
  // A tile half empty is no better than four of mma.sync's 64 x 64.
  plan.fits = whatever_shape || (m >= 64 && n >= 64 && k >= 64);
  if (!plan.fits) return plan;
  const auto tiles = [&](int64_t columns) {
    return (m + kSm90Rows - 1) / kSm90Rows * ((n + columns - 1) / columns) * batch;
  };
  const auto rounds = [&](int64_t columns) {
    return (tiles(columns) + multiprocessors - 1) / multiprocessors;
  };
  const bool wide = planes == 0 && n > 128 &&
                    static_cast<double>(rounds(256)) * 2 <= 1.25 * static_cast<double>(rounds(128));
  plan.columns = wide ? 256 : 128;
  plan.cluster = m > kSm90Rows ? 2 : 1;
  plan.parts = 1;
  plan.k_each = k;
  // Fewer tiles than half the multiprocessors: cut k, into parts of at least 512, which the sums' way through
  // memory (8 bytes per result and part) is small against.
  constexpr int64_t kShortest = 512, kMostParts = 16, kStep = 64;
  const int64_t count = tiles(plan.columns);
  if (count * 2 <= multiprocessors && k >= 2 * kShortest) {
    plan.parts = std::min({multiprocessors / count, k / kShortest, kMostParts});
    plan.k_each = ((k + plan.parts - 1) / plan.parts + kStep - 1) / kStep * kStep;
    plan.parts = (k + plan.k_each - 1) / plan.k_each;
  }
  return plan;
}

}  // namespace fastdl::cuda
