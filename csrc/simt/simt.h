// Runs CUDA kernels on the host: blocks are tasks on a few OS threads, the threads of a block are fibers that
// run until they have to wait. What a device would leave undefined (a missing barrier, lanes missing from a
// shuffle, a read past shared memory) is an error that names kernel, block and thread. See docs/simt.md.
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "device/types.h"
#include "error.h"

namespace fastdl::simt {

struct LaunchConfig {
  dim3 grid;
  dim3 block;
  size_t shared_bytes = 0;
  dim3 cluster = dim3(1, 1, 1);
  cudaStream_t stream = nullptr;
  bool cooperative = false;  // all blocks run at the same time, so they may wait for each other
};

// Runs `body`, one thread's run of the kernel, for every thread of the grid, and returns when all have ended;
// while the stream is being captured it is recorded instead. Throws Error.
void launch(const char* kernel_name, const LaunchConfig& config, std::function<void()> body);

// Every kernel launched so far in this process. With FASTDL_SIMT_LOG=path each name is also appended to that
// file when the kernel is first entered.
std::vector<std::string> entered_kernels();

// Limits of the device we pretend to be: an H100, with few processors so that small grids already need
// several waves.
constexpr int kProcessors = 4;
constexpr int kMaxThreadsPerBlock = 1024;
constexpr size_t kMaxSharedBytes = 227 * 1024;
constexpr size_t kDefaultSharedBytes = 48 * 1024;

// --- inside a kernel ---

struct BlockState {
  uint3 block_idx;
  dim3 block_dim;
  dim3 grid_dim;
  dim3 cluster_dim;
  unsigned char* shared;  // dynamic shared memory
  size_t shared_bytes;    // as asked for at the launch
};

struct ThreadState {
  uint3 thread_idx;
  unsigned thread;  // linear index in the block
  BlockState* block;
};

// The thread that runs on this OS thread; null outside kernels. (A plain thread-local pointer: no call to
// reach it.)
extern __thread ThreadState* self __attribute__((tls_model("initial-exec")));

// Dynamic shared memory, from its start.
inline unsigned char* dynamic_shared() { return self->block->shared; }
// The same, after checking that the launch gave at least `bytes` and that the start is aligned so.
unsigned char* dynamic_shared(size_t bytes, size_t alignment);

// Reports an error of the running thread and leaves the kernel; on the host, throws. Break here in a
// debugger.
[[noreturn]] void fail(const std::string& what);

// What to do while waiting in a loop for another thread's store: lets the others run.
void spin();

// bar.sync / bar.red on barrier `id` (0 to 15) for `count` threads of the block (0: all of them). The result
// counts the threads whose predicate was not 0.
int barrier(const char* operation, int id = 0, int count = 0, int predicate = 0);
// bar.arrive: does not wait.
void barrier_arrive(int id, int count);
// __syncwarp: lanes of the mask meet, and see each other's stores to shared memory.
void sync_warp(uint32_t mask);
unsigned active_lanes();

// The one mechanism behind shuffles, votes and matrix instructions: the lanes of the mask deposit their
// inputs, the last to arrive calls compute(context, inputs, outputs) for all (null where a lane is not in the
// mask), all resume.
using Compute = void (*)(void* context, const void* const (&in)[32], void* const (&out)[32]);
void collective(const char* operation, uint32_t mask, const void* in, void* out, Compute compute,
                void* context);

// The same for values: compute(const In (&in)[32], Out (&out)[32]). Lanes outside the mask have inputs of
// 0xFF bytes (NaN). `operation` has to be a literal: it is kept.
template <class In, class Out, class F>
Out warp_collective(const char* operation, uint32_t mask, const In& input, F&& compute) {
  Out output;
  collective(
      operation, mask, &input, &output,
      [](void* context, const void* const(&in)[32], void* const(&out)[32]) {
        In inputs[32];
        Out outputs[32];
        for (int lane = 0; lane < 32; ++lane) {
          if (in[lane]) {
            std::memcpy(static_cast<void*>(&inputs[lane]), in[lane], sizeof(In));
          } else {
            std::memset(static_cast<void*>(&inputs[lane]), 0xFF, sizeof(In));
          }
        }
        const In(&all)[32] = inputs;
        (*static_cast<std::remove_reference_t<F>*>(context))(all, outputs);
        for (int lane = 0; lane < 32; ++lane) {
          if (out[lane]) std::memcpy(out[lane], static_cast<const void*>(&outputs[lane]), sizeof(Out));
        }
      },
      const_cast<void*>(static_cast<const void*>(&compute)));
  return output;
}

// A warp instruction without a result (stmatrix, say).
template <class In, class F>
void warp_collective(const char* operation, uint32_t mask, const In& input, F&& compute) {
  struct Nothing {};
  warp_collective<In, Nothing>(operation, mask, input,
                               [&](const In(&in)[32], Nothing(&)[32]) { compute(in); });
}

// --- shared memory, checked (shadow.cpp) ---

// Say that the running thread reads or writes these bytes; addresses outside its block's shared memory are
// ignored. Other threads' accesses to them that no barrier separates from this one are a race, and so an
// error.
void note_shared_read(const void* address, size_t bytes);
void note_shared_write(const void* address, size_t bytes);

inline bool in_shared(const void* address) {
  const BlockState* block = self->block;
  return static_cast<size_t>(static_cast<const unsigned char*>(address) - block->shared) <
         block->shared_bytes;
}
inline void note_read(const void* address, size_t bytes) {
  if (in_shared(address)) note_shared_read(address, bytes);
}
inline void note_write(const void* address, size_t bytes) {
  if (in_shared(address)) note_shared_write(address, bytes);
}

// --- asynchronous copies (async.cpp) ---

// cp.async: `bytes` (4, 8 or 16) to shared memory, of which the first `valid_bytes` come from `source` and
// the rest are zeros. The destination is poisoned at once and gets its data at the wait for it.
void async_copy(void* destination, const void* source, size_t bytes, size_t valid_bytes);
void async_commit();
// Waits until at most `pending` of this thread's committed groups are outstanding.
void async_wait(int pending);
void async_wait_all();  // cp.async.wait_all: also what was not committed

}  // namespace fastdl::simt
