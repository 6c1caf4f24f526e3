#include "cuda/gemm.cuh"

namespace fastdl::cuda {

template void gemm<float16>(Context*, const Gemm<float16>&);

}  // namespace fastdl::cuda
