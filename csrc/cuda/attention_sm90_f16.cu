#include "cuda/attention_sm90_forward.cuh"

namespace fastdl::cuda {

template void attention_forward_sm90<float16>(Context*, const AttentionProblem&, float*);

}  // namespace fastdl::cuda
