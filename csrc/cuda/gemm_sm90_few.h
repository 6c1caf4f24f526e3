// The way into the kernel for few rows or columns, for gemm_sm90.cuh.
#pragma once

#include "cuda/gemm.h"
#include "cuda/gemm_sm90_config.h"

namespace fastdl::cuda {

// Computes g, of at most 128 rows or columns (float32: `highest`), as the plan says; false where the copy
// engine cannot read an operand.
template <class S>
bool gemm_sm90_few(Context* context, const Gemm<S>& g, const FewPlan& plan);

extern template bool gemm_sm90_few<float>(Context*, const Gemm<float>&, const FewPlan&);
extern template bool gemm_sm90_few<bfloat16>(Context*, const Gemm<bfloat16>&, const FewPlan&);
extern template bool gemm_sm90_few<float16>(Context*, const Gemm<float16>&, const FewPlan&);

}  // namespace fastdl::cuda
