// Recurrent layers by clusters, on the host: which of the kernels, and its launch.
#pragma once

#include "cuda/launch.h"
#include "cuda/rnn_config.h"
#include "cuda/rnn_sm90.h"
#include "cuda/rnn_sm90_backward.cuh"
#include "cuda/rnn_sm90_forward.cuh"
#include "cuda/sm90_wanted.h"
#include "cuda/tensor_map.h"

namespace fastdl::cuda {
namespace sm90 {

// Calls f(ClusterTile) for the tile of a plan.
template <int Gates, class F>
void with_cluster_tile(const RnnClusterPlan& plan, F&& f) {
  const bool many = plan.sequences_each > 4;
  if (plan.blocks == 16) return f(ClusterTile<Gates, 16, 2>{});
  if (plan.blocks == 4) {
    if (many) f(ClusterTile<Gates, 4, 2>{});
    else f(ClusterTile<Gates, 4, 1>{});
  } else {
    if (many) f(ClusterTile<Gates, 8, 2>{});
    else f(ClusterTile<Gates, 8, 1>{});
  }
}

// The plan of a layer that goes to these kernels; else it does not fit.
inline RnnClusterPlan cluster_plan(int64_t gates, int64_t hidden, const RnnPlaces& places,
                                   int64_t directions) {
  const Wanted kernel = wanted("FASTDL_CUDA_RNN");
  RnnClusterPlan plan{};
  if (kernel == Wanted::portable || !is_hopper()) return plan;
  plan = rnn_cluster_plan(gates, hidden, places.steps, places.sequences, directions, multiprocessors());
  plan.fits = plan.fits && (plan.suits || kernel == Wanted::always);
  return plan;
}

// False if the device has no place for such a cluster: not every one has 16 multiprocessors beside each
// other.
template <class Tile, class... Parameters, class... Arguments>
bool launch_clusters(Context* context, const Kernel<Parameters...>& kernel, const RnnClusterPlan& plan,
                     int64_t directions, size_t shared_bytes, const Arguments&... arguments) {
  Launch shape{dim3(static_cast<unsigned>(plan.groups * plan.blocks), static_cast<unsigned>(directions)),
               Tile::kThreads, shared_bytes};
  shape.cluster = static_cast<unsigned>(plan.blocks);
#ifndef FASTDL_SIMT
  if (Tile::kBlocks > 8) {  // what every device has (CUDA C++ Programming Guide, "Thread Block Clusters")
    const auto* const function = reinterpret_cast<const void*>(kernel.function);
    const auto set = [&](cudaFuncAttribute attribute, int value) {
      check_cuda(cudaFuncSetAttribute(function, attribute, value), kernel.name);
    };
    set(cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
    set(cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
    cudaLaunchConfig_t config{};
    config.gridDim = shape.grid, config.blockDim = shape.block, config.dynamicSmemBytes = shared_bytes;
    cudaLaunchAttribute attribute{};
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = {shape.cluster, 1, 1};
    config.attrs = &attribute, config.numAttrs = 1;
    int clusters = 0;
    const cudaError_t error = cudaOccupancyMaxActiveClusters(&clusters, function, &config);
    if (error == cudaErrorInvalidClusterSize) return cudaGetLastError(), false;
    check_cuda(error, kernel.name);
    if (clusters == 0) return false;
  }
#endif
  launch(context, kernel, shape, arguments...);
  return true;
}

}  // namespace sm90

template <class S, class Cell>
bool steps_by_cluster(Context* context, const ForwardSteps<S, Cell>& steps, const RnnPlaces& places,
                      int64_t directions) {
  const RnnClusterPlan plan =
      sm90::cluster_plan(steps.count / steps.hidden, steps.hidden, places, directions);
  bool done = false;
  const auto launch_tile = [&](auto tile) {
    using Tile = decltype(tile);
    done = sm90::launch_clusters<Tile>(
        context, FASTDL_KERNEL(rnn_forward_cluster<S, Tile, ForwardSteps<S, Cell>>), plan, directions,
        sizeof(ClusterForwardShared<S, Tile>), steps, places, plan.units_each, plan.sequences_each);
  };
  if (plan.fits) sm90::with_cluster_tile<Cell::kSlots>(plan, launch_tile);
  return done;
}

template <class S>
bool steps_by_cluster(Context* context, const BackwardSteps<S>& steps, const RnnPlaces& places,
                      int64_t directions) {
  const int64_t gates = steps.count / steps.hidden;
  const RnnClusterPlan plan = sm90::cluster_plan(gates, steps.hidden, places, directions);
  bool done = false;
  const auto launch_tile = [&](auto tile) {
    using Tile = decltype(tile);
    done = sm90::launch_clusters<Tile>(
        context, FASTDL_KERNEL(rnn_backward_cluster<S, Tile, BackwardSteps<S>>), plan, directions,
        sizeof(ClusterBackwardShared<S, Tile>), steps, places, plan.units_each, plan.sequences_each);
  };
  if (plan.fits && gates == 1) sm90::with_cluster_tile<1>(plan, launch_tile);
  if (plan.fits && gates > 1) sm90::with_cluster_tile<4>(plan, launch_tile);
  return done;
}

}  // namespace fastdl::cuda
