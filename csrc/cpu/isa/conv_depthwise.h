// Depthwise convolution along whole lines of an image, for kernels three pixels wide: an input, once loaded,
// serves all outputs of its line that see it, and those of a second line of outputs too. Any other kernel is
// a sum over taps (ConvDepthwise in conv.h).
#pragma once

#include <cstdint>

#include "common/narrow.h"

namespace fastdl::cpu {

// y[row][q][j] = bias[j] + residual[row][q][j] + sum over lines of inputs i and taps t < 3 of
// a[i][(first + q * step + t) * a_row + j] * w[i][t * w_row + j], then ReLU if asked; pixels outside [0,
// size) add nothing. Of a pair of rows the second sees the lines one further: a has four lines, w three. Sums
// are of compute_t<S>, in the order of lines and taps, and rounded once. A: what inputs are stored as.
template <class S, class A = S>
struct DepthwiseLines {
  using T = compute_t<S>;
  const A* const* a;  // lines of inputs, from pixel 0 on; NULL: not in the image
  const T* const* w;
  int64_t lines;  // of one row of outputs
  int64_t w_row, a_row, first, size;
  const A* ahead[2];  // lines to be fetched for the rows after these, or NULL
  S* y[2];
  int64_t y_row;
  const T* bias;         // or NULL
  const S* residual[2];  // or NULL
  int64_t residual_row;
  int64_t count, columns;  // outputs of a row, channels
  bool relu;
};

// Of a kernel 3 pixels high: c[3 * l + t][j] += sum over outputs (h, q), h0 <= h < h1, of g[h][q][j] times
// the input that tap (l, t) of the output sees, if it is in the image, and c[9][j] += sum of g[h][q][j].
template <class S>
struct DepthwiseLinesWeight {
  using T = compute_t<S>;
  const S* a;
  const S* g;
  int64_t a_line, a_row, g_line, g_row;
  int64_t size_h, size_w;    // of the image
  int64_t first_h, first_w;  // of its pixels: what the first tap of output 0 sees
  int64_t step_h, dilation_h;
  int64_t h0, h1, count, columns;
  T* c;
  int64_t c_row;
};

// Pixels between neighbouring outputs: 1 or 2 (index 0, 1).
template <class S>
struct DepthwiseLinesTable {
  void (*row[2])(const DepthwiseLines<S>&);
  void (*pair)(const DepthwiseLines<S>&);  // step 1, three lines
  // The same where pixels have one channel, which all channels of the output see. NULL for double.
  void (*one_channel_row[2])(const DepthwiseLines<S, compute_t<S>>&);
  void (*one_channel_pair)(const DepthwiseLines<S, compute_t<S>>&);
  void (*weight[2])(const DepthwiseLinesWeight<S>&);
};

struct DepthwiseLinesKernels {
  DepthwiseLinesTable<float> f32;
  DepthwiseLinesTable<double> f64;
  DepthwiseLinesTable<bfloat16> bf16;
};

}  // namespace fastdl::cpu
