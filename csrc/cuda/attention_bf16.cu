#include "cuda/attention.cuh"

namespace fastdl::cuda {

FASTDL_ATTENTION_OF(, bfloat16)

}  // namespace fastdl::cuda
