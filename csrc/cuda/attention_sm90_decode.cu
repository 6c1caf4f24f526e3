#include "cuda/attention_sm90_decode.cuh"

namespace fastdl::cuda {

FASTDL_ATTENTION_DECODE_SM90_OF(, bfloat16)
FASTDL_ATTENTION_DECODE_SM90_OF(, float16)

}  // namespace fastdl::cuda
