// Kernel launches, the same on a device and in the host executor (csrc/simt):
//
//   launch(context, FASTDL_KERNEL(softmax_rows<T>), {blocks, threads, shared_bytes}, arguments...);
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "common/error.h"
#include "cuda/context.h"
#ifdef FASTDL_SIMT
#include "simt/simt.h"
#endif

namespace fastdl::cuda {

template <class... Parameters>
struct Kernel {
  const char* name;
  void (*function)(Parameters...);
};
template <class... Parameters>
Kernel<Parameters...> named(const char* name, void (*function)(Parameters...)) {
  return {name, function};
}
#define FASTDL_KERNEL(...) ::fastdl::cuda::named(#__VA_ARGS__, __VA_ARGS__)

struct Launch {
  dim3 grid, block;
  size_t shared_bytes = 0;
  bool together = false;  // blocks wait for each other: all run at the same time, or the launch fails
  unsigned cluster = 1;   // neighbours along x that reach each other's shared memory (sm_90)
};

// What a block may use without asking for more (CUDA C++ Programming Guide, "Shared Memory").
constexpr size_t kDefaultSharedBytes = size_t{48} << 10;

template <class... Parameters, class... Arguments>
void launch(Context* context, const Kernel<Parameters...>& kernel, const Launch& shape,
            Arguments... arguments) {
#ifdef FASTDL_SIMT
  simt::LaunchConfig config;
  config.grid = shape.grid;
  config.block = shape.block;
  config.shared_bytes = shape.shared_bytes;
  config.stream = stream_of(context);
  config.cooperative = shape.together;
  config.cluster = dim3(shape.cluster);
  const auto function = kernel.function;
  simt::launch(kernel.name, config, [=] { function(static_cast<Parameters>(arguments)...); });
#else
  if (shape.shared_bytes > kDefaultSharedBytes) {
    check_cuda(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel.function),
                                    cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(shape.shared_bytes)),
               kernel.name);
  }
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = stream_of(context);
  cudaLaunchAttribute attribute{};
  if (shape.together) {
    attribute.id = cudaLaunchAttributeCooperative;
    attribute.val.cooperative = 1;
  } else {
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = {shape.cluster, 1, 1};
  }
  config.attrs = &attribute;
  config.numAttrs = shape.together || shape.cluster > 1 ? 1 : 0;
  check_cuda(cudaLaunchKernelEx(&config, kernel.function, static_cast<Parameters>(arguments)...),
             kernel.name);
#endif
}

// Blocks for n items at `per_block` each, at most `waves` rounds of 8 blocks on every multiprocessor: kernels
// loop over the rest.
inline unsigned blocks_for(int64_t n, int64_t per_block, int64_t waves = 4) {
  const int64_t wanted = (n + per_block - 1) / per_block, most = waves * 8 * multiprocessors();
  return static_cast<unsigned>(wanted < 1 ? 1 : wanted < most ? wanted : most);
}

}  // namespace fastdl::cuda
