/* Softmax, log-softmax and softmin along any dimension. */
#ifndef FASTDL_SOFTMAX_H
#define FASTDL_SOFTMAX_H

#include "fastdl/base.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum fastdl_softmax_kind {
  FASTDL_SOFTMAX = 0,     /* exp(x) / sum exp(x) */
  FASTDL_LOG_SOFTMAX = 1, /* x - log sum exp(x) */
  FASTDL_SOFTMIN = 2      /* softmax(-x) */
} fastdl_softmax_kind;

/* x, out: same shape and dtype, float32 or float64, any strides; dim: -ndim <= dim < ndim (0 or -1 for a
   scalar), else FASTDL_ERROR_INDEX. The maximum is taken away first, so nothing overflows; a row with NaN or
   +inf, or of -inf only, gives NaN. out may be x. FASTDL_ERROR_VALUE for an unknown kind. Scratch: none if x
   and out are C-contiguous; two float32 rows per thread for 16-bit ones. Cost: one pass. */
FASTDL_API fastdl_status fastdl_softmax_forward(fastdl_context* context, const fastdl_tensor* x,
                                                const fastdl_tensor* out, int32_t dim, int32_t kind);

/* grad_x from grad_out and the forward's output, all of one shape and dtype. grad_x may be grad_out. Errors,
   scratch and cost as above. */
FASTDL_API fastdl_status fastdl_softmax_backward(fastdl_context* context, const fastdl_tensor* grad_out,
                                                 const fastdl_tensor* out, const fastdl_tensor* grad_x,
                                                 int32_t dim, int32_t kind);

#ifdef __cplusplus
}
#endif
#endif
