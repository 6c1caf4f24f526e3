// Kernels that are right: their results have to be.
#include <cmath>
#include <cstdint>
#include <numeric>
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

__global__ void write_indices(uint32_t* out) {
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  out[block * blockDim.x * blockDim.y * blockDim.z + thread] += block * 10000 + thread;
}

CASE(indices) {
  const dim3 grid(5, 3, 2), block(7, 5, 3);
  std::vector<uint32_t> out(30 * 105, 1);
  launch("write_indices", config(grid, block), [&] { write_indices(out.data()); });
  for (uint32_t b = 0; b < 30; ++b) {
    for (uint32_t t = 0; t < 105; ++t) CHECK(out[b * 105 + t] == b * 10000 + t + 1);
  }
}

template <class T>
void check_shuffles() {
  for (int width : {32, 16, 8, 4, 2}) {
    for (int argument : {0, 1, 3, 5, 16, 31}) {
      std::vector<T> index(64), up(64), down(64), exclusive(64);
      launch("shuffles", config(1, 64), [&] {
        const int t = static_cast<int>(threadIdx.x);
        const T value = static_cast<T>(t * 3 + 1);
        index[t] = __shfl_sync(0xFFFFFFFFu, value, t + argument, width);
        up[t] = __shfl_up_sync(0xFFFFFFFFu, value, argument, width);
        down[t] = __shfl_down_sync(0xFFFFFFFFu, value, argument, width);
        exclusive[t] = __shfl_xor_sync(0xFFFFFFFFu, value, argument, width);
      });
      for (int t = 0; t < 64; ++t) {
        const int base = t / width * width, inside = t % width;
        CHECK(index[t] == static_cast<T>((base + (t + argument) % width) * 3 + 1));
        CHECK(up[t] == static_cast<T>((inside >= argument ? t - argument : t) * 3 + 1));
        CHECK(down[t] == static_cast<T>((inside + argument < width ? t + argument : t) * 3 + 1));
        const int other = (t % 32) ^ argument;
        CHECK(exclusive[t] ==
              static_cast<T>((other < t % 32 / width * width + width ? t / 32 * 32 + other : t) * 3 + 1));
      }
    }
  }
}

CASE(shuffles) {
  check_shuffles<int>();
  check_shuffles<float>();
  check_shuffles<double>();
  check_shuffles<unsigned long long>();
}

CASE(votes) {
  std::vector<unsigned> ballots(96), parts(96), any(96), all(96), same(96);
  launch("votes", config(1, 96), [&] {
    const unsigned t = threadIdx.x, lane = t % 32;
    ballots[t] = __ballot_sync(0xFFFFFFFFu, t % 3 == 0);
    // Halves of a warp vote by themselves, in branches of their own.
    if (lane < 16) {
      parts[t] = __ballot_sync(0x0000FFFFu, lane & 1);
    } else {
      parts[t] = __ballot_sync(0xFFFF0000u, 1);
    }
    any[t] = static_cast<unsigned>(__any_sync(0xFFFFFFFFu, t == 40));
    all[t] = static_cast<unsigned>(__all_sync(0xFFFFFFFFu, t != 40));
    same[t] = __match_any_sync(0xFFFFFFFFu, lane / 8);
  });
  for (unsigned t = 0; t < 96; ++t) {
    unsigned expected = 0;
    for (unsigned l = 0; l < 32; ++l) expected |= (t / 32 * 32 + l) % 3 == 0 ? 1u << l : 0;
    CHECK(ballots[t] == expected);
    CHECK(parts[t] == (t % 32 < 16 ? 0xAAAAu : 0xFFFF0000u));
    CHECK(any[t] == (t / 32 == 1));
    CHECK(all[t] == (t / 32 != 1));
    CHECK(same[t] == 0xFFu << (t % 32 / 8 * 8));
  }
}

// Lanes meet in parts before all meet, in whatever order they come.
CASE(nested_masks) {
  std::vector<int> sums(32);
  launch("nested_masks", config(1, 32), [&] {
    int value = 1;
    if (threadIdx.x < 4) {
      for (int d = 1; d < 4; d *= 2) value += __shfl_xor_sync(0xFu, value, d);
    }
    for (int d = 16; d; d /= 2) value += __shfl_xor_sync(0xFFFFFFFFu, value, d);
    sums[threadIdx.x] = value;
  });
  for (int sum : sums) CHECK(sum == 4 * 4 + 28);
}

struct Reverse {
  SharedArray<float, 256> x;
};

CASE(barriers) {
  for (unsigned threads : {1u, 31u, 32u, 33u, 256u}) {
    std::vector<float> out(threads * 8);
    std::vector<int> counts(threads * 8);
    launch("reverse", config(8, threads, sizeof(Reverse)), [&] {
      Reverse& s = shared_memory<Reverse>();
      const unsigned t = threadIdx.x, n = blockDim.x;
      for (int round = 0; round < 5; ++round) {
        s.x[t] = static_cast<float>(t + blockIdx.x * 1000 + round);
        __syncthreads();
        const float other = s.x[n - 1 - t];
        __syncthreads();
        out[blockIdx.x * n + t] = other;
      }
      counts[blockIdx.x * n + t] =
          __syncthreads_count(t % 3 == 0) * 4 + __syncthreads_or(t == n - 1) * 2 + __syncthreads_and(t < n);
    });
    for (unsigned b = 0; b < 8; ++b) {
      for (unsigned t = 0; t < threads; ++t) {
        CHECK(out[b * threads + t] == static_cast<float>(threads - 1 - t + b * 1000 + 4));
        CHECK(counts[b * threads + t] == static_cast<int>((threads + 2) / 3 * 4 + 3));
      }
    }
  }
}

// A producer warp fills one of two buffers while three consumer warps read the other.
struct Ring {
  SharedArray<int, 32> buffer[2];
};

CASE(named_barriers) {
  std::vector<int> sums(96);
  launch("named_barriers", config(1, 128, sizeof(Ring)), [&] {
    Ring& s = shared_memory<Ring>();
    const int t = static_cast<int>(threadIdx.x);
    constexpr int kFull = 1, kEmpty = 3;  // and the next one each, for the second buffer
    if (t < 32) {
      for (int round = 0; round < 10; ++round) {
        if (round >= 2) fastdl::simt::barrier("bar.sync", kEmpty + round % 2, 128);
        s.buffer[round % 2][t] = round * 100 + t;
        fastdl::simt::barrier_arrive(kFull + round % 2, 128);
      }
    } else {
      int sum = 0;
      for (int round = 0; round < 10; ++round) {
        fastdl::simt::barrier("bar.sync", kFull + round % 2, 128);
        sum += s.buffer[round % 2][(t + round) % 32];
        if (round < 8) fastdl::simt::barrier_arrive(kEmpty + round % 2, 128);
      }
      sums[t - 32] = sum;
    }
  });
  for (int t = 32; t < 128; ++t) {
    int sum = 0;
    for (int round = 0; round < 10; ++round) sum += round * 100 + (t + round) % 32;
    CHECK(sums[t - 32] == sum);
  }
}

CASE(syncwarp) {
  std::vector<int> out(64);
  launch("syncwarp", config(1, 64, sizeof(Ring)), [&] {
    Ring& s = shared_memory<Ring>();
    const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
    s.buffer[warp][lane] = lane * 2 + warp;
    __syncwarp();
    out[threadIdx.x] = s.buffer[warp][lane ^ 7];
  });
  for (int t = 0; t < 64; ++t) CHECK(out[t] == (t % 32 ^ 7) * 2 + t / 32);
}

CASE(atomics) {
  int count = 0, most = -1, least = 1000;
  unsigned long long wide = 0;
  float sum = 0;
  double precise = 0;
  unsigned wrapped = 0, swapped = 0, lock = 0;
  int guarded = 0;
  launch("atomics", config(20, 96), [&] {
    const int i = static_cast<int>(blockIdx.x * 96 + threadIdx.x);
    atomicAdd(&count, 1);
    atomicMax(&most, i);
    atomicMin(&least, i + 5);
    atomicAdd(&wide, 1ull << 33);
    atomicAdd(&sum, 0.5f);
    atomicAdd(&precise, 0.25);
    atomicInc(&wrapped, 9);
    atomicCAS(&swapped, 0u, 7u);
    while (atomicCAS(&lock, 0u, 1u) != 0) {
    }
    const int before = guarded;
    __syncwarp(1u << threadIdx.x % 32);
    guarded = before + 1;
    __threadfence();
    atomicExch(&lock, 0u);
  });
  CHECK(count == 1920 && most == 1919 && least == 5 && wide == 1920ull << 33 && sum == 960.0f &&
        precise == 480.0);
  CHECK(wrapped == 0 && swapped == 7 && guarded == 1920);
}

// Threads of one block wait in a loop for another one; blocks of a cooperative launch for each other.
CASE(spinning) {
  int flag = 0;
  launch("spin_in_block", config(1, 64), [&] {
    if (threadIdx.x == 0) {
      atomicExch(&flag, 1);
    } else {
      while (atomicAdd(&flag, 0) == 0) {
      }
    }
  });
  unsigned arrived = 0;
  LaunchConfig c = config(16, 64);
  c.cooperative = true;
  launch("grid_barrier", c, [&] {
    for (unsigned round = 1; round <= 3; ++round) {
      __syncthreads();
      if (threadIdx.x == 0) {
        atomicAdd(&arrived, 1u);
        while (atomicAdd(&arrived, 0u) < round * 16) __nanosleep(20);
      }
      __syncthreads();
      CHECK(arrived >= round * 16);
    }
  });
}

struct Copied {
  SharedArray<float, 64 * 4> tile[2];
};

CASE(cp_async) {
  std::vector<float> in(64 * 4 * 6), out(64 * 6);
  std::iota(in.begin(), in.end(), 1.0f);
  float* source = static_cast<float*>(std::aligned_alloc(16, in.size() * sizeof(float)));
  std::memcpy(source, in.data(), in.size() * sizeof(float));
  launch("cp_async", config(3, 64, sizeof(Copied)), [&] {
    Copied& s = shared_memory<Copied>();
    const int t = static_cast<int>(threadIdx.x);
    const auto fetch = [&](int step) {
      // The last thread's copy is cut to two elements: the rest is zeros.
      fastdl::simt::async_copy(s.tile[step % 2].at(t * 4), source + step * 256 + t * 4, 16, t == 63 ? 8 : 16);
      fastdl::simt::async_commit();
    };
    fetch(0);
    for (int step = 0; step < 6; ++step) {
      if (step + 1 < 6) fetch(step + 1);
      fastdl::simt::async_wait(step + 1 < 6 ? 1 : 0);
      __syncthreads();
      float sum = 0;
      const int other = 63 - t;
      for (int i = 0; i < 4; ++i) sum += s.tile[step % 2][other * 4 + i];
      out[step * 64 + t] = sum;
      __syncthreads();
    }
  });
  for (int step = 0; step < 6; ++step) {
    for (int t = 0; t < 64; ++t) {
      float sum = 0;
      for (int i = 0; i < (t == 0 ? 2 : 4); ++i) sum += in[step * 256 + (63 - t) * 4 + i];
      CHECK(out[step * 64 + t] == sum);
    }
  }
  std::free(source);
}

CASE(poison) {
  launch("poison", config(4, 32, sizeof(Reverse)), [] {
    Reverse& s = shared_memory<Reverse>();
    const float before = s.x[threadIdx.x];
    CHECK(std::isnan(before));
    __syncwarp();
    s.x[threadIdx.x] = 1.0f;
  });
  float* p;
  CHECK(cudaMalloc(&p, 64) == cudaSuccess && std::isnan(p[15]));
  CHECK(cudaFree(p) == cudaSuccess && cudaFree(&p) == cudaErrorInvalidValue &&
        cudaGetLastError() == cudaErrorInvalidValue);
}

CASE(out_of_memory) {
  setenv("FASTDL_SIMT_MEMORY", "10", 1);
  void *a, *b;
  CHECK(cudaMalloc(&a, 8 << 20) == cudaSuccess);
  CHECK(cudaMalloc(&b, 8 << 20) == cudaErrorMemoryAllocation && b == nullptr);
  CHECK(cudaGetLastError() == cudaErrorMemoryAllocation && cudaGetLastError() == cudaSuccess);
  CHECK(cudaFree(a) == cudaSuccess && cudaMalloc(&b, 8 << 20) == cudaSuccess && cudaFree(b) == cudaSuccess);
}

CASE(graph_replay) {
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  std::vector<int> x(64, 1), copy(64, 0);
  CHECK(cudaStreamCreate(&stream) == cudaSuccess);
  CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal) == cudaSuccess);
  LaunchConfig c = config(2, 32);
  c.stream = stream;
  launch("doubling", c, [p = x.data()] { p[blockIdx.x * 32 + threadIdx.x] *= 2; });
  CHECK(cudaMemcpyAsync(copy.data(), x.data(), 256, cudaMemcpyDefault, stream) == cudaSuccess);
  CHECK(cudaMemsetAsync(x.data(), 0, 4, stream) == cudaSuccess);
  CHECK(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
  CHECK(x[5] == 1 && copy[5] == 0);  // only recorded
  CHECK(cudaGraphInstantiate(&exec, graph) == cudaSuccess && cudaGraphDestroy(graph) == cudaSuccess);
  CHECK(cudaGraphLaunch(exec, stream) == cudaSuccess && cudaGraphLaunch(exec, stream) == cudaSuccess);
  CHECK(x[5] == 4 && copy[5] == 4 && x[0] == 0 && copy[0] == 0);
  CHECK(cudaGraphExecDestroy(exec) == cudaSuccess && cudaStreamDestroy(stream) == cudaSuccess);
}

// Each block adds one to what the block before it hands on: all ones until then.
__global__ void hand_on(uint32_t* words) {
  uint32_t seen[4] = {0, 0, 0, 0};
  if (blockIdx.x > 0) {
    while (fastdl::cuda::ptx::load_relaxed(seen, words + 4 * (blockIdx.x - 1)), seen[threadIdx.x] == ~0u)
      fastdl::cuda::ptx::look_again();
  }
  fastdl::cuda::ptx::prefetch_l2(words);
  fastdl::cuda::ptx::store_relaxed(words + 4 * blockIdx.x + threadIdx.x, seen[threadIdx.x] + 1);
}

CASE(blocks_hand_on_words) {
  alignas(16) uint32_t words[5 * 4];
  std::memset(words, 0xFF, sizeof words);
  LaunchConfig c = config(5, 4);
  c.cooperative = true;
  launch("hand_on", c, [p = words] { hand_on(p); });
  for (uint32_t i = 0; i < 20; ++i) CHECK(words[i] == i / 4 + 1);
}

CASE(registry) {
  launch("first_kernel", config(1, 1), [] {});
  launch("second_kernel", config(1, 1), [] {});
  launch("first_kernel", config(1, 1), [] {});
  CHECK(fastdl::simt::entered_kernels().size() == 2);
}

__global__ void static_shared(float* out) {
  __shared__ float tile[32];
  tile[threadIdx.x] = static_cast<float>(threadIdx.x);
  __syncthreads();
  out[blockIdx.x * 32 + threadIdx.x] = tile[31 - threadIdx.x];
}

CASE(intrinsics) {
  std::vector<float> out(96);
  float* p = out.data();
  FASTDL_SIMT_LAUNCH(static_shared, 3, 32, 0, nullptr, p);
  for (int i = 0; i < 96; ++i) CHECK(out[i] == static_cast<float>(31 - i % 32));
  CHECK(__popc(0xF0Fu) == 8 && __clz(1) == 31 && __clz(0) == 32 && __ffs(8) == 4 && __ffs(0) == 0);
  CHECK(__brev(1u) == 0x80000000u && __umulhi(0x80000000u, 6u) == 3u && __mul24(-3, 5) == -15);
  CHECK(__byte_perm(0x33221100u, 0x77665544u, 0x7610u) == 0x77661100u);
  CHECK(__funnelshift_l(0x80000000u, 1u, 1) == 3u && __float_as_uint(1.0f) == 0x3F800000u);
  CHECK(max(1, 2) == 2 && min(2.0f, -1.0f) == -1.0f && max(NAN, 1.0f) == 1.0f && rsqrtf(4.0f) == 0.5f);
  CHECK(make_float4(1, 2, 3, 4).w == 4 && alignof(float4) == 16 && alignof(double2) == 16 &&
        sizeof(uint3) == 12);
}

// The result of a failed launch is an error; the next launch runs as if nothing had been.
CASE(after_an_error) {
  for (int i = 0; i < 20; ++i) {
    bool failed = false;
    try {
      launch("failing", config(8, 64, 1024), [] {
        __syncthreads();
        if (threadIdx.x == 7) fastdl::simt::fail("on purpose");
        __syncthreads();
      });
    } catch (const fastdl::simt::Error& error) {
      failed = std::string(error.what()).find("thread (7, 0, 0): on purpose") != std::string::npos;
    }
    CHECK(failed);
    barriers();
  }
}

}  // namespace

int main(int argc, char** argv) { return run_cases(argc, argv); }
