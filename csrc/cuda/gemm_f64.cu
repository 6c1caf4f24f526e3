#include "cuda/gemm.cuh"

namespace fastdl::cuda {

template void gemm<double>(Context*, const Gemm<double>&);

}  // namespace fastdl::cuda
