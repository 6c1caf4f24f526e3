/* Optimizer steps: one call updates all parameters.

   Every function takes `count` tensors per list. params[i], grads[i] and the states [i] have one shape and
   one dtype (float32 or float64; other i may have another), any strides, and no two written tensors overlap.
   Any of param, grad and states may be bfloat16 or float16 where the others are float32: a step is taken in
   float32 and rounded once for each tensor. params and states are updated in place, after everything has been
   checked. rounded, in the options: NULL, or a list of NULL or a 16-bit tensor of the parameter's shape that
   receives its rounding (params are then float32 master weights). maximize: ascend instead of descend.
   count may be 0, a required list or entry not NULL (FASTDL_ERROR_VALUE). The lists are read during the call
   only. Scratch: copies of tensors whose layout differs from their parameter's, or that do not lie densely in
   memory; a few KiB per thread for 16-bit ones. Cost: one pass over all lists, one dispatch for all
   parameters. weight_decay: added to the gradient as weight_decay * param (Adam: unless decoupled). */
#ifndef FASTDL_OPTIM_H
#define FASTDL_OPTIM_H

#include "fastdl/base.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef const fastdl_tensor* const* fastdl_tensor_list;

typedef struct fastdl_sgd_options {
  size_t struct_size;
  double lr, momentum, dampening, weight_decay;
  int32_t nesterov, maximize;
  fastdl_tensor_list rounded;
} fastdl_sgd_options;
#define FASTDL_SGD_OPTIONS_INIT {sizeof(fastdl_sgd_options), 1e-3, 0.0, 0.0, 0.0, 0, 0, NULL}

/* b = momentum b + (1 - dampening) g; param -= lr b (Nesterov: lr (g + momentum b)). buffers: NULL when
   momentum is 0 (and not read then). fresh: NULL, or `count` numbers: fresh[i] not 0 says that buffers[i]
   holds nothing yet: then b = g. */
FASTDL_API fastdl_status fastdl_sgd_step(fastdl_context* context, int32_t count, fastdl_tensor_list params,
                                         fastdl_tensor_list grads, fastdl_tensor_list buffers,
                                         const uint8_t* fresh, const fastdl_sgd_options* options);

typedef struct fastdl_adam_options {
  size_t struct_size;
  double lr, beta1, beta2, eps, weight_decay;
  int32_t decoupled; /* 1: AdamW, param *= 1 - lr weight_decay instead */
  int32_t amsgrad, maximize;
  fastdl_tensor_list rounded;
} fastdl_adam_options;
#define FASTDL_ADAM_OPTIONS_INIT {sizeof(fastdl_adam_options), 1e-3, 0.9, 0.999, 1e-8, 0.0, 0, 0, 0, NULL}

/* m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g^2;
   param -= lr / (1 - beta1^t) * m / (sqrt(v / (1 - beta2^t)) + eps) (Kingma & Ba 2015, algorithm 1).
   steps[i]: t as a scalar of dtype float32, raised by one first. max_avg_sqs: NULL unless amsgrad. */
FASTDL_API fastdl_status fastdl_adam_step(fastdl_context* context, int32_t count, fastdl_tensor_list params,
                                          fastdl_tensor_list grads, fastdl_tensor_list avgs,
                                          fastdl_tensor_list avg_sqs, fastdl_tensor_list max_avg_sqs,
                                          fastdl_tensor_list steps, const fastdl_adam_options* options);

typedef struct fastdl_adagrad_options {
  size_t struct_size;
  double lr, lr_decay, weight_decay, eps;
  int32_t maximize;
  fastdl_tensor_list rounded;
} fastdl_adagrad_options;
#define FASTDL_ADAGRAD_OPTIONS_INIT {sizeof(fastdl_adagrad_options), 1e-2, 0.0, 0.0, 1e-10, 0, NULL}

/* s += g^2; param -= lr / (1 + (t - 1) lr_decay) * g / (sqrt(s) + eps). steps: as for Adam. */
FASTDL_API fastdl_status fastdl_adagrad_step(fastdl_context* context, int32_t count,
                                             fastdl_tensor_list params, fastdl_tensor_list grads,
                                             fastdl_tensor_list sums, fastdl_tensor_list steps,
                                             const fastdl_adagrad_options* options);

typedef struct fastdl_rmsprop_options {
  size_t struct_size;
  double lr, alpha, eps, weight_decay, momentum;
  int32_t centered, maximize;
  fastdl_tensor_list rounded;
} fastdl_rmsprop_options;
#define FASTDL_RMSPROP_OPTIONS_INIT {sizeof(fastdl_rmsprop_options), 1e-2, 0.99, 1e-8, 0.0, 0.0, 0, 0, NULL}

/* v = alpha v + (1 - alpha) g^2; centered: a = alpha a + (1 - alpha) g and v - a^2 stands for v;
   u = g / (sqrt(v) + eps); with momentum b = momentum b + u and param -= lr b, else param -= lr u.
   buffers, avgs: NULL unless momentum, centered. steps: as for Adam, or NULL. */
FASTDL_API fastdl_status fastdl_rmsprop_step(fastdl_context* context, int32_t count,
                                             fastdl_tensor_list params, fastdl_tensor_list grads,
                                             fastdl_tensor_list square_avgs, fastdl_tensor_list avgs,
                                             fastdl_tensor_list buffers, fastdl_tensor_list steps,
                                             const fastdl_rmsprop_options* options);

/* The p-norm of all elements of all tensors together (p > 0, infinity for the largest magnitude), summed in
   float64 in a fixed order. *norm is written on success: a double, 0 without elements. tensors: any shapes,
   dtypes and strides, read only. FASTDL_ERROR_VALUE unless p > 0. Scratch: partial sums. Cost: one pass. */
FASTDL_API fastdl_status fastdl_norm(fastdl_context* context, int32_t count, fastdl_tensor_list tensors,
                                     double p, double* norm);

/* Every element of every tensor, updated in place, times factor. Cost: one pass. */
FASTDL_API fastdl_status fastdl_scale(fastdl_context* context, int32_t count, fastdl_tensor_list tensors,
                                      double factor);

/* Every element of every tensor times max_norm / (*norm + 1e-6) where that is less than 1 or NaN: gradients
   clipped to the norm that fastdl_norm has found. norm: one double, read only. FASTDL_ERROR_VALUE unless
   max_norm >= 0. Cost: one pass. */
FASTDL_API fastdl_status fastdl_clip_norm(fastdl_context* context, int32_t count, fastdl_tensor_list tensors,
                                          double max_norm, const double* norm);

#ifdef __cplusplus
}
#endif
#endif
