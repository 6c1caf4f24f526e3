// Elementwise activations and elementary functions: loops over activation_inline.h and vecmath.h.
#include "cpu/isa/activation.h"

#include "cpu/isa/activation_inline.h"

namespace fastdl::cpu::FASTDL_ISA {
namespace {

// How many elements come before the first vector that is aligned in y, if it is worth stopping there: NumPy
// aligns arrays to 16 bytes, and every vector would cross a cache line otherwise.
template <class T>
FASTDL_INLINE int lead(int64_t n, const T* y) {
  constexpr int w = Vec<T>::width;
  return n < 4 * w ? 0 : static_cast<int>((0 - reinterpret_cast<uintptr_t>(y)) / sizeof(T) % w);
}

// y[i] = f(x[i]) on vectors, the first and the last one partial.
template <class T, class F>
FASTDL_INLINE void map(int64_t n, const T* x, T* y, F&& f) {
  constexpr int w = Vec<T>::width;
  int64_t i = lead(n, y);
  if (i) f(Vec<T>::load(x, static_cast<int>(i))).store(y, static_cast<int>(i));
  for (; i + w <= n; i += w) f(Vec<T>::load(x + i)).store(y + i);
  if (i < n) f(Vec<T>::load(x + i, static_cast<int>(n - i))).store(y + i, static_cast<int>(n - i));
}

template <class T, class F>
FASTDL_INLINE void map2(int64_t n, const T* a, const T* b, T* y, F&& f) {
  constexpr int w = Vec<T>::width;
  const auto partial = [&](int64_t i, int m) FASTDL_FORCE_INLINE {
    f(Vec<T>::load(a + i, m), Vec<T>::load(b + i, m)).store(y + i, m);
  };
  int64_t i = lead(n, y);
  if (i) partial(0, static_cast<int>(i));
  for (; i + w <= n; i += w) f(Vec<T>::load(a + i), Vec<T>::load(b + i)).store(y + i);
  if (i < n) partial(i, static_cast<int>(n - i));
}

template <class T>
void forward(const fastdl_activation& f, int64_t n, const T* x, T* y) {
  const Vec<T> alpha = constant<T>(f.alpha), beta = constant<T>(f.beta);
  with_activation(f.kind, [&](auto kind) {
    map(n, x, y, [&](Vec<T> v) FASTDL_FORCE_INLINE {
      return activation_value<decltype(kind)::value>(v, alpha, beta);
    });
  });
}

template <class T>
void backward(const fastdl_activation& f, bool from_output, int64_t n, const T* dy, const T* saved, T* dx) {
  const Vec<T> alpha = constant<T>(f.alpha), beta = constant<T>(f.beta);
  with_activation(f.kind, [&](auto kind) {
    constexpr int k = decltype(kind)::value;
    if (from_output) {
      map2(n, dy, saved, dx, [&](Vec<T> g, Vec<T> s) FASTDL_FORCE_INLINE {
        return activation_gradient<k, true>(g, s, alpha, beta);
      });
    } else {
      map2(n, dy, saved, dx, [&](Vec<T> g, Vec<T> s) FASTDL_FORCE_INLINE {
        return activation_gradient<k, false>(g, s, alpha, beta);
      });
    }
  });
}

template <class T>
void glu(int64_t n, const T* a, const T* b, T* y) {
  map2(n, a, b, y, [](Vec<T> u, Vec<T> v) FASTDL_FORCE_INLINE { return u * sigmoid(v); });
}

template <class T>
void glu_backward(int64_t n, const T* dy, const T* a, const T* b, T* da, T* db) {
  constexpr int w = Vec<T>::width;
  for (int64_t i = 0; i < n; i += w) {
    const int m = n - i < w ? static_cast<int>(n - i) : w;
    const Vec<T> g = Vec<T>::load(dy + i, m), u = Vec<T>::load(a + i, m);
    Vec<T> opposite;
    const Vec<T> gs = g * sigmoid_pair(Vec<T>::load(b + i, m), opposite);
    gs.store(da + i, m);
    (gs * u * opposite).store(db + i, m);
  }
}

template <class T>
void prelu(int64_t n, const T* x, const T* weight, bool per_element, T* y) {
  const auto f = [](Vec<T> v, Vec<T> w) FASTDL_FORCE_INLINE { return select(v > Vec<T>::zero(), v, v * w); };
  if (per_element) return map2(n, x, weight, y, f);
  const Vec<T> w = Vec<T>::broadcast(*weight);
  map(n, x, y, [&](Vec<T> v) FASTDL_FORCE_INLINE { return f(v, w); });
}

template <class T>
void prelu_backward(int64_t n, const T* dy, const T* x, const T* weight, bool per_element, T* dx, T* dw) {
  constexpr int w = Vec<T>::width;
  Vec<T> total = Vec<T>::zero();
  for (int64_t i = 0; i < n; i += w) {
    const int m = n - i < w ? static_cast<int>(n - i) : w;
    const Vec<T> g = Vec<T>::load(dy + i, m), v = Vec<T>::load(x + i, m);
    const Vec<T> slope = per_element ? Vec<T>::load(weight + i, m) : Vec<T>::broadcast(*weight);
    const Mask<T> positive = v > Vec<T>::zero();
    if (dx) select(positive, g, g * slope).store(dx + i, m);
    if (!dw) continue;
    const Vec<T> part = select(positive, Vec<T>::zero(), g * v);
    if (per_element) (Vec<T>::load(dw + i, m) + part).store(dw + i, m);
    else total += part;
  }
  if (dw && !per_element) *dw += reduce_add(total);
}

template <class T>
void elementary(int32_t kind, int64_t n, const T* x, T* y) {
  switch (kind) {
    case FASTDL_EXP:
      return map(n, x, y, [](Vec<T> v) FASTDL_FORCE_INLINE { return exp(v); });
    case FASTDL_EXPM1:
      return map(n, x, y, [](Vec<T> v) FASTDL_FORCE_INLINE { return expm1(v); });
    case FASTDL_LOG:
      return map(n, x, y, [](Vec<T> v) FASTDL_FORCE_INLINE { return log(v); });
    case FASTDL_LOG1P:
      return map(n, x, y, [](Vec<T> v) FASTDL_FORCE_INLINE { return log1p(v); });
    case FASTDL_ERF:
      return map(n, x, y, [](Vec<T> v) FASTDL_FORCE_INLINE { return erf(v); });
    case FASTDL_ERFC:
      return map(n, x, y, [](Vec<T> v) FASTDL_FORCE_INLINE { return erfc(v); });
  }
}

template <class T>
constexpr ActivationTable<T> kTable = {forward<T>, backward<T>,       glu<T>,       glu_backward<T>,
                                       prelu<T>,   prelu_backward<T>, elementary<T>};

}  // namespace

extern const ActivationKernels activation_kernels;
const ActivationKernels activation_kernels = {kTable<float>, kTable<double>};

}  // namespace fastdl::cpu::FASTDL_ISA
