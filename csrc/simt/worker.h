// One OS thread's share of a launch.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "block.h"
#include "cluster.h"

namespace fastdl::simt {

// One launch, shared by the OS threads that work on it.
struct Launch {
  const char* kernel;
  LaunchConfig config;
  const std::function<void()>* body;
  dim3 group;   // blocks that have to run at the same time
  dim3 groups;  // how many of them
  uint64_t total;
  uint64_t stride, offset;  // group i of the permuted order is (i * stride + offset) mod total
  uint32_t seed;
  double timeout;  // seconds
  bool only_one;   // only the group of this block is to run
  uint3 only;
  std::atomic<uint64_t> next{0};
  std::atomic<bool> stop{false};
  std::mutex mutex;
  std::string failure;
};

class Worker {
 public:
  Fiber fiber;            // the OS thread's own stack
  uint64_t progress = 0;  // barriers passed, collectives done, threads ended

  // Runs groups until none is left; after_group is called between them.
  void work(Launch& launch, const std::function<void()>& after_group);

 private:
  void run_group(Launch& launch, uint64_t index);
  std::string run_blocks(const Launch& launch, size_t count);
  std::vector<std::unique_ptr<Block>> blocks_;
  std::vector<std::unique_ptr<Cluster>> clusters_;
};

// Sees to it that faults in this OS thread's fibers are reported; for the time of a launch (fault.cpp).
class FaultHandling {
 public:
  FaultHandling();
  ~FaultHandling();

 private:
  bool installed_ = false;
};

}  // namespace fastdl::simt
