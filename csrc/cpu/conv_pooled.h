// Gradients of a convolution whose output goes through max pooling only: few of the output's positions have
// one.
#pragma once

#include "cpu/conv_plan.h"

namespace fastdl::cpu::conv {

// The pooled output's gradient, [n][pooled position][o], each entry belonging to position `where` of its
// plane; where `out` (may be NULL: the same shape) is not positive, ReLU lets nothing through.
template <class T>
struct Pooled {
  const T* grad;
  const T* out;
  const int32_t* where;
  int64_t positions, size[3];
};

// false: nothing is done, as the sum over all positions is cheaper or something is NaN or Inf, which would
// meet gradients that are zero.
template <class T>
bool pooled_weight_gradient(Context* context, const Geometry& g, const Source<T>& in, const Pooled<T>& grad,
                            const View& grad_weight, const View* grad_bias);
// weight: C-contiguous.
template <class T>
bool pooled_data_gradient(Context* context, const Geometry& g, const Pooled<T>& grad, const T* weight,
                          const Image<T>& out);
// The gradient of all positions, [n][position][o].
template <class T>
void unpool(Context* context, const Geometry& g, const Pooled<T>& grad, T* to);

}  // namespace fastdl::cpu::conv
