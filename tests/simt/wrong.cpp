// Kernels with one mistake each, which the executor has to report.
#include <cstdint>
#include <vector>

#include "check.h"
#include "cuda/ptx/relaxed.cuh"

namespace {

using fastdl::simt::launch;
using fastdl::simt::LaunchConfig;

LaunchConfig config(dim3 grid, dim3 block, size_t shared = 0) {
  LaunchConfig c;
  c.grid = grid;
  c.block = block;
  c.shared_bytes = shared;
  return c;
}

struct Tile {
  SharedArray<float, 128> x;
};
struct HalfTile {
  SharedArray<uint16_t, 128> x;
};
alignas(16) float source[128 * 4];

// --- races ---

CASE(missing_barrier) {
  launch("missing_barrier", config(dim3(2, 3), dim3(64, 2), sizeof(Tile)), [] {
    Tile& s = shared_memory<Tile>();
    const int t = static_cast<int>(threadIdx.x + 64 * threadIdx.y);
    s.x[t] = 1.0f;
    const float other = s.x[(t + 32) % 128];
    (void)other;
  });
}

// The barrier before the next round's stores is missing: they race with reads.
CASE(missing_barrier_after_reads) {
  launch("missing_barrier_after_reads", config(2, 128, sizeof(Tile)), [] {
    Tile& s = shared_memory<Tile>();
    const int t = static_cast<int>(threadIdx.x);
    for (int round = 0; round < 2; ++round) {
      s.x[t] = 1.0f;
      __syncthreads();
      for (int i = 0; i < 128; ++i) {
        const float other = s.x[i];
        (void)other;
      }
    }
  });
}

CASE(two_writers) {
  launch("two_writers", config(1, 64, sizeof(Tile)), [] { shared_memory<Tile>().x[threadIdx.x / 2] = 1.0f; });
}

CASE(missing_syncwarp) {
  launch("missing_syncwarp", config(1, 32, sizeof(HalfTile)), [] {
    HalfTile& s = shared_memory<HalfTile>();
    s.x[threadIdx.x] = 1;
    // A shuffle does not order memory.
    __shfl_sync(0xFFFFFFFFu, 1, 0);
    const uint16_t other = s.x[threadIdx.x ^ 1];
    (void)other;
  });
}

// A barrier of 64 threads orders nothing for the other 64.
CASE(wrong_barrier) {
  launch("wrong_barrier", config(1, 128, sizeof(Tile)), [] {
    Tile& s = shared_memory<Tile>();
    const int t = static_cast<int>(threadIdx.x);
    s.x[t] = 1.0f;
    fastdl::simt::barrier("bar.sync", 1 + t / 64, 64);
    const float other = s.x[127 - t];
    (void)other;
  });
}

// --- asynchronous copies ---

CASE(missing_wait) {
  launch("missing_wait", config(2, 32, sizeof(Tile)), [] {
    Tile& s = shared_memory<Tile>();
    const int t = static_cast<int>(threadIdx.x);
    fastdl::simt::async_copy(s.x.at(t * 4), source + t * 4, 16, 16);
    fastdl::simt::async_commit();
    fastdl::simt::async_wait(1);
    __syncthreads();
    const float mine = s.x[t * 4];
    fastdl::simt::async_wait(0);
    (void)mine;
  });
}

CASE(missing_barrier_after_wait) {
  launch("missing_barrier_after_wait", config(2, 32, sizeof(Tile)), [] {
    Tile& s = shared_memory<Tile>();
    const int t = static_cast<int>(threadIdx.x);
    fastdl::simt::async_copy(s.x.at(t * 4), source + t * 4, 16, 16);
    fastdl::simt::async_commit();
    fastdl::simt::async_wait(0);
    const float other = s.x[127 - t * 4];
    (void)other;
  });
}

CASE(never_waited) {
  launch("never_waited", config(1, 32, sizeof(Tile)), [] {
    fastdl::simt::async_copy(shared_memory<Tile>().x.at(threadIdx.x * 4), source, 16, 16);
    fastdl::simt::async_commit();
  });
}

CASE(unaligned_copy) {
  launch("unaligned_copy", config(1, 32, sizeof(Tile)), [] {
    fastdl::simt::async_copy(shared_memory<Tile>().x.at(threadIdx.x), source, 16, 16);
    fastdl::simt::async_wait_all();
  });
}

// --- bounds ---

CASE(unaligned_relaxed_load) {
  alignas(16) uint32_t words[8] = {};
  launch("unaligned_relaxed_load", config(1, 1), [p = words] {
    uint32_t seen[4];
    fastdl::cuda::ptx::load_relaxed(seen, p + 1);
  });
}
CASE(past_shared) {
  launch("past_shared", config(dim3(1, 1, 2), 32, sizeof(Tile)), [] {
    volatile float* x = shared_memory<Tile>().x.data();
    if (threadIdx.x == 9) x[128 + 3] = x[0];
  });
}

CASE(index_past_array) {
  launch("index_past_array", config(1, 160, sizeof(Tile)),
         [] { shared_memory<Tile>().x[threadIdx.x] = 0.0f; });
}

CASE(too_little_shared) {
  launch("too_little_shared", config(1, 32, sizeof(Tile) - 4), [] { shared_memory<Tile>(); });
}

int deep(volatile int* stop, int n) {
  volatile char frame[1000];
  frame[0] = static_cast<char>(n);
  return *stop ? frame[0] : deep(stop, n + 1) + frame[0];
}
CASE(stack_overflow) {
  int never = 0;
  launch("stack_overflow", config(1, 32), [&] {
    if (threadIdx.x == 3) deep(&never, 0);
  });
}

// --- divergence ---

CASE(divergent_shuffle) {
  launch("divergent_shuffle", config(1, 64), [] {
    float value = 1.0f;
    if (threadIdx.x != 37) value = __shfl_down_sync(0xFFFFFFFFu, value, 1);
    (void)value;
  });
}

CASE(divergent_shuffle_and_barrier) {
  launch("divergent_shuffle_and_barrier", config(1, 64), [] {
    if (threadIdx.x % 2) __shfl_xor_sync(0xFFFFFFFFu, 1, 1);
    __syncthreads();
  });
}

CASE(two_collectives) {
  launch("two_collectives", config(1, 32), [] {
    if (threadIdx.x < 16) {
      __shfl_sync(0xFFFFFFFFu, 1, 0);
    } else {
      __ballot_sync(0xFFFFFFFFu, 1);
    }
  });
}

CASE(crossed_masks) {
  launch("crossed_masks", config(1, 32),
         [] { __ballot_sync(threadIdx.x < 16 ? 0x0001FFFFu : 0xFFFF0001u, 1); });
}

CASE(own_lane_missing) {
  launch("own_lane_missing", config(1, 32), [] { __ballot_sync(0x7FFFFFFFu, 1); });
}

CASE(divergent_barrier) {
  launch("divergent_barrier", config(1, 64), [] {
    if (threadIdx.x != 5) __syncthreads();
  });
}

CASE(two_barriers) {
  launch("two_barriers", config(1, 64), [] {
    if (threadIdx.x < 32) {
      __syncthreads();
    } else {
      __syncthreads_or(1);
    }
  });
}

CASE(deadlock) {
  launch("deadlock", config(1, 64), [] { fastdl::simt::barrier("bar.sync", 1 + threadIdx.x / 32, 64); });
}

CASE(endless_spin) {
  setenv("FASTDL_SIMT_TIMEOUT", "1", 1);
  launch("endless_spin", config(1, 64), [] {
    if (threadIdx.x == 0) {
      for (;;) __nanosleep(100);
    }
    __syncwarp(1u << threadIdx.x % 32);
  });
}

// --- launches ---

CASE(too_many_threads) {
  launch("too_many_threads", config(1, dim3(1024, 2)), [] {});
}
CASE(too_much_shared) {
  launch("too_much_shared", config(1, 32, 227 * 1024 + 1), [] {});
}
CASE(too_tall_grid) {
  launch("too_tall_grid", config(dim3(1, 65536), 32), [] {});
}
CASE(empty_grid) {
  launch("empty_grid", config(dim3(4, 0), 32), [] {});
}

// --- ends ---

CASE(trap) {
  launch("trap", config(3, 32), [] {
    if (blockIdx.x == 2 && threadIdx.x == 1) __trap();
  });
}
CASE(exception) {
  launch("exception", config(1, 32), [] {
    std::vector<int> none;
    if (threadIdx.x == 4) none.at(3) = 1;
  });
}

// For AddressSanitizer: one float past the end of device memory.
CASE(past_device_memory) {
  float* p;
  CHECK(cudaMalloc(&p, 100 * sizeof(float)) == cudaSuccess);
  launch("past_device_memory", config(1, 128), [=] { p[threadIdx.x] = 0.0f; });
}
// And one of a kernel's own array.
CASE(past_local_array) {
  int sum = 0;
  launch("past_local_array", config(1, 32), [&] {
    volatile int local[8] = {};
    for (unsigned i = 0; i <= 8 + threadIdx.x; ++i) local[i] = 1;
    sum += local[0];
  });
}
// For the fault message: a null pointer in one thread.
CASE(null_pointer) {
  launch("null_pointer", config(2, 32), [] {
    volatile int* volatile p = nullptr;
    if (blockIdx.x == 1 && threadIdx.x == 6) *p = 1;
  });
}

}  // namespace

int main(int argc, char** argv) { return run_cases(argc, argv); }
