// Elementwise activations and elementary functions: loops over activation_inline.h and vecmath.h.
#include "cpu/isa/activation.h"

#include "cpu/isa/activation_inline.h"
#include "cpu/isa/vectors.h"

namespace fastdl::cpu::FASTDL_ISA {
namespace {

template <class S>
void forward(const fastdl_activation& f, int64_t n, const S* x, S* y) {
  using T = compute_t<S>;
  const Vec<T> alpha = constant<T>(f.alpha), beta = constant<T>(f.beta);
  with_activation(f.kind, [&](auto kind) {
    map(
        n, y,
        [&](Vec<T> v) FASTDL_FORCE_INLINE { return activation_value<decltype(kind)::value>(v, alpha, beta); },
        x);
  });
}

template <class S>
void backward(const fastdl_activation& f, bool from_output, int64_t n, const S* dy, const S* saved, S* dx) {
  using T = compute_t<S>;
  const Vec<T> alpha = constant<T>(f.alpha), beta = constant<T>(f.beta);
  with_activation(f.kind, [&](auto kind) {
    constexpr int k = decltype(kind)::value;
    if (from_output) {
      const auto f = [&](Vec<T> g, Vec<T> s)
                         FASTDL_FORCE_INLINE { return activation_gradient<k, true>(g, s, alpha, beta); };
      map(n, dx, f, dy, saved);
    } else {
      const auto f = [&](Vec<T> g, Vec<T> s)
                         FASTDL_FORCE_INLINE { return activation_gradient<k, false>(g, s, alpha, beta); };
      map(n, dx, f, dy, saved);
    }
  });
}

template <class S>
void glu(int64_t n, const S* a, const S* b, S* y) {
  using T = compute_t<S>;
  map(n, y, [](Vec<T> u, Vec<T> v) FASTDL_FORCE_INLINE { return u * sigmoid(v); }, a, b);
}

template <class S>
void glu_backward(int64_t n, const S* dy, const S* a, const S* b, S* da, S* db) {
  using T = compute_t<S>;
  for_vectors<S>(n, [&](int64_t i, int m) FASTDL_FORCE_INLINE {
    const Vec<T> g = load(dy + i, m), u = load(a + i, m);
    Vec<T> opposite;
    const Vec<T> gs = g * sigmoid_pair(load(b + i, m), opposite);
    store(gs, da + i, m);
    store(gs * u * opposite, db + i, m);
  });
}

template <class T>
FASTDL_INLINE Vec<T> leaky(Vec<T> v, Vec<T> slope) {
  return select(v > Vec<T>::zero(), v, v * slope);
}

template <class S, class T>
void prelu(int64_t n, const S* x, const T* weight, bool per_element, S* y) {
  const Vec<T> one = Vec<T>::broadcast(*weight);
  if (!per_element) return map(n, y, [&](Vec<T> v) FASTDL_FORCE_INLINE { return leaky(v, one); }, x);
  for_aligned(n, y, [&](int64_t i, int m) FASTDL_FORCE_INLINE {
    store(leaky(load(x + i, m), load(weight + i, m)), y + i, m);
  });
}

template <class S, class T>
void prelu_backward(int64_t n, const S* dy, const S* x, const T* weight, bool per_element, S* dx, T* dw) {
  Vec<T> total = Vec<T>::zero();
  for_vectors<S>(n, [&](int64_t i, int m) FASTDL_FORCE_INLINE {
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

template <class S>
void elementary(int32_t kind, int64_t n, const S* x, S* y) {
  using T = compute_t<S>;
  switch (kind) {
    case FASTDL_EXP:
      return map(n, y, [](Vec<T> v) FASTDL_FORCE_INLINE { return exp(v); }, x);
    case FASTDL_EXPM1:
      return map(n, y, [](Vec<T> v) FASTDL_FORCE_INLINE { return expm1(v); }, x);
    case FASTDL_LOG:
      return map(n, y, [](Vec<T> v) FASTDL_FORCE_INLINE { return log(v); }, x);
    case FASTDL_LOG1P:
      return map(n, y, [](Vec<T> v) FASTDL_FORCE_INLINE { return log1p(v); }, x);
    case FASTDL_ERF:
      return map(n, y, [](Vec<T> v) FASTDL_FORCE_INLINE { return erf(v); }, x);
    case FASTDL_ERFC:
      return map(n, y, [](Vec<T> v) FASTDL_FORCE_INLINE { return erfc(v); }, x);
  }
}

template <class S, class T = compute_t<S>>
constexpr ActivationTable<S> kTable = {forward<S>,  backward<S>,          glu<S>,       glu_backward<S>,
                                       prelu<S, T>, prelu_backward<S, T>, elementary<S>};

}  // namespace

extern const ActivationKernels activation_kernels;
const ActivationKernels activation_kernels = {kTable<float>, kTable<double>, kTable<bfloat16>,
                                              kTable<float16>};

}  // namespace fastdl::cpu::FASTDL_ISA
