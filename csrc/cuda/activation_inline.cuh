// The activations on one value, for loops and epilogues: the formulas of cpu/isa/activation_inline.h over the
// C library's functions. NaN passes through all of them: conditions are written so that it takes the branch
// that keeps it.
#pragma once

#include <math.h>

#include <cstdint>

#include "common/activation_kinds.h"
#include "common/gelu_fit.h"
#include "cuda/device.cuh"
#include "fastdl/activation.h"

namespace fastdl::cuda {

// max(low, x) and min(high, x) that give x when it is NaN.
template <class T>
__device__ __forceinline__ T at_least(T low, T x) {
  return low > x ? low : x;
}
template <class T>
__device__ __forceinline__ T at_most(T high, T x) {
  return high < x ? high : x;
}
template <class T>
__device__ __forceinline__ T clamp(T x, T low, T high) {
  return at_most(high, at_least(low, x));
}

// In float32 by the CPU's algorithm (cpu/isa/vecmath.h), 1.4 ulp where tanhf has 2: an odd polynomial near 0,
// then 1 - 2 / (exp(2 |x|) + 1), where what is taken from 1 is at most a half.
__device__ __forceinline__ float accurate_tanh(float x) {
  const float a = at_most(10.f, fabsf(x)), z = a * a;
  float p = fmaf(-6.199279800e-03f, z, 2.102104388e-02f);
  p = fmaf(fmaf(fmaf(p, z, -5.384067073e-02f), z, 1.333248168e-01f), z, -3.333331347e-01f);
  const float large = 1.f - 2.f / (expf(a + a) + 1.f);
  return copysignf(a < 0.56f ? fmaf(a * z, p, a) : large, x);
}
__device__ __forceinline__ double accurate_tanh(double x) { return tanh(x); }

// 1 / (1 + exp(-x)), from exp(-|x|) so that nothing overflows and the left tail keeps its relative accuracy.
template <class T>
__device__ __forceinline__ T sigmoid(T x) {
  const T e = exp(-fabs(x));
  return (x >= T(0) ? T(1) : e) / (T(1) + e);
}
// sigmoid(x) and sigmoid(-x) from one exponential.
template <class T>
__device__ __forceinline__ T sigmoid_pair(T x, T& opposite) {
  const T e = exp(-fabs(x)), d = T(1) / (T(1) + e), small = e * d;
  opposite = x >= T(0) ? small : d;
  return x >= T(0) ? d : small;
}

// c[0] + c[1] x + c[2] x^2 + ... of a fit, from two chains of half the length, the even and the odd powers.
template <class Fit, int I>
__device__ __forceinline__ float every_other_from(float square) {
  constexpr int n = static_cast<int>(sizeof(Fit::p) / sizeof(float));
  constexpr float c = Fit::p[I];
  if constexpr (I + 2 >= n) return c;
  else return fmaf(every_other_from<Fit, I + 2>(square), square, c);
}
template <class Fit>
__device__ __forceinline__ float half_plus_odd(float x) {
  constexpr float limit = Fit::limit * Fit::limit;
  const float u = fmaf(at_most(limit, x * x), static_cast<float>(2.0 / limit), -1.f), square = u * u;
  const float odd = fmaf(every_other_from<Fit, 1>(square), u, every_other_from<Fit, 0>(square));
  return fmaf(x, odd, 0.5f);
}

// x P(X <= x) for the normal distribution. In float32 within some 2^-22.5 |x|, so that the left tail beyond
// -5 is lost; that is what gelu's users and other libraries expect, and takes half the time.
__device__ __forceinline__ float gelu(float x) { return x * clamp(half_plus_odd<NormalCdfFit>(x), 0.f, 1.f); }
__device__ __forceinline__ float gelu_slope(float x) {
  constexpr float limit = GeluSlopeFit::limit;
  return half_plus_odd<GeluSlopeFit>(clamp(x, -limit, limit));
}
__device__ __forceinline__ double normal_cdf(double x) { return 0.5 * erfc(x * -0.70710678118654752440); }
__device__ __forceinline__ double gelu(double x) { return x * normal_cdf(x); }
__device__ __forceinline__ double gelu_slope(double x) {
  // Beyond 40 the density is 0, and an infinite x would make it NaN.
  const double bounded = clamp(x, -40., 40.);
  return fma(bounded, exp(-0.5 * bounded * bounded) * 0.39894228040143267794, normal_cdf(x));
}

template <int Kind, class T>
__device__ __forceinline__ T activation_value(T x, T alpha, T beta) {
  const T zero = T(0), one = T(1);
  (void)alpha, (void)beta, (void)zero, (void)one;
  if constexpr (Kind == FASTDL_ACT_RELU) {
    return at_least(zero, x);
  } else if constexpr (Kind == FASTDL_ACT_RELU6) {
    return clamp(x, zero, T(6));
  } else if constexpr (Kind == FASTDL_ACT_LEAKY_RELU) {
    return x > zero ? x : x * alpha;
  } else if constexpr (Kind == FASTDL_ACT_ELU) {
    return x > zero ? x : alpha * expm1(x);
  } else if constexpr (Kind == FASTDL_ACT_SELU) {
    return x > zero ? T(kSeluScale) * x : T(kSeluScale * kSeluAlpha) * expm1(x);
  } else if constexpr (Kind == FASTDL_ACT_CELU) {
    return x > zero ? x : alpha * expm1(x / alpha);
  } else if constexpr (Kind == FASTDL_ACT_GELU) {
    return gelu(x);
  } else if constexpr (Kind == FASTDL_ACT_GELU_TANH) {  // (1 + tanh u) / 2 = sigmoid(2 u)
    return x * sigmoid(T(2 * kGeluK) * x * fma(T(kGeluCubic) * x, x, one));
  } else if constexpr (Kind == FASTDL_ACT_SILU) {
    return x * sigmoid(x);
  } else if constexpr (Kind == FASTDL_ACT_MISH) {
    const T e = exp(at_most(T(kMishMax), x)), n = e * (e + T(2));
    return x * (n / (n + T(2)));
  } else if constexpr (Kind == FASTDL_ACT_SOFTPLUS) {
    const T z = alpha * x;
    return z > beta ? x : (at_least(zero, z) + log1p(exp(-fabs(z)))) / alpha;
  } else if constexpr (Kind == FASTDL_ACT_HARDSWISH) {
    return x * (clamp(x + T(3), zero, T(6)) * T(1. / 6));
  } else if constexpr (Kind == FASTDL_ACT_HARDSIGMOID) {
    return clamp(x + T(3), zero, T(6)) * T(1. / 6);
  } else if constexpr (Kind == FASTDL_ACT_HARDTANH) {
    return clamp(x, alpha, beta);
  } else if constexpr (Kind == FASTDL_ACT_SIGMOID) {
    return sigmoid(x);
  } else if constexpr (Kind == FASTDL_ACT_TANH) {
    return accurate_tanh(x);
  } else if constexpr (Kind == FASTDL_ACT_LOGSIGMOID) {
    return at_most(zero, x) - log1p(exp(-fabs(x)));
  } else if constexpr (Kind == FASTDL_ACT_SOFTSIGN) {
    return x / (one + fabs(x));
  } else if constexpr (Kind == FASTDL_ACT_HARDSHRINK) {
    return fabs(x) <= alpha ? zero : x;
  } else if constexpr (Kind == FASTDL_ACT_SOFTSHRINK) {
    return fabs(x) <= alpha ? zero : x - copysign(alpha, x);
  } else if constexpr (Kind == FASTDL_ACT_TANHSHRINK) {
    return x - accurate_tanh(x);
  } else if constexpr (Kind == FASTDL_ACT_THRESHOLD) {
    return x <= alpha ? beta : x;
  } else {
    return x;
  }
}

// g * f'(x); s is f(x) if FromOutput (only for kinds where fastdl_activation_from_output allows it), else x.
template <int Kind, bool FromOutput, class T>
__device__ __forceinline__ T activation_gradient(T g, T s, T alpha, T beta) {
  const T zero = T(0), one = T(1);
  (void)alpha, (void)beta, (void)zero, (void)one, (void)s;
  if constexpr (Kind == FASTDL_ACT_RELU) {
    return s <= zero ? zero : g;
  } else if constexpr (Kind == FASTDL_ACT_RELU6) {
    return s <= zero || s >= T(6) ? zero : g;
  } else if constexpr (Kind == FASTDL_ACT_LEAKY_RELU) {
    return s > zero ? g : g * alpha;
  } else if constexpr (Kind == FASTDL_ACT_ELU) {
    return s > zero ? g : g * (FromOutput ? s + alpha : alpha * exp(s));
  } else if constexpr (Kind == FASTDL_ACT_SELU) {
    const T scale = T(kSeluScale), limit = T(kSeluScale * kSeluAlpha);
    return g * (s > zero ? scale : FromOutput ? s + limit : limit * exp(s));
  } else if constexpr (Kind == FASTDL_ACT_CELU) {
    return s > zero ? g : g * (FromOutput ? s / alpha + one : exp(s / alpha));
  } else if constexpr (Kind == FASTDL_ACT_GELU) {
    return g * gelu_slope(s);
  } else if constexpr (Kind == FASTDL_ACT_GELU_TANH) {
    // Beyond kGeluMax the derivative is 0 or 1, and the squares would overflow.
    const T x = clamp(s, T(-kGeluMax), T(kGeluMax)), cubic = T(kGeluCubic) * x * x;
    T opposite;
    const T t = sigmoid_pair(T(2 * kGeluK) * x * (cubic + one), opposite);
    return g * fma(x * t * opposite, T(2 * kGeluK) * fma(T(3), cubic, one), t);
  } else if constexpr (Kind == FASTDL_ACT_SILU) {
    T opposite;
    const T t = sigmoid_pair(s, opposite);
    return g * t * fma(s, opposite, one);
  } else if constexpr (Kind == FASTDL_ACT_MISH) {
    // t + x (1 - t^2) sigmoid(x) with 1 - t^2 = 4 (1 + e)^2 / (n + 2)^2
    const T x = at_most(T(kMishMax), s), e = exp(x), n = e * (e + T(2)), q = one / (n + T(2));
    return g * fma(T(4) * x * (e * q), (one + e) * q, n * q);
  } else if constexpr (Kind == FASTDL_ACT_SOFTPLUS) {
    const T z = alpha * s;
    return z > beta ? g : g * sigmoid(z);
  } else if constexpr (Kind == FASTDL_ACT_HARDSWISH) {
    return s <= T(-3) ? zero : s >= T(3) ? g : g * fma(s, T(1. / 3), T(0.5));
  } else if constexpr (Kind == FASTDL_ACT_HARDSIGMOID) {
    return fabs(s) >= T(3) ? zero : g * T(1. / 6);
  } else if constexpr (Kind == FASTDL_ACT_HARDTANH) {
    return s <= alpha || s >= beta ? zero : g;
  } else if constexpr (Kind == FASTDL_ACT_SIGMOID) {
    if constexpr (FromOutput) return g * (s * (one - s));
    T opposite;
    const T t = sigmoid_pair(s, opposite);
    return g * (t * opposite);
  } else if constexpr (Kind == FASTDL_ACT_TANH) {
    const T t = FromOutput ? s : accurate_tanh(s);
    return g * fma(-t, t, one);
  } else if constexpr (Kind == FASTDL_ACT_LOGSIGMOID) {
    return g * sigmoid(-s);
  } else if constexpr (Kind == FASTDL_ACT_SOFTSIGN) {
    const T d = one + fabs(s);
    return g / (d * d);
  } else if constexpr (Kind == FASTDL_ACT_HARDSHRINK || Kind == FASTDL_ACT_SOFTSHRINK) {
    return fabs(s) <= alpha ? zero : g;
  } else if constexpr (Kind == FASTDL_ACT_TANHSHRINK) {
    const T t = accurate_tanh(s);
    return g * (t * t);
  } else if constexpr (Kind == FASTDL_ACT_THRESHOLD) {
    return s <= alpha ? zero : g;
  } else {
    return g;
  }
}

// Calls f(ActivationKind<kind>{}): one switch for all values of a thread instead of one for each.
template <class F>
__device__ __forceinline__ void with_activation(int32_t kind, F&& f) {
  FASTDL_SWITCH_ACTIVATION(kind, f)
}

// A fastdl_activation with its parameters in the type computed with.
template <class T>
struct ActivationOf {
  int32_t kind;
  T alpha, beta;
  ActivationOf() : kind(FASTDL_ACT_NONE), alpha(0), beta(0) {}
  explicit ActivationOf(const fastdl_activation& f)
      : kind(f.kind), alpha(static_cast<T>(f.alpha)), beta(static_cast<T>(f.beta)) {}

  // For epilogues: x[i] = f(x[i]).
  template <int N>
  __device__ __forceinline__ void apply(T (&x)[N]) const {
    if (kind == FASTDL_ACT_NONE) return;
    with_activation(kind, [&](auto k) {
#pragma unroll
      for (int i = 0; i < N; ++i) x[i] = activation_value<decltype(k)::value>(x[i], alpha, beta);
    });
  }
};

}  // namespace fastdl::cuda
