#include "cuda/gemm_sm90_few.cuh"

namespace fastdl::cuda {

template bool gemm_sm90_few<bfloat16>(Context*, const Gemm<bfloat16>&, const FewPlan&);

}  // namespace fastdl::cuda
