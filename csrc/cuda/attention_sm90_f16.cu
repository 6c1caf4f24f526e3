#include "cuda/attention_sm90_backward.cuh"
#include "cuda/attention_sm90_forward.cuh"

namespace fastdl::cuda {

FASTDL_ATTENTION_SM90_OF(, float16)

}  // namespace fastdl::cuda
