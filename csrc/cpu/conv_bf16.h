// Convolution of bfloat16 tensors on bfloat16 tiles (isa/gemm_bf16.h), where the instruction set has them.
// Sums are float32, outputs are rounded once. Elsewhere, and for the narrow groups of depthwise convolution,
// bfloat16 is widened at the entry points.
#pragma once

#include "common/narrow.h"
#include "cpu/conv_plan.h"
#include "cpu/kernels.h"

namespace fastdl::cpu::conv {

bool bf16_tiles(int64_t groups, int64_t c_per_group, int64_t o_per_group);

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
