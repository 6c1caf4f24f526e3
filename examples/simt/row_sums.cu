// A small CUDA program with a mistake in it: the sum of each row of a matrix, one block per row. docs/simt.md
// shows how to find the mistake without a GPU.
#include <cuda_runtime.h>

#include <cstdio>
#include <vector>

#include "cuda/shared.cuh"

#ifdef FASTDL_SIMT
#define LAUNCH(kernel, grid, block, shared, ...) \
  FASTDL_SIMT_LAUNCH(kernel, grid, block, shared, nullptr, __VA_ARGS__)
#else
#define LAUNCH(kernel, grid, block, shared, ...) kernel<<<grid, block, shared>>>(__VA_ARGS__)
#endif

constexpr int kThreads = 128;

struct Shared {
  fastdl::cuda::SharedArray<float, kThreads> partial;
};

__global__ void row_sums(int columns, const float* x, float* sums) {
  Shared& shared = fastdl::cuda::shared_memory<Shared>();
  const int t = static_cast<int>(threadIdx.x);
  float sum = 0;
  for (int i = t; i < columns; i += kThreads) sum += x[blockIdx.x * columns + i];
  shared.partial[t] = sum;
  __syncthreads();
  for (int half = kThreads / 2; half > 0; half /= 2) {
    if (t < half) shared.partial[t] += shared.partial[t + half];
#ifndef MISTAKE
    __syncthreads();
#endif
  }
  if (t == 0) sums[blockIdx.x] = shared.partial[0];
}

int main() {
  const int rows = 5, columns = 1000;
  std::vector<float> host(rows * columns), sums(rows);
  for (int i = 0; i < rows * columns; ++i) host[i] = static_cast<float>(i % 7);
  float *x = nullptr, *y = nullptr;
  cudaMalloc(&x, host.size() * sizeof(float));
  cudaMalloc(&y, rows * sizeof(float));
  cudaMemcpy(x, host.data(), host.size() * sizeof(float), cudaMemcpyHostToDevice);
  LAUNCH(row_sums, rows, kThreads, sizeof(Shared), columns, x, y);
  cudaMemcpy(sums.data(), y, rows * sizeof(float), cudaMemcpyDeviceToHost);
  for (int r = 0; r < rows; ++r) std::printf("row %d: %g\n", r, static_cast<double>(sums[r]));
  cudaFree(x);
  cudaFree(y);
  return 0;
}
