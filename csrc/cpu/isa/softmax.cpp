// Softmax along rows (vectors run along the row) and along columns (vectors run across the columns).
#include "cpu/isa/softmax.h"

#include "cpu/isa/rows.h"

namespace fastdl::cpu::FASTDL_ISA {
namespace {

template <int Kind, class T>
void forward_rows(int64_t rows, int64_t n, const T* x, T* y) {
  const Vec<T> sign = constant<T>(Kind == FASTDL_SOFTMIN ? -1 : 1);
  for (int64_t row = 0; row < rows; ++row, x += n, y += n) {
    const Vec<T> top = Vec<T>::broadcast(row_max(n, x, sign));
    if constexpr (Kind == FASTDL_LOG_SOFTMAX) {
      const T sum = row_sum<T>(n, [&](int64_t i, int m) FASTDL_FORCE_INLINE {
        return first_lanes(exp(Vec<T>::load(x + i, m) - top), m);
      });
      const Vec<T> log_sum = log(Vec<T>::broadcast(sum));
      for_vectors<T>(n, [&](int64_t i, int m) FASTDL_FORCE_INLINE {
        ((Vec<T>::load(x + i, m) - top) - log_sum).store(y + i, m);
      });
    } else {
      const T sum = row_sum<T>(n, [&](int64_t i, int m) FASTDL_FORCE_INLINE {
        const Vec<T> e = first_lanes(exp(Vec<T>::load(x + i, m) * sign - top), m);
        e.store(y + i, m);
        return e;
      });
      const Vec<T> scale = constant<T>(1) / Vec<T>::broadcast(sum);
      for_vectors<T>(
          n, [&](int64_t i, int m) FASTDL_FORCE_INLINE { (Vec<T>::load(y + i, m) * scale).store(y + i, m); });
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

template <int Kind, class T>
void backward_rows(int64_t rows, int64_t n, const T* dy, const T* y, T* dx) {
  for (int64_t row = 0; row < rows; ++row, dy += n, y += n, dx += n) {
    const Vec<T> sum = Vec<T>::broadcast(row_sum<T>(n, [&](int64_t i, int m) FASTDL_FORCE_INLINE {
      return gradient_term<Kind>(Vec<T>::load(dy + i, m), Vec<T>::load(y + i, m));
    }));
    for_vectors<T>(n, [&](int64_t i, int m) FASTDL_FORCE_INLINE {
      gradient<Kind>(Vec<T>::load(dy + i, m), Vec<T>::load(y + i, m), sum).store(dx + i, m);
    });
  }
}

// Columns, a block of them at a time.
template <int Kind, int B, class T>
FASTDL_INLINE void forward_block(int64_t n, int64_t stride, int last, const T* x, T* y) {
  constexpr int w = Vec<T>::width;
  const auto lanes = [&](int b) { return b == B - 1 ? last : w; };
  const Vec<T> sign = constant<T>(Kind == FASTDL_SOFTMIN ? -1 : 1);
  Vec<T> top[B], sum[B];
  for (int b = 0; b < B; ++b) top[b] = constant<T>(-__builtin_inf()), sum[b] = Vec<T>::zero();
  for (int64_t i = 0; i < n; ++i) {
    for (int b = 0; b < B; ++b) top[b] = max(Vec<T>::load(x + i * stride + b * w, lanes(b)) * sign, top[b]);
  }
  for (int64_t i = 0; i < n; ++i) {
    for (int b = 0; b < B; ++b) {
      const Vec<T> e = exp(Vec<T>::load(x + i * stride + b * w, lanes(b)) * sign - top[b]);
      sum[b] += e;
      if constexpr (Kind != FASTDL_LOG_SOFTMAX) e.store(y + i * stride + b * w, lanes(b));
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
        ((Vec<T>::load(x + at, lanes(b)) - top[b]) - sum[b]).store(y + at, lanes(b));
      } else {
        (Vec<T>::load(y + at, lanes(b)) * sum[b]).store(y + at, lanes(b));
      }
    }
  }
}

template <int Kind, int B, class T>
FASTDL_INLINE void backward_block(int64_t n, int64_t stride, int last, const T* dy, const T* y, T* dx) {
  constexpr int w = Vec<T>::width;
  const auto lanes = [&](int b) { return b == B - 1 ? last : w; };
  Vec<T> sum[B];
  for (int b = 0; b < B; ++b) sum[b] = Vec<T>::zero();
  for (int64_t i = 0; i < n; ++i) {
    for (int b = 0; b < B; ++b) {
      const int64_t at = i * stride + b * w;
      sum[b] += gradient_term<Kind>(Vec<T>::load(dy + at, lanes(b)), Vec<T>::load(y + at, lanes(b)));
    }
  }
  for (int64_t i = 0; i < n; ++i) {
    for (int b = 0; b < B; ++b) {
      const int64_t at = i * stride + b * w;
      gradient<Kind>(Vec<T>::load(dy + at, lanes(b)), Vec<T>::load(y + at, lanes(b)), sum[b])
          .store(dx + at, lanes(b));
    }
  }
}

template <int Kind, class T>
void forward_columns(int64_t count, int64_t n, int64_t stride, const T* x, T* y) {
  for_blocks<T>(count, [&](int64_t c, auto blocks, int last) {
    forward_block<Kind, decltype(blocks)::value>(n, stride, last, x + c, y + c);
  });
}

template <int Kind, class T>
void backward_columns(int64_t count, int64_t n, int64_t stride, const T* dy, const T* y, T* dx) {
  for_blocks<T>(count, [&](int64_t c, auto blocks, int last) {
    backward_block<Kind, decltype(blocks)::value>(n, stride, last, dy + c, y + c, dx + c);
  });
}

// Calls the function of the kind.
#define FASTDL_BY_KIND(FUNCTION, ...)                                                  \
  if (kind == FASTDL_LOG_SOFTMAX) return FUNCTION<FASTDL_LOG_SOFTMAX, T>(__VA_ARGS__); \
  if (kind == FASTDL_SOFTMIN) return FUNCTION<FASTDL_SOFTMIN, T>(__VA_ARGS__);         \
  return FUNCTION<FASTDL_SOFTMAX, T>(__VA_ARGS__)

template <class T>
void forward(int32_t kind, int64_t rows, int64_t n, const T* x, T* y) {
  FASTDL_BY_KIND(forward_rows, rows, n, x, y);
}
template <class T>
void backward(int32_t kind, int64_t rows, int64_t n, const T* dy, const T* y, T* dx) {
  FASTDL_BY_KIND(backward_rows, rows, n, dy, y, dx);
}
template <class T>
void forward_cols(int32_t kind, int64_t count, int64_t n, int64_t stride, const T* x, T* y) {
  FASTDL_BY_KIND(forward_columns, count, n, stride, x, y);
}
template <class T>
void backward_cols(int32_t kind, int64_t count, int64_t n, int64_t stride, const T* dy, const T* y, T* dx) {
  FASTDL_BY_KIND(backward_columns, count, n, stride, dy, y, dx);
}
#undef FASTDL_BY_KIND

template <class T>
constexpr SoftmaxTable<T> kTable = {forward<T>, backward<T>, forward_cols<T>, backward_cols<T>};

}  // namespace

extern const SoftmaxKernels softmax_kernels;
const SoftmaxKernels softmax_kernels = {kTable<float>, kTable<double>};

}  // namespace fastdl::cpu::FASTDL_ISA
