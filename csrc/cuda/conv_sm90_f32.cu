#include "cuda/conv_sm90.cuh"

namespace fastdl::cuda {

template void conv_gather_sm90<float>(Context*, ConvGather<float>&, const GemmEnd<float>&);
template bool conv_weight_sm90<float>(Context*, const ConvGeometry&, const ConvWeight<float>&, const View&);

}  // namespace fastdl::cuda
