/* Losses, each computed together with its gradient. */
#ifndef FASTDL_LOSS_H
#define FASTDL_LOSS_H

#include "fastdl/base.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum fastdl_reduction {
  FASTDL_REDUCTION_NONE = 0,
  FASTDL_REDUCTION_MEAN = 1,
  FASTDL_REDUCTION_SUM = 2
} fastdl_reduction;

typedef struct fastdl_cross_entropy_options {
  size_t struct_size;
  int32_t reduction;      /* fastdl_reduction */
  int64_t ignore_index;   /* rows with this label count for nothing; labels only */
  double label_smoothing; /* in [0, 1]; the target is mixed with the uniform distribution. 0 for nll_loss */
} fastdl_cross_entropy_options;
#define FASTDL_CROSS_ENTROPY_OPTIONS_INIT \
  {sizeof(fastdl_cross_entropy_options), FASTDL_REDUCTION_MEAN, -100, 0.0}

/* In all of them, beside bfloat16 or float16 logits or x: target, weight, pos_weight and loss may be float32.
 */

/* loss = -sum_c weight[c] target[c] log softmax(logits)[c] per row.
   logits: (C), (N, C) or (N, C, d1, ...), float32 or float64.
   target: class labels, int64 or int32, the shape of logits without C (FASTDL_ERROR_INDEX if any is neither
   in [0, C) nor ignore_index), or probabilities of the dtype and shape of logits. weight: (C) or NULL for
   ones. loss: a scalar, or without reduction the shape of logits without C. "mean" divides by the sum of the
   weights of the labels not ignored (labels) or the number of rows (probabilities). grad_logits: NULL, or
   logits' shape: gets the gradient of the sum of `loss`; multiply it by the loss's own gradient. Ignored rows
   get zeros. Any strides, no overlap. Scratch: two numbers for each row; logits whose classes (dim 1) do not
   lie next to each other are copied. Cost: one pass over logits and grad_logits. */
FASTDL_API fastdl_status fastdl_cross_entropy(fastdl_context* context, const fastdl_tensor* logits,
                                              const fastdl_tensor* target, const fastdl_tensor* weight,
                                              const fastdl_tensor* loss, const fastdl_tensor* grad_logits,
                                              const fastdl_cross_entropy_options* options);

/* loss = -weight[y] x[y] per row: cross-entropy of log-probabilities and labels. Arguments as above (16-bit
   by float32); label_smoothing must be 0, target labels. */
FASTDL_API fastdl_status fastdl_nll_loss(fastdl_context* context, const fastdl_tensor* x,
                                         const fastdl_tensor* target, const fastdl_tensor* weight,
                                         const fastdl_tensor* loss, const fastdl_tensor* grad_x,
                                         const fastdl_cross_entropy_options* options);

/* Losses of one element and its target; d = x - target. */
typedef enum fastdl_loss_kind {
  FASTDL_LOSS_MSE = 0,        /* d^2 */
  FASTDL_LOSS_L1 = 1,         /* |d| */
  FASTDL_LOSS_SMOOTH_L1 = 2,  /* d^2 / (2 b) where |d| < b, else |d| - b / 2; b = parameter > 0 */
  FASTDL_LOSS_HUBER = 3,      /* b times smooth_l1 */
  FASTDL_LOSS_BCE = 4,        /* -(t log x + (1 - t) log(1 - x)), logarithms at least -100; x in [0, 1] */
  FASTDL_LOSS_BCE_LOGITS = 5, /* the same of sigmoid(x), with p t for t in the first term, p = pos_weight */
  FASTDL_LOSS_KL = 6,         /* t (log t - x), 0 where t = 0 */
  FASTDL_LOSS_KL_LOG_TARGET = 7,    /* exp(t) (t - x) */
  FASTDL_LOSS_POISSON_LOG = 8,      /* exp(x) - t x */
  FASTDL_LOSS_POISSON = 9,          /* x - t log(x + parameter) */
  FASTDL_LOSS_SOFT_MARGIN = 10,     /* log(1 + exp(-t x)) */
  FASTDL_LOSS_HINGE_EMBEDDING = 11, /* x where t = 1, else max(0, parameter - x) */
  FASTDL_LOSS_KINDS = 12
} fastdl_loss_kind;

typedef struct fastdl_loss_options {
  size_t struct_size;
  int32_t kind;      /* fastdl_loss_kind */
  int32_t reduction; /* fastdl_reduction */
  double parameter;
} fastdl_loss_options;
#define FASTDL_LOSS_OPTIONS_INIT {sizeof(fastdl_loss_options), FASTDL_LOSS_MSE, FASTDL_REDUCTION_MEAN, 1.0}

/* x, target, and if not NULL weight (a factor per element), pos_weight and grad_x: the same shape and dtype,
   float32 or float64, any strides. loss: a scalar, or without reduction x's shape. grad_x gets the gradient
   of the sum of `loss`. weight: NULL for ones; pos_weight: NULL for ones, read by
   FASTDL_LOSS_BCE_LOGITS only. No overlap.
   FASTDL_ERROR_VALUE if an x of FASTDL_LOSS_BCE lies outside [0, 1] (found by a pass of its own, before any
   output is written), or if the kind or the reduction is unknown. 16-bit by float32. Scratch: partial sums.
   Cost: one pass. */
FASTDL_API fastdl_status fastdl_loss(fastdl_context* context, const fastdl_tensor* x,
                                     const fastdl_tensor* target, const fastdl_tensor* weight,
                                     const fastdl_tensor* pos_weight, const fastdl_tensor* loss,
                                     const fastdl_tensor* grad_x, const fastdl_loss_options* options);

#ifdef __cplusplus
}
#endif
#endif
