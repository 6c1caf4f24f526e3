// One operand's tile in shared memory: Length positions along m or n by Depth along k, filled by cp.async in
// 16-byte chunks and read as fragments of mma.sync.
//
// In memory the operand is contiguous along k (KMajor: the tile has Length rows of Depth elements) or along m
// / n (Depth rows of Length elements). Chunks of a row are permuted by XOR with bits of the row number, so
// that the eight rows (or quarter warps) of a shared-memory access fall into different banks.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/device.cuh"
#include "cuda/ptx/cp_async.cuh"
#include "cuda/ptx/ldmatrix.cuh"
#include "cuda/shared.cuh"

namespace fastdl::cuda {

constexpr int kChunkBytes = 16;

// Where the operand lies: rows of `stride` elements along its contiguous dim.
template <class S>
struct Source {
  const S* data;
  int64_t stride;
  int64_t length, depth;  // extents along m or n, and along k
};

template <class S, bool KMajor, int Length, int Depth, int Threads>
struct OperandTile {
  static constexpr bool kAlongK = KMajor;
  static constexpr int kRows = KMajor ? Length : Depth;
  static constexpr int kColumns = KMajor ? Depth : Length;
  static constexpr int kPerChunk = kChunkBytes / static_cast<int>(sizeof(S));
  static constexpr int kChunks = kColumns / kPerChunk;  // of a row
  static constexpr int kElements = Length * Depth;
  static_assert(kRows * kChunks % Threads == 0, "every thread copies as many chunks");

  // The place of a row's chunk. 64-byte rows: two rows share the 32 banks, so pairs of rows are told apart.
  // float32 along m or n is read element by element, four rows apart, two chunks wide.
  __device__ static __forceinline__ int swizzled(int row, int chunk) {
    if constexpr (sizeof(S) == 4 && KMajor) return chunk;
    else if constexpr (sizeof(S) == 4) return chunk ^ (row / 4 % 4 * 2);
    else if constexpr (kChunks == 4) return chunk ^ (row / 2 % 4);
    else return chunk ^ (row % 8);
  }
  __device__ static __forceinline__ int at(int row, int column) {
    return (row * kChunks + swizzled(row, column / kPerChunk)) * kPerChunk + column % kPerChunk;
  }

  // Starts the copy of the tile whose first element is (first, k) of the operand; what lies outside becomes
  // zero.
  __device__ static __forceinline__ void fetch(S* tile, const Source<S>& source, int64_t first, int64_t k) {
    const int64_t row0 = KMajor ? first : k, column0 = KMajor ? k : first;
    const int64_t rows = KMajor ? source.length : source.depth,
                  columns = KMajor ? source.depth : source.length;
#pragma unroll
    for (int i = 0; i < kRows * kChunks / Threads; ++i) {
      const int index = i * Threads + static_cast<int>(threadIdx.x), row = index / kChunks,
                chunk = index % kChunks;
      const int64_t r = row0 + row, c = column0 + chunk * kPerChunk;
      const int64_t left = r < rows ? columns - c : 0;
      const int valid = left >= kPerChunk ? kChunkBytes : left > 0 ? static_cast<int>(left * sizeof(S)) : 0;
      const S* const from = valid > 0 ? source.data + r * source.stride + c : source.data;
      ptx::cp_async_16(tile + at(row, chunk * kPerChunk), from, valid);
    }
  }
};

// float32 fragments. Which of the 16 k of a step an mma calls k is free as long as A and B agree: lane (g, t)
// takes k = 4t .. 4t + 3, four neighbours, as its columns 2t, 2t + 1, 2t + 8, 2t + 9.
template <class Tile>
__device__ __forceinline__ void load_four(float (&x)[4], const float* tile, int position, int t) {
  if constexpr (Tile::kAlongK) {
    const auto four = shared_load<Pack<float, 4>>(tile + Tile::at(position, 4 * t));
#pragma unroll
    for (int i = 0; i < 4; ++i) x[i] = four.at[i];
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) x[i] = shared_load<float>(tile + Tile::at(4 * t + i, position));
  }
}

}  // namespace fastdl::cuda
