#include "cuda/conv_sm90.cuh"

namespace fastdl::cuda {

template void conv_gather_sm90<float16>(Context*, ConvGather<float16>&, const GemmEnd<float16>&);
template bool conv_weight_sm90<float16>(Context*, const ConvGeometry&, const ConvWeight<float16>&,
                                        const View&);

}  // namespace fastdl::cuda
