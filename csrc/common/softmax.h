// Checked arguments of the softmax family, the same on every backend.
#pragma once

#include "common/view.h"
#include "fastdl/softmax.h"

namespace fastdl::check {

struct Softmax {
  View x, out;
  int dim;  // counted from the front
};
Softmax softmax_forward(const fastdl_tensor* x, const fastdl_tensor* out, int32_t dim, int32_t kind);

struct SoftmaxBackward {
  View grad_out, out, grad_x;
  int dim;
};
SoftmaxBackward softmax_backward(const fastdl_tensor* grad_out, const fastdl_tensor* out,
                                 const fastdl_tensor* grad_x, int32_t dim, int32_t kind);

}  // namespace fastdl::check
