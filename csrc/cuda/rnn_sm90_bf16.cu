#include "cuda/rnn_sm90.cuh"

namespace fastdl::cuda {

FASTDL_RNN_SM90_OF(, bfloat16)

}  // namespace fastdl::cuda
