/* Elementwise activations, forward and backward. */
#ifndef FASTDL_ACTIVATION_H
#define FASTDL_ACTIVATION_H

#include "fastdl/base.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Which function; alpha and beta are its parameters in torch's order (see the table in docs of each). */
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

typedef struct fastdl_activation {
  int32_t kind;
  double alpha;
  double beta;
} fastdl_activation;

/* out = f(x). x, out: same shape, float32 or float64, any strides; out may be x itself (same layout), else no
 * overlap. */
FASTDL_API fastdl_status fastdl_activation_forward(fastdl_context* context, const fastdl_tensor* x,
                                                   const fastdl_tensor* out,
                                                   const fastdl_activation* activation);

/* grad_x = grad_out * f'(x). saved is f(x) when from_output is not 0 (relu, relu6, leaky_relu with alpha > 0,
   elu with alpha > 0, selu, celu with alpha > 0, hardtanh, sigmoid, tanh: the kinds for which
   fastdl_activation_from_output says 1), else x. */
FASTDL_API fastdl_status fastdl_activation_backward(fastdl_context* context, const fastdl_tensor* grad_out,
                                                    const fastdl_tensor* saved, const fastdl_tensor* grad_x,
                                                    const fastdl_activation* activation, int32_t from_output);

/* 1 if the derivative can be computed from the output alone. */
FASTDL_API int32_t fastdl_activation_from_output(const fastdl_activation* activation);

#ifdef __cplusplus
}
#endif
#endif
