// The matrix-multiplication kernels of one instruction set: the contract between gemm.cpp (loops, packing,
// threads) and isa/gemm.cpp (registers). Convolution, recurrent cells and attention call the same kernels.
#pragma once

#include <cstdint>

namespace fastdl::cpu {

// Memory that will be wanted soon: `rows` rows of cache lines from `at` to `end`, the next one `stride` bytes
// on. Tiles bring a line of it to the L2 cache per step, and move `at` on.
struct GemmAhead {
  const char* at;
  const char* end;
  int64_t stride, rows;
  int64_t width;  // bytes of a row, a multiple of 64
};

// One term of a tile's sum: `k` steps along A's columns and B's rows.
template <class T>
struct GemmPiece {
  const T* a;  // A[0, 0] of the piece
  const T* b;  // B[0, 0] of the piece
  int64_t k;
};

// C[rows x cols] = relu?(alpha * sum over pieces of A_p[rows x k_p] * B_p[k_p x cols] + beta * C + bias +
// residual) Nothing needs to be packed: A is addressed as a[row * a_row + k * a_k], B as b[k * b_k + column].
// A packed panel of A is a_row = 1, a_k = MR; a packed panel of B is b_k = NR. Each element is one chain of
// fused multiply-adds in the order of the pieces, whatever the tile's shape: the way C is cut into tiles
// never changes a bit of it.
template <class T>
struct GemmTile {
  const GemmPiece<T>* pieces;
  int64_t count;
  int64_t a_row, a_k, b_k;
  int rows, cols;  // 1..MR, 1..NR
  T* c;
  int64_t ldc;
  T alpha, beta;      // beta = 0 does not read C
  const T* bias;      // [cols] or null
  const T* residual;  // [rows x cols] or null
  int64_t ld_residual;
  bool relu;
  bool stream;       // C is written past the cache: cols == NR, rows aligned to 64 bytes
  GemmAhead* ahead;  // or null
};

template <class T>
struct GemmKernelsOf {
  static constexpr int kMaxRows = 14;
  int width;  // lanes of a vector
  int mr, nr;
  int dot_rows;   // most rows of `dot`
  int gemv_rows;  // most rows of `gemv`

  // [rows][0: cols == NR, 1: cols > NR / 2, 2: cols <= NR / 2]; call through gemm_tile().
  void (*tile[kMaxRows + 1][3])(const GemmTile<T>&);

  // acc[r * cols + j] = sum_k a[r * a_row + k * a_k] * b[k * b_k + j], rows <= gemv_rows: rows of B are read
  // whole.
  void (*gemv)(const T* a, int64_t a_row, int64_t a_k, const T* b, int64_t b_k, int rows, int64_t cols,
               int64_t k, T* acc);

  // acc[r * cols + j] = sum_k a[r * a_row + k] * b[j * b_col + k], rows <= dot_rows: both operands contiguous
  // along k.
  void (*dot)(const T* a, int64_t a_row, const T* b, int64_t b_col, int rows, int64_t cols, int64_t k,
              T* acc);

  // The end of a tile whose sum is already in memory: acc[rows x ld_acc] takes the place of the products.
  void (*finish)(const GemmTile<T>&, const T* acc, int64_t ld_acc);

  // out[k * width + lane] = src[k * k_stride + lane * lane_stride], lanes..width filled with zeros.
  void (*pack)(const T* src, int64_t k_stride, int64_t lane_stride, int64_t k, int lanes, int width, T* out);
};

struct GemmKernels {
  GemmKernelsOf<float> f32;
  GemmKernelsOf<double> f64;
  // `rounds` times a block of independent float32 multiply-adds in registers; returns how many floating-point
  // operations one round is. *sink keeps the compiler from dropping the work.
  int64_t (*fma_peak)(int64_t rounds, float* sink);
};

// Always inlined: an out-of-line copy compiled for one ISA must not serve another.
template <class T>
__attribute__((always_inline)) inline const GemmKernelsOf<T>& gemm_kernels_of(const GemmKernels& k) {
  if constexpr (sizeof(T) == 4) return k.f32;
  else return k.f64;
}

template <class T>
__attribute__((always_inline)) inline void gemm_tile(const GemmKernelsOf<T>& k, const GemmTile<T>& t) {
  k.tile[t.rows][t.cols == k.nr ? 0 : t.cols > k.width ? 1 : 2](t);
}

}  // namespace fastdl::cpu
