#include "cuda/gemm.cuh"

namespace fastdl::cuda {

template void gemm<float>(Context*, const Gemm<float>&);

}  // namespace fastdl::cuda
