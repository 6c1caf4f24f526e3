// Kernels of a convolution's gradients where the gradient comes through max pooling: of the outputs of a
// window only one has a gradient, and only its products are formed. Each output position meets a patch of the
// input, rows of kernel width times channels side by side; `offset` has the patch of each position of the
// plane, in elements.
#pragma once

#include <cstdint>

namespace fastdl::cpu {

// Vectors of a row that the kernels take at a time.
constexpr int kPooledVectors = 8;

// g, where: [pooled position][step], of which `outputs`: gradients and the positions they belong to. likely:
// [pooled position][num_likely] of these, all different and most often all there are: looking them up in
// `where` takes longer than their products.
template <class T>
struct PooledGradient {
  const T* g;
  const int32_t* where;
  int64_t positions, step, outputs;
  const int64_t* offset;
  const int32_t* likely;
  int64_t num_likely;
};

// sums[o * sums_row + r * sums_step + j] += sum over the pooled positions of g[o] * the patch's element [r *
// x_step + j], for rows r < 1 or 3 and j < vectors * width.
template <class T>
struct PooledWeight {
  PooledGradient<T> gradient;
  const T* x;
  int64_t x_step;
  T* sums;
  int64_t sums_row, sums_step;
  int rows, vectors;
};

// The patch's element [r * y_step + j] += sum over o of g[o] * w[o * w_row + r * w_step + j]; of the last
// vector only `last` lanes.
template <class T>
struct PooledData {
  PooledGradient<T> gradient;
  const T* w;
  int64_t w_row, w_step;
  T* y;
  int64_t y_step;
  int rows, vectors, last;
};

// sums[t * sums_row + o] += sum over the pooled positions of g[o] * the patch's element t of 3 x 3, rows
// x_step apart; bias[o] += sum of g[o]. g is taken where `out` (may be NULL) is positive or NaN; places
// outside the plane contribute nothing.
template <class T>
struct PooledSmall {
  PooledGradient<T> gradient;
  const T* out;
  int64_t plane;
  const T* x;
  int64_t x_step;
  T *sums, *bias;
  int64_t sums_row;
};

// The same sums over a line of positions that all have a gradient: sums[t * outputs + o] += sum over q of
// g[q * g_step + o] * x[q * x_step + t / 3 * x_line + t % 3 * x_tap], and sums[9 * outputs + o] += sum of g.
template <class T>
struct OneChannelLine {
  const T *g, *out;
  int64_t g_step, out_step, positions, outputs;
  const T* x;
  int64_t x_step, x_line, x_tap;
  T* sums;
};

template <class T>
struct PooledTable {
  int width, most;  // lanes; rows * vectors that stay in registers
  // to = from where `out` (may be NULL) is positive or NaN, else 0; places outside the plane: 0 with gradient
  // 0.
  void (*take)(int64_t n, const T* from, const T* out, const int32_t* where, int64_t plane, T* to,
               int32_t* places);
  void (*weight)(const PooledWeight<T>&);
  void (*small)(const PooledSmall<T>&);
  void (*one_channel)(const OneChannelLine<T>&);
  void (*data)(const PooledData<T>&);
  // to[q * to_step + r * length + j] = from[q * step + r * row_step + j], q < n, r < rows, j < length <=
  // width. Reads a whole vector from every row, and writes one from where it begins.
  void (*unfold)(const T* from, int64_t n, int64_t step, int64_t rows, int64_t row_step, int64_t length,
                 T* to, int64_t to_step);
  bool (*finite)(const T* x, int64_t n);
};

struct PooledKernels {
  PooledTable<float> f32;
  PooledTable<double> f64;
};

template <class T>
__attribute__((always_inline)) inline const PooledTable<T>& pooled_table(const PooledKernels& k) {
  if constexpr (sizeof(T) == 4) return k.f32;
  else return k.f64;
}

}  // namespace fastdl::cpu
