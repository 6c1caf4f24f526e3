// Kernels of the conv family that are no matrix products: those run on the tiles of isa/gemm.h.
#pragma once

#include <cstdint>

#include "common/narrow.h"
#include "cpu/isa/conv_depthwise.h"
#include "cpu/isa/conv_winograd.h"

namespace fastdl::cpu {

// Where a kernel tap finds its input and its weights, in elements from the base pointers.
struct ConvTap {
  int64_t a, b;
};

// y[r][j] = bias[j] + residual[r][j] + sum over taps of a[r * a_row + tap.a + j] * b[tap.b + j], then ReLU if
// asked. Any number of rows and columns. Sums are of compute_t<S>, outputs rounded once.
template <class S>
struct ConvDepthwise {
  using T = compute_t<S>;
  const S* a;
  const T* b;
  const ConvTap* taps;
  int64_t num_taps;
  int64_t a_row;
  S* y;
  int64_t y_row;
  const T* bias;      // or NULL
  const S* residual;  // or NULL
  int64_t residual_row;
  int64_t rows, columns;
  bool relu;
  // Inputs of the line after this one, as distances from a's rows: fetched ahead, since a line reads so many
  // pixels side by side that the machine itself does not see where they lead.
  const int64_t* ahead;
  int num_ahead;
};

// c[t][j] += sum over m < rows of a[m * a_row + taps[t].a + j] * g[m * g_row + j]
template <class S>
struct ConvDepthwiseWeight {
  using T = compute_t<S>;
  const S* a;
  const S* g;
  const ConvTap* taps;
  int64_t num_taps;
  int64_t a_row, g_row;
  int64_t rows, columns;
  T* c;
  int64_t c_row;
};

template <class T>
struct ConvTable {
  void (*depthwise)(const ConvDepthwise<T>&);
  void (*depthwise_weight)(const ConvDepthwiseWeight<T>&);
  // sum[j] += x[m * step + j], m = 0 .. rows - 1 in this order
  void (*add_rows)(const T* x, int64_t rows, int64_t step, int64_t columns, T* sum);
  // y[offset[m] + j] += x[m * step + j]; rows with a negative offset are left out
  void (*scatter_rows)(const T* x, int64_t rows, int64_t step, int64_t columns, T* y, const int64_t* offset);
};

struct PooledKernels;  // isa/conv_pooled.h

struct ConvKernels {
  ConvTable<float> f32;
  ConvTable<double> f64;
  void (*depthwise_bf16)(const ConvDepthwise<bfloat16>&);
  void (*depthwise_weight_bf16)(const ConvDepthwiseWeight<bfloat16>&);
  // Of panels of pairs, p[k / 2 * 2 * width + 2 * column + k % 2]: out[2 * column] = element ka of a, out[2 *
  // column + 1] = element kb of b.
  void (*pair_rows)(const bfloat16* a, int64_t ka, const bfloat16* b, int64_t kb, int width, bfloat16* out);
  bool (*finite_bf16)(const bfloat16* x, int64_t n);
  const WinogradKernels* winograd;
  const PooledKernels* pooled;
  const DepthwiseLinesKernels* depthwise_lines;
};

template <class T>
__attribute__((always_inline)) inline const ConvTable<T>& table_for(const ConvKernels& k) {
  if constexpr (sizeof(T) == 4) return k.f32;
  else return k.f64;
}

}  // namespace fastdl::cpu
