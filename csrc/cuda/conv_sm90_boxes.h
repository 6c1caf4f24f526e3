// How images lie for the copy engine, and the boxes of them that a convolution reads (conv_sm90.cuh).
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>

#include "cuda/conv_gather.cuh"
#include "cuda/conv_weight.cuh"
#include "cuda/tensor_map.h"

namespace fastdl::cuda {
namespace sm90 {

constexpr int64_t kMostSm90 = std::numeric_limits<int32_t>::max() - 512;  // coordinates have 32 bits

// Images as the copy engine is to read them, channels side by side, of 16 bits.
struct PixelSource {
  int64_t channels, images, n_step, step[3];
  int32_t size[3];
};
// P: ConvGather or ConvWeight.
template <class P>
PixelSource in_place(const P& p, int64_t images) {
  PixelSource s{p.channels, images, p.in.n_step, {}, {}};
  for (int i = 0; i < 3; ++i) s.step[i] = p.in.step[i], s.size[i] = p.in_size[i];
  return s;
}
// Planes of float32 ones, without gaps.
template <class P>
PixelSource in_planes(const P& p, int64_t images, int planes) {
  PixelSource s = in_place(p, images * planes);
  int64_t step = (s.channels + 7) / 8 * 8;
  for (int i = 2; i >= 0; --i) s.step[i] = step, step *= s.size[i];
  s.n_step = step;
  return s;
}

// An axis of one tap that meets all of it may be said to be longer, so that its corners are those of the
// others.
inline void equal_corners(Im2colShape& shape, const ConvLattice& l) {
  const auto whole = [&](int i) {
    return l.axis[2 - i].taps == 1 && shape.lower[i] == 0 && shape.upper[i] == 0;
  };
  int64_t upper = 0;
  for (int i = 0; i < shape.axes; ++i) {
    if (!whole(i)) upper = std::min(upper, shape.upper[i]);
  }
  for (int i = 0; i < shape.axes; ++i) {
    if (whole(i)) shape.dims[i + 1] -= upper, shape.upper[i] = upper;
  }
}

// The pixels that a lattice meets as boxes of so many positions and channels, if a map can describe them.
inline std::optional<Im2colShape> boxes_of(const PixelSource& p, const ConvLattice& l, int positions,
                                           int channels) {
  const auto trivial = [&](int i) {
    const ConvAxis& a = l.axis[i];
    return p.size[i] == 1 && a.count == 1 && a.taps == 1 && a.first == 0;
  };
  Im2colShape shape{};
  shape.axes = !trivial(0) ? 3 : !trivial(1) ? 2 : 1;
  shape.dims[0] = p.channels, shape.strides[0] = 1;
  int64_t most[3] = {};
  for (int i = 0; i < shape.axes; ++i) {
    const ConvAxis& a = l.axis[2 - i];
    const int64_t size = p.size[2 - i], last = a.first + int64_t{a.count - 1} * a.in_step;
    shape.dims[i + 1] = size, shape.strides[i + 1] = p.step[2 - i];
    shape.step[i] = a.in_step;
    most[i] = int64_t{a.taps - 1} * a.tap_step;
    shape.lower[i] = a.first;
    // Any corner behind the last position and before the next step will do: that which does not depend on the
    // size, if it does.
    shape.upper[i] = -a.first - most[i];
    const int64_t behind = size + shape.upper[i] - last;
    if (behind < 1 || behind > a.in_step) shape.upper[i] = last + 1 - size;
  }
  shape.dims[shape.axes + 1] = p.images, shape.strides[shape.axes + 1] = p.n_step;
  shape.channels = channels, shape.pixels = positions;
  equal_corners(shape, l);
  bool can = im2col_fits(shape, most);
  for (int i = 1; i <= shape.axes + 1; ++i) {
    const int64_t stride = shape.strides[i];
    can = can && shape.dims[i] < kMostSm90 &&
          (shape.dims[i] == 1 || (stride > 0 && stride % 8 == 0 && stride < int64_t{1} << 39));
  }
  bool equal = true;
  for (int i = 1; i < shape.axes; ++i) {
    equal = equal && shape.lower[i] == shape.lower[0] && shape.upper[i] == shape.upper[0];
  }
  if (can && !equal) {
    const Corners corners = im2col_facts().corners;
    can = corners != Corners::unknown;
    shape.reversed = corners == Corners::reversed;
  }
  return can ? std::optional<Im2colShape>(shape) : std::nullopt;
}

inline bool aligned(const void* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; }

// Coordinates and pieces of work are counted in 32 bits (256: the most parts).
inline bool can_count(int64_t rows, int64_t columns, int64_t k) {
  return rows < kMostSm90 && columns < kMostSm90 && k < kMostSm90 &&
         (rows + 127) / 128 * ((columns + 63) / 64) < kMostSm90 / 256;
}

// The distance between successive positions, over all axes and images, if it is one. 0 where there is one
// position.
inline std::optional<int64_t> pitch_of(const int64_t (&extent)[4], const int64_t (&step)[4]) {
  int64_t pitch = 0, next = 0;
  for (int i = 3; i >= 0; --i) {
    if (extent[i] == 1) continue;
    if (pitch == 0) pitch = next = step[i];
    if (step[i] != next || pitch <= 0) return std::nullopt;
    next *= extent[i];
  }
  return pitch;
}
// Of the pixels of images. P: ConvGather or ConvWeight.
template <class P>
std::optional<int64_t> image_pitch(const P& p, int64_t images) {
  return pitch_of({images, p.in_size[0], p.in_size[1], p.in_size[2]},
                  {p.in.n_step, p.in.step[0], p.in.step[1], p.in.step[2]});
}
template <class P>
int64_t pixels_of(const P& p, int64_t images) {
  return images * p.in_size[0] * p.in_size[1] * p.in_size[2];
}
// Of the rows of results.
inline std::optional<int64_t> row_pitch(const ConvLattice& l, int64_t images, int64_t n_step,
                                        const int64_t (&step)[3]) {
  int64_t extents[4] = {images}, steps[4] = {n_step};
  for (int i = 0; i < 3; ++i) {
    extents[i + 1] = l.axis[i].count, steps[i + 1] = step[i] * l.axis[i].out_step;
  }
  return pitch_of(extents, steps);
}

inline int64_t row_begin(const ConvLattice& l, const int64_t (&step)[3]) {
  int64_t at = 0;
  for (int i = 0; i < 3; ++i) at += l.axis[i].out_start * step[i];
  return at;
}

}  // namespace sm90
}  // namespace fastdl::cuda
