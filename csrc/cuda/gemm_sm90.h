// The way into Hopper's kernels, for gemm.cuh.
#pragma once

#include "cuda/gemm.h"

namespace fastdl::cuda {

// Computes g if the device has compute capability 9.0 and its shape suits (gemm_sm90_config.h), else returns
// false. FASTDL_CUDA_MATMUL=portable keeps everything away from it, =sm90 gives the kernel of tiles every
// shape that it can compute, =sm90_few that for few rows or columns every one of those.
template <class S>
bool gemm_sm90(Context* context, const Gemm<S>& g);

extern template bool gemm_sm90<float>(Context*, const Gemm<float>&);
extern template bool gemm_sm90<bfloat16>(Context*, const Gemm<bfloat16>&);
extern template bool gemm_sm90<float16>(Context*, const Gemm<float16>&);

}  // namespace fastdl::cuda
