// Softmax along rows (vectors run along the row) and along columns (vectors run across the columns).
#include "cpu/isa/softmax.h"

#include "cpu/isa/rows.h"

namespace fastdl::cpu::FASTDL_ISA {
namespace {

// Where the exponentials of a row wait for their sum: in the output, unless that would round them.
template <class S, class T = compute_t<S>>
FASTDL_INLINE T* exponentials_in(S* y, T* scratch) {
  if constexpr (sizeof(S) == sizeof(T)) return y;
  else return scratch;
}

template <int Kind, class S>
void forward_rows(int64_t rows, int64_t n, const S* x, S* y, compute_t<S>* scratch) {
  using T = compute_t<S>;
  const Vec<T> sign = constant<T>(Kind == FASTDL_SOFTMIN ? -1 : 1);
  for (int64_t row = 0; row < rows; ++row, x += n, y += n) {
    const Vec<T> top = Vec<T>::broadcast(row_max(n, x, sign));
    if constexpr (Kind == FASTDL_LOG_SOFTMAX) {
      const T sum = row_sum<T>(
          n, [&](int64_t i, int m) FASTDL_FORCE_INLINE { return first_lanes(exp(load(x + i, m) - top), m); });
      const Vec<T> log_sum = log(Vec<T>::broadcast(sum));
      for_vectors<S>(n, [&](int64_t i, int m)
                            FASTDL_FORCE_INLINE { store((load(x + i, m) - top) - log_sum, y + i, m); });
    } else {
      T* e = exponentials_in(y, scratch);
      const T sum = row_sum<T>(n, [&](int64_t i, int m) FASTDL_FORCE_INLINE {
        const Vec<T> v = first_lanes(exp(load(x + i, m) * sign - top), m);
        store(v, e + i, m);
        return v;
      });
      const Vec<T> scale = constant<T>(1) / Vec<T>::broadcast(sum);
      for_vectors<S>(n,
                     [&](int64_t i, int m) FASTDL_FORCE_INLINE { store(load(e + i, m) * scale, y + i, m); });
    }
  }
}

template <int Kind, class T>
FASTDL_INLINE Vec<T> gradient(Vec<T> g, Vec<T> y, Vec<T> sum) {
  if constexpr (Kind == FASTDL_LOG_SOFTMAX) return fnma(exp(y), sum, g);
  else if constexpr (Kind == FASTDL_SOFTMIN) return y * (sum - g);
  else return y * (g - sum);
}

template <int Kind, class T>
FASTDL_INLINE Vec<T> gradient_term(Vec<T> g, Vec<T> y) {
  return Kind == FASTDL_LOG_SOFTMAX ? g : g * y;
}

template <int Kind, class S>
void backward_rows(int64_t rows, int64_t n, const S* dy, const S* y, S* dx) {
  using T = compute_t<S>;
  for (int64_t row = 0; row < rows; ++row, dy += n, y += n, dx += n) {
    const Vec<T> sum = Vec<T>::broadcast(row_sum<T>(n, [&](int64_t i, int m) FASTDL_FORCE_INLINE {
      return gradient_term<Kind>(load(dy + i, m), load(y + i, m));
    }));
    for_vectors<S>(n, [&](int64_t i, int m) FASTDL_FORCE_INLINE {
      store(gradient<Kind>(load(dy + i, m), load(y + i, m), sum), dx + i, m);
    });
  }
}

// Columns, a block of them at a time.
template <int Kind, int B, class S>
FASTDL_INLINE void forward_block(int64_t n, int64_t stride, int last, const S* x, S* y) {
  using T = compute_t<S>;
  constexpr bool kept = sizeof(S) == sizeof(T);  // the output can hold the exponentials unrounded
  constexpr int w = Vec<T>::width;
  const auto lanes = [&](int b) { return b == B - 1 ? last : w; };
  const Vec<T> sign = constant<T>(Kind == FASTDL_SOFTMIN ? -1 : 1);
  Vec<T> top[B], sum[B];
  for (int b = 0; b < B; ++b) top[b] = constant<T>(-__builtin_inf()), sum[b] = Vec<T>::zero();
  for (int64_t i = 0; i < n; ++i) {
    for (int b = 0; b < B; ++b) top[b] = max(load(x + i * stride + b * w, lanes(b)) * sign, top[b]);
  }
  for (int64_t i = 0; i < n; ++i) {
    for (int b = 0; b < B; ++b) {
      const Vec<T> e = exp(load(x + i * stride + b * w, lanes(b)) * sign - top[b]);
      sum[b] += e;
      if constexpr (Kind != FASTDL_LOG_SOFTMAX && kept) store(e, y + i * stride + b * w, lanes(b));
    }
  }
  for (int b = 0; b < B; ++b) {
    if constexpr (Kind == FASTDL_LOG_SOFTMAX) sum[b] = log(sum[b]);
    else sum[b] = constant<T>(1) / sum[b];
  }
  for (int64_t i = 0; i < n; ++i) {
    for (int b = 0; b < B; ++b) {
      const int64_t at = i * stride + b * w;
      if constexpr (Kind == FASTDL_LOG_SOFTMAX) {
        store((load(x + at, lanes(b)) - top[b]) - sum[b], y + at, lanes(b));
      } else if constexpr (kept) {
        store(load(y + at, lanes(b)) * sum[b], y + at, lanes(b));
      } else {
        store(exp(load(x + at, lanes(b)) * sign - top[b]) * sum[b], y + at, lanes(b));
      }
    }
  }
}

template <int Kind, int B, class S>
FASTDL_INLINE void backward_block(int64_t n, int64_t stride, int last, const S* dy, const S* y, S* dx) {
  using T = compute_t<S>;
  constexpr int w = Vec<T>::width;
  const auto lanes = [&](int b) { return b == B - 1 ? last : w; };
  Vec<T> sum[B];
  for (int b = 0; b < B; ++b) sum[b] = Vec<T>::zero();
  for (int64_t i = 0; i < n; ++i) {
    for (int b = 0; b < B; ++b) {
      const int64_t at = i * stride + b * w;
      sum[b] += gradient_term<Kind>(load(dy + at, lanes(b)), load(y + at, lanes(b)));
    }
  }
  for (int64_t i = 0; i < n; ++i) {
    for (int b = 0; b < B; ++b) {
      const int64_t at = i * stride + b * w;
      store(gradient<Kind>(load(dy + at, lanes(b)), load(y + at, lanes(b)), sum[b]), dx + at, lanes(b));
    }
  }
}

template <int Kind, class S>
void forward_columns(int64_t count, int64_t n, int64_t stride, const S* x, S* y) {
  for_blocks<S>(count, [&](int64_t c, auto blocks, int last) {
    forward_block<Kind, decltype(blocks)::value>(n, stride, last, x + c, y + c);
  });
}

template <int Kind, class S>
void backward_columns(int64_t count, int64_t n, int64_t stride, const S* dy, const S* y, S* dx) {
  for_blocks<S>(count, [&](int64_t c, auto blocks, int last) {
    backward_block<Kind, decltype(blocks)::value>(n, stride, last, dy + c, y + c, dx + c);
  });
}

// Calls the function of the kind.
#define FASTDL_BY_KIND(FUNCTION, ...)                                                  \
  if (kind == FASTDL_LOG_SOFTMAX) return FUNCTION<FASTDL_LOG_SOFTMAX, S>(__VA_ARGS__); \
  if (kind == FASTDL_SOFTMIN) return FUNCTION<FASTDL_SOFTMIN, S>(__VA_ARGS__);         \
  return FUNCTION<FASTDL_SOFTMAX, S>(__VA_ARGS__)

template <class S>
void forward(int32_t kind, int64_t rows, int64_t n, const S* x, S* y, compute_t<S>* scratch) {
  FASTDL_BY_KIND(forward_rows, rows, n, x, y, scratch);
}
template <class S>
void backward(int32_t kind, int64_t rows, int64_t n, const S* dy, const S* y, S* dx) {
  FASTDL_BY_KIND(backward_rows, rows, n, dy, y, dx);
}
template <class S>
void forward_cols(int32_t kind, int64_t count, int64_t n, int64_t stride, const S* x, S* y) {
  FASTDL_BY_KIND(forward_columns, count, n, stride, x, y);
}
template <class S>
void backward_cols(int32_t kind, int64_t count, int64_t n, int64_t stride, const S* dy, const S* y, S* dx) {
  FASTDL_BY_KIND(backward_columns, count, n, stride, dy, y, dx);
}
#undef FASTDL_BY_KIND

template <class S>
constexpr SoftmaxTable<S> kTable = {forward<S>, backward<S>, forward_cols<S>, backward_cols<S>};

}  // namespace

extern const SoftmaxKernels softmax_kernels;
const SoftmaxKernels softmax_kernels = {kTable<float>, kTable<double>, kTable<bfloat16>, kTable<float16>};

}  // namespace fastdl::cpu::FASTDL_ISA
