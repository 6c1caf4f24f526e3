#include "cuda/conv.cuh"

namespace fastdl::cuda {
template void combine_gather_parts(Context*, int64_t, const ConvGather<bfloat16>&, const GemmEnd<bfloat16>&);
template void conv_gather(Context*, const ConvGeometry&, const GroupedImage&, const View&,
                          const ConvEnd<bfloat16>&, bool, const MergedTaps*);
template void conv_weight<bfloat16>(Context*, const ConvGeometry&, const GroupedImage&, const GroupedImage&,
                                    const View&, const MergedTaps*);
}  // namespace fastdl::cuda
