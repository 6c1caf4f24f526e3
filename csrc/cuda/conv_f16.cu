#include "cuda/conv.cuh"

namespace fastdl::cuda {
template void combine_gather_parts(Context*, int64_t, const ConvGather<float16>&, const GemmEnd<float16>&);
template void conv_gather(Context*, const ConvGeometry&, const GroupedImage&, const View&,
                          const ConvEnd<float16>&, bool, const MergedTaps*);
template void conv_weight<float16>(Context*, const ConvGeometry&, const GroupedImage&, const GroupedImage&,
                                   const View&, const MergedTaps*);
}  // namespace fastdl::cuda
