// Winograd convolution: 3 x 3 taps, stride 1, float32. What its forward pass and data gradient
// (conv_winograd.cpp) share with the gradient of the weights (conv_winograd_weight.cpp).
#pragma once

#include "common/narrow.h"
#include "cpu/conv_plan.h"
#include "cpu/kernels.h"

namespace fastdl::cpu::conv {

namespace winograd {
inline const WinogradKernels& table() { return *kernels().conv->winograd; }
inline const GemmKernelsOf<float>& gemm_table() { return gemm_kernels_of<float>(*kernels().gemm); }
inline int index(int64_t m) { return m == 4; }
}  // namespace winograd

// Tiles of mh x mw outputs, each the inverse transform of (mh + 2) x (mw + 2) points.
struct WinogradTile {
  int64_t mh = 0, mw = 0;  // 0: the direct kernels are faster
  int64_t points() const { return (mh + 2) * (mw + 2); }
  explicit operator bool() const { return mh != 0; }
  // What data must be like (see conv_winograd.cpp): the share that matters of the elements of a tile, and of
  // a filter. Zeros save the direct sums a rounding each, but not those of transformed tiles, and larger
  // tiles have less accuracy to spare.
  float least_share() const { return mh * mw == 4 ? 0.0f : mh * mw == 8 ? 0.04f : 0.1f; }
  float least_filter_share() const { return least_share() / 2; }
};

// Rows of a matrix of this many floats: a line more where rows would lie a multiple of 512 bytes apart and
// compete for few sets of the L1 cache.
inline int64_t winograd_row(int64_t channels) {
  const int64_t row = (channels + 15) / 16 * 16;
  return row % 128 == 0 ? row + 16 : row;
}
// The distance between points: an odd number of cache lines, so that the points of a tile are in different
// sets.
inline int64_t winograd_step(int64_t floats) { return ((floats + 15) / 16 | 1) * 16; }

// The number of products of a sum that should matter. Of n numbers about (sum |x|)^2 / sum x^2 matter: all if
// they are equal, 64% if normal, one if it outweighs the others.
constexpr float kWinogradTerms = 40;

// Magnitudes whose products neither overflow in a transform nor lose bits to underflow; 0 is exact.
inline bool winograd_range(float sum) { return sum == 0 || (sum > 0x1p-50f && sum < 0x1p60f); }

template <class S>
WinogradTile choose_winograd_tile(Context* context, const Geometry& g, const Lattice& l, const Source<S>& in,
                                  const S* weight, bool data_gradient);

// How many bfloat16 products the direct kernels form in the time of a float32 one.
double bf16_products();

// Forward pass or data gradient through the lattice. False if the direct kernels must do it, because they are
// faster or the data is too uneven. S: float or bfloat16, which is widened as it is transformed; its result
// is off by less than bfloat16's rounding, so that larger tiles and less even data will do.
template <class S>
bool winograd_gather(Context* context, const Geometry& g, const Source<S>& in, const Lattice& l,
                     const S* weight, bool data_gradient, const Image<S>& out, const Epilogue<S>& end);

// The gradients of weights and bias (which may be NULL), likewise.
template <class S>
bool winograd_weight_gradient(Context* context, const Geometry& g, const Source<S>& in, const Source<S>& grad,
                              const View& grad_weight, const View* grad_bias);

}  // namespace fastdl::cpu::conv
