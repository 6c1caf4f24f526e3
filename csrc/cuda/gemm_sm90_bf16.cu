#include "cuda/gemm_sm90.cuh"

namespace fastdl::cuda {

template bool gemm_sm90<bfloat16>(Context*, const Gemm<bfloat16>&);

}  // namespace fastdl::cuda
