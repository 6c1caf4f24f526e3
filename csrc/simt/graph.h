// Stream capture: what is enqueued on a capturing stream is kept and runs when the graph is launched.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "device/types.h"

namespace fastdl::simt {

struct Graph {
  std::vector<std::function<void()>> operations;
};

// A line for FASTDL_SIMT_LOG.
void log(const std::string& line);

// The graph being captured on this stream, or null.
Graph* capturing(cudaStream_t stream);

}  // namespace fastdl::simt
