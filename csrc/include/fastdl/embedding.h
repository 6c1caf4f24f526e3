/* Look-up of table rows, alone and in bags, and the deterministic sums of their gradients.

   indices: int64 or int32, any strides; FASTDL_ERROR_INDEX if one is outside [0, V), before anything is
   written. Floating tensors: float32 or float64, all of one dtype, any strides; forward of embedding moves
   16-bit ones as they are, all else is computed by float32. No output overlaps anything. Scratch, of every
   call: indices as int64, and for gradients the order that sorts them. Cost: the rows looked up are read and
   the outputs written once; gradients sort the indices first. */
#ifndef FASTDL_EMBEDDING_H
#define FASTDL_EMBEDDING_H

#include "fastdl/base.h"

#ifdef __cplusplus
extern "C" {
#endif

/* out[...] = weight[indices[...]]. weight: (V, D); indices: any shape; out: indices' shape + (D). */
FASTDL_API fastdl_status fastdl_embedding_forward(fastdl_context* context, const fastdl_tensor* weight,
                                                  const fastdl_tensor* indices, const fastdl_tensor* out);

/* grad_weight[i] = the sum of grad_out over the places where i was looked up, in their order; 0 for
   padding_idx (negative: none); divided by the number of places with scale_grad_by_freq not 0. grad_out:
   indices' shape + (D); grad_weight: (V, D), written as a whole. */
FASTDL_API fastdl_status fastdl_embedding_backward(fastdl_context* context, const fastdl_tensor* grad_out,
                                                   const fastdl_tensor* indices,
                                                   const fastdl_tensor* grad_weight, int64_t padding_idx,
                                                   int32_t scale_grad_by_freq);

/* Scales every row of weight that indices name and whose norm exceeds max_norm by max_norm / (norm + 1e-7),
   once each. weight: (V, D), updated. max_norm >= 0 and norm_type > 0 (infinity: the largest magnitude), else
   FASTDL_ERROR_VALUE. */
FASTDL_API fastdl_status fastdl_embedding_renorm(fastdl_context* context, const fastdl_tensor* weight,
                                                 const fastdl_tensor* indices, double max_norm,
                                                 double norm_type);

typedef enum fastdl_bag_mode { FASTDL_BAG_SUM = 0, FASTDL_BAG_MEAN = 1, FASTDL_BAG_MAX = 2 } fastdl_bag_mode;

typedef struct fastdl_embedding_bag_options {
  size_t struct_size;
  int32_t mode;                /* fastdl_bag_mode */
  int32_t include_last_offset; /* offsets has one more entry: the end of the last bag */
  int32_t scale_grad_by_freq;  /* backward only; not with max */
  int64_t padding_idx;         /* entries that count for nothing; negative: none */
} fastdl_embedding_bag_options;
#define FASTDL_EMBEDDING_BAG_OPTIONS_INIT {sizeof(fastdl_embedding_bag_options), FASTDL_BAG_MEAN, 0, 0, -1}

/* out[b] = sum, mean or maximum of the rows of bag b; 0 for an empty bag.
   weight: (V, D). indices: (N), with bag b from offsets[b] to the next; or (B, L) with offsets NULL. offsets:
   int64 or int32, from 0, never falling, at most N. per_sample_weights: NULL or a factor for each index, sum
   only. out: (B, D). max_indices: NULL or (B, D) int64, which row each maximum came from (-1 in an empty
   bag): backward of FASTDL_BAG_MAX needs it. */
FASTDL_API fastdl_status fastdl_embedding_bag_forward(
    fastdl_context* context, const fastdl_tensor* weight, const fastdl_tensor* indices,
    const fastdl_tensor* offsets, const fastdl_tensor* per_sample_weights, const fastdl_tensor* out,
    const fastdl_tensor* max_indices, const fastdl_embedding_bag_options* options);

/* grad_out: (B, D). grad_weight: (V, D) or NULL. grad_per_sample_weights: per_sample_weights' shape or NULL
   (it needs per_sample_weights). weight is read for its shape, and for grad_per_sample_weights. max_indices:
   the forward's, required with FASTDL_BAG_MAX (FASTDL_ERROR_INDEX if one is outside [-1, V)), else NULL. */
FASTDL_API fastdl_status fastdl_embedding_bag_backward(
    fastdl_context* context, const fastdl_tensor* grad_out, const fastdl_tensor* weight,
    const fastdl_tensor* indices, const fastdl_tensor* offsets, const fastdl_tensor* per_sample_weights,
    const fastdl_tensor* max_indices, const fastdl_tensor* grad_weight,
    const fastdl_tensor* grad_per_sample_weights, const fastdl_embedding_bag_options* options);

#ifdef __cplusplus
}
#endif
#endif
