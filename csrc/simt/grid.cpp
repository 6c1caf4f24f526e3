// Launches: limits, the order of blocks, OS threads.
#include <sched.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <set>
#include <thread>

#include "cluster.h"
#include "graph.h"
#include "worker.h"

namespace fastdl::simt {
namespace {

using Time = std::chrono::steady_clock;

// Helpers are worth their start (some 30 us) only for launches that take longer.
constexpr auto kAlone = std::chrono::microseconds(100);

double seconds_since(Time::time_point start) {
  return std::chrono::duration<double>(Time::now() - start).count();
}

long environment(const char* name, long otherwise) {
  const char* text = std::getenv(name);
  return text && *text ? std::atol(text) : otherwise;
}

// --- the registry ---

struct Registry {
  std::mutex mutex;
  std::set<std::string> names;
};

Registry& registry() {
  static Registry* const r = new Registry;  // never destroyed: kernels may run while the process ends
  return *r;
}

void record(const char* kernel) {
  Registry& r = registry();
  std::lock_guard<std::mutex> lock(r.mutex);
  if (r.names.insert(kernel).second) log(kernel);
}

// --- checks ---

[[noreturn]] void refuse(const char* kernel, const std::string& why) {
  throw Error(std::string("launch of kernel ") + kernel + ": " + why);
}

void check(const char* kernel, const LaunchConfig& c) {
  const auto text = [](const dim3& d) { return index_text(d); };
  if (self) refuse(kernel, "from within a kernel");
  if (!c.grid.x || !c.grid.y || !c.grid.z) refuse(kernel, "an empty grid, " + text(c.grid));
  if (!c.block.x || !c.block.y || !c.block.z) refuse(kernel, "an empty block, " + text(c.block));
  if (c.grid.x > 0x7FFFFFFFu || c.grid.y > 65535 || c.grid.z > 65535) {
    refuse(kernel, "the grid " + text(c.grid) + " exceeds (2147483647, 65535, 65535)");
  }
  if (c.block.x > 1024 || c.block.y > 1024 || c.block.z > 64 ||
      static_cast<uint64_t>(c.block.x) * c.block.y * c.block.z > kMaxThreadsPerBlock) {
    refuse(kernel, "the block " + text(c.block) + " exceeds 1024 threads, or 64 in z");
  }
  if (c.shared_bytes > kMaxSharedBytes) {
    refuse(kernel, std::to_string(c.shared_bytes) + " bytes of shared memory exceed " +
                       std::to_string(kMaxSharedBytes));
  }
  const uint64_t cluster = static_cast<uint64_t>(c.cluster.x) * c.cluster.y * c.cluster.z;
  if (cluster == 0 || cluster > 16)
    refuse(kernel, "a cluster of " + text(c.cluster) + " blocks; 1 to 16 can be");
  if (c.grid.x % c.cluster.x || c.grid.y % c.cluster.y || c.grid.z % c.cluster.z) {
    refuse(kernel, "the grid " + text(c.grid) + " is not a multiple of the cluster " + text(c.cluster));
  }
  if (c.cooperative && cluster > 1) refuse(kernel, "a cooperative grid of clusters, which is not modelled");
  if (c.cooperative && static_cast<uint64_t>(c.grid.x) * c.grid.y * c.grid.z > 32 * kProcessors) {
    refuse(kernel, "a cooperative grid of more blocks than can run at once");
  }
}

// --- workers ---

struct Idle {
  std::mutex mutex;
  std::vector<std::unique_ptr<Worker>> workers;
};

Idle& idle() {
  static Idle* const i = new Idle;
  return *i;
}

std::unique_ptr<Worker> take_worker() {
  Idle& i = idle();
  std::lock_guard<std::mutex> lock(i.mutex);
  if (i.workers.empty()) return std::make_unique<Worker>();
  std::unique_ptr<Worker> worker = std::move(i.workers.back());
  i.workers.pop_back();
  return worker;
}

void work(Launch& launch, const std::function<void()>& after_group) {
  std::unique_ptr<Worker> worker = take_worker();
  {
    FaultHandling faults;
    describe_own_stack(worker->fiber);
    worker->work(launch, after_group);
  }
  Idle& i = idle();
  std::lock_guard<std::mutex> lock(i.mutex);
  i.workers.push_back(std::move(worker));
}

int worker_count() {
  cpu_set_t set;
  const long cpus = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
  const long n = environment("FASTDL_SIMT_THREADS", cpus);
  return n < 1 ? 1 : n > 256 ? 256 : static_cast<int>(n);
}

// The order of blocks is a fixed permutation, not the order of their indices, which kernels must not rely on.
void permute(Launch& launch) {
  const uint64_t n = launch.total;
  launch.offset = launch.seed * 2654435761u % n;
  // Near the golden section, so that neighbours in time are far apart in the grid.
  launch.stride = static_cast<uint64_t>(static_cast<double>(n) * 0.6180339887) % n + launch.seed % 7;
  while (launch.stride == 0 || std::gcd(launch.stride, n) != 1) ++launch.stride;
}

void run_now(const char* kernel, const LaunchConfig& config, const std::function<void()>& body) {
  record(kernel);
  Launch launch;
  launch.kernel = kernel;
  launch.config = config;
  launch.body = &body;
  launch.group = config.cooperative ? config.grid : config.cluster;
  launch.groups =
      dim3(config.grid.x / launch.group.x, config.grid.y / launch.group.y, config.grid.z / launch.group.z);
  launch.total = static_cast<uint64_t>(launch.groups.x) * launch.groups.y * launch.groups.z;
  launch.seed = static_cast<uint32_t>(environment("FASTDL_SIMT_SEED", 1));
  launch.timeout = static_cast<double>(environment("FASTDL_SIMT_TIMEOUT", 120));
  launch.only = uint3{0, 0, 0};
  const char* only = std::getenv("FASTDL_SIMT_BLOCK");
  launch.only_one = only && std::sscanf(only, "%u,%u,%u", &launch.only.x, &launch.only.y, &launch.only.z) > 0;
  permute(launch);
  const int threads = worker_count();
  const Time::time_point start = Time::now();
  std::vector<std::thread> helpers;
  work(launch, [&] {
    const uint64_t taken = launch.next.load(std::memory_order_relaxed);
    if (!helpers.empty() || threads == 1 || taken >= launch.total || Time::now() - start < kAlone) return;
    const uint64_t rest = launch.total - taken;
    for (uint64_t i = 0; i + 1 < static_cast<uint64_t>(threads) && i < rest; ++i) {
      helpers.emplace_back([&launch] { work(launch, [] {}); });
    }
  });
  for (std::thread& helper : helpers) helper.join();
  if (launch.stop) throw Error(launch.failure);
}

}  // namespace

void log(const std::string& line) {
  if (const char* path = std::getenv("FASTDL_SIMT_LOG")) {
    // At once and not at exit, so that the list survives a crash.
    if (std::FILE* file = std::fopen(path, "a")) {
      std::fprintf(file, "%s\n", line.c_str());
      std::fclose(file);
    }
  }
}

void Worker::work(Launch& launch, const std::function<void()>& after_group) {
  while (!launch.stop.load(std::memory_order_relaxed)) {
    const uint64_t i = launch.next.fetch_add(1, std::memory_order_relaxed);
    if (i >= launch.total) break;
    run_group(launch,
              static_cast<uint64_t>((static_cast<unsigned __int128>(i) * launch.stride + launch.offset) %
                                    launch.total));
    after_group();
  }
}

void Worker::run_group(Launch& launch, uint64_t index) {
  const LaunchConfig& config = launch.config;
  const dim3 group = launch.group;
  const uint3 first{static_cast<unsigned>(index % launch.groups.x) * group.x,
                    static_cast<unsigned>(index / launch.groups.x % launch.groups.y) * group.y,
                    static_cast<unsigned>(index / launch.groups.x / launch.groups.y) * group.z};
  if (launch.only_one && (launch.only.x - first.x >= group.x || launch.only.y - first.y >= group.y ||
                          launch.only.z - first.z >= group.z)) {
    return;
  }
  const size_t count = static_cast<size_t>(group.x) * group.y * group.z;
  while (blocks_.size() < count) blocks_.push_back(std::make_unique<Block>());
  for (size_t b = 0; b < count; ++b) {
    Block& block = *blocks_[b];
    const unsigned n = static_cast<unsigned>(b);
    block.block_idx =
        uint3{first.x + n % group.x, first.y + n / group.x % group.y, first.z + n / group.x / group.y};
    block.block_dim = config.block;
    block.grid_dim = config.grid;
    block.cluster_dim = config.cluster;
    block.shared_bytes = config.shared_bytes;
    block.worker = this;
    block.kernel = launch.kernel;
    block.body = launch.body;
    // Blocks of a cluster are neighbours; a cooperative grid has clusters of one.
    const bool together = config.cooperative;
    if (clusters_.size() <= b) clusters_.push_back(std::make_unique<Cluster>());
    if (together || b == 0) clusters_[together ? b : 0]->start(launch.seed + static_cast<uint32_t>(index));
    block.cluster = clusters_[together ? b : 0].get();
    block.cluster_rank = together ? 0 : n;
    block.cluster->blocks.push_back(&block);
    block.start(launch.seed * 2654435761u ^ static_cast<uint32_t>(index * 40503 + b) * 2246822519u);
  }
  const std::string failure = run_blocks(launch, count);
  if (failure.empty()) return;
  std::lock_guard<std::mutex> lock(launch.mutex);
  if (launch.stop.exchange(true)) return;
  launch.failure = failure;
}

// Runs blocks in turns until all have ended. The result is empty, or says what went wrong.
std::string Worker::run_blocks(const Launch& launch, size_t count) {
  uint64_t before = progress;
  Time::time_point idle_since;
  bool idle = false;
  for (;;) {
    bool live = false;
    for (size_t b = 0; b < count; ++b) {
      Block& block = *blocks_[b];
      if (block.ready_warps) {
        block.run();
        if (block.failed) return block.failure;
      }
      live |= block.live != 0;
    }
    if (!live) {
      for (size_t b = 0; b < count; ++b) {
        const Cluster& cluster = *blocks_[b]->cluster;
        const Thread* const sender = cluster.sender();
        if (blocks_[b]->cluster_rank != 0 || !sender) continue;
        record_failure(*sender, "ended with a bulk copy (or st.async) that nobody waited for");
        return sender->owner().failure;
      }
      return {};
    }
    if (progress != before) {
      before = progress;
      idle = false;
    }
    bool any_ready = false, any_yielded = false;
    for (size_t b = 0; b < count; ++b) any_ready |= blocks_[b]->ready_warps != 0;
    if (any_ready) continue;
    // Bulk copies are as late as they can be.
    bool delivered = false;
    for (size_t b = 0; b < count; ++b) {
      Block& block = *blocks_[b];
      if (block.cluster_rank == 0 && block.cluster->deliver()) delivered = true;
    }
    for (size_t b = 0; b < count; ++b) {
      if (blocks_[b]->failed) return blocks_[b]->failure;
    }
    if (delivered) continue;
    for (size_t b = 0; b < count; ++b) any_yielded |= blocks_[b]->resume_yielded();
    Block* stuck = blocks_[0].get();
    for (size_t b = 0; b < count; ++b) {
      if (blocks_[b]->live) stuck = blocks_[b].get();
    }
    if (!any_yielded) return stuck->describe_stuck();
    // Everybody who can run waits in a loop, perhaps for a block on another OS thread.
    if (launch.stop.load(std::memory_order_relaxed)) return "stopped";
    if (idle && seconds_since(idle_since) > launch.timeout) {
      return stuck->describe_stuck() + " (for " + std::to_string(static_cast<int>(launch.timeout)) +
             " s, see FASTDL_SIMT_TIMEOUT)";
    }
    if (!idle) {
      idle = true;
      idle_since = Time::now();
    }
    sched_yield();
  }
}

void launch(const char* kernel_name, const LaunchConfig& config, std::function<void()> body) {
  check(kernel_name, config);
  if (Graph* graph = capturing(config.stream)) {
    graph->operations.push_back([name = std::string(kernel_name), config, body = std::move(body)] {
      run_now(name.c_str(), config, body);
    });
    return;
  }
  run_now(kernel_name, config, body);
}

std::vector<std::string> entered_kernels() {
  Registry& r = registry();
  std::lock_guard<std::mutex> lock(r.mutex);
  return std::vector<std::string>(r.names.begin(), r.names.end());
}

unsigned char* dynamic_shared(size_t bytes, size_t alignment) {
  const BlockState& block = *self->block;
  if (bytes > block.shared_bytes) {
    fail("the kernel uses " + std::to_string(bytes) + " bytes of shared memory, the launch gave " +
         std::to_string(block.shared_bytes));
  }
  if (reinterpret_cast<uintptr_t>(block.shared) % alignment) {
    fail("shared memory of " + std::to_string(block.shared_bytes) + " bytes is not aligned to " +
         std::to_string(alignment) + ": its size has to be a multiple of that");
  }
  return block.shared;
}

}  // namespace fastdl::simt
