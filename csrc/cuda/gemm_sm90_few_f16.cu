#include "cuda/gemm_sm90_few.cuh"

namespace fastdl::cuda {

template bool gemm_sm90_few<float16>(Context*, const Gemm<float16>&, const FewPlan&);

}  // namespace fastdl::cuda
