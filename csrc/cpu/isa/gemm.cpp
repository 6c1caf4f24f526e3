// Register tiles of the matrix multiplication. See gemm.h for what each kernel promises.
#include "gemm.h"

#include "simd.h"

namespace fastdl::cpu::FASTDL_ISA {

// Register blocking: MR rows of two vectors. The two multiply-add units need 2 x 4 (latency) independent
// chains and the load ports at least one multiply-add per load; per step of k a tile loads 2 vectors of B and
// MR broadcasts of A for 2 MR multiply-adds. Beyond that a taller tile saves traffic on B, until the
// registers run out:
//   AVX-512: 32 registers = 28 sums (MR = 14) + 2 of B + 1 broadcast.
//   AVX2:    16 registers = 12 sums (MR = 6) + 2 of B + 1 broadcast.
//   NEON:    32 registers = 20 sums (MR = 10) + 2 of B + an element of each row: all are loaded first.
//   SSE2:    16 registers =  8 sums (MR = 4) + 2 of B + 1 broadcast + products (no multiply-add, no broadcast
//   load).
#if FASTDL_ISA_ID == 3
constexpr int kRows = 14, kDotCols4 = 4, kGemvTerms = 16;
#elif FASTDL_ISA_ID == 2
constexpr int kRows = 6, kDotCols4 = 2, kGemvTerms = 8;
#elif FASTDL_ISA_ID == FASTDL_ISA_ID_neon
constexpr int kRows = 10, kDotCols4 = 4, kGemvTerms = 16;
#else
constexpr int kRows = 4, kDotCols4 = 2, kGemvTerms = 8;
#endif
constexpr int kTileVectors = 2, kDotRows = 4, kGemvRows = 4;
constexpr int64_t kGemvFar = 2 << 20;  // bytes of B, as far as it is read, that do not stay in a cache

template <class T>
static FASTDL_INLINE Vec<T> end_of_tile(const GemmTile<T>& t, Vec<T> x, int64_t row, int64_t col, int lanes) {
  using V = Vec<T>;
  if (t.alpha != T(1)) x *= V::broadcast(t.alpha);
  if (t.beta != T(0)) x = fma(V::broadcast(t.beta), V::load(t.c + row * t.ldc + col, lanes), x);
  if (t.bias) x += V::load(t.bias + col, lanes);
  if (t.residual) x += V::load(t.residual + row * t.ld_residual + col, lanes);
  if (t.relu) x = max(V::zero(), x);  // a NaN in the second operand comes through
  return x;
}

// Tiles of few rows, or of few registers, have no time for it.
template <int R>
constexpr bool kReadAhead = kRows == 14 && R > 4;

// Masked: the last vector has fewer lanes, and B may end there.
template <class T, int R, int NV, bool Masked>
static void tile(const GemmTile<T>& t) {
  using V = Vec<T>;
  constexpr int W = V::width, groups = (R + 2) / 3;
  const int tail = Masked ? t.cols - (NV - 1) * W : W;
  V sum[R][NV];
  FASTDL_UNROLL for (int r = 0; r < R; ++r) {
    if (!t.stream) FASTDL_UNROLL for (int j = 0; j < NV; ++j) prefetch(t.c + r * t.ldc + j * W);
    FASTDL_UNROLL for (int j = 0; j < NV; ++j) sum[r][j] = V::zero();
  }
  GemmAhead none{reinterpret_cast<const char*>(&t), nullptr, 0, 0, 0};
  GemmAhead* const ahead = kReadAhead<R> && t.ahead ? t.ahead : &none;
  const char *at = ahead->at, *end = ahead->end;
  int64_t line = ahead->rows > 0 ? 64 : 0;
  const int64_t a_row = t.a_row, a_k = t.a_k, b_k = t.b_k;
  for (int64_t p = 0; p < t.count; ++p) {
    // Rows 3g, 3g + 1, 3g + 2 are a pointer plus 0, 1 or 2 strides, which is one address of the machine.
    // Hiding that the pointers are related keeps the compiler from making an index of each row and spilling
    // them.
    const T* a[groups];
    FASTDL_UNROLL for (int g = 0; g < groups; ++g) {
      a[g] = t.pieces[p].a + 3 * g * a_row;
      asm("" : "+r"(a[g]));
    }
    const T* b = t.pieces[p].b;
    for (int64_t k = t.pieces[p].k; k > 0; --k) {
      if constexpr (kReadAhead<R>) {
        __builtin_prefetch(at, 0, 2);
        at += line;
        if (at == end) {
          if (--ahead->rows == 0) line = 0;
          end += ahead->stride;
          at = end - ahead->width;
        }
      }
      V bv[NV];
      FASTDL_UNROLL for (int j = 0; j < NV; ++j) {
        bv[j] = Masked && j == NV - 1 ? V::load(b + j * W, tail) : V::load(b + j * W);
      }
      FASTDL_UNROLL for (int r = 0; r < R; ++r) {
        const V av = V::broadcast(a[r / 3][r % 3 * a_row]);
        FASTDL_UNROLL for (int j = 0; j < NV; ++j) sum[r][j] = fma(av, bv[j], sum[r][j]);
      }
      FASTDL_UNROLL for (int g = 0; g < groups; ++g) a[g] += a_k;
      b += b_k;
    }
  }
  ahead->at = at;
  ahead->end = end;
  // The same steps as end_of_tile, each decided once: branches per vector would take as long as k = 20.
  const auto lanes = [&](int j) { return Masked && j == NV - 1 ? tail : W; };
  const T alpha = t.alpha, beta = t.beta;
  const T *const bias = t.bias, *const residual = t.residual;
  const int64_t ldc = t.ldc, ld_residual = t.ld_residual;
  const bool relu = t.relu;
  T* const c = t.c;
#define FASTDL_EACH FASTDL_UNROLL for (int r = 0; r < R; ++r) FASTDL_UNROLL for (int j = 0; j < NV; ++j)
  if (alpha != T(1)) FASTDL_EACH sum[r][j] *= V::broadcast(alpha);
  if (beta == T(1)) {
    FASTDL_EACH sum[r][j] += V::load(c + r * ldc + j * W, lanes(j));
  } else if (beta != T(0)) {
    FASTDL_EACH sum[r][j] = fma(V::broadcast(beta), V::load(c + r * ldc + j * W, lanes(j)), sum[r][j]);
  }
  if (bias) FASTDL_EACH sum[r][j] += V::load(bias + j * W, lanes(j));
  if (residual) FASTDL_EACH sum[r][j] += V::load(residual + r * ld_residual + j * W, lanes(j));
  if (relu) FASTDL_EACH sum[r][j] = max(V::zero(), sum[r][j]);  // a NaN in the second operand comes through
  if (!Masked && t.stream) FASTDL_EACH sum[r][j].stream(c + r * ldc + j * W);
  else FASTDL_EACH sum[r][j].store(c + r * ldc + j * W, lanes(j));
#undef FASTDL_EACH
}

template <class T>
static void finish(const GemmTile<T>& t, const T* acc, int64_t ld_acc) {
  using V = Vec<T>;
  for (int64_t r = 0; r < t.rows; ++r) {
    for (int64_t j = 0; j < t.cols; j += V::width) {
      const int lanes = t.cols - j < V::width ? static_cast<int>(t.cols - j) : V::width;
      end_of_tile(t, V::load(acc + r * ld_acc + j, lanes), r, j, lanes).store(t.c + r * t.ldc + j, lanes);
    }
  }
}

template <class T, int R, int N>
static FASTDL_INLINE void dot_block(const T* a, int64_t a_row, const T* b, int64_t b_col, int64_t k, T* acc,
                                    int64_t ld_acc) {
  using V = Vec<T>;
  V sum[R][N];
  FASTDL_UNROLL for (int r = 0; r < R; ++r) {
    FASTDL_UNROLL for (int j = 0; j < N; ++j) sum[r][j] = V::zero();
  }
  int64_t i = 0;
  for (; i + V::width <= k; i += V::width) {
    V av[R];
    FASTDL_UNROLL for (int r = 0; r < R; ++r) av[r] = V::load(a + r * a_row + i);
    FASTDL_UNROLL for (int j = 0; j < N; ++j) {
      const V bv = V::load(b + j * b_col + i);
      FASTDL_UNROLL for (int r = 0; r < R; ++r) sum[r][j] = fma(av[r], bv, sum[r][j]);
    }
  }
  if (i < k) {
    const int n = static_cast<int>(k - i);
    FASTDL_UNROLL for (int j = 0; j < N; ++j) {
      const V bv = V::load(b + j * b_col + i, n);
      FASTDL_UNROLL for (int r = 0; r < R; ++r) sum[r][j] = fma(V::load(a + r * a_row + i, n), bv, sum[r][j]);
    }
  }
  FASTDL_UNROLL for (int r = 0; r < R; ++r) {
    FASTDL_UNROLL for (int j = 0; j < N; ++j) acc[r * ld_acc + j] = reduce_add(sum[r][j]);
  }
}

template <class T, int R, int N>
static void dot_rows(const T* a, int64_t a_row, const T* b, int64_t b_col, int64_t cols, int64_t k, T* acc) {
  int64_t j = 0;
  for (; j + N <= cols; j += N) dot_block<T, R, N>(a, a_row, b + j * b_col, b_col, k, acc + j, cols);
  for (; j < cols; ++j) dot_block<T, R, 1>(a, a_row, b + j * b_col, b_col, k, acc + j, cols);
}

template <class T>
static void dot(const T* a, int64_t a_row, const T* b, int64_t b_col, int rows, int64_t cols, int64_t k,
                T* acc) {
  if (rows == 1) return dot_rows<T, 1, 8>(a, a_row, b, b_col, cols, k, acc);
  if (rows == 2) return dot_rows<T, 2, 4>(a, a_row, b, b_col, cols, k, acc);
  if (rows == 3) return dot_rows<T, 3, 4>(a, a_row, b, b_col, cols, k, acc);
  dot_rows<T, 4, kDotCols4>(a, a_row, b, b_col, cols, k, acc);
}

// Vectors side by side: two chains of multiply-adds, where the registers hold them.
constexpr int kGemvVectors = kRows >= 10 ? 2 : 1;

// Adds S terms to N vectors of each of R rows of sums; the last vector has `lanes`.
template <int N, bool kWhole, bool Far, class T, int R, int S>
static FASTDL_INLINE void gemv_block(const Vec<T> (&a)[R][S], const T* b, int64_t b_k, int64_t cols,
                                     int lanes, T* acc) {
  using V = Vec<T>;
  V sum[R][N];
  FASTDL_UNROLL for (int r = 0; r < R; ++r) {
    FASTDL_UNROLL for (int i = 0; i < N; ++i) {
      const T* const from = acc + r * cols + i * V::width;
      sum[r][i] = kWhole ? V::load(from) : V::load(from, lanes);
    }
  }
  FASTDL_UNROLL for (int s = 0; s < S; ++s) {
    FASTDL_UNROLL for (int i = 0; i < N; ++i) {
      const T* const p = b + s * b_k + i * V::width;
      if (Far) __builtin_prefetch(p + S * b_k, 0, 2);
      const V bv = kWhole ? V::load(p) : V::load(p, lanes);
      FASTDL_UNROLL for (int r = 0; r < R; ++r) sum[r][i] = fma(a[r][s], bv, sum[r][i]);
    }
  }
  FASTDL_UNROLL for (int r = 0; r < R; ++r) {
    FASTDL_UNROLL for (int i = 0; i < N; ++i) {
      T* const to = acc + r * cols + i * V::width;
      if constexpr (kWhole) sum[r][i].store(to);
      else sum[r][i].store(to, lanes);
    }
  }
}

// Adds S terms to each of R rows of sums, which stay in the L1 cache while B streams by. Far: B comes from
// memory, where each row is another page, at which the processor's own prefetching stops.
template <class T, int R, int S, bool Far>
static FASTDL_INLINE void gemv_terms(const T* a, int64_t a_row, int64_t a_k, const T* b, int64_t b_k,
                                     int64_t cols, T* acc) {
  using V = Vec<T>;
  V av[R][S];
  FASTDL_UNROLL for (int r = 0; r < R; ++r) {
    FASTDL_UNROLL for (int s = 0; s < S; ++s) av[r][s] = V::broadcast(a[r * a_row + s * a_k]);
  }
  constexpr int64_t step = kGemvVectors * V::width;
  int64_t j = 0;
  for (; j + step <= cols; j += step) {
    gemv_block<kGemvVectors, true, Far>(av, b + j, b_k, cols, V::width, acc + j);
  }
  for (; j < cols; j += V::width) {
    const int lanes = cols - j < V::width ? static_cast<int>(cols - j) : V::width;
    gemv_block<1, false, Far>(av, b + j, b_k, cols, lanes, acc + j);
  }
}

template <class T, int R>
static void gemv_rows(const T* a, int64_t a_row, int64_t a_k, const T* b, int64_t b_k, int64_t cols,
                      int64_t k, T* acc) {
  constexpr int S = kGemvTerms / R < 8 ? kGemvTerms / R : 8;
  for (int64_t i = 0; i < R * cols; ++i) acc[i] = T(0);
  int64_t i = 0;
  const bool far = k * b_k * int64_t{sizeof(T)} > kGemvFar;
  for (; i + S <= k; i += S) {
    const T *const ai = a + i * a_k, *const bi = b + i * b_k;
    if (far) gemv_terms<T, R, S, true>(ai, a_row, a_k, bi, b_k, cols, acc);
    else gemv_terms<T, R, S, false>(ai, a_row, a_k, bi, b_k, cols, acc);
  }
  for (; i < k; ++i) gemv_terms<T, R, 1, false>(a + i * a_k, a_row, a_k, b + i * b_k, b_k, cols, acc);
}

template <class T>
static void gemv(const T* a, int64_t a_row, int64_t a_k, const T* b, int64_t b_k, int rows, int64_t cols,
                 int64_t k, T* acc) {
  if (rows == 1) return gemv_rows<T, 1>(a, a_row, a_k, b, b_k, cols, k, acc);
  if (rows == 2) return gemv_rows<T, 2>(a, a_row, a_k, b, b_k, cols, k, acc);
  if (rows == 3) return gemv_rows<T, 3>(a, a_row, a_k, b, b_k, cols, k, acc);
  gemv_rows<T, 4>(a, a_row, a_k, b, b_k, cols, k, acc);
}

// Blocks of width x width are transposed in registers.
template <class T>
static void pack_transposed(const T* src, int64_t lane_stride, int64_t k, int lanes, int width, T* out) {
  using V = Vec<T>;
  // 14 to 32 streams are more than the processor prefetches by itself: four cache lines of each ahead.
  constexpr int W = V::width, kAhead = 256 / sizeof(T);
  for (int lane = 0; lane < width; lane += W) {
    const int n = width - lane < W ? width - lane : W;
    const T* s = src + lane * lane_stride;
    for (int64_t i = 0; i < k; i += W) {
      const int steps = k - i < W ? static_cast<int>(k - i) : W;
      V rows[W];
      if (steps == W && lane + W <= lanes) {
        FASTDL_UNROLL for (int r = 0; r < W; ++r) {
          rows[r] = V::load(s + r * lane_stride + i);
          prefetch(s + r * lane_stride + i + kAhead);
        }
      } else {
        FASTDL_UNROLL for (int r = 0; r < W; ++r) {
          rows[r] = lane + r < lanes ? V::load(s + r * lane_stride + i, steps) : V::zero();
          if (lane + r < lanes) prefetch(s + r * lane_stride + i + kAhead);
        }
      }
      transpose(rows);
      T* o = out + i * width + lane;
      if (steps == W && n == W) {
        FASTDL_UNROLL for (int r = 0; r < W; ++r) rows[r].store(o + r * width);
      } else {
        FASTDL_UNROLL for (int r = 0; r < W; ++r) {
          if (r < steps) rows[r].store(o + r * width, n);
        }
      }
    }
  }
}

template <class T>
static void pack(const T* src, int64_t k_stride, int64_t lane_stride, int64_t k, int lanes, int width,
                 T* out) {
  using V = Vec<T>;
  constexpr int W = V::width;
  if (k_stride == 1 && lane_stride != 1 && k > 1)
    return pack_transposed(src, lane_stride, k, lanes, width, out);
  // Each row is another page or nearly so, where the processor's own prefetching stops.
  constexpr int kAhead = 16;
  if (lane_stride == 1 && width > W && width <= 2 * W) {
    if (lanes == 2 * W) {
      for (int64_t i = 0; i < k; ++i, out += width, src += k_stride) {
        prefetch(src + kAhead * k_stride);
        prefetch(src + kAhead * k_stride + W);
        V::load(src).store(out);
        V::load(src + W).store(out + W);
      }
      return;
    }
    const int tail = width - W, lo_lanes = lanes < W ? lanes : W, hi_lanes = lanes - lo_lanes;
    for (int64_t i = 0; i < k; ++i, out += width, src += k_stride) {
      prefetch(src + kAhead * k_stride);
      const V lo = V::load(src, lo_lanes), hi = V::load(hi_lanes ? src + W : src, hi_lanes);
      lo.store(out);
      hi.store(out + W, tail);
    }
    return;
  }
  if (lane_stride == 1 && width <= W) {
    for (int64_t i = 0; i < k; ++i, out += width, src += k_stride) {
      prefetch(src + kAhead * k_stride);
      V::load(src, lanes).store(out, width);
    }
    return;
  }
  for (int64_t i = 0; i < k; ++i, out += width, src += k_stride) {
    for (int lane = 0; lane < width; ++lane) out[lane] = lane < lanes ? src[lane * lane_stride] : T(0);
  }
}

static int64_t fma_peak(int64_t rounds, float* sink) {
  using V = Vec<float>;
  constexpr int chains = 12, steps = 64;
  V sum[chains];
  FASTDL_UNROLL for (int i = 0; i < chains; ++i) sum[i] = V::broadcast(sink[0] + static_cast<float>(i));
  const V a = V::broadcast(0.999f + sink[0]), b = V::broadcast(0.001f + sink[0]);
  for (int64_t r = 0; r < rounds * steps; ++r) {
    FASTDL_UNROLL for (int i = 0; i < chains; ++i) sum[i] = fma(sum[i], a, b);
  }
  float total = 0;
  FASTDL_UNROLL for (int i = 0; i < chains; ++i) total += reduce_add(sum[i]);
  *sink = total;
  return 2ll * chains * steps * V::width;
}

// Fills tile[1..R].
template <class T, int R>
static constexpr void fill(GemmKernelsOf<T>& k) {
  k.tile[R][0] = tile<T, R, kTileVectors, false>;
  k.tile[R][1] = tile<T, R, kTileVectors, true>;
  k.tile[R][2] = tile<T, R, 1, true>;
  if constexpr (R > 1) fill<T, R - 1>(k);
}

template <class T>
static constexpr GemmKernelsOf<T> make() {
  static_assert(kRows <= GemmKernelsOf<T>::kMaxRows, "the table is too short");
  GemmKernelsOf<T> k{};
  k.width = Vec<T>::width;
  k.mr = kRows;
  k.nr = kTileVectors * Vec<T>::width;
  k.dot_rows = kDotRows;
  k.gemv_rows = kGemvRows;
  fill<T, kRows>(k);
  k.dot = dot<T>;
  k.gemv = gemv<T>;
  k.finish = finish<T>;
  k.pack = pack<T>;
  return k;
}

extern const GemmKernels gemm_kernels;
constexpr GemmKernels kTable = {make<float>(), make<double>(), fma_peak};
const GemmKernels gemm_kernels = kTable;

}  // namespace fastdl::cpu::FASTDL_ISA
