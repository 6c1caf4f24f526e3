// The way into Hopper's attention kernels, for attention.cuh.
#pragma once

#include "cuda/attention.h"

namespace fastdl::cuda {

// Whether p goes to them: the device has compute capability 9.0, they can compute it, and should
// (attention_config.h). FASTDL_CUDA_ATTENTION=portable keeps everything away from them, =sm90 gives them
// every shape that they can compute.
bool forward_by_sm90(const AttentionProblem& p);

template <class S>
void attention_forward_sm90(Context* context, const AttentionProblem& p, float* lse);

extern template void attention_forward_sm90<bfloat16>(Context*, const AttentionProblem&, float*);
extern template void attention_forward_sm90<float16>(Context*, const AttentionProblem&, float*);

}  // namespace fastdl::cuda
