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

template <class T>
void row_forward(int64_t n, const T* x, const T* w, const T* b, bool rms, T eps, T* y, T* mean_out,
                 T* rstd_out) {
  using V = Vec<T>;
  T mean = 0;
  if (!rms)
    mean = sum_row<T>(n, [&](int64_t i, int lanes) { return load(x + i, lanes); }) / static_cast<T>(n);
  const V m = V::broadcast(mean);
  const T var = sum_row<T>(n,
                           [&](int64_t i, int lanes) {
                             const V d = first_lanes(load(x + i, lanes) - m, lanes);
                             return d * d;
                           }) /
                static_cast<T>(n);
  const T rstd = reciprocal_sqrt(var + eps);
  const V r = V::broadcast(rstd);
  for_vectors<T>(n, [&](int64_t i, int lanes) {
    V v = (load(x + i, lanes) - m) * r;
    if (w) v = v * load(w + i, lanes);
    if (b) v = v + load(b + i, lanes);
    store(v, y + i, lanes);
  });
  if (mean_out) *mean_out = mean;
  if (rstd_out) *rstd_out = rstd;
}

template <class T>
void row_backward(int64_t n, const T* dy, const T* x, const T* w, T mean, T rstd, bool rms, T* dx, T* dw,
                  T* db) {
  using V = Vec<T>;
  const V m = V::broadcast(mean), r = V::broadcast(rstd);
  auto scaled = [&](int64_t i, int lanes) {
    const V g = load(dy + i, lanes);
    return w ? g * load(w + i, lanes) : g;
  };
  if (dx) {
    T c1 = 0;
    if (!rms) c1 = sum_row<T>(n, scaled) / static_cast<T>(n);
    const T c2 = sum_row<T>(n,
                            [&](int64_t i, int lanes) {
                              return first_lanes(scaled(i, lanes) * ((load(x + i, lanes) - m) * r), lanes);
                            }) /
                 static_cast<T>(n);
    const V v1 = V::broadcast(c1), v2 = V::broadcast(c2);
    for_vectors<T>(n, [&](int64_t i, int lanes) {
      const V xhat = (load(x + i, lanes) - m) * r;
      store(r * (scaled(i, lanes) - v1 - xhat * v2), dx + i, lanes);
    });
  }
  if (dw) {
    for_vectors<T>(n, [&](int64_t i, int lanes) {
      const V xhat = (load(x + i, lanes) - m) * r;
      store(load(dw + i, lanes) + load(dy + i, lanes) * xhat, dw + i, lanes);
    });
  }
  if (db) {
    for_vectors<T>(
        n, [&](int64_t i, int lanes) { store(load(db + i, lanes) + load(dy + i, lanes), db + i, lanes); });
  }
}

// Columns are independent: a strip of two vectors is carried down the rows in registers, even and odd rows
// apart.
template <class T>
void column_stats(int64_t rows, int64_t cols, const T* x, T* mean, T* m2) {
  using V = Vec<T>;
  const V inverse = V::broadcast(T(1) / static_cast<T>(rows));
  for_vectors<T>(cols, [&](int64_t c, int lanes) {
    V even = V::zero(), odd = V::zero();
    int64_t i = 0;
    for (; i + 2 <= rows; i += 2) {
      even = even + load(x + i * cols + c, lanes);
      odd = odd + load(x + (i + 1) * cols + c, lanes);
    }
    if (i < rows) even = even + load(x + i * cols + c, lanes);
    const V m = (even + odd) * inverse;
    even = odd = V::zero();
    for (i = 0; i + 2 <= rows; i += 2) {
      const V d0 = load(x + i * cols + c, lanes) - m, d1 = load(x + (i + 1) * cols + c, lanes) - m;
      even = fma(d0, d0, even);
      odd = fma(d1, d1, odd);
    }
    if (i < rows) {
      const V d = load(x + i * cols + c, lanes) - m;
      even = fma(d, d, even);
    }
    store(m, mean + c, lanes);
    store(even + odd, m2 + c, lanes);
  });
}

template <class T>
void column_affine(int64_t rows, int64_t cols, const T* x, const T* m, const T* a, const T* b, T* y) {
  for (int64_t i = 0; i < rows; ++i) {
    for_vectors<T>(cols, [&](int64_t c, int lanes) {
      const int64_t at = i * cols + c;
      store(fma(load(x + at, lanes) - load(m + c, lanes), load(a + c, lanes), load(b + c, lanes)), y + at,
            lanes);
    });
  }
}

template <class T>
void column_sums(int64_t rows, int64_t cols, const T* dy, const T* x, const T* m, T* s1, T* s2) {
  using V = Vec<T>;
  for_vectors<T>(cols, [&](int64_t c, int lanes) {
    const V mean = load(m + c, lanes);
    V sum_even = V::zero(), sum_odd = V::zero(), dot_even = V::zero(), dot_odd = V::zero();
    auto add = [&](int64_t i, V& sum, V& dot) {
      const V g = load(dy + i * cols + c, lanes);
      sum = sum + g;
      dot = fma(g, load(x + i * cols + c, lanes) - mean, dot);
    };
    int64_t i = 0;
    for (; i + 2 <= rows; i += 2) {
      add(i, sum_even, dot_even);
      add(i + 1, sum_odd, dot_odd);
    }
    if (i < rows) add(i, sum_even, dot_even);
    store(sum_even + sum_odd, s1 + c, lanes);
    store(dot_even + dot_odd, s2 + c, lanes);
  });
}

template <class T>
void column_gradient(int64_t rows, int64_t cols, const T* dy, const T* x, const T* m, const T* a, const T* b,
                     const T* d, T* dx) {
  for (int64_t i = 0; i < rows; ++i) {
    for_vectors<T>(cols, [&](int64_t c, int lanes) {
      const int64_t at = i * cols + c;
      const Vec<T> centred = load(x + at, lanes) - load(m + c, lanes);
      const Vec<T> rest = fma(load(b + c, lanes), centred, load(d + c, lanes));
      store(fma(load(a + c, lanes), load(dy + at, lanes), rest), dx + at, lanes);
    });
  }
}

template <class T>
constexpr NormTable<T> table_of() {
  return {row_forward<T>,   row_backward<T>, column_stats<T>,
          column_affine<T>, column_sums<T>,  column_gradient<T>};
}

}  // namespace

extern const NormKernels norm_kernels;
const NormKernels norm_kernels = {table_of<float>(), table_of<double>()};

}  // namespace fastdl::cpu::FASTDL_ISA
