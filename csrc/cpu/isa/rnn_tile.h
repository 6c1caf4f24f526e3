// The recurrent product of a few rows with a panel of packed weights, in registers, and the loop that hands
// its sums to a cell. Included by isa/rnn*.cpp only.
#pragma once

#include "cpu/isa/rnn.h"
#include "cpu/isa/simd.h"

namespace fastdl::cpu::FASTDL_ISA {

// Vector registers for sums: 32 minus one row of weights and a broadcast on AVX-512, else of 16.
constexpr int kSums = FASTDL_ISA_ID == 3 ? 24 : 12;
constexpr int kMostPanels = 2;

// sums[p][r][v] = sum over k of a[r, k] * panel p [k, v], each lane one chain of fused multiply-adds in the
// order of k: how rows and panels are grouped changes no bit. Two panels at once keep enough chains running
// where rows are few.
template <class T, int kVectors, int kRows, int kPanels>
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
      const T* w = panel + (p * depth + k) * (kVectors * V::width);
      V b[kVectors];
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) b[v] = V::load(w + v * V::width);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const V s = V::broadcast(x[r * ld + k]);
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) sums[p][r][v] = fma(s, b[v], sums[p][r][v]);
      }
    }
  }
#pragma GCC unroll 32
  for (int i = 0; i < kPanels * kRows * kVectors; ++i) (&sums[0][0][0])[i].store(out + i * V::width);
}

template <class T>
using Multiply = void (*)(const RnnOperand<T>& a, int64_t row, const T* panel, T* out);

template <class T, int kVectors>
Multiply<T> multiply_for(int rows, int panels) {
  if (panels == 2) return rows == 1 ? multiply<T, kVectors, 1, 2> : multiply<T, kVectors, 2, 2>;
  constexpr int most = kSums / kVectors;
  switch (rows) {
    case 1:
      return multiply<T, kVectors, 1, 1>;
    case 2:
      return multiply<T, kVectors, 2, 1>;
    case 3:
      return multiply<T, kVectors, 3, 1>;
    case 4:
      return multiply < T, kVectors, most < 4 ? 1 : 4, 1 > ;
    case 5:
      return multiply < T, kVectors, most < 5 ? 1 : 5, 1 > ;
    case 6:
      return multiply < T, kVectors, most < 6 ? 1 : 6, 1 > ;
    case 7:
      return multiply < T, kVectors, most < 7 ? 1 : 7, 1 > ;
    default:
      return multiply < T, kVectors, most < 8 ? 1 : 8, 1 > ;
  }
}

// A cell says how many vectors wide its panels are, how many outputs a panel has, and what becomes of the
// sums: row(step, r, j, sums): sums [kVectors * width] of row r and the outputs from j on.
template <class T, class Cell, class Step>
FASTDL_INLINE void run_cell(const RnnOperand<T>& a, const Step& step, const T* packed, int64_t begin,
                            int64_t end) {
  constexpr int most = kSums / Cell::kVectors;
  constexpr int width = Cell::kVectors * Vec<T>::width;
  alignas(64) T sums[kMostPanels * most * width];
  const int64_t panel_size = a.depth * width;
  // Blocks of rows as equal as they can be: 8 rows are 4 + 4 rather than 6 + 2.
  const int64_t blocks = (a.rows + most - 1) / most;
  for (int64_t p = begin; p < end;) {
    const int panels = a.rows <= 2 && p + 1 < end ? 2 : 1;
    for (int64_t block = 0, row = 0; block < blocks; ++block) {
      const int rows = static_cast<int>((a.rows - row) / (blocks - block));
      multiply_for<T, Cell::kVectors>(rows, panels)(a, row, packed + p * panel_size, sums);
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
