// Loops of launches as graphs (csrc/cuda/launch_loop.h): which calls launch a graph, and that results never
// change.
#include <list>
#include <stdexcept>
#include <thread>
#include <vector>

#include "check.h"
#include "cuda/launch.h"
#include "cuda/launch_loop.h"
#include "fastdl/cuda.h"

namespace {

using namespace fastdl::cuda;

struct Step {
  uint64_t* to;
  uint64_t add;
};
__global__ void add_to(Step step) { *step.to = *step.to * 3 + step.add; }

constexpr int64_t kSteps = 12;

// A loop of kSteps launches on `to`, and whether its kernels were launched one by one.
bool issued(Context* context, uint64_t* to, uint64_t add = 1, int64_t steps = kSteps) {
  LoopKey key;
  key.add(Step{to, add});
  key.add(steps);
  uint64_t expected = *to;
  for (int64_t i = 0; i < steps; ++i) expected = expected * 3 + add;
  bool called = false;
  launch_loop(context, key, steps, [&](Context* in) {
    called = true;
    for (int64_t i = 0; i < steps; ++i) launch(in, FASTDL_KERNEL(add_to), {1, 1}, Step{to, add});
  });
  CHECK(*to == expected);
  return called;
}

Context* create(cudaStream_t stream = nullptr) {
  fastdl_cuda_context_options options = FASTDL_CUDA_CONTEXT_OPTIONS_INIT;
  options.stream = stream;
  Context* context = nullptr;
  CHECK(fastdl_cuda_context_create(&options, &context) == FASTDL_OK);
  return context;
}

CASE(the_third_call_launches_a_graph) {
  Context* const context = create();
  uint64_t x = 1;
  CHECK(issued(context, &x));  // plain
  CHECK(issued(context, &x));  // captured, and the graph launched
  for (int i = 0; i < 5; ++i) CHECK(!issued(context, &x));
  fastdl_cuda_context_destroy(context);
}

CASE(anything_else_is_another_loop) {
  Context* const context = create();
  uint64_t x = 1, y = 1;
  for (int i = 0; i < 3; ++i) issued(context, &x);
  CHECK(issued(context, &y) && issued(context, &x, 2) && issued(context, &x, 1, kSteps + 1));
  CHECK(!issued(context, &x));
  context->float32_precision = 2;
  CHECK(issued(context, &x));
  fastdl_cuda_context_destroy(context);
}

CASE(few_launches_stay_launches) {
  uint64_t x = 1;
  for (int i = 0; i < 4; ++i) CHECK(issued(nullptr, &x, 1, 3));
}

CASE(contexts_share_nothing) {
  Context *const a = create(), *const b = create();
  uint64_t x = 1;
  for (int i = 0; i < 3; ++i) issued(a, &x);
  CHECK(issued(b, &x) && issued(nullptr, &x) && !issued(a, &x));
  fastdl_cuda_context_destroy(a);
  fastdl_cuda_context_destroy(b);
  for (int i = 0; i < 10; ++i) {  // at an address that another has had
    Context* const again = create();
    CHECK(issued(again, &x) && issued(again, &x) && !issued(again, &x));
    fastdl_cuda_context_destroy(again);
  }
}

CASE(the_least_recently_used_is_forgotten) {
  Context* const context = create();
  std::vector<uint64_t> x(40, 1);
  for (uint64_t& to : x) {
    issued(context, &to);
    issued(context, &to);
    CHECK(!issued(context, &x[0]));
  }
  CHECK(!issued(context, &x[0]) && !issued(context, &x[39]) && issued(context, &x[1]));
  fastdl_cuda_context_destroy(context);
}

CASE(loops_seen_once_do_not_displace_graphs) {
  Context* const context = create();
  std::vector<uint64_t> x(100, 1);
  for (int i = 0; i < 2; ++i) issued(context, &x[0]);
  for (uint64_t& to : x) CHECK(issued(context, &to) == (&to != &x[0]));
  CHECK(!issued(context, &x[0]));
  fastdl_cuda_context_destroy(context);
}

// Plain launches are recorded, before and after there is a graph of them.
CASE(a_capture_of_the_callers) {
  for (int before = 0; before < 4; ++before) {
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    CHECK(cudaStreamCreate(&stream) == cudaSuccess);
    Context* const context = create(stream);
    uint64_t x = 1, called = 0;
    for (int i = 0; i < before; ++i) issued(context, &x);
    x = 1;
    LoopKey key;
    key.add(Step{&x, 1});
    key.add(kSteps);
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal) == cudaSuccess);
    launch_loop(context, key, kSteps, [&](Context* in) {
      CHECK(in == context);
      ++called;
      for (int64_t i = 0; i < kSteps; ++i) launch(in, FASTDL_KERNEL(add_to), {1, 1}, Step{&x, 1});
    });
    CHECK(x == 1 && called == 1 && cudaStreamEndCapture(stream, &graph) == cudaSuccess);
    CHECK(cudaGraphInstantiate(&exec, graph) == cudaSuccess && cudaGraphLaunch(exec, stream) == cudaSuccess);
    CHECK(x == 797161);
    CHECK(cudaGraphExecDestroy(exec) == cudaSuccess && cudaGraphDestroy(graph) == cudaSuccess);
    fastdl_cuda_context_destroy(context);
    CHECK(cudaStreamDestroy(stream) == cudaSuccess);
  }
}

CASE(an_exception_while_recording) {
  Context* const context = create();
  uint64_t x = 1;
  LoopKey key;
  key.add(&x);
  int calls = 0;
  const auto loop = [&] {
    launch_loop(context, key, kSteps, [&](Context* in) {
      launch(in, FASTDL_KERNEL(add_to), {1, 1}, Step{&x, 1});
      if (++calls == 2) throw std::runtime_error("no more");
    });
  };
  loop();
  bool thrown = false;
  try {
    loop();
  } catch (const std::runtime_error&) {
    thrown = true;
  }
  CHECK(thrown && x == 4);
  loop();
  loop();
  CHECK(calls == 3 && x == 40);
  fastdl_cuda_context_destroy(context);
}

CASE(many_threads) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 6; ++t) {
    threads.emplace_back([] {
      uint64_t x[2] = {1, 2};
      for (int i = 0; i < 40; ++i) issued(nullptr, &x[i % 2]);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace

int main(int argc, char** argv) { return run_cases(argc, argv); }
