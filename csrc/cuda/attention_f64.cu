#include "cuda/attention.cuh"

namespace fastdl::cuda {

FASTDL_ATTENTION_OF(, double)

}  // namespace fastdl::cuda
