// How convolutions are cut up: functions of shapes alone, so that they can be tested anywhere.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cuda/gemm_config.h"
#include "cuda/gemm_sm90_config.h"

namespace fastdl::cuda {

// Gathers: as products of the same size, but the tensor cores take narrow ones, too: what is gathered would
// cost multiply-adds as many instructions. Up to 64 columns, blocks are 128 x 64 where there are enough rows.
struct GatherPlan : GemmPlan {
  bool tall;
};
inline GatherPlan gather_plan(int64_t rows, int64_t columns, int64_t k, int64_t items, int multiprocessors) {
  const int64_t least = 8;
  GatherPlan plan{
      gemm_plan(std::max(rows, least), std::max(columns, least), std::max(k, least), items, multiprocessors),
      false};
  plan.tall = columns <= 64 && (rows + 127) / 128 * items >= multiprocessors;
  return plan;
}

// Gathers by Hopper's kernel (conv_sm90.cuh): as products whose k is taps times channels rounded up to 64
// (float32, of so many planes: to 32). Where less than five eighths of that counts, mma.sync, at some 0.6 of
// wgmma's rate, is assumed to be no slower; until a GPU says. Up to 64 columns, tiles are 128 x 64.
inline Sm90Plan conv_sm90_plan(int64_t rows, int64_t columns, int64_t channels, int64_t taps,
                               int multiprocessors, int planes, bool whatever_shape) {
  const int64_t depth = planes ? 32 : 64, padded = (channels + depth - 1) / depth * depth;
  Sm90Plan plan = sm90_plan(rows, columns, taps * padded, 1, multiprocessors, planes, whatever_shape);
  plan.fits = plan.fits && (whatever_shape || channels * 8 >= padded * 5);
  if (columns > 64) return plan;
  if (planes == 0) plan.columns = 64;
  else plan.fits = plan.fits && whatever_shape;  // half of a tile would be empty
  return plan;
}

// The same of weight gradients, whose columns are taps times channels rounded up to 64: as many parts as
// there are multiprocessors for.
inline Sm90Plan conv_sm90_weight_plan(int64_t rows, int64_t channels, int64_t taps, int64_t positions,
                                      int multiprocessors, int planes, bool whatever_shape) {
  const int64_t padded = (channels + 63) / 64 * 64, columns = taps * padded;
  Sm90Plan plan = sm90_plan(rows, columns, positions, 1, multiprocessors, planes, whatever_shape);
  plan.fits = plan.fits && (whatever_shape || channels * 8 >= padded * 5);
  if (!plan.fits) return plan;
  constexpr int64_t kShortest = 512, kMostParts = 256, kStep = 64;
  const int64_t tall = (rows + kSm90Rows * plan.cluster - 1) / (kSm90Rows * plan.cluster),
                tiles = tall * plan.cluster * ((columns + plan.columns - 1) / plan.columns);
  plan.parts = std::clamp<int64_t>(std::min(multiprocessors / tiles, positions / kShortest), 1, kMostParts);
  plan.k_each = ((positions + plan.parts - 1) / plan.parts + kStep - 1) / kStep * kStep;
  plan.parts = (positions + plan.k_each - 1) / plan.k_each;
  return plan;
}

// Weight gradients: few results and a long k, the positions of all images. Twice as many blocks as
// multiprocessors, so that two share one; parts of at least 512 positions.
inline GemmPlan weight_plan(int64_t rows, int64_t columns, int64_t positions, int64_t groups,
                            int multiprocessors) {
  constexpr int64_t kShortest = 512, kMostParts = 256, kLongest = int64_t{1} << 29;
  GemmPlan plan{};
  plan.tensor_cores = true;
  plan.large = rows > 64 && columns > 64;
  const int64_t blocks = std::max<int64_t>(blocks_of(rows, columns, groups, plan.large ? 128 : 64), 1);
  plan.parts =
      std::clamp<int64_t>(std::min(2 * multiprocessors / blocks, positions / kShortest), 1, kMostParts);
  plan.parts = std::max(plan.parts, (positions + kLongest - 1) / kLongest);  // see check_extents
  plan.k_each = std::max<int64_t>(((positions + plan.parts - 1) / plan.parts + 31) / 32 * 32, 32);
  plan.parts = std::max<int64_t>((positions + plan.k_each - 1) / plan.k_each, 1);
  return plan;
}

}  // namespace fastdl::cuda
