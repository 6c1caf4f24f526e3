// Convolution of bfloat16 tensors on bfloat16 tiles (isa/gemm_bf16.h), where the instruction set has them.
// Sums are float32, outputs are rounded once. Elsewhere, and for the narrow groups of depthwise convolution,
// bfloat16 is widened at the entry points.
#pragma once

#include "common/narrow.h"
#include "cpu/conv_plan.h"
#include "cpu/kernels.h"

namespace fastdl::cpu::conv {

bool bf16_tiles(int64_t groups, int64_t c_per_group, int64_t o_per_group);

// Weights in panels: [group][panel][run][k_padded * nr]. A run is the part of a sum whose inputs lie side by
// side: the channels of one tap, or of a line of taps.
struct Bf16Panels {
  Bf16Panels(const Geometry& g, bool data_gradient, bool whole_lines);
  int64_t groups, reduce, columns, per_group;  // channels summed over and produced, and panels, per group
  int64_t kernel[3];
  bool lines;         // runs are lines of taps
  int64_t run, size;  // elements of the sum in a run, and of its panel
  const bfloat16* data = nullptr;
  bool finite = true;  // no NaN or Inf among them, or nobody asks: see reaches_out

  int64_t runs() const { return kernel[0] * kernel[1] * (lines ? 1 : kernel[2]); }
  size_t bytes() const { return static_cast<size_t>(groups * per_group * runs() * size) * sizeof(bfloat16); }
};

bool all_finite(Context* context, const bfloat16* x, int64_t n);
// Fills `to` and w.data.
void pack_bf16_weights(Context* context, const Geometry& g, const bfloat16* weight, bool data_gradient,
                       bfloat16* to, Bf16Panels& w);

// As gather(); weight: C-contiguous (O, C / groups, *K). The lattices of a data gradient are gathered one by
// one.
void bf16_gather(Context* context, const Geometry& g, const Source<bfloat16>& in, const bfloat16* weight,
                 bool data_gradient, const Image<bfloat16>& out, const Epilogue<bfloat16>& end);

// As weight_gradient(), either output may be NULL.
void bf16_weight_gradient(Context* context, const Geometry& g, const Source<bfloat16>& in,
                          const Source<bfloat16>& grad, const View* grad_weight, const View* grad_bias);

// sum[j * step] = sum of every pixel of g in channel j
void bf16_sum_pixels(Context* context, const Source<bfloat16>& g, const View& sum);

}  // namespace fastdl::cpu::conv
