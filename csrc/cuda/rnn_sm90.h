// The way into the recurrent layers by Hopper's clusters, for rnn_layer.cuh.
#pragma once

#include "cuda/rnn_steps.cuh"

namespace fastdl::cuda {

// All steps of a layer, or false if it is not theirs: the device has no compute capability 9.0, or the layer
// is too large or has too many sequences (rnn_config.h). FASTDL_CUDA_RNN=portable keeps every layer away from
// them, =sm90 gives them all that they can compute. places: of the device.
template <class S, class Cell>
bool steps_by_cluster(Context* context, const ForwardSteps<S, Cell>& plan, const RnnPlaces& places,
                      int64_t directions);
template <class S>
bool steps_by_cluster(Context* context, const BackwardSteps<S>& plan, const RnnPlaces& places,
                      int64_t directions);

#define FASTDL_RNN_SM90_OF(linkage, S)                                                                     \
  linkage template bool steps_by_cluster(Context*, const ForwardSteps<S, GatesCell<S>>&, const RnnPlaces&, \
                                         int64_t);                                                         \
  linkage template bool steps_by_cluster(Context*, const ForwardSteps<S, PlainCell<S>>&, const RnnPlaces&, \
                                         int64_t);                                                         \
  linkage template bool steps_by_cluster(Context*, const BackwardSteps<S>&, const RnnPlaces&, int64_t);
FASTDL_RNN_SM90_OF(extern, bfloat16)
FASTDL_RNN_SM90_OF(extern, float16)

}  // namespace fastdl::cuda
