// Tensor maps, which tell the copy engine (ptx/tma.cuh) how a tensor lies in memory and which boxes of it are
// copied.
#pragma once

#include <cuda.h>

#include <cstdint>
#include <optional>

#include "common/view.h"

namespace fastdl::cuda {

constexpr int kMapDims = 5;

// dims[0] is contiguous; the other dims' strides are in elements, multiples of 16 bytes, as is the address. A
// dim of one element may have any stride. Boxes: at most 256 elements a dim, the first one as many bytes as
// the swizzle's rows.
struct MapShape {
  int64_t dims[kMapDims] = {1, 1, 1, 1, 1};
  int64_t strides[kMapDims] = {1, 0, 0, 0, 0};
  int box[kMapDims] = {1, 1, 1, 1, 1};
};
CUtensorMap tensor_map(DType type, const void* data, const MapShape& shape, CUtensorMapSwizzle swizzle);

// Pixels of images (im2col). dims: channels, the axes from the innermost on (1 to 3), images; strides as
// above. Positions along axis i go from lower[i] to dims[i + 1] - 1 + upper[i] in steps of step[i]; those
// outside the image are zero. A box is `channels` of `pixels` positions, which go on from line to line and
// image to image. `reversed`: the driver is told the corners from the outermost axis on.
struct Im2colShape {
  int axes;
  int64_t dims[kMapDims], strides[kMapDims];
  int64_t lower[kMapDims - 2], upper[kMapDims - 2], step[kMapDims - 2];
  int channels, pixels;
  bool reversed;
};
// Whether a map has room for these corners and steps, and an instruction for offsets up to `most`.
bool im2col_fits(const Im2colShape& shape, const int64_t (&most)[kMapDims - 2]);
CUtensorMap im2col_map(DType type, const void* data, const Im2colShape& shape, CUtensorMapSwizzle swizzle);
// The same, or nothing where the driver refuses.
std::optional<CUtensorMap> try_im2col_map(DType type, const void* data, const Im2colShape& shape,
                                          CUtensorMapSwizzle swizzle);

// What the documentation leaves open, as the current device has it: the order of the axes in the corners
// (cuda.h writes {D, H, W}, everything else of a map begins with W), and whether pixels may overlap in
// memory, their stride less than their channels. Asked of each device once, by a load that is waited for
// (im2col_sm90_probe.cu).
enum class Corners { as_dims, reversed, unknown };
struct Im2colFacts {
  Corners corners;
  bool overlaps;
};
Im2colFacts im2col_facts();

namespace sm90 {
// Whether the kernels of sm_90a can be used: their code runs on compute capability 9.0 and nothing else, and
// the driver has to know tensor maps.
bool is_hopper();
}  // namespace sm90

}  // namespace fastdl::cuda
