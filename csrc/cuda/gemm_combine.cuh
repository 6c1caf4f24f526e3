// The last step of a product cut along k.
#pragma once

#include "cuda/gemm_end.cuh"

namespace fastdl::cuda {

// C = end(the sum of `partial`, [parts, batch, m, n], in the order of the parts), for float, bfloat16 and
// float16. Its kernel is compiled in gemm_combine.cu alone: had the objects for sm_90a one of their own, the
// linker might take that for all devices.
template <class S>
void combine_parts(Context* context, int64_t parts, int64_t m, int64_t n, const GemmBatch& batch,
                   const float* partial, const GemmEnd<S>& end);

}  // namespace fastdl::cuda
