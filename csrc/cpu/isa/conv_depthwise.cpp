// Depthwise convolution along lines. See conv_depthwise.h.
#include "cpu/isa/conv_depthwise.h"

#include "vectors.h"

namespace fastdl::cpu::FASTDL_ISA {
namespace {

constexpr int kTaps = 3;
#if FASTDL_ISA_ID >= 3  // AVX-512 and NEON
constexpr bool kManyRegisters = true;
#else
constexpr bool kManyRegisters = false;
#endif
// Outputs of a row in registers: lines of most networks are 7 times a power of two long. Two rows of them,
// nine weights and an input are 24 registers; one row, three weights and an input 11.
constexpr int kSums = 7;

// Any of the vector's first lanes, or, if all are there, the plain load.
template <bool CAREFUL, class S>
FASTDL_INLINE VecOf<S> read(const S* p, int lanes) {
  if constexpr (CAREFUL) return load(p, lanes);
  else return load_as(p);
}

// What is known of a block: the first LEFT and the last RIGHT of its inputs on a line lie outside the image,
// the others do not, and no lanes are missing. CAREFUL: nothing is.
template <int LEFT, int RIGHT, bool CAREFUL = false>
struct Border {
  static constexpr int left = LEFT, right = RIGHT;
  static constexpr bool careful = CAREFUL;
};
using Careful = Border<0, 0, true>;

// R outputs of one row or two, from output q0 on. ONE: of one channel.
template <bool ONE, class S, class A, int STEP, int ROWS, int R, class B>
FASTDL_INLINE void block(const DepthwiseLines<S, A>& p, int64_t q0, int64_t j, int lanes) {
  using V = VecOf<S>;
  constexpr int kInputs = (R - 1) * STEP + kTaps;
  constexpr bool CAREFUL = B::careful;
  V sum[ROWS][R];
  FASTDL_UNROLL for (int i = 0; i < ROWS; ++i) {
    FASTDL_UNROLL for (int r = 0; r < R; ++r) sum[i][r] = V::zero();
  }
  const int64_t x0 = p.first + q0 * STEP;
  const int64_t begin = -x0, end = p.size - x0;  // the inputs that are in the image
  const auto inputs = [&](const A* line, auto&& use) FASTDL_FORCE_INLINE {
    const A* at = line + x0 * p.a_row + (ONE ? 0 : j);
    FASTDL_UNROLL for (int x = 0; x < kInputs; ++x, at += p.a_row) {
      if (x < B::left || x >= kInputs - B::right) continue;
      if (CAREFUL && (x < begin || x >= end)) continue;
      if constexpr (ONE) use(x, V::broadcast(*at));
      else use(x, read<CAREFUL>(at, lanes));
    }
  };
  if constexpr (ROWS == 1) {
    for (int64_t i = 0; i < p.lines; ++i) {
      if (!p.a[i]) continue;
      V w[kTaps];
      FASTDL_UNROLL for (int t = 0; t < kTaps; ++t) w[t] = read<CAREFUL>(p.w[i] + t * p.w_row + j, lanes);
      inputs(p.a[i], [&](int x, V v) FASTDL_FORCE_INLINE {
        FASTDL_UNROLL for (int t = 0; t < kTaps; ++t) {
          if (x >= t && (x - t) % STEP == 0 && (x - t) / STEP < R)
            sum[0][(x - t) / STEP] = fma(v, w[t], sum[0][(x - t) / STEP]);
        }
      });
    }
  } else {
    V w[kTaps][kTaps];
    FASTDL_UNROLL for (int i = 0; i < kTaps; ++i) {
      FASTDL_UNROLL for (int t = 0; t < kTaps; ++t) w[i][t] = read<CAREFUL>(p.w[i] + t * p.w_row + j, lanes);
    }
    FASTDL_UNROLL for (int i = 0; i < kTaps + 1; ++i) {
      if (!p.a[i]) continue;
      inputs(p.a[i], [&](int x, V v) FASTDL_FORCE_INLINE {
        FASTDL_UNROLL for (int row = 0; row < 2; ++row) {
          if (i - row < 0 || i - row >= kTaps) continue;
          FASTDL_UNROLL for (int t = 0; t < kTaps; ++t) {
            if (x >= t && x - t < R) sum[row][x - t] = fma(v, w[i - row][t], sum[row][x - t]);
          }
        }
      });
    }
  }
  const V bias = p.bias ? read<CAREFUL>(p.bias + j, lanes) : V::zero();
  FASTDL_UNROLL for (int i = 0; i < ROWS; ++i) {
    if (p.bias) {
      FASTDL_UNROLL for (int r = 0; r < R; ++r) sum[i][r] += bias;
    }
    if (p.residual[i]) {
      const S* residual = p.residual[i] + q0 * p.residual_row + j;
      FASTDL_UNROLL for (int r = 0; r < R; ++r) sum[i][r] +=
          read<CAREFUL>(residual + r * p.residual_row, lanes);
    }
    if (p.relu) {  // a NaN in the second operand comes through
      FASTDL_UNROLL for (int r = 0; r < R; ++r) sum[i][r] = max(V::zero(), sum[i][r]);
    }
    S* const y = p.y[i] + q0 * p.y_row + j;
    FASTDL_UNROLL for (int r = 0; r < R; ++r) store(sum[i][r], y + r * p.y_row, CAREFUL ? lanes : V::width);
  }
}

// What the next rows will need of n pixels from `at` on: the machine itself does not see where so many pixels
// side by side lead. In the order of memory, a share of them with every vector of channels.
template <class S, int N>
FASTDL_INLINE void fetch(const S* at, int64_t j) {
  constexpr int kLine = 64 / static_cast<int>(sizeof(S)), kShare = N * VecOf<S>::width;
  at += j * N;
  FASTDL_UNROLL for (int i = 0; i < (kShare + kLine - 1) / kLine; ++i) prefetch(at + i * kLine);
}

// All channels of a block: the pixels lie side by side in memory, so that it is read in order.
template <bool ONE, class S, class A, int STEP, int ROWS, int R, class B>
FASTDL_INLINE void whole_vectors(const DepthwiseLines<S, A>& p, int64_t q0, int64_t& j) {
  constexpr int W = VecOf<S>::width;
  for (; j + W <= p.columns; j += W) {
    if constexpr (!ONE) {
      FASTDL_UNROLL for (int i = 0; i < 2; ++i) {
        if (p.ahead[i]) fetch<S, R * STEP>(p.ahead[i] + (p.first + q0 * STEP + kTaps - STEP) * p.a_row, j);
      }
    }
    block<ONE, S, A, STEP, ROWS, R, B>(p, q0, j, W);
  }
}

template <bool ONE, class S, class A, int STEP, int ROWS, int R>
void columns(const DepthwiseLines<S, A>& p, int64_t q0) {
  constexpr int W = VecOf<S>::width;
  const int64_t x0 = p.first + q0 * STEP, x1 = x0 + (R - 1) * STEP + kTaps - p.size;
  int64_t j = 0;
  if constexpr (R == kSums) {
    if (x0 >= 0 && x1 <= 0) whole_vectors<ONE, S, A, STEP, ROWS, R, Border<0, 0>>(p, q0, j);
  }
  if constexpr (R == kSums && sizeof(S) < sizeof(double)) {  // the common padding
    if (x0 == -1 && x1 <= 0) whole_vectors<ONE, S, A, STEP, ROWS, R, Border<1, 0>>(p, q0, j);
    else if (x0 >= 0 && x1 == 1) whole_vectors<ONE, S, A, STEP, ROWS, R, Border<0, 1>>(p, q0, j);
    else if (x0 == -1 && x1 == 1) whole_vectors<ONE, S, A, STEP, ROWS, R, Border<1, 1>>(p, q0, j);
  }
  for (; j < p.columns; j += W)
    block<ONE, S, A, STEP, ROWS, R, Careful>(p, q0, j,
                                             p.columns - j < W ? static_cast<int>(p.columns - j) : W);
}

template <bool ONE, class S, class A, int STEP, int ROWS>
void rows(const DepthwiseLines<S, A>& p) {
  int64_t q = 0;
  for (; q + kSums <= p.count; q += kSums) columns<ONE, S, A, STEP, ROWS, kSums>(p, q);
  for (; q + 4 <= p.count; q += 4) columns<ONE, S, A, STEP, ROWS, 4>(p, q);
  for (; q + 2 <= p.count; q += 2) columns<ONE, S, A, STEP, ROWS, 2>(p, q);
  for (; q < p.count; ++q) columns<ONE, S, A, STEP, ROWS, 1>(p, q);
}

template <class S>
struct WeightLine {
  const S* a[kTaps];  // the lines that its taps see
  const S* g;
  int64_t begin, end;  // outputs all of whose taps are in the image
};

// One line of outputs, on the FIRST to FIRST + N - 1 lines of taps.
template <class S, int STEP, int FIRST, int N>
FASTDL_INLINE void weight_line(const DepthwiseLinesWeight<S>& p, const WeightLine<S>& line,
                               VecOf<S> (&sum)[kTaps * kTaps + 1], int lanes) {
  using V = VecOf<S>;
  const auto edge = [&](int64_t begin, int64_t end) FASTDL_FORCE_INLINE {
    for (int64_t q = begin; q < end; ++q) {
      const V g = load(line.g + q * p.g_row, lanes);
      sum[kTaps * kTaps] += g;
      FASTDL_UNROLL for (int t = 0; t < kTaps; ++t) {
        const int64_t x = p.first_w + q * STEP + t;
        if (x < 0 || x >= p.size_w) continue;
        FASTDL_UNROLL for (int l = FIRST; l < FIRST + N; ++l) {
          V& s = sum[kTaps * l + t];
          s = fma(load(line.a[l] + x * p.a_row, lanes), g, s);
        }
      }
    }
  };
  edge(0, line.begin);
  if (line.begin < line.end) {
    V window[N][kTaps];
    const S* at[N];
    FASTDL_UNROLL for (int l = 0; l < N; ++l) {
      at[l] = line.a[FIRST + l] + (p.first_w + line.begin * STEP) * p.a_row;
      FASTDL_UNROLL for (int t = 0; t < kTaps - STEP; ++t, at[l] += p.a_row) window[l][t + STEP] =
          load(at[l], lanes);
    }
    const S* from = line.g + line.begin * p.g_row;
    for (int64_t q = line.begin; q < line.end; ++q, from += p.g_row) {
      const V g = load(from, lanes);
      prefetch(from + V::width);  // what the next vector of channels begins with
      sum[kTaps * kTaps] += g;
      FASTDL_UNROLL for (int l = 0; l < N; ++l) {
        FASTDL_UNROLL for (int t = 0; t < kTaps - STEP; ++t) window[l][t] = window[l][t + STEP];
        FASTDL_UNROLL for (int t = kTaps - STEP; t < kTaps; ++t, at[l] += p.a_row) {
          window[l][t] = load(at[l], lanes);
          if (FIRST + l == kTaps - 1) prefetch(at[l] + V::width);
        }
        FASTDL_UNROLL for (int t = 0; t < kTaps; ++t) {
          V& s = sum[kTaps * (FIRST + l) + t];
          s = fma(window[l][t], g, s);
        }
      }
    }
  }
  edge(line.end, p.count);
}

template <class S, int STEP>
FASTDL_INLINE void weight_columns(const DepthwiseLinesWeight<S>& p, WeightLine<S> line, int64_t j,
                                  int lanes) {
  using V = VecOf<S>;
  V sum[kTaps * kTaps + 1];
  FASTDL_UNROLL for (int i = 0; i < kTaps * kTaps + 1; ++i) sum[i] = V::load(p.c + i * p.c_row + j, lanes);
  for (int64_t h = p.h0; h < p.h1; ++h) {
    const int64_t i0 = p.first_h + h * p.step_h;
    int seen = 0;
    FASTDL_UNROLL for (int l = 0; l < kTaps; ++l) {
      const int64_t i = i0 + l * p.dilation_h;
      line.a[l] = p.a + i * p.a_line + j;
      seen |= i >= 0 && i < p.size_h ? 1 << l : 0;
    }
    line.g = p.g + h * p.g_line + j;
    switch (seen) {
      case 7:
        weight_line<S, STEP, 0, 3>(p, line, sum, lanes);
        break;
      case 6:
        weight_line<S, STEP, 1, 2>(p, line, sum, lanes);
        break;
      case 3:
        weight_line<S, STEP, 0, 2>(p, line, sum, lanes);
        break;
      case 4:
        weight_line<S, STEP, 2, 1>(p, line, sum, lanes);
        break;
      case 2:
        weight_line<S, STEP, 1, 1>(p, line, sum, lanes);
        break;
      case 1:
        weight_line<S, STEP, 0, 1>(p, line, sum, lanes);
        break;
      default:
        for (int64_t q = 0; q < p.count; ++q) sum[kTaps * kTaps] += load(line.g + q * p.g_row, lanes);
    }
  }
  FASTDL_UNROLL for (int i = 0; i < kTaps * kTaps + 1; ++i) sum[i].store(p.c + i * p.c_row + j, lanes);
}

template <class S, int STEP>
void weight(const DepthwiseLinesWeight<S>& p) {
  constexpr int W = VecOf<S>::width;
  const auto within = [&](int64_t q) { return q < 0 ? 0 : q > p.count ? p.count : q; };
  WeightLine<S> line{};
  line.begin = within((STEP - 1 - p.first_w) / STEP);
  const int64_t room = p.size_w - kTaps - p.first_w;
  line.end = room < 0 ? 0 : within(room / STEP + 1);
  if (line.end < line.begin) line.begin = line.end;
  int64_t j = 0;
  for (; j + W <= p.columns; j += W) weight_columns<S, STEP>(p, line, j, W);
  if (j < p.columns) weight_columns<S, STEP>(p, line, j, static_cast<int>(p.columns - j));
}

template <class S>
constexpr DepthwiseLinesTable<S> table() {
  using T = compute_t<S>;
  DepthwiseLinesTable<S> t{};
  t.row[0] = rows<false, S, S, 1, 1>;
  t.row[1] = rows<false, S, S, 2, 1>;
  if constexpr (kManyRegisters) t.pair = rows<false, S, S, 1, 2>;
  if constexpr (sizeof(S) < sizeof(double)) {
    t.one_channel_row[0] = rows<true, S, T, 1, 1>;
    t.one_channel_row[1] = rows<true, S, T, 2, 1>;
    if constexpr (kManyRegisters) t.one_channel_pair = rows<true, S, T, 1, 2>;
  }
  t.weight[0] = weight<S, 1>;
  t.weight[1] = weight<S, 2>;
  return t;
}

}  // namespace

extern const DepthwiseLinesKernels depthwise_lines_kernels;
const DepthwiseLinesKernels depthwise_lines_kernels = {table<float>(), table<double>(), table<bfloat16>()};

}  // namespace fastdl::cpu::FASTDL_ISA
