#include "cuda/conv.cuh"

namespace fastdl::cuda {
template void conv_gather(Context*, const ConvGeometry&, const GroupedImage&, const View&,
                          const ConvEnd<double>&, bool);
template void conv_weight<double>(Context*, const ConvGeometry&, const GroupedImage&, const GroupedImage&,
                                  const View&);
}  // namespace fastdl::cuda
