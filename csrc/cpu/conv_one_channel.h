// Convolutions of one channel, such as a first layer's.
#pragma once

#include "cpu/conv_plan.h"

namespace fastdl::cpu::conv {

// false: nothing is done, this is another convolution. S: float, double or bfloat16.

// Kernels three pixels wide (conv_depthwise_lines.cpp): as a depthwise convolution all of whose channels see
// the same input. weight: C-contiguous.
template <class S>
bool one_channel_forward(Context* context, const Geometry& g, const Source<S>& in, const S* weight,
                         const Image<S>& out, const Epilogue<S>& end);

// The gradients of 3 x 3 kernels.
template <class S>
bool one_channel_weight_gradient(Context* context, const Geometry& g, const Source<S>& in,
                                 const Source<S>& grad, const View& grad_weight, const View* grad_bias);

}  // namespace fastdl::cpu::conv
