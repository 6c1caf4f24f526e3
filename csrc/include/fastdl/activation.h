/* Elementwise activations, forward and backward. */
#ifndef FASTDL_ACTIVATION_H
#define FASTDL_ACTIVATION_H

#include "fastdl/base.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Which function; alpha and beta are its parameters in torch's order, not read where none is named. */
typedef enum fastdl_activation_kind {
  FASTDL_ACT_NONE = 0,
  FASTDL_ACT_RELU = 1,
  FASTDL_ACT_RELU6 = 2,
  FASTDL_ACT_LEAKY_RELU = 3, /* alpha: negative slope */
  FASTDL_ACT_ELU = 4,        /* alpha */
  FASTDL_ACT_SELU = 5,
  FASTDL_ACT_CELU = 6, /* alpha */
  FASTDL_ACT_GELU = 7, /* x * Phi(x) */
  FASTDL_ACT_GELU_TANH = 8,
  FASTDL_ACT_SILU = 9,
  FASTDL_ACT_MISH = 10,
  FASTDL_ACT_SOFTPLUS = 11, /* alpha: beta of torch, beta: threshold */
  FASTDL_ACT_HARDSWISH = 12,
  FASTDL_ACT_HARDSIGMOID = 13,
  FASTDL_ACT_HARDTANH = 14, /* alpha: min, beta: max */
  FASTDL_ACT_SIGMOID = 15,
  FASTDL_ACT_TANH = 16,
  FASTDL_ACT_LOGSIGMOID = 17,
  FASTDL_ACT_SOFTSIGN = 18,
  FASTDL_ACT_HARDSHRINK = 19, /* alpha: lambda */
  FASTDL_ACT_SOFTSHRINK = 20, /* alpha: lambda */
  FASTDL_ACT_TANHSHRINK = 21,
  FASTDL_ACT_THRESHOLD = 22 /* alpha: threshold, beta: value */
} fastdl_activation_kind;

/* No options struct: its layout is fixed. */
typedef struct fastdl_activation {
  int32_t kind; /* fastdl_activation_kind, else FASTDL_ERROR_VALUE */
  double alpha;
  double beta;
} fastdl_activation;

/* out = f(x). x, out: same shape and dtype, float32 or float64, any strides; out may be x. activation: not
   NULL. Scratch: none if x and out lie densely in memory in the same order. Cost: one pass. */
FASTDL_API fastdl_status fastdl_activation_forward(fastdl_context* context, const fastdl_tensor* x,
                                                   const fastdl_tensor* out,
                                                   const fastdl_activation* activation);

/* grad_x = grad_out * f'(x). saved is f(x) when from_output is not 0 (relu, relu6, leaky_relu with alpha > 0,
   elu with alpha > 0, selu, celu with alpha > 0, hardtanh, sigmoid, tanh: the kinds for which
   fastdl_activation_from_output says 1; FASTDL_ERROR_VALUE for others), else x. All of one shape and dtype,
   any strides; grad_x may be grad_out or saved. Scratch: none if all lie densely in memory in the same order.
   Cost: one pass. */
FASTDL_API fastdl_status fastdl_activation_backward(fastdl_context* context, const fastdl_tensor* grad_out,
                                                    const fastdl_tensor* saved, const fastdl_tensor* grad_x,
                                                    const fastdl_activation* activation, int32_t from_output);

/* 1 if the derivative can be computed from the output alone; 0 if not, if the kind is unknown or activation
   is NULL. */
FASTDL_API int32_t fastdl_activation_from_output(const fastdl_activation* activation);

/* Gated linear unit: out = a * sigmoid(b), a and b the first and second half of x along `dim` (negative
   counts from the end; FASTDL_ERROR_INDEX if x has none such), whose extent must be even. x: any shape,
   float32 or float64, any strides; out: x's shape with half of `dim`, no overlap. Scratch: none. Cost: one
   pass. */
FASTDL_API fastdl_status fastdl_glu_forward(fastdl_context* context, const fastdl_tensor* x,
                                            const fastdl_tensor* out, int32_t dim);
/* grad_x: x's shape; grad_out: that of glu's output. The rest as above. */
FASTDL_API fastdl_status fastdl_glu_backward(fastdl_context* context, const fastdl_tensor* grad_out,
                                             const fastdl_tensor* x, const fastdl_tensor* grad_x,
                                             int32_t dim);

/* out = x where x > 0, else weight * x. x, out: same shape, float32 or float64, any strides; out may be x.
   weight: 1 element, or one per channel (dim 1 of x, which then has at least two dims), of x's dtype or,
   beside 16-bit x, float32. Scratch: none. Cost: one pass. */
FASTDL_API fastdl_status fastdl_prelu_forward(fastdl_context* context, const fastdl_tensor* x,
                                              const fastdl_tensor* weight, const fastdl_tensor* out);
/* grad_x (x's shape; may be grad_out) and grad_weight (weight's shape) may each be NULL. Scratch: partial
   sums of grad_weight. Cost: one pass. */
FASTDL_API fastdl_status fastdl_prelu_backward(fastdl_context* context, const fastdl_tensor* grad_out,
                                               const fastdl_tensor* x, const fastdl_tensor* weight,
                                               const fastdl_tensor* grad_x, const fastdl_tensor* grad_weight);

/* Elementary functions, as accurate as a C library's (below 2 ulp; erfc 5), the same on every element
   whatever its place. tanh and sigmoid are activations. */
typedef enum fastdl_elementary_kind {
  FASTDL_EXP = 0,
  FASTDL_EXPM1 = 1,
  FASTDL_LOG = 2,
  FASTDL_LOG1P = 3,
  FASTDL_ERF = 4,
  FASTDL_ERFC = 5
} fastdl_elementary_kind;

/* out = f(x). x, out: same shape and dtype, float32 or float64, any strides; out may be x. FASTDL_ERROR_VALUE
   for an unknown kind. Scratch: none if both lie densely in memory in the same order. Cost: one pass. */
FASTDL_API fastdl_status fastdl_elementary(fastdl_context* context, const fastdl_tensor* x,
                                           const fastdl_tensor* out, int32_t kind);

#ifdef __cplusplus
}
#endif
#endif
