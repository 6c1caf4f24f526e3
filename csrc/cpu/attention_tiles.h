// Products of blocks on the register tiles, the same calls for every storage type.
#pragma once

#include <algorithm>

#include "cpu/kernels.h"

#include "cpu/matrix_unit.h"

namespace fastdl::cpu {

// The left factor as the tiles take it: element (row, k) at data[row * row_stride + k * k_stride].
template <class S>
struct TileRows {
  const S* data;
  int64_t row, k;
};

// The right factor: its columns [n, n + nr) are a panel at data + n / nr * panel, in which row k starts at k
// * row.
template <class S>
struct TilePanels {
  const S* data;
  int64_t row, panel;
};

template <class S>
class AttentionTiles {
 public:
  AttentionTiles() : kernel_(gemm_kernels_of<S>(*kernels().gemm)) {}
  int64_t mr() const { return kernel_.mr; }
  int64_t nr() const { return kernel_.nr; }
  int64_t depth(int64_t k) const { return k; }  // what k is filled up to in panels

  // x[k x n] in panels.
  TilePanels<S> pack(const S* x, int64_t k_stride, int64_t n_stride, int64_t k, int64_t n, S* out) const {
    for (int64_t i = 0; i < n; i += nr()) {
      const int lanes = static_cast<int>(std::min<int64_t>(nr(), n - i));
      kernel_.pack(x + i * n_stride, k_stride, n_stride, k, lanes, kernel_.nr, out + i * k);
    }
    return {out, nr(), nr() * k};
  }

  // c[rows x cols] = alpha * a b, or (with alpha 1) c + a b; rows <= mr.
  void multiply(int64_t rows, int64_t cols, int64_t k, TileRows<S> a, TilePanels<S> b, S* c, int64_t ldc,
                S alpha, bool accumulate) const {
    GemmPiece<S> piece{a.data, b.data, k};
    GemmTile<S> t{};
    t.pieces = &piece;
    t.count = 1;
    t.a_row = a.row;
    t.a_k = a.k;
    t.b_k = b.row;
    t.rows = static_cast<int>(rows);
    t.ldc = ldc;
    t.alpha = alpha;
    t.beta = accumulate ? S(1) : S(0);
    for (int64_t n = 0; n < cols; n += nr()) {
      t.cols = static_cast<int>(std::min<int64_t>(nr(), cols - n));
      t.c = c + n;
      gemm_tile(kernel_, t);
      piece.b += b.panel;
    }
  }

 private:
  const GemmKernelsOf<S>& kernel_;
};

// bfloat16 operands, float32 sums. Left factors are contiguous along k; right ones are always packed.
template <>
class AttentionTiles<bfloat16> {
 public:
  AttentionTiles() : kernel_(*kernels().gemm_bf16), unit_(kernel_) {}
  const Bf16Kernels& kernel() const { return kernel_; }
  int64_t mr() const { return kernel_.mr; }
  int64_t nr() const { return kernel_.nr; }
  int64_t depth(int64_t k) const { return (k + kernel_.k_step - 1) / kernel_.k_step * kernel_.k_step; }

  TilePanels<bfloat16> pack(const bfloat16* x, int64_t k_stride, int64_t n_stride, int64_t k, int64_t n,
                            bfloat16* out) const {
    for (int64_t i = 0; i < n; i += nr()) {
      const int cols = static_cast<int>(std::min<int64_t>(nr(), n - i));
      kernel_.pack_b(x + i * n_stride, k_stride, n_stride, k, cols, out + i * depth(k));
    }
    return {out, nr(), nr() * depth(k)};
  }

  void multiply(int64_t rows, int64_t cols, int64_t k, TileRows<bfloat16> a, TilePanels<bfloat16> b, float* c,
                int64_t ldc, float alpha, bool accumulate) const {
    multiply(rows, cols, k, a.data, a.row, kernel_.k_step, b, c, ldc, alpha, accumulate);
  }
  // The same with a left factor that pack_a has packed: `a_step` from one step of k to the next.
  void multiply(int64_t rows, int64_t cols, int64_t k, const bfloat16* a, int64_t a_row, int64_t a_step,
                TilePanels<bfloat16> b, float* c, int64_t ldc, float alpha, bool accumulate) const {
    Bf16Piece piece{a, b.data, k};
    Bf16Tile t{};
    t.pieces = &piece;
    t.count = 1;
    t.a_row = a_row;
    t.a_step = a_step;
    t.rows = static_cast<int>(rows);
    t.resume = accumulate;
    t.finish = alpha != 1;
    t.ld_sums = t.ldc = ldc;
    t.alpha = alpha;
    for (int64_t n = 0; n < cols; n += nr()) {
      t.cols = static_cast<int>(std::min<int64_t>(nr(), cols - n));
      t.sums = t.c32 = c + n;
      kernel_.tile(t);
      piece.b += b.panel;
    }
  }

 private:
  const Bf16Kernels& kernel_;
  const MatrixUnit unit_;
};

}  // namespace fastdl::cpu
