// Checked arguments of the conv family, the same on every backend.
#pragma once

#include <optional>

#include "common/view.h"
#include "fastdl/conv.h"

namespace fastdl::check {

// The sizes of a convolution (for a transposed one: of the convolution it is the adjoint of).
struct ConvGeometry {
  int64_t n, c, o, groups;  // c channels in, o out
  int64_t in[3], out[3], kernel[3], stride[3], dilation[3], padding[3];

  int64_t c_per_group() const { return c / groups; }
  int64_t o_per_group() const { return o / groups; }
  int64_t taps() const { return kernel[0] * kernel[1] * kernel[2]; }
  double multiplications() const {
    return static_cast<double>(n) * static_cast<double>(out[0] * out[1] * out[2]) * static_cast<double>(o) *
           static_cast<double>(c_per_group() * taps());
  }
};

// What a tensor is called in messages: the roles of `big` (the convolution's input) and `small` (its output)
// are exchanged in a transposed convolution.
struct ConvNames {
  const char* op;
  const char* big;
  const char* small;
  const char* weight;
  bool transposed;
};
// Checks the shapes and options; the sizes that follow from them.
ConvGeometry conv_geometry(const View& big, const View& weight, const View& small,
                           const fastdl_conv_options& o, const ConvNames& names);

struct ConvForward {
  View x, weight, out;
  std::optional<View> bias, residual;
  fastdl_activation activation;
  ConvGeometry geometry;
};
ConvForward conv_forward(const fastdl_tensor* x, const fastdl_tensor* weight, const fastdl_tensor* bias,
                         const fastdl_tensor* residual, const fastdl_tensor* out,
                         const fastdl_conv_options* options, bool transposed);

struct ConvBackwardData {
  View grad, weight, grad_x;
  std::optional<View> saved;  // there if there is an activation
  fastdl_activation activation;
  ConvGeometry geometry;
};
ConvBackwardData conv_backward_data(const fastdl_tensor* grad_out, const fastdl_tensor* saved,
                                    const fastdl_tensor* weight, const fastdl_tensor* grad_x,
                                    const fastdl_conv_options* options, bool transposed);

struct ConvBackwardWeight {
  View grad, x;
  std::optional<View> saved, grad_weight, grad_bias;
  fastdl_activation activation;
  ConvGeometry geometry;  // meaningful with grad_weight
};
ConvBackwardWeight conv_backward_weight(const fastdl_tensor* grad_out, const fastdl_tensor* saved,
                                        const fastdl_tensor* x, const fastdl_tensor* grad_weight,
                                        const fastdl_tensor* grad_bias, const fastdl_conv_options* options,
                                        bool transposed);

// Gives a batch of images of its shape the strides in which channels lie side by side.
void channels_last(View& v);

// The gradients of a convolution and the max pooling after it.
struct ConvPoolBackward {
  View grad, indices, x, weight;
  View dense;               // the shape of the convolution's output; no data
  std::optional<View> out;  // there if there is an activation: ReLU
  std::optional<View> grad_x, grad_weight, grad_bias;
  fastdl_conv_options options;
  ConvGeometry geometry;
};
ConvPoolBackward conv_pool_backward(const fastdl_tensor* grad_out, const fastdl_tensor* out,
                                    const fastdl_tensor* indices, const fastdl_tensor* x,
                                    const fastdl_tensor* weight, const fastdl_tensor* grad_x,
                                    const fastdl_tensor* grad_weight, const fastdl_tensor* grad_bias,
                                    const fastdl_conv_options* options);

// The sliding blocks of an image of two axes.
struct ConvWindows {
  int64_t kernel[2], stride[2], padding[2], dilation[2], size[2], count[2];
};
struct Fold {
  View image, columns;
  ConvWindows windows;
};
Fold unfold(const fastdl_tensor* image, const int64_t* kernel, const fastdl_tensor* columns,
            const fastdl_conv_options* options);
Fold fold(const fastdl_tensor* columns, const int64_t* kernel, const fastdl_tensor* image,
          const fastdl_conv_options* options);

}  // namespace fastdl::check
