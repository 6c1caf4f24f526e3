/* Layer, RMS, group (instance) and batch normalisation, forward and backward. */
#ifndef FASTDL_NORM_H
#define FASTDL_NORM_H

#include "fastdl/base.h"

#ifdef __cplusplus
extern "C" {
#endif

/* All tensors of a call share one dtype, float32 or float64, and take any strides. Sums run in that dtype, in
   an order fixed by the shapes. With bfloat16 or float16 x, mean and rstd are float32; weight, bias, the
   running statistics and the gradients of weight and bias are of x's dtype or float32; sums run in float32.
   rstd is 1 / sqrt(variance + eps), with the biased variance; eps at least 0.
   Outputs overlap nothing. In backward calls mean and rstd are those that forward wrote. Scratch, of every
   call below: partial sums, as many rows of them as the shapes say; 16-bit parameters in float32. Cost: a
   pass or two over x (the second from a cache where a row fits one), one over everything else. */

/* y = (x - mean) * rstd * weight + bias over the last normalized_ndim dimensions, `n` elements to each of
   `rows` rows. (Ba, Kiros, Hinton 2016.) x, out: any rank; weight, bias: NULL or the shape of those last
   dimensions; mean, rstd: NULL or `rows` elements, C-contiguous, kept for the backward call. normalized_ndim:
   1 to x's ndim. */
FASTDL_API fastdl_status fastdl_layer_norm_forward(fastdl_context* context, const fastdl_tensor* x,
                                                   const fastdl_tensor* weight, const fastdl_tensor* bias,
                                                   const fastdl_tensor* out, const fastdl_tensor* mean,
                                                   const fastdl_tensor* rstd, int32_t normalized_ndim,
                                                   double eps);
/* grad_out, grad_x: x's shape; grad_weight, grad_bias: weight's. Any of the three gradients may be NULL,
   weight is NULL where forward had none; mean and rstd are required. */
FASTDL_API fastdl_status fastdl_layer_norm_backward(fastdl_context* context, const fastdl_tensor* grad_out,
                                                    const fastdl_tensor* x, const fastdl_tensor* weight,
                                                    const fastdl_tensor* mean, const fastdl_tensor* rstd,
                                                    const fastdl_tensor* grad_x,
                                                    const fastdl_tensor* grad_weight,
                                                    const fastdl_tensor* grad_bias, int32_t normalized_ndim);

/* y = x / sqrt(mean(x^2) + eps) * weight (Zhang, Sennrich 2019); the rest as for layer_norm. */
FASTDL_API fastdl_status fastdl_rms_norm_forward(fastdl_context* context, const fastdl_tensor* x,
                                                 const fastdl_tensor* weight, const fastdl_tensor* out,
                                                 const fastdl_tensor* rstd, int32_t normalized_ndim,
                                                 double eps);
/* As fastdl_layer_norm_backward, without mean and bias. */
FASTDL_API fastdl_status fastdl_rms_norm_backward(fastdl_context* context, const fastdl_tensor* grad_out,
                                                  const fastdl_tensor* x, const fastdl_tensor* weight,
                                                  const fastdl_tensor* rstd, const fastdl_tensor* grad_x,
                                                  const fastdl_tensor* grad_weight, int32_t normalized_ndim);

/* Statistics over each group of C / groups channels and all positions of one sample (Wu, He 2018); groups = C
   is instance normalisation. x, out: (N, C, *positions), channels-last memory is used in place. weight, bias:
   NULL or (C,). mean, rstd: (N, groups), C-contiguous, required. groups divides C. */
FASTDL_API fastdl_status fastdl_group_norm_forward(fastdl_context* context, const fastdl_tensor* x,
                                                   const fastdl_tensor* weight, const fastdl_tensor* bias,
                                                   const fastdl_tensor* out, const fastdl_tensor* mean,
                                                   const fastdl_tensor* rstd, int64_t groups, double eps);
/* grad_out, grad_x: x's shape; grad_weight, grad_bias: (C,); any of the three gradients may be NULL. */
FASTDL_API fastdl_status fastdl_group_norm_backward(fastdl_context* context, const fastdl_tensor* grad_out,
                                                    const fastdl_tensor* x, const fastdl_tensor* weight,
                                                    const fastdl_tensor* mean, const fastdl_tensor* rstd,
                                                    const fastdl_tensor* grad_x,
                                                    const fastdl_tensor* grad_weight,
                                                    const fastdl_tensor* grad_bias, int64_t groups);

typedef struct fastdl_batch_norm_options {
  size_t struct_size;
  double eps;
  double momentum;  /* running = (1 - momentum) * running + momentum * batch statistic (variance: unbiased) */
  int32_t training; /* 1: batch statistics, running ones updated when given; 0: running statistics are used */
} fastdl_batch_norm_options;
#define FASTDL_BATCH_NORM_OPTIONS_INIT {sizeof(fastdl_batch_norm_options), 1e-5, 0.1, 1}

/* Statistics over all samples and positions of each channel (Ioffe, Szegedy 2015). x, out: (N, C,
   *positions), channels-last memory is used in place; weight, bias, running_mean, running_var: NULL or (C,),
   the running ones required unless training, and updated in training; mean, rstd: (C,), required: what this
   call used, kept for the backward call. All (C,) tensors are C-contiguous. */
FASTDL_API fastdl_status fastdl_batch_norm_forward(fastdl_context* context, const fastdl_tensor* x,
                                                   const fastdl_tensor* weight, const fastdl_tensor* bias,
                                                   const fastdl_tensor* running_mean,
                                                   const fastdl_tensor* running_var, const fastdl_tensor* out,
                                                   const fastdl_tensor* mean, const fastdl_tensor* rstd,
                                                   const fastdl_batch_norm_options* options);
/* training as in the forward call: 0 treats the statistics as constants. grad_out, grad_x: x's shape;
   grad_weight, grad_bias: (C,); any of the three gradients may be NULL. */
FASTDL_API fastdl_status fastdl_batch_norm_backward(fastdl_context* context, const fastdl_tensor* grad_out,
                                                    const fastdl_tensor* x, const fastdl_tensor* weight,
                                                    const fastdl_tensor* mean, const fastdl_tensor* rstd,
                                                    const fastdl_tensor* grad_x,
                                                    const fastdl_tensor* grad_weight,
                                                    const fastdl_tensor* grad_bias, int32_t training);

#ifdef __cplusplus
}
#endif
#endif
