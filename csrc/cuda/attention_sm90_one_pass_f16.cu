#include "cuda/attention_sm90_one_pass.cuh"

namespace fastdl::cuda {

FASTDL_ATTENTION_ONE_PASS_SM90_OF(, float16)

}  // namespace fastdl::cuda
