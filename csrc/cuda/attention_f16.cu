#include "cuda/attention.cuh"

namespace fastdl::cuda {

FASTDL_ATTENTION_OF(, float16)

}  // namespace fastdl::cuda
