#include "cuda/attention.cuh"

namespace fastdl::cuda {

FASTDL_ATTENTION_OF(, float)

}  // namespace fastdl::cuda
