// Tiles of rows (queries, keys, values, gradients) in shared memory and the two products attention makes of
// them on the tensor cores. H: bfloat16 or float16. A float32 operand is Planes tiles of bfloat16, its pieces
// (cuda/split.cuh): of their products those of the Planes leading orders are summed, the smallest first, over
// 16 of the summed dim from zero, and then added by an ordinary addition (see cuda/gemm_mma.cuh for why).
#pragma once

#include "cuda/gemm_tile.cuh"
#include "cuda/ptx/mma.cuh"
#include "cuda/split.cuh"

namespace fastdl::cuda {

// An operand in memory as cp.async reads it: unit stride along the features, rows aligned to 16 bytes.
template <class H>
struct AttentionPlanes {
  const H* data;
  int64_t plane, batch, head, row;
};

template <class H, int Planes, int Rows, int D, int Threads>
struct AttentionTile {
  using Tile = OperandTile<H, true, Rows, D, Threads>;
  static constexpr int kPlane = Tile::kElements, kElements = Planes * kPlane;

  // Starts the copy of rows [first, first + Rows) of head h; rows from `length` on and features from
  // `features` on are zero.
  __device__ static __forceinline__ void fetch(H* tile, const AttentionPlanes<H>& from, int64_t b, int64_t h,
                                               int64_t first, int64_t length, int64_t features) {
#pragma unroll
    for (int plane = 0; plane < Planes; ++plane) {
      const H* const data = from.data + plane * from.plane + b * from.batch + h * from.head;
      Tile::fetch(tile + plane * kPlane, Source<H>{data, from.row, length, features}, first, 0);
    }
  }

  // Where a lane begins to read 16 x 16 elements by ldmatrix, as a factor of which the tile's rows are the
  // rows (Across: the columns). OperandTile permutes the chunks of a row by XOR with the row's number, so
  // features further on are found by XOR too, as long as the tile begins at a multiple of D: an address is
  // one operation, and none need to be kept in registers. (D: a power of two.)
  template <bool Across>
  __device__ static __forceinline__ int lane_offset() {
    const int l = lane(), row = Across ? l % 8 + l / 16 * 8 : l % 16, chunk = Across ? l / 8 % 2 : l / 16;
    return row * D + (chunk ^ (l % 8)) * 8;
  }

  // Left factor: rows [row, row + 16) by features [k, k + 16); `at` is the tile's start and
  // lane_offset<false>.
  __device__ static __forceinline__ void load_left(uint32_t (&a)[Planes][4], const H* shared, int at, int row,
                                                   int k) {
#pragma unroll
    for (int plane = 0; plane < Planes; ++plane)
      ptx::ldmatrix<false>(a[plane], shared + ((at ^ k) + row * D + plane * kPlane));
  }
  // Right factor, transposed: features [k, k + 16) by rows [row, row + 16), as two tiles of 8 columns; with
  // lane_offset<true>.
  __device__ static __forceinline__ void load_transposed(uint32_t (&b)[2][Planes][2], const H* shared, int at,
                                                         int row, int k) {
#pragma unroll
    for (int plane = 0; plane < Planes; ++plane) {
      uint32_t four[4];
      ptx::ldmatrix<false>(four, shared + ((at ^ k) + row * D + plane * kPlane));
      b[0][plane][0] = four[0], b[0][plane][1] = four[1], b[1][plane][0] = four[2], b[1][plane][1] = four[3];
    }
  }
  // Right factor: rows [row, row + 16) by features [column, column + 16); with lane_offset<false>.
  __device__ static __forceinline__ void load_right(uint32_t (&b)[2][Planes][2], const H* shared, int at,
                                                    int row, int column) {
#pragma unroll
    for (int plane = 0; plane < Planes; ++plane) {
      uint32_t four[4];
      ptx::ldmatrix<true>(four, shared + ((at ^ column) + row * D + plane * kPlane));
      b[0][plane][0] = four[0], b[0][plane][1] = four[1], b[1][plane][0] = four[2], b[1][plane][1] = four[3];
    }
  }
};

// Two tiles of 16 x 8 sums beside each other.
template <class H, int Planes>
__device__ __forceinline__ void add_products(float (&left_sum)[4], float (&right_sum)[4],
                                             const uint32_t (&a)[Planes][4],
                                             const uint32_t (&b)[2][Planes][2]) {
  if constexpr (Planes == 1) {
    ptx::mma(H{}, left_sum, a[0], b[0][0]);
    ptx::mma(H{}, right_sum, a[0], b[1][0]);
  } else {
    float step[2][4] = {};
#pragma unroll
    for (int order = Planes - 1; order >= 0; --order) {
#pragma unroll
      for (int p = 0; p <= order; ++p) {
        ptx::mma(H{}, step[0], a[p], b[0][order - p]);
        ptx::mma(H{}, step[1], a[p], b[1][order - p]);
      }
    }
#pragma unroll
    for (int e = 0; e < 4; ++e) left_sum[e] += step[0][e], right_sum[e] += step[1][e];
  }
}

// sums = X Y^T: 16 Tall rows of X, of which `x` is the first, by the 8 Wide rows of Y, the tile at `y` of
// `shared`, over all features.
template <class X, class Y, class H, int Planes, int D, int Tall, int Wide>
__device__ __forceinline__ void multiply_rows(float (&sums)[Tall][Wide][4], const H* shared, int x, int y) {
  x += X::template lane_offset<false>();
  y += Y::template lane_offset<true>();
#pragma unroll
  for (int i = 0; i < Tall; ++i) {
#pragma unroll
    for (int j = 0; j < Wide; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) sums[i][j][e] = 0;
    }
  }
  // Pieces make a step long enough by itself; more than four of the others take registers for addresses.
  [[maybe_unused]] constexpr int kUnroll = Planes == 1 ? 4 : 1;
#pragma unroll kUnroll
  for (int k = 0; k < D; k += 16) {
    uint32_t a[Tall][Planes][4];
#pragma unroll
    for (int i = 0; i < Tall; ++i) X::load_left(a[i], shared, x, 16 * i, k);
#pragma unroll
    for (int j = 0; j < Wide; j += 2) {
      uint32_t b[2][Planes][2];
      Y::load_transposed(b, shared, y, 8 * j, k);
#pragma unroll
      for (int i = 0; i < Tall; ++i) add_products<H, Planes>(sums[i][j], sums[i][j + 1], a[i], b);
    }
  }
}

// sums += W Y: weights as multiply_rows() left them by the 8 Wide rows of Y, the tile at `y` of
// `shared`. A result of mma.sync has its
// elements where the left factor of another wants them.
template <class Y, class H, int Planes, int D, int Tall, int Wide>
__device__ __forceinline__ void multiply_weights(float (&sums)[Tall][D / 8][4],
                                                 const float (&weights)[Tall][Wide][4], const H* shared,
                                                 int y) {
  y += Y::template lane_offset<false>();
#pragma unroll
  for (int k = 0; k < Wide; k += 2) {
    uint32_t a[Tall][Planes][4];
#pragma unroll
    for (int i = 0; i < Tall; ++i) {
#pragma unroll
      for (int part = 0; part < 4; ++part) {
        const float low = weights[i][k + part / 2][part % 2 * 2],
                    high = weights[i][k + part / 2][part % 2 * 2 + 1];
        if constexpr (Planes == 1) {
          a[i][0][part] = ptx::pack(H{}, low, high);
        } else {
          uint32_t pieces[Planes];
          split(low, high, pieces);
#pragma unroll
          for (int p = 0; p < Planes; ++p) a[i][p][part] = pieces[p];
        }
      }
    }
#pragma unroll
    for (int n = 0; n < D / 8; n += 2) {
      uint32_t b[2][Planes][2];
      Y::load_right(b, shared, y, 8 * k, 8 * n);
#pragma unroll
      for (int i = 0; i < Tall; ++i) add_products<H, Planes>(sums[i][n], sums[i][n + 1], a[i], b);
    }
  }
}

// A tensor of results: float32 or H.
struct AttentionOut {
  void* data = nullptr;
  bool float32 = false;
  int64_t batch = 0, head = 0, row = 0, column = 0;

  AttentionOut() = default;
  explicit AttentionOut(const View& v)
      : data(v.data),
        float32(v.dtype == DType::kFloat32),
        batch(v.strides[0]),
        head(v.strides[1]),
        row(v.strides[2]),
        column(v.strides[3]) {}
  template <class H>
  __device__ __forceinline__ void store(int64_t b, int64_t h, int64_t i, int64_t c, float x) const {
    const int64_t at = b * batch + h * head + i * row + c * column;
    if (float32) static_cast<float*>(data)[at] = x;
    else static_cast<H*>(data)[at] = narrow<H>(x);
  }
};

// Rows g and g + 8 of 16 x D sums, those before `rows` and their features before `features`, times factor.
template <class H, int D>
__device__ __forceinline__ void store_rows(const AttentionOut& out, const float (&sums)[D / 8][4],
                                           const float (&factor)[2], int64_t b, int64_t h, int64_t first,
                                           int64_t rows, int64_t features) {
  const int g = lane() / 4, t = lane() % 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int64_t i = first + g + 8 * half;
    if (i >= rows) continue;
#pragma unroll
    for (int n = 0; n < D / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int c = 8 * n + 2 * t + e;
        if (c < features) out.store<H>(b, h, i, c, sums[n][2 * half + e] * factor[half]);
      }
    }
  }
}

}  // namespace fastdl::cuda
