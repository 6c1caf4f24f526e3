#include "cuda/gemm_sm90_few.cuh"

namespace fastdl::cuda {

template bool gemm_sm90_few<float>(Context*, const Gemm<float>&, const FewPlan&);

}  // namespace fastdl::cuda
