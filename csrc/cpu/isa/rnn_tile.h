// The recurrent product of a few rows with a panel of packed weights, in registers, and the loop that hands
// its sums to a cell. Included by isa/rnn*.cpp only.
#pragma once

#include "cpu/isa/rnn.h"
#include "cpu/isa/simd.h"

namespace fastdl::cpu::FASTDL_ISA {

// Registers a tile may use for sums: all but its weights and a broadcast; 32 on AVX-512, else 16.
constexpr int kSums = FASTDL_ISA_ID == 3 ? 28 : 12;
constexpr int kMostPanels = 2;

// sums[r][v] = sum over k of a[r, k] * weights[k, v], each lane one chain of fused multiply-adds in the order
// of k: how rows and columns are grouped into tiles changes no bit. kVectors of each row of kStride vectors
// of the panel are used; kPanels panels at once keep enough chains running where rows are few. sums: rows of
// kStride vectors, one panel after the other.
template <class T, int kVectors, int kStride, int kRows, int kPanels>
void multiply(const RnnOperand<T>& a, int64_t row, const T* panel, T* out) {
  using V = Vec<T>;
  V sums[kPanels][kRows][kVectors];
#pragma GCC unroll 32
  for (int i = 0; i < kPanels * kRows * kVectors; ++i) (&sums[0][0][0])[i] = V::zero();
  const T* x = a.data + row * a.ld;
  const int64_t ld = a.ld, depth = a.depth;
  for (int64_t k = 0; k < depth; ++k) {
#pragma GCC unroll 2
    for (int p = 0; p < kPanels; ++p) {
      const T* w = panel + (p * depth + k) * (kStride * V::width);
      V b[kVectors];
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) b[v] = V::load(w + v * V::width);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const V s = V::broadcast(x[r * ld + k]);
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) sums[p][r][v] = fma(s, b[v], sums[p][r][v]);
      }
    }
  }
#pragma GCC unroll 2
  for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        sums[p][r][v].store(out + ((p * kRows + r) * kStride + v) * V::width);
      }
    }
  }
}

template <class T>
using Multiply = void (*)(const RnnOperand<T>& a, int64_t row, const T* panel, T* out);

template <class T, int kVectors, int kStride, int kRows>
constexpr Multiply<T> tile_of() {
  if constexpr (kRows * kVectors <= kSums) return multiply<T, kVectors, kStride, kRows, 1>;
  else return nullptr;
}

// The tile of `rows` rows and kVectors of a panel's kStride vectors.
template <class T, int kVectors, int kStride>
struct Tiles {
  static constexpr int kRows = kSums / kVectors < 14 ? kSums / kVectors : 14;  // most rows
  static constexpr Multiply<T> kTable[15] = {
      nullptr,
      tile_of<T, kVectors, kStride, 1>(),
      tile_of<T, kVectors, kStride, 2>(),
      tile_of<T, kVectors, kStride, 3>(),
      tile_of<T, kVectors, kStride, 4>(),
      tile_of<T, kVectors, kStride, 5>(),
      tile_of<T, kVectors, kStride, 6>(),
      tile_of<T, kVectors, kStride, 7>(),
      tile_of<T, kVectors, kStride, 8>(),
      tile_of<T, kVectors, kStride, 9>(),
      tile_of<T, kVectors, kStride, 10>(),
      tile_of<T, kVectors, kStride, 11>(),
      tile_of<T, kVectors, kStride, 12>(),
      tile_of<T, kVectors, kStride, 13>(),
      tile_of<T, kVectors, kStride, 14>(),
  };
};

// A cell says how many vectors wide its panels are, how many outputs a panel has, and what becomes of the
// sums: row(step, r, j, sums): sums [kVectors * width] of row r and the outputs from j on.
template <class T, class Cell, class Step>
FASTDL_INLINE void run_cell(const RnnOperand<T>& a, const Step& step, const T* packed, int64_t begin,
                            int64_t end) {
  constexpr int vectors = Cell::kVectors, width = vectors * Vec<T>::width;
  // Tiles over the whole panel suit few rows. With many rows, two high tiles over half a panel each load the
  // weights, which come from the L2 cache or beyond, half as often.
  using Wide = Tiles<T, vectors, vectors>;
  using High = Tiles<T, vectors % 2 == 0 ? vectors / 2 : vectors, vectors>;
  const bool high = vectors % 2 == 0 && a.rows > Wide::kRows;
  const int most = high ? High::kRows : Wide::kRows;
  alignas(64) T sums[(High::kRows > 2 * kMostPanels ? High::kRows : 2 * kMostPanels) * width];
  const int64_t panel_size = a.depth * width;
  // Blocks of rows as equal as they can be: 8 rows are 4 + 4 rather than 6 + 2.
  const int64_t blocks = (a.rows + most - 1) / most;
  for (int64_t p = begin; p < end;) {
    const int panels = a.rows <= 2 && p + 1 < end ? 2 : 1;
    const T* weights = packed + p * panel_size;
    for (int64_t block = 0, row = 0; block < blocks; ++block) {
      const int rows = static_cast<int>((a.rows - row) / (blocks - block));
      if (high) {
        High::kTable[rows](a, row, weights, sums);
        High::kTable[rows](a, row, weights + width / 2, sums + width / 2);
      } else if (panels == 2) {
        (rows == 1 ? multiply<T, vectors, vectors, 1, 2>
                   : multiply<T, vectors, vectors, 2, 2>)(a, row, weights, sums);
      } else {
        Wide::kTable[rows](a, row, weights, sums);
      }
      for (int i = 0; i < panels; ++i) {
        for (int r = 0; r < rows; ++r) {
          Cell::row(step, row + r, (p + i) * Cell::kUnits, sums + (i * rows + r) * width);
        }
      }
      row += rows;
    }
    p += panels;
  }
}

// The lanes of one vector that hold hidden units.
template <class T>
struct Lane {
  int n;
  explicit FASTDL_INLINE Lane(int64_t left)
      : n(left < Vec<T>::width ? static_cast<int>(left) : Vec<T>::width) {}
  FASTDL_INLINE Vec<T> load(const T* p) const {
    return n == Vec<T>::width ? Vec<T>::load(p) : Vec<T>::load(p, n);
  }
  FASTDL_INLINE void store(T* p, Vec<T> v) const {
    if (n == Vec<T>::width) v.store(p);
    else v.store(p, n);
  }
};

}  // namespace fastdl::cpu::FASTDL_ISA
