#include "cpu/isa/norm.h"

#include "cpu/isa/vectors.h"

namespace fastdl::cpu::FASTDL_ISA {
namespace {

// Four accumulators hide the latency of the additions and shorten the sums.
template <class T, class Term>
FASTDL_INLINE T sum_row(int64_t n, Term term) {
  using V = Vec<T>;
  constexpr int kWidth = V::width;
  V s0 = V::zero(), s1 = V::zero(), s2 = V::zero(), s3 = V::zero();
  int64_t i = 0;
  for (; i + 4 * kWidth <= n; i += 4 * kWidth) {
    s0 = s0 + term(i, kWidth);
    s1 = s1 + term(i + kWidth, kWidth);
    s2 = s2 + term(i + 2 * kWidth, kWidth);
    s3 = s3 + term(i + 3 * kWidth, kWidth);
  }
  for (; i + kWidth <= n; i += kWidth) s0 = s0 + term(i, kWidth);
  if (i < n) s1 = s1 + term(i, static_cast<int>(n - i));
  return reduce_add((s0 + s1) + (s2 + s3));
}

template <class T>
FASTDL_INLINE T reciprocal_sqrt(T x) {
  return T(1) / static_cast<T>(__builtin_sqrt(static_cast<double>(x)));
}

template <class S, class T = compute_t<S>>
void row_forward(int64_t n, const S* x, const T* w, const T* b, bool rms, T eps, S* y, T* mean_out,
                 T* rstd_out) {
  using V = Vec<T>;
  T mean = 0;
  if (!rms) {
    mean = sum_row<T>(n, [&](int64_t i, int m) FASTDL_FORCE_INLINE { return load(x + i, m); }) /
           static_cast<T>(n);
  }
  const V centre = V::broadcast(mean);
  const T var = sum_row<T>(n,
                           [&](int64_t i, int m) FASTDL_FORCE_INLINE {
                             const V d = first_lanes(load(x + i, m) - centre, m);
                             return d * d;
                           }) /
                static_cast<T>(n);
  const T rstd = reciprocal_sqrt(var + eps);
  const V r = V::broadcast(rstd);
  for_vectors<S>(n, [&](int64_t i, int m) FASTDL_FORCE_INLINE {
    V v = (load(x + i, m) - centre) * r;
    if (w) v = v * load(w + i, m);
    if (b) v = v + load(b + i, m);
    store(v, y + i, m);
  });
  if (mean_out) *mean_out = mean;
  if (rstd_out) *rstd_out = rstd;
}

// Two visits of the row: its two sums, then everything that is written.
template <class S, class T = compute_t<S>>
void row_backward(int64_t n, const S* dy, const S* x, const T* w, T mean, T rstd, bool rms, S* dx, T* dw,
                  T* db) {
  using V = Vec<T>;
  const V centre = V::broadcast(mean), r = V::broadcast(rstd);
  const auto scaled = [&](V g, int64_t i, int m) FASTDL_FORCE_INLINE { return w ? g * load(w + i, m) : g; };
  V v1 = V::zero(), v2 = V::zero();
  if (dx) {
    V sum[2] = {V::zero(), V::zero()}, dot[2] = {V::zero(), V::zero()};
    const auto add = [&](int64_t i, int m, int k) FASTDL_FORCE_INLINE {
      const V g = scaled(load(dy + i, m), i, m);
      sum[k] += g;
      dot[k] += g * first_lanes((load(x + i, m) - centre) * r, m);
    };
    constexpr int kWidth = V::width;
    int64_t i = 0;
    for (; i + 2 * kWidth <= n; i += 2 * kWidth) {
      add(i, kWidth, 0);
      add(i + kWidth, kWidth, 1);
    }
    if (i + kWidth <= n) {
      add(i, kWidth, 0);
      i += kWidth;
    }
    if (i < n) add(i, static_cast<int>(n - i), 1);
    if (!rms) v1 = V::broadcast(reduce_add(sum[0] + sum[1]) / static_cast<T>(n));
    v2 = V::broadcast(reduce_add(dot[0] + dot[1]) / static_cast<T>(n));
  }
  for_vectors<S>(n, [&](int64_t i, int m) FASTDL_FORCE_INLINE {
    const V g = load(dy + i, m), xhat = (load(x + i, m) - centre) * r;
    if (dx) store(r * (scaled(g, i, m) - v1 - xhat * v2), dx + i, m);
    if (dw) store(load(dw + i, m) + g * xhat, dw + i, m);
    if (db) store(load(db + i, m) + g, db + i, m);
  });
}

// Columns are independent: a block of vectors is carried down the rows in registers, even and odd rows apart.
template <int B, class S, class T>
FASTDL_INLINE void stats_block(int64_t rows, int64_t cols, int last, const S* x, T* mean, T* m2) {
  using V = Vec<T>;
  constexpr int w = V::width;
  const auto lanes = [&](int b) FASTDL_FORCE_INLINE { return b == B - 1 ? last : w; };
  const V inverse = V::broadcast(T(1) / static_cast<T>(rows));
  V even[B], odd[B], m[B];
  for (int b = 0; b < B; ++b) even[b] = odd[b] = V::zero();
  int64_t i = 0;
  for (; i + 2 <= rows; i += 2) {
    for (int b = 0; b < B; ++b) {
      even[b] += load(x + i * cols + b * w, lanes(b));
      odd[b] += load(x + (i + 1) * cols + b * w, lanes(b));
    }
  }
  for (int b = 0; b < B; ++b) {
    if (i < rows) even[b] += load(x + i * cols + b * w, lanes(b));
    m[b] = (even[b] + odd[b]) * inverse;
    even[b] = odd[b] = V::zero();
  }
  for (i = 0; i + 2 <= rows; i += 2) {
    for (int b = 0; b < B; ++b) {
      const V d0 = load(x + i * cols + b * w, lanes(b)) - m[b];
      const V d1 = load(x + (i + 1) * cols + b * w, lanes(b)) - m[b];
      even[b] = fma(d0, d0, even[b]);
      odd[b] = fma(d1, d1, odd[b]);
    }
  }
  for (int b = 0; b < B; ++b) {
    if (i < rows) {
      const V d = load(x + i * cols + b * w, lanes(b)) - m[b];
      even[b] = fma(d, d, even[b]);
    }
    store(m[b], mean + b * w, lanes(b));
    store(even[b] + odd[b], m2 + b * w, lanes(b));
  }
}

template <class S, class T = compute_t<S>>
void column_stats(int64_t rows, int64_t cols, const S* x, T* mean, T* m2) {
  for_blocks<S>(cols, [&](int64_t c, auto blocks, int last) FASTDL_FORCE_INLINE {
    stats_block<decltype(blocks)::value>(rows, cols, last, x + c, mean + c, m2 + c);
  });
}

template <class S, class T = compute_t<S>>
void column_affine(int64_t rows, int64_t cols, const S* x, const T* m, const T* a, const T* b, S* y) {
  for (int64_t i = 0; i < rows; ++i, x += cols, y += cols) {
    for_vectors<S>(cols, [&](int64_t c, int n) FASTDL_FORCE_INLINE {
      store(fma(load(x + c, n) - load(m + c, n), load(a + c, n), load(b + c, n)), y + c, n);
    });
  }
}

template <int B, class S, class T>
FASTDL_INLINE void sums_block(int64_t rows, int64_t cols, int last, const S* dy, const S* x, const T* m,
                              T* s1, T* s2) {
  using V = Vec<T>;
  constexpr int w = V::width;
  const auto lanes = [&](int b) FASTDL_FORCE_INLINE { return b == B - 1 ? last : w; };
  V mean[B], sum[2][B], dot[2][B];
  for (int b = 0; b < B; ++b) {
    mean[b] = load(m + b * w, lanes(b));
    sum[0][b] = sum[1][b] = dot[0][b] = dot[1][b] = V::zero();
  }
  const auto add = [&](int64_t i, int k) FASTDL_FORCE_INLINE {
    for (int b = 0; b < B; ++b) {
      const V g = load(dy + i * cols + b * w, lanes(b));
      sum[k][b] += g;
      dot[k][b] = fma(g, load(x + i * cols + b * w, lanes(b)) - mean[b], dot[k][b]);
    }
  };
  int64_t i = 0;
  for (; i + 2 <= rows; i += 2) {
    add(i, 0);
    add(i + 1, 1);
  }
  if (i < rows) add(i, 0);
  for (int b = 0; b < B; ++b) {
    store(sum[0][b] + sum[1][b], s1 + b * w, lanes(b));
    store(dot[0][b] + dot[1][b], s2 + b * w, lanes(b));
  }
}

template <class S, class T = compute_t<S>>
void column_sums(int64_t rows, int64_t cols, const S* dy, const S* x, const T* m, T* s1, T* s2) {
  for_blocks<S>(cols, [&](int64_t c, auto blocks, int last) FASTDL_FORCE_INLINE {
    sums_block<decltype(blocks)::value>(rows, cols, last, dy + c, x + c, m + c, s1 + c, s2 + c);
  });
}

template <class S, class T = compute_t<S>>
void column_gradient(int64_t rows, int64_t cols, const S* dy, const S* x, const T* m, const T* a, const T* b,
                     const T* d, S* dx) {
  for (int64_t i = 0; i < rows; ++i, dy += cols, x += cols, dx += cols) {
    for_vectors<S>(cols, [&](int64_t c, int n) FASTDL_FORCE_INLINE {
      const Vec<T> rest = fma(load(b + c, n), load(x + c, n) - load(m + c, n), load(d + c, n));
      store(fma(load(a + c, n), load(dy + c, n), rest), dx + c, n);
    });
  }
}

template <class S>
constexpr NormTable<S> kTable = {row_forward<S>,   row_backward<S>, column_stats<S>,
                                 column_affine<S>, column_sums<S>,  column_gradient<S>};

}  // namespace

extern const NormKernels norm_kernels;
const NormKernels norm_kernels = {kTable<float>, kTable<double>, kTable<bfloat16>, kTable<float16>};

}  // namespace fastdl::cpu::FASTDL_ISA
