#include "cuda/conv_sm90.cuh"

namespace fastdl::cuda {

template void conv_gather_sm90<bfloat16>(Context*, ConvGather<bfloat16>&, const GemmEnd<bfloat16>&);
template bool conv_weight_sm90<bfloat16>(Context*, const ConvGeometry&, const ConvWeight<bfloat16>&,
                                         const View&);

}  // namespace fastdl::cuda
