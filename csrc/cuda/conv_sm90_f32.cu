#include "cuda/conv_sm90.cuh"

namespace fastdl::cuda {

template void conv_gather_sm90<float>(Context*, ConvGather<float>&, const GemmEnd<float>&);

}  // namespace fastdl::cuda
