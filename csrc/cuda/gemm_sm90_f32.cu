#include "cuda/gemm_sm90.cuh"

namespace fastdl::cuda {

template bool gemm_sm90<float>(Context*, const Gemm<float>&);

}  // namespace fastdl::cuda
