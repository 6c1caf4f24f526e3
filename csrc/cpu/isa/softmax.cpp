// Softmax along rows (vectors run along the row) and along columns (vectors run across the columns).
#include "cpu/isa/softmax.h"

#include "cpu/isa/rows.h"

namespace fastdl::cpu::FASTDL_ISA {
namespace {

template <int Kind, class T>
FASTDL_INLINE Vec<T> signed_as(Vec<T> x) {
  return Kind == FASTDL_SOFTMIN ? -x : x;
}

// The row before the one whose exponentials are computed: they are there, and so is their sum.
template <class S, class T = compute_t<S>>
struct Done {
  const T* e;
  S* y;
  Vec<T> scale;
};

// Exponentials of a row and their sum; on the way, the greatest of the next row and the results of the row
// before, if there is one: loads, stores and comparisons that hide behind the exponentials' arithmetic.
template <int Kind, bool Before, class S, class T = compute_t<S>>
FASTDL_INLINE T exponentials_row(int64_t n, const S* x, T most, T* e, const S* next, T& next_most,
                                 Done<S> before) {
  constexpr int w = Vec<T>::width;
  const Vec<T> top = Vec<T>::broadcast(most);
  Vec<T> sum[2] = {Vec<T>::zero(), Vec<T>::zero()}, highest[2];
  highest[0] = highest[1] = constant<T>(-__builtin_inf());
  const auto value = [&](Vec<T> v) FASTDL_FORCE_INLINE { return exp_bounded(signed_as<Kind>(v) - top); };
  for_twos<S>(
      n,
      [&](int64_t i) FASTDL_FORCE_INLINE {
        const Two<T> t = load_two(x + i), u = load_two(next + i);
        const Vec<T> a = value(t.a), b = value(t.b);
        highest[0] = max(signed_as<Kind>(u.a), highest[0]);
        highest[1] = max(signed_as<Kind>(u.b), highest[1]);
        store_as(a, e + i);
        store_as(b, e + i + w);
        sum[0] += a;
        sum[1] += b;
        if constexpr (Before) {
          store_two({load_as(before.e + i) * before.scale, load_as(before.e + i + w) * before.scale},
                    before.y + i);
        }
      },
      [&](int64_t i, int m) FASTDL_FORCE_INLINE {
        const Vec<T> a = first_lanes(value(load(x + i, m)), m);
        const Vec<T> u = select(Mask<T>::first(m), signed_as<Kind>(load(next + i, m)), highest[1]);
        highest[1] = max(u, highest[1]);
        store(a, e + i, m);
        sum[m == w ? 0 : 1] += a;
        if constexpr (Before) store(load(before.e + i, m) * before.scale, before.y + i, m);
      });
  next_most = reduce_max(max(highest[0], highest[1]));
  return reduce_add(sum[0] + sum[1]);
}

template <int Kind, class S, class T = compute_t<S>>
void softmax_rows(int64_t rows, int64_t n, const S* x, S* y, T* scratch) {
  T most = row_max(n, x, [](Vec<T> v) FASTDL_FORCE_INLINE { return signed_as<Kind>(v); });
  Done<S> before{};
  for (int64_t row = 0; row < rows; ++row, x += n, y += n) {
    const S* next = row + 1 < rows ? x + n : x;
    T* e = exponentials_in(y, scratch ? scratch + row % 2 * n : scratch);
    T next_most, sum;
    if (row == 0) sum = exponentials_row<Kind, false>(n, x, most, e, next, next_most, before);
    else sum = exponentials_row<Kind, true>(n, x, most, e, next, next_most, before);
    before = {e, y, constant<T>(1) / Vec<T>::broadcast(sum)};
    most = next_most;
  }
  map_exponentials(n, before.e, before.y, [&](Vec<T> v) FASTDL_FORCE_INLINE { return v * before.scale; });
}

template <class S, class T = compute_t<S>>
void log_softmax_rows(int64_t rows, int64_t n, const S* x, S* y) {
  for (int64_t row = 0; row < rows; ++row, x += n, y += n) {
    const Vec<T> top = Vec<T>::broadcast(row_max(n, x, [](Vec<T> v) FASTDL_FORCE_INLINE { return v; }));
    const T sum = row_sum_of(n, [&](Vec<T> v) FASTDL_FORCE_INLINE { return exp_bounded(v - top); }, x);
    const Vec<T> log_sum = log(Vec<T>::broadcast(sum));
    map(n, y, [&](Vec<T> v) FASTDL_FORCE_INLINE { return (v - top) - log_sum; }, x);
  }
}

template <int Kind, class S>
void forward_rows(int64_t rows, int64_t n, const S* x, S* y, compute_t<S>* scratch) {
  if constexpr (Kind == FASTDL_LOG_SOFTMAX) log_softmax_rows(rows, n, x, y);
  else softmax_rows<Kind>(rows, n, x, y, scratch);
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
    const auto term = [](Vec<T> g, Vec<T> v) FASTDL_FORCE_INLINE { return gradient_term<Kind>(g, v); };
    const Vec<T> sum = Vec<T>::broadcast(row_sum_of(n, term, dy, y));
    const auto total = [&](Vec<T> g, Vec<T> v) FASTDL_FORCE_INLINE { return gradient<Kind>(g, v, sum); };
    map(n, dx, total, dy, y);
  }
}

// Columns, a block of them at a time.
template <int Kind, int B, class S>
FASTDL_INLINE void forward_block(int64_t n, int64_t stride, int last, const S* x, S* y) {
  using T = compute_t<S>;
  constexpr bool kept = sizeof(S) == sizeof(T);  // the output can hold the exponentials unrounded
  constexpr int w = Vec<T>::width;
  const auto lanes = [&](int b) { return b == B - 1 ? last : w; };
  Vec<T> top[B], sum[B];
  for (int b = 0; b < B; ++b) top[b] = constant<T>(-__builtin_inf()), sum[b] = Vec<T>::zero();
  for (int64_t i = 0; i < n; ++i) {
    for (int b = 0; b < B; ++b) top[b] = max(signed_as<Kind>(load(x + i * stride + b * w, lanes(b))), top[b]);
  }
  for (int64_t i = 0; i < n; ++i) {
    for (int b = 0; b < B; ++b) {
      const Vec<T> e = exp_bounded(signed_as<Kind>(load(x + i * stride + b * w, lanes(b))) - top[b]);
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
        store(exp_bounded(signed_as<Kind>(load(x + at, lanes(b))) - top[b]) * sum[b], y + at, lanes(b));
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
