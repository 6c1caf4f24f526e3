/* Scaled dot-product attention with an online softmax: no (L x S) matrix is kept, forward or backward. */
#ifndef FASTDL_ATTENTION_H
#define FASTDL_ATTENTION_H

#include "fastdl/base.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fastdl_attention_options {
  size_t struct_size;
  int32_t scale_given; /* 0: scale is 1 / sqrt(E) */
  double scale;        /* of q k^T */
  int32_t is_causal;   /* query i sees keys 0..i (aligned at the top left, whatever the lengths) */
  double dropout_p;    /* probability of dropping a weight; kept ones are scaled by 1 / (1 - p) */
  uint64_t seed; /* key and counter offset of the Philox mask; element (b, h, i, j) has its C-order index */
  uint64_t offset;
} fastdl_attention_options;
#define FASTDL_ATTENTION_OPTIONS_INIT {sizeof(fastdl_attention_options), 0, 0.0, 0, 0.0, 0, 0}

/* out = softmax(scale * q k^T + mask) v. One dtype, float32 or float64, any strides (unit stride along E is
   fastest). q: (B, H, L, E), k: (B, G, S, E), v: (B, G, S, Ev), out: (B, H, L, Ev); G divides H, head h reads
   group h / (H / G). mask: NULL, or (B, H, L, S) of bool (true: may attend) or of q's dtype (added to the
   scores); strides of 0 broadcast. lse: NULL or (B, H, L), C-contiguous: log of the sum of exponentials of
   each row's scores, kept for the backward call. With bfloat16 or float16 q, lse is float32,
   and mask and grad_mask may be. A row that may attend to nothing gives zeros. FASTDL_ERROR_VALUE for a
   dropout_p outside [0, 1). Scratch: under 1 MiB per thread up to 256 features of float32, whatever L and S.
   Cost: 2 B H L S (E + Ev) operations, about half with is_causal. */
FASTDL_API fastdl_status fastdl_attention_forward(fastdl_context* context, const fastdl_tensor* q,
                                                  const fastdl_tensor* k, const fastdl_tensor* v,
                                                  const fastdl_tensor* mask, const fastdl_tensor* out,
                                                  const fastdl_tensor* lse,
                                                  const fastdl_attention_options* options);

/* Gradients of all operands; grad_mask is NULL or (B, H, L, S), C-contiguous, the gradient of an additive
   mask. out and lse are those of the forward call, options the same. grad_q, grad_k, grad_v have the shapes
   of q, k, v, and none may be NULL; lse is required. Scratch: two numbers for each query, sums of grad_k and
   grad_v where several threads share a head, blocks that fit an L2 cache per thread. Cost: 2 B H L S (3 E + 2
   Ev) operations, about half with is_causal. */
FASTDL_API fastdl_status fastdl_attention_backward(
    fastdl_context* context, const fastdl_tensor* grad_out, const fastdl_tensor* q, const fastdl_tensor* k,
    const fastdl_tensor* v, const fastdl_tensor* mask, const fastdl_tensor* out, const fastdl_tensor* lse,
    const fastdl_tensor* grad_q, const fastdl_tensor* grad_k, const fastdl_tensor* grad_v,
    const fastdl_tensor* grad_mask, const fastdl_attention_options* options);

#ifdef __cplusplus
}
#endif
#endif
