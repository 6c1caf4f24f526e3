// Rows that a team of threads reads once: packs of 16 bytes, kept in registers.
#pragma once

#include "cuda/map.cuh"
#include "cuda/shared.cuh"

namespace fastdl::cuda {

constexpr int kRowThreads = 256;
constexpr int kRowPacks = 4;

template <class T>
struct RowShared {
  SharedArray<T, kRowThreads / kWarp> sums;
};

// Threads of a row: a warp of a block, or all of it.
template <int Threads, class T>
struct RowTeam {
  RowShared<T>& shared;
  __device__ int thread() const { return Threads == kWarp ? lane() : static_cast<int>(threadIdx.x); }
  __device__ int64_t first_row() const {
    return Threads == kWarp ? static_cast<int64_t>(blockIdx.x) * (kRowThreads / kWarp) + warp() : blockIdx.x;
  }
  __device__ int64_t step() const {
    return Threads == kWarp ? static_cast<int64_t>(gridDim.x) * (kRowThreads / kWarp) : gridDim.x;
  }
  template <class F>
  __device__ T reduce(T x, F combine) const {
    return block_reduce<Threads>(x, combine, shared.sums);
  }
  __device__ T sum(T x) const { return reduce(x, Sum{}); }
};

// A thread's share of a row.
template <int Threads, int Width, class S>
struct RowShare {
  using P = Pack<S, Width>;
  const S* row;
  int64_t n;
  int thread;
  P kept[kRowPacks];

  __device__ __forceinline__ RowShare(const S* row_, int64_t n_, int thread_)
      : row(row_), n(n_), thread(thread_) {
#pragma unroll
    for (int k = 0; k < kRowPacks; ++k) {
      const int64_t i = static_cast<int64_t>(k * Threads + thread) * Width;
      kept[k] = i < n ? *reinterpret_cast<const P*>(row + i) : P{};
    }
  }
  // f(element of the row, its pack)
  template <class F>
  __device__ __forceinline__ void each(F&& f) const {
#pragma unroll
    for (int k = 0; k < kRowPacks; ++k) {
      const int64_t i = static_cast<int64_t>(k * Threads + thread) * Width;
      if (i < n) f(i, kept[k]);
    }
    for (int64_t i = static_cast<int64_t>(kRowPacks * Threads + thread) * Width; i < n;
         i += Threads * Width) {
      f(i, *reinterpret_cast<const P*>(row + i));
    }
  }
};

// Calls f(threads, width) for rows of n.
template <class S, class F, class... Pointers>
void with_row_team(int64_t n, F&& f, Pointers... pointers) {
  with_pack_width<S>(
      n,
      [&](auto width) {
        if (n <= kWarp * kRowPacks * decltype(width)::value) f(std::integral_constant<int, kWarp>{}, width);
        else f(std::integral_constant<int, kRowThreads>{}, width);
      },
      pointers...);
}

}  // namespace fastdl::cuda
