// Graphs of loops, by context; those of the default context (NULL) are shared by all threads.
//
// Other pointers are another loop: bringing a graph up to date (cudaGraphExecUpdate) would take a capture of
// all launches and a comparison of all nodes, no less than the launches themselves.
#include "cuda/launch_loop.h"

#include <list>
#include <map>
#include <mutex>

#include "common/error.h"

namespace fastdl::cuda {
namespace {

// A graph is launched in some 10 us and a kernel in 2 or 3 (both guesses).
constexpr int64_t kFewestLaunches = 8;
// The loops of eight layers, forward and backward. A graph of 1,024 steps takes a few MB.
constexpr size_t kMostGraphs = 16;

struct Graph {
  std::string key;
  cudaGraphExec_t exec;
};

struct Loops {
  std::list<std::string> seen;  // once, the latest first
  std::list<Graph> graphs;      // the latest used first
  ~Loops() {
    // Of a graph that is running the driver keeps what it needs.
    for (const Graph& graph : graphs) cudaGraphExecDestroy(graph.exec);
  }
};

struct AllLoops {
  std::mutex mutex;  // graphs may not be launched by two threads at once
  std::map<const Context*, Loops> of;
};
AllLoops& all_loops() {
  static AllLoops* const all = new AllLoops;  // never destroyed: the driver may be gone by then
  return *all;
}

// A stream that can be captured, which the legacy default stream cannot.
class CapturedStream {
 public:
  CapturedStream() {
    check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
    const cudaError_t error = cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal);
    if (error == cudaSuccess) return;
    cudaStreamDestroy(stream_);
    check_cuda(error, "cudaStreamBeginCapture");
  }
  ~CapturedStream() {
    cudaGraph_t graph = nullptr;
    if (!ended_ && cudaStreamEndCapture(stream_, &graph) == cudaSuccess && graph) cudaGraphDestroy(graph);
    cudaStreamDestroy(stream_);
  }
  CapturedStream(const CapturedStream&) = delete;
  CapturedStream& operator=(const CapturedStream&) = delete;

  cudaStream_t stream() const { return stream_; }
  cudaGraphExec_t end() {
    cudaGraph_t graph = nullptr;
    ended_ = true;
    check_cuda(cudaStreamEndCapture(stream_, &graph), "cudaStreamEndCapture");
    cudaGraphExec_t exec = nullptr;
    const cudaError_t error = cudaGraphInstantiate(&exec, graph, 0);
    cudaGraphDestroy(graph);
    check_cuda(error, "cudaGraphInstantiate");
    return exec;
  }

 private:
  cudaStream_t stream_ = nullptr;
  bool ended_ = false;
};

cudaGraphExec_t record(const Context* context, const std::function<void(Context*)>& issue) {
  CapturedStream captured;
  Context recording = context ? *context : Context{};
  recording.stream = captured.stream();
  issue(&recording);
  return captured.end();
}

bool is_capturing(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  // The legacy stream answers with an error while another stream that waits for it is captured.
  if (cudaStreamIsCapturing(stream, &status) != cudaSuccess) return cudaGetLastError(), true;
  return status != cudaStreamCaptureStatusNone;
}

// NULL: a loop not seen before.
cudaGraphExec_t graph_of(Loops& loops, const Context* context, std::string key,
                         const std::function<void(Context*)>& issue) {
  for (auto graph = loops.graphs.begin(); graph != loops.graphs.end(); ++graph) {
    if (graph->key != key) continue;
    loops.graphs.splice(loops.graphs.begin(), loops.graphs, graph);
    return graph->exec;
  }
  for (auto seen = loops.seen.begin(); seen != loops.seen.end(); ++seen) {
    if (*seen != key) continue;
    loops.graphs.push_front({std::move(key), nullptr});
    try {
      loops.graphs.front().exec = record(context, issue);
    } catch (...) {
      loops.graphs.pop_front();
      throw;
    }
    loops.seen.erase(seen);
    if (loops.graphs.size() > kMostGraphs) {
      const cudaGraphExec_t oldest = loops.graphs.back().exec;
      loops.graphs.pop_back();
      check_cuda(cudaGraphExecDestroy(oldest), "cudaGraphExecDestroy");
    }
    return loops.graphs.front().exec;
  }
  loops.seen.push_front(std::move(key));
  if (loops.seen.size() > kMostGraphs) loops.seen.pop_back();
  return nullptr;
}

}  // namespace

void launch_loop(Context* context, const LoopKey& key, int64_t launches,
                 const std::function<void(Context*)>& issue) {
  const cudaStream_t stream = stream_of(context);
  if (launches < kFewestLaunches || is_capturing(stream)) return issue(context);
  LoopKey whole = key;
  int device = 0;
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  whole.add(device);
  whole.add(static_cast<int>(float32_precision(context)));
  {
    AllLoops& all = all_loops();
    const std::lock_guard<std::mutex> lock(all.mutex);
    if (const cudaGraphExec_t graph = graph_of(all.of[context], context, whole.bytes(), issue))
      return check_cuda(cudaGraphLaunch(graph, stream), "cudaGraphLaunch");
  }
  issue(context);
}

void forget_loops(const Context* context) {
  AllLoops& all = all_loops();
  const std::lock_guard<std::mutex> lock(all.mutex);
  all.of.erase(context);
}

}  // namespace fastdl::cuda
