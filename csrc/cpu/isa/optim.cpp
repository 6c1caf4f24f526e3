// Optimizer updates: every tensor read and written once.
#include "cpu/isa/optim.h"

#include "cpu/isa/vectors.h"

namespace fastdl::cpu::FASTDL_ISA {
namespace {

template <class T>
void sgd(const fastdl_sgd_options& o, bool fresh, int64_t n, T* p, const T* g, T* buffer) {
  const Vec<T> sign = constant<T>(o.maximize ? -1 : 1), decay = constant<T>(o.weight_decay);
  const Vec<T> rate = constant<T>(o.lr), momentum = constant<T>(o.momentum);
  const Vec<T> damping = constant<T>(1 - o.dampening);
  for_aligned(n, p, [&](int64_t i, int m) FASTDL_FORCE_INLINE {
    const Vec<T> x = load(p + i, m);
    Vec<T> d = fma(decay, x, load(g + i, m) * sign);
    if (buffer) {
      const Vec<T> b = fresh ? d : fma(momentum, load(buffer + i, m), damping * d);
      store(b, buffer + i, m);
      d = o.nesterov ? fma(momentum, b, d) : b;
    }
    store(fnma(rate, d, x), p + i, m);
  });
}

template <class T>
void adam(const AdamScalars& o, int64_t n, T* p, const T* g, T* mean, T* square, T* square_max) {
  const Vec<T> sign = constant<T>(o.maximize ? -1 : 1), weight_decay = constant<T>(o.weight_decay);
  const Vec<T> decay = constant<T>(o.decay), rate = constant<T>(o.rate), eps = constant<T>(o.eps);
  const Vec<T> rest1 = constant<T>(1 - o.beta1), beta2 = constant<T>(o.beta2);
  const Vec<T> rest2 = constant<T>(1 - o.beta2), root_inverse = constant<T>(o.root_inverse);
  for_aligned(n, p, [&](int64_t i, int k) FASTDL_FORCE_INLINE {
    const Vec<T> x = load(p + i, k) * decay;
    const Vec<T> d = fma(weight_decay, x, load(g + i, k) * sign);
    Vec<T> m = load(mean + i, k), v = load(square + i, k);
    m = fma(d - m, rest1, m);
    v = fma(rest2 * d, d, beta2 * v);
    store(m, mean + i, k);
    store(v, square + i, k);
    if (square_max) {
      v = max_nan(load(square_max + i, k), v);
      store(v, square_max + i, k);
    }
    store(fnma(rate, m / fma(sqrt(v), root_inverse, eps), x), p + i, k);
  });
}

template <class T>
void adagrad(const fastdl_adagrad_options& o, double rate_, int64_t n, T* p, const T* g, T* sum) {
  const Vec<T> sign = constant<T>(o.maximize ? -1 : 1), decay = constant<T>(o.weight_decay);
  const Vec<T> rate = constant<T>(rate_), eps = constant<T>(o.eps);
  for_aligned(n, p, [&](int64_t i, int m) FASTDL_FORCE_INLINE {
    const Vec<T> x = load(p + i, m), d = fma(decay, x, load(g + i, m) * sign);
    const Vec<T> s = fma(d, d, load(sum + i, m));
    store(s, sum + i, m);
    store(fnma(rate, d / (sqrt(s) + eps), x), p + i, m);
  });
}

template <class T>
void rmsprop(const fastdl_rmsprop_options& o, int64_t n, T* p, const T* g, T* square, T* avg, T* buffer) {
  const Vec<T> sign = constant<T>(o.maximize ? -1 : 1), decay = constant<T>(o.weight_decay);
  const Vec<T> rate = constant<T>(o.lr), eps = constant<T>(o.eps), momentum = constant<T>(o.momentum);
  const Vec<T> alpha = constant<T>(o.alpha), rest = constant<T>(1 - o.alpha);
  for_aligned(n, p, [&](int64_t i, int m) FASTDL_FORCE_INLINE {
    const Vec<T> x = load(p + i, m), d = fma(decay, x, load(g + i, m) * sign);
    Vec<T> v = fma(rest * d, d, alpha * load(square + i, m));
    store(v, square + i, m);
    if (avg) {
      Vec<T> a = load(avg + i, m);
      a = fma(d - a, rest, a);
      store(a, avg + i, m);
      v = fnma(a, a, v);
    }
    Vec<T> u = d / (sqrt(v) + eps);
    if (buffer) {
      u = fma(momentum, load(buffer + i, m), u);
      store(u, buffer + i, m);
    }
    store(fnma(rate, u, x), p + i, m);
  });
}

// In float64, eight sums side by side, which the compiler turns into vectors.
template <class T>
double norm(double p, int64_t n, const T* x) {
  constexpr int kSums = 8;
  double s[kSums] = {};
  if (p == 2) {
    int64_t i = 0;
    for (; i + kSums <= n; i += kSums) {
      for (int j = 0; j < kSums; ++j) s[j] += static_cast<double>(x[i + j]) * static_cast<double>(x[i + j]);
    }
    for (; i < n; ++i) s[0] += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  } else if (p == __builtin_inf()) {
    double top = 0;
    for (int64_t i = 0; i < n; ++i) {
      const double a = __builtin_fabs(static_cast<double>(x[i]));
      top = a <= top ? top : a;  // NaN stays
      if (a != a) return a;
    }
    return top;
  } else {
    for (int64_t i = 0; i < n; ++i) {
      const double a = __builtin_fabs(static_cast<double>(x[i]));
      s[i % kSums] += p == 1 ? a : __builtin_pow(a, p);
    }
  }
  return ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
}

template <class T>
void scale(double factor, int64_t n, T* x) {
  const Vec<T> f = constant<T>(factor);
  for_aligned(n, x, [&](int64_t i, int m) FASTDL_FORCE_INLINE { store(load(x + i, m) * f, x + i, m); });
}

template <class T>
constexpr OptimTable<T> kTable = {sgd<T>, adam<T>, adagrad<T>, rmsprop<T>, norm<T>, scale<T>};

}  // namespace

extern const OptimKernels optim_kernels;
const OptimKernels optim_kernels = {kTable<float>, kTable<double>};

}  // namespace fastdl::cpu::FASTDL_ISA
