// Elementwise activations and elementary functions: loops over activation_inline.h and vecmath.h.
#include "cpu/isa/activation.h"

#include "cpu/isa/activation_inline.h"
#include "cpu/isa/vectors.h"

namespace fastdl::cpu::FASTDL_ISA {
namespace {

// y[i] = f(x[i])
template <class T, class F>
FASTDL_INLINE void map(int64_t n, const T* x, T* y, F&& f) {
  for_aligned(n, y, [&](int64_t i, int m) FASTDL_FORCE_INLINE { store(f(load(x + i, m)), y + i, m); });
}

template <class T, class F>
FASTDL_INLINE void map2(int64_t n, const T* a, const T* b, T* y, F&& f) {
  for_aligned(n, y, [&](int64_t i, int m) FASTDL_FORCE_INLINE {
    store(f(load(a + i, m), load(b + i, m)), y + i, m);
  });
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
  for_vectors<T>(n, [&](int64_t i, int m) FASTDL_FORCE_INLINE {
    const Vec<T> g = load(dy + i, m), u = load(a + i, m);
    Vec<T> opposite;
    const Vec<T> gs = g * sigmoid_pair(load(b + i, m), opposite);
    store(gs, da + i, m);
    store(gs * u * opposite, db + i, m);
  });
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
  Vec<T> total = Vec<T>::zero();
  for_vectors<T>(n, [&](int64_t i, int m) FASTDL_FORCE_INLINE {
    const Vec<T> g = load(dy + i, m), v = load(x + i, m);
    const Vec<T> slope = per_element ? load(weight + i, m) : Vec<T>::broadcast(*weight);
    const Mask<T> positive = v > Vec<T>::zero();
    if (dx) store(select(positive, g, g * slope), dx + i, m);
    if (!dw) return;
    const Vec<T> part = select(positive, Vec<T>::zero(), g * v);
    if (per_element) store(load(dw + i, m) + part, dw + i, m);
    else total += part;
  });
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
