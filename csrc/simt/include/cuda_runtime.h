// Found instead of NVIDIA's when CUDA code is compiled for the host: g++ -x c++ -DFASTDL_SIMT
// -Icsrc/simt/include.
#pragma once

#include "../device/types.h"
//
#include "../device/api.h"
#include "../device/atomic.h"
#include "../device/math.h"
#include "../device/warp.h"

// Launches kernel(arguments...). On the device the same call reads kernel<<<grid, block, shared,
// stream>>>(arguments...).
#define FASTDL_SIMT_LAUNCH(kernel, grid, block, shared, stream, ...)                                         \
  ::fastdl::simt::launch(#kernel, ::fastdl::simt::LaunchConfig{grid, block, shared, dim3(1), stream, false}, \
                         [=] { kernel(__VA_ARGS__); })
