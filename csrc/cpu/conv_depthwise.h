// Depthwise convolution: every channel by itself (groups = C = O). Bound by memory, so the image is read
// where it lies, border and all, and nothing is copied.
#pragma once

#include "common/narrow.h"
#include "cpu/conv_plan.h"

namespace fastdl::cpu::conv {

// S: float, double or bfloat16. The channels of every operand lie side by side.
bool is_depthwise(const Geometry& g);

// Forward pass or data gradient; weight is C-contiguous. False, and nothing is written, if NaN or Inf among
// the weights meet the padding: the general way takes care of that.
template <class S>
void depthwise_gather(Context* context, const Geometry& g, const Image<const S>& in, const S* weight,
                      bool data_gradient, const Image<S>& out, const Epilogue<S>& end);

// Either gradient may be NULL.
template <class S>
void depthwise_weight_gradient(Context* context, const Geometry& g, const Image<const S>& in,
                               const Image<const S>& grad, const View* grad_weight, const View* grad_bias);

}  // namespace fastdl::cpu::conv
