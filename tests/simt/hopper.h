// What the kernels of hopper_*.cpp share.
#pragma once

#include <cuda.h>

#include <cstdint>
#include <vector>

#include "check.h"
#include "cuda/ptx/bulk.cuh"
#include "cuda/ptx/cluster.cuh"
#include "cuda/ptx/mbarrier.cuh"
#include "cuda/ptx/stmatrix.cuh"
#include "cuda/ptx/tma.cuh"
#include "cuda/ptx/warpgroup.cuh"
#include "cuda/ptx/wgmma.cuh"

namespace ptx = fastdl::cuda::ptx;
using fastdl::bfloat16;
using fastdl::float16;
using fastdl::simt::launch;
using fastdl::simt::LaunchConfig;

inline LaunchConfig config(dim3 grid, dim3 block, size_t shared, unsigned cluster = 1) {
  LaunchConfig c;
  c.grid = grid;
  c.block = block;
  c.shared_bytes = shared;
  c.cluster = dim3(cluster);
  return c;
}

inline bfloat16 to_bfloat16(float x) {  // exact for the small integers of these tests
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return {static_cast<uint16_t>(bits >> 16)};
}
inline float16 to_float16(float x) {
  if (x == 0) return {0};
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  const uint32_t exponent = (bits >> 23 & 255) - 112;
  return {static_cast<uint16_t>((bits >> 16 & 0x8000u) | exponent << 10 | (bits >> 13 & 0x3FFu))};
}

// A matrix of `rows` rows of `columns` elements, with boxes of box_rows x box_columns.
template <class T>
CUtensorMap map_of(const T* data, uint64_t rows, uint64_t columns, uint64_t row_elements, uint32_t box_rows,
                   uint32_t box_columns, CUtensorMapSwizzle swizzle) {
  const cuuint64_t dims[2] = {columns, rows}, strides[1] = {row_elements * sizeof(T)};
  const cuuint32_t box[2] = {box_columns, box_rows}, steps[2] = {1, 1};
  const auto type = sizeof(T) == 4   ? CU_TENSOR_MAP_DATA_TYPE_FLOAT32
                    : sizeof(T) == 2 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                     : CU_TENSOR_MAP_DATA_TYPE_UINT8;
  CUtensorMap map;
  CHECK(cuTensorMapEncodeTiled(&map, type, 2, const_cast<T*>(data), dims, strides, box, steps,
                               CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_NONE,
                               CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS);
  return map;
}

template <class T>
struct Aligned {  // memory that a tensor map may describe
  explicit Aligned(size_t count)
      : data(static_cast<T*>(std::aligned_alloc(256, (count * sizeof(T) + 255) / 256 * 256))), count(count) {
    std::memset(static_cast<void*>(data), 0xFF, count * sizeof(T));
  }
  ~Aligned() { std::free(data); }
  Aligned(const Aligned&) = delete;
  T& operator[](size_t i) { return data[i]; }
  T* data;
  size_t count;
};
