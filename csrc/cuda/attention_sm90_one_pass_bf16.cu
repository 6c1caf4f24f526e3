#include "cuda/attention_sm90_one_pass.cuh"

namespace fastdl::cuda {

FASTDL_ATTENTION_ONE_PASS_SM90_OF(, bfloat16)

}  // namespace fastdl::cuda
