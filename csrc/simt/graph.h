// Stream capture: what is enqueued on a capturing stream is kept and runs when the graph is launched.
#pragma once

#include <functional>
#include <vector>

#include "device/types.h"

namespace fastdl::simt {

struct Graph {
  std::vector<std::function<void()>> operations;
};

// The graph being captured on this stream, or null.
Graph* capturing(cudaStream_t stream);

}  // namespace fastdl::simt
