#include "cuda/gemm.cuh"

namespace fastdl::cuda {

template void gemm<bfloat16>(Context*, const Gemm<bfloat16>&);

}  // namespace fastdl::cuda
