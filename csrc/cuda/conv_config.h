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

inline int64_t rounded_up(int64_t x, int64_t to) { return (x + to - 1) / to * to; }

// narrow: boxes of 32 channels instead of 64, in tiles of 128 x 64 (weight gradients: 128 x 256) alone.
struct ConvSm90Plan : Sm90Plan {
  bool narrow;
};

// Gathers by Hopper's kernel (conv_sm90.cuh): as products whose k is taps times channels rounded up to a box.
// Where less than five eighths of that counts, mma.sync, at some 0.6 of wgmma's rate, is assumed to be no
// slower; until a GPU says. Up to 64 columns, tiles are 128 x 64. planes: of float32, 0 for 16-bit types.
inline ConvSm90Plan conv_sm90_plan(int64_t rows, int64_t columns, int64_t channels, int64_t taps,
                                   int multiprocessors, int planes, bool whatever_shape) {
  const bool few = columns <= 64, narrow = planes == 0 && few && rounded_up(channels, 32) % 64 != 0;
  const int64_t padded = rounded_up(channels, planes || narrow ? 32 : 64);
  ConvSm90Plan plan{sm90_plan(rows, columns, taps * padded, 1, multiprocessors, planes, whatever_shape),
                    narrow};
  plan.fits = plan.fits && (whatever_shape || channels * 8 >= padded * 5);
  if (few) plan.columns = 64;
  return plan;
}

// The same of weight gradients, whose columns are taps times channels rounded up to a box: as many parts as
// there are multiprocessors for.
inline ConvSm90Plan conv_sm90_weight_plan(int64_t rows, int64_t channels, int64_t taps, int64_t positions,
                                          int multiprocessors, int planes, bool whatever_shape) {
  const int64_t thin = rounded_up(channels, 32);
  const bool narrow = planes == 0 && thin % 64 != 0 && taps * thin > 128;
  const int64_t padded = narrow ? thin : rounded_up(channels, 64), columns = taps * padded;
  ConvSm90Plan plan{sm90_plan(rows, columns, positions, 1, multiprocessors, planes, whatever_shape), narrow};
  plan.fits = plan.fits && (whatever_shape || channels * 8 >= padded * 5);
  if (!plan.fits) return plan;
  if (narrow) plan.columns = 256;
  constexpr int64_t kShortest = 512, kMostParts = 256, kStep = 64;
  const int64_t tall = (rows + kSm90Rows * plan.cluster - 1) / (kSm90Rows * plan.cluster),
                tiles = tall * plan.cluster * ((columns + plan.columns - 1) / plan.columns);
  plan.parts = std::clamp<int64_t>(std::min(multiprocessors / tiles, positions / kShortest), 1, kMostParts);
  plan.k_each = rounded_up((positions + plan.parts - 1) / plan.parts, kStep);
  plan.parts = (positions + plan.k_each - 1) / plan.k_each;
  return plan;
}

// Few channels: the taps of the innermost `axes` axes become channels (conv_merge.h). `places`: of a tap's
// channels; `lanes`: of all that is merged, the channels of the convolution that is left, which has `taps`.
struct ConvMerge {
  int axes;
  bool overlaps;  // positions share memory: pixels are copied once, else once for every tap that meets them
  int64_t places, lanes, taps;
};
inline ConvMerge conv_merge(int64_t channels, const int64_t (&kernel)[3], const int64_t (&stride)[3],
                            const int64_t (&dilation)[3], bool may_overlap) {
  ConvMerge m{1, false, channels, 0, 0};
  // Along an axis whose taps meet nothing twice it costs no memory; beyond steps of 8, which tensor maps have
  // no room for, whatever it costs.
  while (m.axes < 3 && kernel[2 - m.axes] <= stride[2 - m.axes]) ++m.axes;
  for (int i = 2; i >= 0; --i) {
    if (stride[i] > 8) m.axes = std::max(m.axes, 3 - i);
  }
  int64_t merged = 1;
  for (int i = 3 - m.axes; i < 3; ++i) merged *= kernel[i];
  m.taps = kernel[0] * kernel[1] * kernel[2] / merged;
  m.lanes = rounded_up(merged * channels, 8);
  // Pixels with a few places more, so that positions are a multiple of 16 bytes apart: then the taps of a
  // position lie behind each other as they are.
  int64_t apart = 1;
  while (apart * stride[2] % 8 != 0) apart *= 2;
  const int64_t places = rounded_up(channels, apart), lanes = kernel[2] * places;
  if (may_overlap && merged == kernel[2] && dilation[2] == 1 && kernel[2] > stride[2] &&
      rounded_up(lanes, 32) == rounded_up(m.lanes, 32)) {
    m.overlaps = true, m.places = places, m.lanes = lanes;
  }
  return m;
}

// What a merged convolution is chosen by: picoseconds of the tensor cores and of the copies, on an H100 (990
// TFLOP/s of bfloat16, 3.35 TB/s), against the portable kernel's, which rounds channels up to 16 bytes and
// copies images to have them so. `merged`, `padded`: elements of those copies. mma.sync is assumed to reach
// 0.6 of wgmma's rate, tiles of 128 x 64 have 0.58 of it at most (of float32: 0.74). What is equal within a
// twentieth goes to Hopper's kernel.
struct MergeCosts {
  double rows, columns, k, rate, copied_bytes;  // of one of the two
  double picoseconds(int planes) const {
    const int products = planes * (planes + 1) / 2;
    return rows * columns * k * 2 * (products ? products : 1) / 990 / rate + copied_bytes / 3.35;
  }
};
inline bool merge_is_faster(const MergeCosts& merged, const MergeCosts& portable, int planes) {
  return merged.picoseconds(planes) <= 1.05 * portable.picoseconds(planes);
}
inline double rounded(int64_t x, int64_t to) { return static_cast<double>(rounded_up(x, to)); }

inline bool conv_merge_pays(const ConvMerge& m, int64_t rows, int64_t columns, int64_t channels, int64_t taps,
                            int planes, double merged, double padded) {
  if (rows < 64 || columns < 32) return false;
  const bool few = columns <= 64;
  const auto n = static_cast<double>(rows);
  // float32: written, read, written as planes of 2 bytes, read.
  return merge_is_faster({n, rounded(columns, few ? 64 : 128),
                          rounded(m.taps * rounded_up(m.lanes, few || planes ? 32 : 64), 32),
                          few ? (planes ? 0.74 : 0.58) : 0.9, merged * (planes ? 8 + 4 * planes : 4)},
                         {n, rounded(columns, 64), rounded(taps * rounded_up(channels, planes ? 4 : 8), 32),
                          few ? 0.58 : 0.6, padded * (planes ? 8 : 4)},
                         planes);
}
inline bool conv_merge_weight_pays(const ConvMerge& m, int64_t rows, int64_t positions, int64_t channels,
                                   int64_t taps, int planes, double merged, double padded) {
  if (rows < 64 || positions < 512) return false;
  const int64_t columns = taps * rounded_up(channels, planes ? 4 : 8),
                side = rows > 64 && columns > 64 ? 128 : 64;
  const auto k = static_cast<double>(positions);
  return merge_is_faster(
      {rounded(rows, 128), rounded(m.taps * rounded_up(m.lanes, planes ? 64 : 32), planes ? 128 : 256), k, 1,
       merged * (planes ? 8 + 4 * planes : 4)},
      {rounded(rows, side), rounded(columns, side), k, 0.6, padded * (planes ? 8 : 4)}, planes);
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
