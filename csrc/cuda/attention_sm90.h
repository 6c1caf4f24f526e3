// The way into Hopper's attention kernels, for attention.cuh.
#pragma once

#include "cuda/attention.h"
#include "cuda/attention_config.h"

namespace fastdl::cuda {

// Whether p goes to them: the device has compute capability 9.0, they can compute it, and should
// (attention_config.h). FASTDL_CUDA_ATTENTION=portable keeps everything away from them, =sm90 gives them
// every shape that they can compute.
bool forward_by_sm90(const AttentionProblem& p);
bool decode_by_sm90(const AttentionProblem& p);  // forward, keys cut into parts; to be asked first
bool backward_by_sm90(const AttentionProblem& p, const AttentionGradients& g);
// Whether its backward pass makes all gradients in one pass: what attention_config.h says, or
// FASTDL_CUDA_ATTENTION_BACKWARD=one-pass (wherever that can be), =two-passes.
bool backward_in_one_pass(const AttentionProblem& p);

inline Sm90Scores sm90_scores(const AttentionProblem& p) {
  const bool boolean = p.mask.data && p.mask.dtype == DType::kBool, added = p.mask.data && !boolean;
  return sm90_scores(static_cast<float>(p.scale * kLog2e), boolean, added, p.dropout > 0);
}

template <class S>
void attention_forward_sm90(Context* context, const AttentionProblem& p, float* lse);
template <class S>
void attention_decode_sm90(Context* context, const AttentionProblem& p, float* lse);
// terms: those of attention_row_terms, [2][batch, heads, padded], where padded is a multiple of
// sm90_backward_queries(), or of kOnePassQueries.
template <class S>
void attention_two_passes_sm90(Context* context, const AttentionProblem& p, const AttentionGradients& g,
                               const float* terms, int64_t padded);
template <class S>
void attention_one_pass_sm90(Context* context, const AttentionProblem& p, const AttentionGradients& g,
                             const float* terms, int64_t padded);

#define FASTDL_ATTENTION_SM90_OF(linkage, S)                                                  \
  linkage template void attention_forward_sm90<S>(Context*, const AttentionProblem&, float*); \
  linkage template void attention_two_passes_sm90<S>(Context*, const AttentionProblem&,       \
                                                     const AttentionGradients&, const float*, int64_t);
FASTDL_ATTENTION_SM90_OF(extern, bfloat16)
FASTDL_ATTENTION_SM90_OF(extern, float16)
#define FASTDL_ATTENTION_ONE_PASS_SM90_OF(linkage, S)                                 \
  linkage template void attention_one_pass_sm90<S>(Context*, const AttentionProblem&, \
                                                   const AttentionGradients&, const float*, int64_t);
FASTDL_ATTENTION_ONE_PASS_SM90_OF(extern, bfloat16)
FASTDL_ATTENTION_ONE_PASS_SM90_OF(extern, float16)
#define FASTDL_ATTENTION_DECODE_SM90_OF(linkage, S) \
  linkage template void attention_decode_sm90<S>(Context*, const AttentionProblem&, float*);
FASTDL_ATTENTION_DECODE_SM90_OF(extern, bfloat16)
FASTDL_ATTENTION_DECODE_SM90_OF(extern, float16)

}  // namespace fastdl::cuda
