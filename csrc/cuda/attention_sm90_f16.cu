#include "cuda/attention_sm90_forward.cuh"
#include "cuda/attention_sm90_two_passes.cuh"

namespace fastdl::cuda {

FASTDL_ATTENTION_SM90_OF(, float16)

}  // namespace fastdl::cuda
