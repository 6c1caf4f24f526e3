#include "cuda/conv.cuh"

namespace fastdl::cuda {
template void conv_gather(Context*, const ConvGeometry&, const GroupedImage&, const View&,
                          const ConvEnd<double>&, bool, const MergedTaps*);
template void conv_weight<double>(Context*, const ConvGeometry&, const GroupedImage&, const GroupedImage&,
                                  const View&, const MergedTaps*);
}  // namespace fastdl::cuda
