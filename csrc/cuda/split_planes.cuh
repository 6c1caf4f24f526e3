// float32 operands as planes of bfloat16 (split.cuh) in memory, for kernels that read them by the copy
// engine.
#pragma once

#include "cuda/device.cuh"
#include "cuda/launch.h"
#include "cuda/split.cuh"

namespace fastdl::cuda {

// `rows` of `columns`, of any strides, in up to two batch dims; a plane is [batch 1][batch 0][rows][padded].
struct SplitShape {
  int64_t rows, columns, padded, row, column;
  int64_t batch[2], batch_strides[2];
  bool by_row;  // odd values are noted per 128 rows, else per 128 columns
  int64_t count() const { return batch[0] * batch[1]; }
  int64_t plane() const { return count() * rows * padded; }
  int64_t blocks() const { return ((by_row ? rows : columns) + 127) / 128; }
};

// Four neighbouring columns per thread; odd[item][block] becomes 1 where a value cannot be split.
template <int Planes>
__global__ void __launch_bounds__(256)
    split_planes(const float* from, SplitShape s, bool packs, bfloat16* to, uint32_t* odd) {
  const int64_t across = s.padded / 4, total = s.batch[0] * s.batch[1] * s.rows * across;
  const int64_t plane = s.batch[0] * s.batch[1] * s.rows * s.padded;
  const int64_t blocks = ((s.by_row ? s.rows : s.columns) + 127) / 128;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < total;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const int64_t column = i % across * 4, row = i / across % s.rows, item = i / across / s.rows;
    const float* const x = from + item % s.batch[0] * s.batch_strides[0] +
                           item / s.batch[0] * s.batch_strides[1] + row * s.row + column * s.column;
    Pack<float, 4> four{};
    if (packs && column + 4 <= s.columns) {
      four = *reinterpret_cast<const Pack<float, 4>*>(x);
    } else {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        if (column + e < s.columns) four.at[e] = x[e * s.column];
      }
    }
    bool fits = true;
#pragma unroll
    for (int e = 0; e < 4; ++e) fits = fits && splits(four.at[e]);
    if (!fits) odd[item * blocks + (s.by_row ? row : column) / 128] = 1;
    uint32_t low[Planes], high[Planes];
    split(four.at[0], four.at[1], low);
    split(four.at[2], four.at[3], high);
#pragma unroll
    for (int p = 0; p < Planes; ++p) {
      *reinterpret_cast<Pack<uint32_t, 2>*>(to + p * plane + i * 4) = {{low[p], high[p]}};
    }
  }
}

}  // namespace fastdl::cuda
