#include "cuda/rnn_backward.cuh"
#include "cuda/rnn_forward.cuh"

namespace fastdl::cuda {

template void rnn_forward(Context*, const RnnForward<bfloat16>&, const RnnPlaces&);
template void rnn_backward(Context*, const RnnBackward<bfloat16>&, const RnnPlaces&);

}  // namespace fastdl::cuda
