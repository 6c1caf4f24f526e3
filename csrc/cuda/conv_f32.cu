#include "cuda/conv.cuh"

namespace fastdl::cuda {
template void combine_gather_parts(Context*, int64_t, const ConvGather<float>&, const GemmEnd<float>&);
template void conv_gather(Context*, const ConvGeometry&, const GroupedImage&, const View&,
                          const ConvEnd<float>&, bool, const MergedTaps*);
template void conv_weight<float>(Context*, const ConvGeometry&, const GroupedImage&, const GroupedImage&,
                                 const View&, const MergedTaps*);
}  // namespace fastdl::cuda
