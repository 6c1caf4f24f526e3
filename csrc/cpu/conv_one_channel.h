// The gradient of the weights of a 3 x 3 convolution of one channel, such as a first layer's.
#pragma once

#include "cpu/conv_plan.h"

namespace fastdl::cpu::conv {

// false: nothing is done, this is another convolution. S: float, double or bfloat16.
template <class S>
bool one_channel_weight_gradient(Context* context, const Geometry& g, const Source<S>& in,
                                 const Source<S>& grad, const View& grad_weight, const View* grad_bias);

}  // namespace fastdl::cpu::conv
