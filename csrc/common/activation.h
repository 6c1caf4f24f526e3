// Checked arguments of the activation family, the same on every backend.
#pragma once

#include "common/view.h"
#include "fastdl/activation.h"

namespace fastdl::check {

struct Activation {
  View x, out;
  fastdl_activation f;
};
Activation activation_forward(const fastdl_tensor* x, const fastdl_tensor* out,
                              const fastdl_activation* activation);

struct ActivationBackward {
  View grad_out, saved, grad_x;
  fastdl_activation f;
  bool from_output;
};
ActivationBackward activation_backward(const fastdl_tensor* grad_out, const fastdl_tensor* saved,
                                       const fastdl_tensor* grad_x, const fastdl_activation* activation,
                                       int32_t from_output);

// Whether the derivative can be computed from the output alone.
bool derivative_from_output(const fastdl_activation* activation);

struct Elementary {
  View x, out;
};
Elementary elementary(const fastdl_tensor* x, const fastdl_tensor* out, int32_t kind);

// GLU seen as `outer` blocks of [a: n][b: n].
struct GluShape {
  int64_t outer = 1, n = 1;
};
struct Glu {
  View x, out;
  GluShape shape;
};
Glu glu_forward(const fastdl_tensor* x, const fastdl_tensor* out, int32_t dim);
struct GluBackward {
  View grad_out, x, grad_x;
  GluShape shape;
};
GluBackward glu_backward(const fastdl_tensor* grad_out, const fastdl_tensor* x, const fastdl_tensor* grad_x,
                         int32_t dim);

// PReLU seen as [outer, channels, inner], one weight per channel; inner == 1 when channels come last in
// memory: the views' dims are then reordered so.
struct PreluShape {
  int64_t outer = 1, channels = 1, inner = 1;
};
struct Prelu {
  View x, weight, out;
  PreluShape shape;
};
Prelu prelu_forward(const fastdl_tensor* x, const fastdl_tensor* weight, const fastdl_tensor* out);
struct PreluBackward {
  View grad_out, x, weight;
  View grad_x, grad_weight;  // stand-ins where they are not wanted
  PreluShape shape;
};
PreluBackward prelu_backward(const fastdl_tensor* grad_out, const fastdl_tensor* x,
                             const fastdl_tensor* weight, const fastdl_tensor* grad_x,
                             const fastdl_tensor* grad_weight);

}  // namespace fastdl::check
