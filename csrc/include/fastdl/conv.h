/* Convolution (cross-correlation) in one, two or three dimensions, its transpose, and their gradients. */
#ifndef FASTDL_CONV_H
#define FASTDL_CONV_H

#include "fastdl/activation.h"
#include "fastdl/base.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Per spatial axis, first axis first; entries past the tensor's spatial axes are ignored. */
typedef struct fastdl_conv_options {
  size_t struct_size;
  int64_t stride[3];
  int64_t padding[3];     /* zeros before the first element of each axis */
  int64_t padding_end[3]; /* zeros after the last */
  int64_t dilation[3];
  int64_t groups;
  fastdl_activation activation;
} fastdl_conv_options;
#define FASTDL_CONV_OPTIONS_INIT \
  {sizeof(fastdl_conv_options), {1, 1, 1}, {0, 0, 0}, {0, 0, 0}, {1, 1, 1}, 1, {FASTDL_ACT_NONE, 0, 0}}

/* Shapes, with *S and *P standing for one to three spatial axes:
     x         (N, C, *S)
     weight    (O, C / groups, *K)
     bias      (O,), optional
     residual  (N, O, *P), optional
     out       (N, O, *P), P = (S + padding + padding_end - dilation * (K - 1) - 1) / stride + 1, rounded down
   float32 or float64, all alike; any strides. Channels-last memory (the channel's stride 1) is read and
   written in place; other layouts are converted once. Outputs overlap nothing else. Options: stride, dilation
   and groups at least 1, padding at least 0, else FASTDL_ERROR_VALUE. Cost: 2 N O prod(P) (C / groups)
   prod(K) operations for each of the three directions; 3 x 3 filters with stride and dilation 1 may take
   fewer (Winograd), where the data leave the accuracy of a direct sum. Scratch, of every call below: the
   weights in the kernels' order; for weight gradients several partial sums of them, as many as the shapes
   say; a few blocks of the input per thread, sized for its L2 cache. */

/* Where a bias, residual, saved or gradient may be NULL it is said; other pointers may not.
   A NaN or Inf in an operand reaches every result it takes part in; padding counts as zeros. */

/* out = activation(conv(x, weight) + bias + residual). bias and residual may be NULL. */
FASTDL_API fastdl_status fastdl_conv_forward(fastdl_context* context, const fastdl_tensor* x,
                                             const fastdl_tensor* weight, const fastdl_tensor* bias,
                                             const fastdl_tensor* residual, const fastdl_tensor* out,
                                             const fastdl_conv_options* options);

/* The gradients. Where options name an activation, grad_out is first multiplied by its derivative, taken
   from `saved` (shape of out): the output if fastdl_activation_from_output says so, else the value before
   the activation. `saved` is NULL when there is no activation. */

/* grad_x (N, C, *S): the gradient with respect to x. */
FASTDL_API fastdl_status fastdl_conv_backward_data(fastdl_context* context, const fastdl_tensor* grad_out,
                                                   const fastdl_tensor* saved, const fastdl_tensor* weight,
                                                   const fastdl_tensor* grad_x,
                                                   const fastdl_conv_options* options);

/* grad_weight (O, C / groups, *K) and grad_bias (O,): either may be NULL. */
FASTDL_API fastdl_status fastdl_conv_backward_weight(fastdl_context* context, const fastdl_tensor* grad_out,
                                                     const fastdl_tensor* saved, const fastdl_tensor* x,
                                                     const fastdl_tensor* grad_weight,
                                                     const fastdl_tensor* grad_bias,
                                                     const fastdl_conv_options* options);

/* All gradients of max_pool(activation(conv(x, weight) + bias)), where nothing else uses the convolution's
   output; activation: none or ReLU. Only what the maxima take part in is multiplied.
     grad_out  (N, O, *Q), the gradient of the pooled output
     out       that output, which ReLU's derivative is taken from; NULL without an activation
     indices   int32, of the same shape: the position of each maximum in its plane (*P), as
               fastdl_max_pool_forward writes them; what is no position contributes nothing
   grad_x, grad_weight, grad_bias: each may be NULL. */
FASTDL_API fastdl_status fastdl_conv_pool_backward(fastdl_context* context, const fastdl_tensor* grad_out,
                                                   const fastdl_tensor* out, const fastdl_tensor* indices,
                                                   const fastdl_tensor* x, const fastdl_tensor* weight,
                                                   const fastdl_tensor* grad_x,
                                                   const fastdl_tensor* grad_weight,
                                                   const fastdl_tensor* grad_bias,
                                                   const fastdl_conv_options* options);

/* Transposed convolution, the adjoint of the convolution with the same options:
     x         (N, C, *P)
     weight    (C, O / groups, *K)
     out       (N, O, *S), S = (P - 1) * stride - padding - padding_end + dilation * (K - 1) + 1 + extra with
               0 <= extra < max(stride, dilation): torch's output_padding, given by the shape of out.
     bias, residual and activation as above.
   The rest, cost and scratch included, as above: what is forward there is the data gradient here. */
FASTDL_API fastdl_status fastdl_conv_transpose_forward(fastdl_context* context, const fastdl_tensor* x,
                                                       const fastdl_tensor* weight, const fastdl_tensor* bias,
                                                       const fastdl_tensor* residual,
                                                       const fastdl_tensor* out,
                                                       const fastdl_conv_options* options);
/* grad_out, saved: (N, O, *S), saved NULL without activation; grad_x: (N, C, *P). */
FASTDL_API fastdl_status fastdl_conv_transpose_backward_data(
    fastdl_context* context, const fastdl_tensor* grad_out, const fastdl_tensor* saved,
    const fastdl_tensor* weight, const fastdl_tensor* grad_x, const fastdl_conv_options* options);
/* grad_weight (C, O / groups, *K) and grad_bias (O,): either may be NULL. */
FASTDL_API fastdl_status fastdl_conv_transpose_backward_weight(
    fastdl_context* context, const fastdl_tensor* grad_out, const fastdl_tensor* saved,
    const fastdl_tensor* x, const fastdl_tensor* grad_weight, const fastdl_tensor* grad_bias,
    const fastdl_conv_options* options);

/* Sliding blocks (im2col) and their adjoint, two spatial axes:
     image     (N, C, H, W)
     columns   (N, C * kernel[0] * kernel[1], L), L = product of the output extents of a convolution with the
               same options. groups and activation are ignored.
   float32 or float64 (16-bit by float32), any strides, no overlap. kernel: not NULL, 1 to 2^31 - 1 each, as
   stride, dilation and padding (from 0) are. Scratch: none. Cost: one pass over columns. unfold copies image
   to columns; fold sums columns into image, in a fixed order. */
FASTDL_API fastdl_status fastdl_unfold(fastdl_context* context, const fastdl_tensor* image,
                                       const int64_t kernel[2], const fastdl_tensor* columns,
                                       const fastdl_conv_options* options);
FASTDL_API fastdl_status fastdl_fold(fastdl_context* context, const fastdl_tensor* columns,
                                     const int64_t kernel[2], const fastdl_tensor* image,
                                     const fastdl_conv_options* options);

#ifdef __cplusplus
}
#endif
#endif
