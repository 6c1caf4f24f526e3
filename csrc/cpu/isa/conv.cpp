// Depthwise convolution and the sums over pixels. See conv.h.
#include "cpu/isa/conv.h"

#include "narrow.h"
#include "simd.h"

namespace fastdl::cpu::FASTDL_ISA {
namespace {

// Sums kept in registers: enough to hide the latency of the multiply-add (4 cycles on 2 units).
constexpr int kSums = 8;

template <class S>
using VecOf = Vec<compute_t<S>>;

template <class S, int R>
FASTDL_INLINE void finish_rows(const ConvDepthwise<S>& p, VecOf<S> (&sum)[R], int64_t r0, int64_t j,
                               int lanes) {
  using V = VecOf<S>;
  if (p.bias) {
    const V bias = V::load(p.bias + j, lanes);
    FASTDL_UNROLL for (int r = 0; r < R; ++r) sum[r] += bias;
  }
  if (p.residual) {
    const S* residual = p.residual + r0 * p.residual_row + j;
    FASTDL_UNROLL for (int r = 0; r < R; ++r) sum[r] += load_as(residual + r * p.residual_row, lanes);
  }
  if (p.relu) {  // a NaN in the second operand comes through
    FASTDL_UNROLL for (int r = 0; r < R; ++r) sum[r] = max(V::zero(), sum[r]);
  }
  S* const y = p.y + r0 * p.y_row + j;
  if (lanes == V::width) {
    FASTDL_UNROLL for (int r = 0; r < R; ++r) store_as(sum[r], y + r * p.y_row);
  } else {
    FASTDL_UNROLL for (int r = 0; r < R; ++r) store_as(sum[r], y + r * p.y_row, lanes);
  }
}

template <class S, int R>
FASTDL_INLINE void depthwise_block(const ConvDepthwise<S>& p, int64_t r0, int64_t j, int lanes) {
  using V = VecOf<S>;
  V sum[R];
  FASTDL_UNROLL for (int r = 0; r < R; ++r) sum[r] = V::zero();
  const S* a = p.a + r0 * p.a_row + j;
  if (lanes == V::width) {
    for (int64_t t = 0; t < p.num_taps; ++t) {
      const S* at = a + p.taps[t].a;
      const V w = V::load(p.b + p.taps[t].b + j);
      FASTDL_UNROLL for (int r = 0; r < R; ++r) sum[r] = fma(load_as(at + r * p.a_row), w, sum[r]);
    }
  } else {
    for (int64_t t = 0; t < p.num_taps; ++t) {
      const S* at = a + p.taps[t].a;
      const V w = V::load(p.b + p.taps[t].b + j, lanes);
      FASTDL_UNROLL for (int r = 0; r < R; ++r) sum[r] = fma(load_as(at + r * p.a_row, lanes), w, sum[r]);
    }
  }
  finish_rows<S, R>(p, sum, r0, j, lanes);
}

template <class S, int R>
FASTDL_INLINE void fetch_ahead(const ConvDepthwise<S>& p, int64_t r0, int64_t j) {
  for (int i = 0; i < p.num_ahead; ++i) {
    const S* a = p.a + p.ahead[i] + r0 * p.a_row + j;
    FASTDL_UNROLL for (int r = 0; r < R; ++r) prefetch(a + r * p.a_row);
  }
}

// R rows, all columns: the rows lie side by side in memory, so that it is read in order.
template <class S, int R>
void depthwise_rows(const ConvDepthwise<S>& p, int64_t r0) {
  constexpr int W = VecOf<S>::width;
  int64_t j = 0;
  for (; j + W <= p.columns; j += W) {
    fetch_ahead<S, R>(p, r0, j);
    depthwise_block<S, R>(p, r0, j, W);
  }
  if (j < p.columns) depthwise_block<S, R>(p, r0, j, static_cast<int>(p.columns - j));
}

template <class S>
void depthwise(const ConvDepthwise<S>& p) {
  int64_t r = 0;
  for (; r + kSums <= p.rows; r += kSums) depthwise_rows<S, kSums>(p, r);
  for (; r + 4 <= p.rows; r += 4) depthwise_rows<S, 4>(p, r);
  for (; r + 2 <= p.rows; r += 2) depthwise_rows<S, 2>(p, r);
  for (; r < p.rows; ++r) depthwise_rows<S, 1>(p, r);
}

template <class S, int R>
FASTDL_INLINE void depthwise_weight_block(const ConvDepthwiseWeight<S>& p, int64_t t0, int64_t j, int lanes) {
  using V = VecOf<S>;
  V sum[R];
  const S* a[R];
  FASTDL_UNROLL for (int t = 0; t < R; ++t) {
    sum[t] = V::load(p.c + (t0 + t) * p.c_row + j, lanes);
    a[t] = p.a + p.taps[t0 + t].a + j;
  }
  const S* g = p.g + j;
  if (lanes == V::width) {
    for (int64_t m = 0; m < p.rows; ++m) {
      const V gv = load_as(g + m * p.g_row);
      FASTDL_UNROLL for (int t = 0; t < R; ++t) sum[t] = fma(load_as(a[t] + m * p.a_row), gv, sum[t]);
    }
  } else {
    for (int64_t m = 0; m < p.rows; ++m) {
      const V gv = load_as(g + m * p.g_row, lanes);
      FASTDL_UNROLL for (int t = 0; t < R; ++t) sum[t] = fma(load_as(a[t] + m * p.a_row, lanes), gv, sum[t]);
    }
  }
  FASTDL_UNROLL for (int t = 0; t < R; ++t) sum[t].store(p.c + (t0 + t) * p.c_row + j, lanes);
}

template <class S>
void depthwise_weight(const ConvDepthwiseWeight<S>& p) {
  constexpr int W = VecOf<S>::width;
  for (int64_t j = 0; j < p.columns; j += W) {
    const int lanes = p.columns - j < W ? static_cast<int>(p.columns - j) : W;
    int64_t t = 0;
    for (; t + 9 <= p.num_taps; t += 9) depthwise_weight_block<S, 9>(p, t, j, lanes);  // of a 3 x 3 kernel
    for (; t + 6 <= p.num_taps; t += 6) depthwise_weight_block<S, 6>(p, t, j, lanes);
    for (; t + 2 <= p.num_taps; t += 2) depthwise_weight_block<S, 2>(p, t, j, lanes);
    for (; t < p.num_taps; ++t) depthwise_weight_block<S, 1>(p, t, j, lanes);
  }
}

template <class T>
void add_rows(const T* x, int64_t rows, int64_t step, int64_t columns, T* sum) {
  using V = Vec<T>;
  constexpr int W = V::width;
  int64_t j = 0;
  for (; j + 4 * W <= columns; j += 4 * W) {
    V s[4];
    FASTDL_UNROLL for (int i = 0; i < 4; ++i) s[i] = V::load(sum + j + i * W);
    for (int64_t m = 0; m < rows; ++m) {
      FASTDL_UNROLL for (int i = 0; i < 4; ++i) s[i] += V::load(x + m * step + j + i * W);
    }
    FASTDL_UNROLL for (int i = 0; i < 4; ++i) s[i].store(sum + j + i * W);
  }
  for (; j < columns; j += W) {
    const int lanes = columns - j < W ? static_cast<int>(columns - j) : W;
    V s = V::load(sum + j, lanes);
    for (int64_t m = 0; m < rows; ++m) s += V::load(x + m * step + j, lanes);
    s.store(sum + j, lanes);
  }
}

template <class T>
void scatter_rows(const T* x, int64_t rows, int64_t step, int64_t columns, T* y, const int64_t* offset) {
  using V = Vec<T>;
  constexpr int W = V::width;
  if (columns == 2 * W) {  // a whole tile
    for (int64_t m = 0; m < rows; ++m, x += step) {
      if (offset[m] < 0) continue;
      T* const to = y + offset[m];
      (V::load(to) + V::load(x)).store(to);
      (V::load(to + W) + V::load(x + W)).store(to + W);
    }
    return;
  }
  for (int64_t m = 0; m < rows; ++m, x += step) {
    if (offset[m] < 0) continue;
    T* const to = y + offset[m];
    int64_t j = 0;
    for (; j + W <= columns; j += W) (V::load(to + j) + V::load(x + j)).store(to + j);
    if (j < columns) {
      const int lanes = static_cast<int>(columns - j);
      (V::load(to + j, lanes) + V::load(x + j, lanes)).store(to + j, lanes);
    }
  }
}

void pair_rows(const bfloat16* a, int64_t ka, const bfloat16* b, int64_t kb, int width, bfloat16* out) {
  a += ka / 2 * 2 * width;
  b += kb / 2 * 2 * width;
  const int low = ka % 2 ? 16 : 0, high = kb % 2 ? 0 : 16;
  for (int j = 0; j < width; ++j) {
    uint32_t x, y;
    __builtin_memcpy(&x, a + 2 * j, 4);
    __builtin_memcpy(&y, b + 2 * j, 4);
    x = (x >> low & 0xffff) | (y << high & 0xffff0000);
    __builtin_memcpy(out + 2 * j, &x, 4);
  }
}

bool finite_bf16(const bfloat16* x, int64_t n) {
  uint16_t bad = 0;
  for (int64_t i = 0; i < n; ++i) bad |= (x[i].bits & 0x7f80) == 0x7f80;
  return !bad;
}

}  // namespace

extern const WinogradKernels winograd_kernels;
extern const PooledKernels pooled_kernels;
extern const DepthwiseLinesKernels depthwise_lines_kernels;
extern const ConvKernels conv_kernels;
const ConvKernels conv_kernels = {
    {depthwise<float>, depthwise_weight<float>, add_rows<float>, scatter_rows<float>},
    {depthwise<double>, depthwise_weight<double>, add_rows<double>, scatter_rows<double>},
    depthwise<bfloat16>,
    depthwise_weight<bfloat16>,
    pair_rows,
    finite_bf16,
    &winograd_kernels,
    &pooled_kernels,
    &depthwise_lines_kernels};

}  // namespace fastdl::cpu::FASTDL_ISA
