// Kernels of Winograd convolution (A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural Networks",
// arXiv:1509.09308): a 3-tap filter over a tile of M outputs needs M + 2 multiplications per axis instead of
// 3 M. A tile of (MH + 2) x (MW + 2) inputs is transformed into as many points, each point is a matrix
// product over the channels, and the inverse transform gives the MH x MW outputs. M is 2 or 4 on each axis:
//   M = 2: interpolation points 0, 1, -1, infinity;   M = 4: 0, 11/16, -11/16, 3/2, -3/2, infinity.
// Among points that floats hold exactly, those make the rounding errors of M = 4 smallest (see
// docs/kernels.md).
#pragma once

#include <cstdint>

#include "common/narrow.h"

namespace fastdl::cpu {

// The inverse transform of one tile: columns j < lanes of y[r][q] = activation(... + bias + residual).
// S: float, or bfloat16, rounded once.
template <class S>
struct WinogradOutput {
  const float* m;  // [point * point_step + j]
  int64_t point_step;
  int lanes;
  S* y;
  int64_t h_step, w_step;
  int rows, cols;     // of the tile that exist
  const float* bias;  // or NULL
  const S* residual;  // or NULL
  int64_t residual_h, residual_w;
  bool relu;
};

struct WinogradFilter {
  const float* w;  // [reduce][9 taps][width]
  int64_t reduce;
  int width;
  bool reversed;  // taps backwards
  float* u;       // [point * point_step + r * width + j]
  int64_t point_step;
  float *sum, *squares;  // [width], added to: of |w|, and of their squares
};

// All tables are indexed by [MH == 4][MW == 4]. x and v hold `channels` floats side by side.
struct WinogradKernels {
  // v[point * point_step + c] from the (MH + 2) x (MW + 2) pixels at x
  void (*input[2][2])(const float* x, int64_t h_step, int64_t w_step, int64_t channels, float* v,
                      int64_t point_step);
  // the same from the MH x MW pixels of a gradient, as a filter whose 3 x 3 outputs are wanted
  void (*gradient[2][2])(const float* x, int64_t h_step, int64_t w_step, int64_t channels, float* v,
                         int64_t point_step);
  void (*filter[2][2])(const WinogradFilter&);
  // out[(r * 9 + t) * width + lane] = w[r * row_step + lane * 9 + t], zero for lane >= lanes
  void (*pack_taps)(const float* w, int64_t row_step, int64_t rows, int lanes, int width, float* out);
  void (*output[2][2])(const WinogradOutput<float>&);
  void (*output_bf16[2][2])(const WinogradOutput<bfloat16>&);
  // dw[tap * tap_step + j], 9 taps
  void (*weight[2][2])(const float* m, int64_t point_step, int64_t columns, float* dw, int64_t tap_step);
  // sum[p] of |x[p * step + c]| over c, and of their squares
  void (*pixel_sizes)(const float* x, int64_t step, int64_t pixels, int64_t channels, float* sum,
                      float* squares);
  // The same over p, added to sum[c] and squares[c]
  void (*channel_sizes)(const float* x, int64_t step, int64_t pixels, int64_t channels, float* sum,
                        float* squares);
};

}  // namespace fastdl::cpu
