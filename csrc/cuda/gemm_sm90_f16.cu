#include "cuda/gemm_sm90.cuh"

namespace fastdl::cuda {

template bool gemm_sm90<float16>(Context*, const Gemm<float16>&);

}  // namespace fastdl::cuda
