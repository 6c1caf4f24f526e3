// The way into Hopper's kernel for convolutions, for conv.cuh.
#pragma once

#include "cuda/conv_gather.cuh"
#include "cuda/conv_weight.cuh"

namespace fastdl::cuda {

// Computes the lattices of p that suit it, if the device has compute capability 9.0; the others stay in p, to
// be computed elsewhere. p's operands and sizes are complete, but for partial sums. FASTDL_CUDA_CONV=portable
// keeps everything away from the kernel, =sm90 gives it every shape that it can compute.
template <class S>
void conv_gather_sm90(Context* context, ConvGather<S>& p, const GemmEnd<S>& end);

// Computes the weight gradient p, if the device and the shape suit, else returns false. p's
// operands and sizes are complete, but for parts.
template <class S>
bool conv_weight_sm90(Context* context, const ConvGeometry& g, const ConvWeight<S>& p,
                      const View& grad_weight);

// out = end(the sum of p.partial, in the order of the parts). Compiled where the portable kernels are
// (conv.cuh): a kernel compiled for sm_90a as well might be taken for all devices by the linker.
template <class S>
void combine_gather_parts(Context* context, int64_t parts, const ConvGather<S>& p, const GemmEnd<S>& end);

extern template void combine_gather_parts<float>(Context*, int64_t, const ConvGather<float>&,
                                                 const GemmEnd<float>&);
extern template void conv_gather_sm90<float>(Context*, ConvGather<float>&, const GemmEnd<float>&);
extern template void combine_gather_parts<bfloat16>(Context*, int64_t, const ConvGather<bfloat16>&,
                                                    const GemmEnd<bfloat16>&);
extern template void combine_gather_parts<float16>(Context*, int64_t, const ConvGather<float16>&,
                                                   const GemmEnd<float16>&);
extern template void conv_gather_sm90<bfloat16>(Context*, ConvGather<bfloat16>&, const GemmEnd<bfloat16>&);
extern template void conv_gather_sm90<float16>(Context*, ConvGather<float16>&, const GemmEnd<float16>&);

extern template bool conv_weight_sm90<float>(Context*, const ConvGeometry&, const ConvWeight<float>&,
                                             const View&);
extern template bool conv_weight_sm90<bfloat16>(Context*, const ConvGeometry&, const ConvWeight<bfloat16>&,
                                                const View&);
extern template bool conv_weight_sm90<float16>(Context*, const ConvGeometry&, const ConvWeight<float16>&,
                                               const View&);

}  // namespace fastdl::cuda
