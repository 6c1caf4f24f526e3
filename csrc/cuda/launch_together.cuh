// Launches of grids whose blocks may wait for each other: all of them run at the same time, or the launch
// fails. Everything else goes through launch().
#pragma once

#include "cuda/launch.h"

namespace fastdl::cuda {

// Counts the blocks that have come to a point, in device memory.
// Called by all threads of a block: what they wrote before is seen by blocks that have awaited their count.
__device__ __forceinline__ void arrive(unsigned* count) {
  __syncthreads();
  if (threadIdx.x != 0) return;
  __threadfence();
  atomicAdd(count, 1u);
}
// Called by all threads of a block.
__device__ __forceinline__ void await(const unsigned* count, unsigned blocks) {
  if (threadIdx.x == 0) {
    while (*const_cast<const volatile unsigned*>(count) < blocks) __nanosleep(20);
    __threadfence();
  }
  __syncthreads();
}

inline bool can_launch_together() {
  int device = 0, able = 0;
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  check_cuda(cudaDeviceGetAttribute(&able, cudaDevAttrCooperativeLaunch, device), "cudaDeviceGetAttribute");
  return able != 0;
}

// Shared memory that a block may have.
inline size_t most_shared_bytes() {
  int device = 0, bytes = 0;
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  check_cuda(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
             "cudaDeviceGetAttribute");
  return static_cast<size_t>(bytes);
}

template <class... Parameters, class... Arguments>
void launch_together(Context* context, const Kernel<Parameters...>& kernel, const Launch& shape,
                     Arguments... arguments) {
#ifdef FASTDL_SIMT
  simt::LaunchConfig config;
  config.grid = shape.grid;
  config.block = shape.block;
  config.shared_bytes = shape.shared_bytes;
  config.stream = stream_of(context);
  config.cooperative = true;
  const auto function = kernel.function;
  simt::launch(kernel.name, config, [=] { function(static_cast<Parameters>(arguments)...); });
#else
  if (shape.shared_bytes > kDefaultSharedBytes) {
    check_cuda(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel.function),
                                    cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(shape.shared_bytes)),
               kernel.name);
  }
  cudaLaunchAttribute together{};
  together.id = cudaLaunchAttributeCooperative;
  together.val.cooperative = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = stream_of(context);
  config.attrs = &together;
  config.numAttrs = 1;
  check_cuda(cudaLaunchKernelEx(&config, kernel.function, static_cast<Parameters>(arguments)...),
             kernel.name);
#endif
}

}  // namespace fastdl::cuda
