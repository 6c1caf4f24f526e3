// exp, expm1, log, log1p, tanh, sigmoid, erf, erfc and the normal distribution on Vec<float> and Vec<double>.
//
// Each is one branch-free algorithm for both types; only the coefficients differ (minimax fits by the Remez
// exchange; the error in each comment is the fit's, not the function's). Largest errors found, in ulp:
// exp 1.0, expm1 1.8, log 0.8, log1p 1.5, tanh 1.4, sigmoid 2.4, erf 1.6, erfc 5 (tests/test_activation.py
// holds them to that). NaN gives NaN, and the ends (infinities, overflow, subnormals, signed zeros) are those
// of the C library.
#pragma once

#include "common/gelu_fit.h"
#include "simd.h"

// On the lambdas that loops are made of: GCC would otherwise call them, and reload their constants, per
// vector.
#define FASTDL_FORCE_INLINE __attribute__((always_inline))

namespace fastdl::cpu::FASTDL_ISA {

template <class T>
struct MathConstants;

template <>
struct MathConstants<float> {
  static constexpr float round_magic = 12582912.f;  // 1.5 * 2^23: adding it rounds to an integer
  static constexpr float log2e = 1.44269504088896341f;
  // ln 2 in two parts; the first has so few bits that its product with any exponent is exact without FMA too.
  static constexpr float ln2_hi = 0.693145751953125f, ln2_lo = 1.42860682030941723212e-6f;
  static constexpr float ln2 = 0.693147180559945309f;
  static constexpr float exp_min = -104.5f, exp_max = 89.f;    // beyond: 0 and infinity
  static constexpr float expm1_min = -20.f;                    // below: -1
  static constexpr float tanh_split = 0.56f, tanh_max = 10.f;  // above tanh_max: 1
  static constexpr float tiny = 1e-12f;                        // below: expm1(x) = log1p(x) = x
  static constexpr float erf_split = 0.85f, erfc_max = 10.3f, erfcx_k = 2.f;
  // exp(r) = 1 + r + r^2 q(r) on [-ln2/2, ln2/2], 5e-11
  static constexpr float exp_q[] = {5.000000000e-01f, 1.666666716e-01f, 4.166627303e-02f,
                                    8.333264850e-03f, 1.394580933e-03f, 1.991820172e-04f};
  static constexpr float exp2_min = -150.f;  // below: 0
  // 2^f = 1 + f q(f) on [-1/2, 1/2], 3e-9
  static constexpr float exp2_q[] = {6.931472150e-01f, 2.402265278e-01f, 5.550310551e-02f,
                                     9.617692973e-03f, 1.340664390e-03f, 1.559467816e-04f};
  // log((1+s)/(1-s)) = 2s + s^3 p(s^2), 2e-9
  static constexpr float log_p[] = {6.666676402e-01f, 3.997860551e-01f, 2.984780669e-01f};
  // erf(x) = x + x p(x^2) up to erf_split, 6e-9
  static constexpr float erf_p[] = {1.283791661e-01f,  -3.761257231e-01f, 1.128271744e-01f,
                                    -2.680255100e-02f, 5.051097367e-03f,  -6.315126666e-04f};
  // tanh(x) = x + x^3 p(x^2) up to tanh_split, 1e-9
  static constexpr float tanh_p[] = {-3.333331347e-01f, 1.333248168e-01f, -5.384067073e-02f, 2.102104388e-02f,
                                     -6.199279800e-03f};
  // exp(a^2) erfc(a) (a + k) as a polynomial of (a - k) / (a + k), 2e-8
  static constexpr float erfcx_p[] = {
      1.021582723e+00f, -6.871609092e-01f, 2.794714570e-01f,  -3.643579036e-02f, -2.150195651e-02f,
      6.434897427e-03f, 3.039753996e-03f,  -7.271186914e-04f, -5.254257121e-04f, -4.448720574e-05f};
};

template <>
struct MathConstants<double> {
  static constexpr double round_magic = 6755399441055744.;  // 1.5 * 2^52
  static constexpr double log2e = 1.44269504088896340736;
  static constexpr double ln2_hi = 6.93147180369123816490e-01, ln2_lo = 1.90821492927058770002e-10;
  static constexpr double ln2 = 0.693147180559945309417;
  static constexpr double exp_min = -746., exp_max = 710.;
  static constexpr double expm1_min = -40.;
  static constexpr double tanh_split = 0.56, tanh_max = 20.;
  static constexpr double tiny = 1e-20;
  static constexpr double erf_split = 0.9, erfc_max = 28., erfcx_k = 3.;
  // 4e-18
  static constexpr double exp_q[] = {
      5.00000000000001221e-01, 1.66666666666666963e-01, 4.16666666665218427e-02, 8.33333333330805830e-03,
      1.38888889455769269e-03, 1.98412699157895069e-04, 2.48014912570101945e-05, 2.75572175570745375e-06,
      2.76308575655284471e-07, 2.51175045090993072e-08};
  static constexpr double exp2_min = -1075.;
  // 2e-17
  static constexpr double exp2_q[] = {
      6.93147180559945697e-01, 2.40226506959100980e-01, 5.55041086647903946e-02, 9.61812910760700238e-03,
      1.33335581534399647e-03, 1.54035304415721303e-04, 1.52527273851938682e-05, 1.32154426753298221e-06,
      1.01806476592341389e-07, 7.07257041281442351e-09, 4.07807192958833667e-10};
  // 3e-18
  static constexpr double log_p[] = {
      6.66666666666669849e-01, 3.99999999996119182e-01, 2.85714287038625725e-01, 2.22222021396566549e-01,
      1.81833941629551327e-01, 1.53180966966105420e-01, 1.47579804882141841e-01};
  // 6e-19
  static constexpr double erf_p[] = {
      1.28379167095512586e-01, -3.76126389031837260e-01, 1.12837916709537051e-01, -2.68661706448068520e-02,
      5.22397762160492409e-03, -8.54832675499701019e-04, 1.20553210443321592e-04, -1.49252997759691664e-05,
      1.64552143060418392e-06, -1.62754782089510876e-07, 1.40460519870676421e-08, -8.48184808153298897e-10};
  // 3e-20
  static constexpr double tanh_p[] = {
      -3.33333333333333315e-01, 1.33333333333329529e-01, -5.39682539679632034e-02, 2.18694885250207277e-02,
      -8.86323527969848368e-03, 3.59212444897870267e-03, -1.45579996580404310e-03, 5.89800889011064550e-04,
      -2.38098520873157007e-04, 9.37046316314338383e-05, -3.26242328758111891e-05, 7.25479155308738896e-06};
  // 7e-18
  static constexpr double erfcx_p[] = {
      1.07400690708833979e+00,  -8.83394453169883520e-01, 5.90228357104099377e-01,  -3.10467261900575109e-01,
      1.19527761287441359e-01,  -2.68272346242718271e-02, -1.21241663072156332e-03, 3.03406199849929822e-03,
      -5.48309650303385873e-04, -2.76777824930086775e-04, 1.07561204473841622e-04,  3.03980455755312769e-05,
      -1.74693835865052123e-05, -4.74875450169408948e-06, 2.76225113134618329e-06,  9.97548737344993826e-07,
      -4.02701760785591141e-07, -2.30896403619456275e-07, 4.07287282935203217e-08,  4.72979400092346495e-08,
      1.85459211556112450e-09,  -5.95224079230587196e-09, -1.38448824004837627e-09};
};

template <class T>
FASTDL_INLINE Vec<T> constant(double x) {
  return Vec<T>::broadcast(static_cast<T>(x));
}

// c[0] + c[1] x + c[2] x^2 + ... by Horner's rule.
template <int I, class T, int N>
FASTDL_INLINE Vec<T> polynomial_from(Vec<T> x, const T (&c)[N]) {
  if constexpr (I == N - 1) return Vec<T>::broadcast(c[I]);
  else return fma(polynomial_from<I + 1>(x, c), x, Vec<T>::broadcast(c[I]));
}
template <class T, int N>
FASTDL_INLINE Vec<T> polynomial(Vec<T> x, const T (&c)[N]) {
  return polynomial_from<0>(x, c);
}

// The same from two chains of half the length, the even and the odd powers: for loops that do little else,
// and would fill the scheduler with operations that wait for each other.
template <int I, class T, int N>
FASTDL_INLINE Vec<T> every_other_from(Vec<T> square, const T (&c)[N]) {
  if constexpr (I + 2 >= N) return Vec<T>::broadcast(c[I]);
  else return fma(every_other_from<I + 2>(square, c), square, Vec<T>::broadcast(c[I]));
}
template <class T, int N>
FASTDL_INLINE Vec<T> long_polynomial(Vec<T> x, const T (&c)[N]) {
  const Vec<T> square = x * x;
  return fma(every_other_from<1>(square, c), x, every_other_from<0>(square, c));
}

// x = n ln2 + r with |r| <= ln2 / 2; returns exp(r) - 1.
template <class T>
FASTDL_INLINE Vec<T> reduced_expm1(Vec<T> x, Vec<T>& n) {
  using C = MathConstants<T>;
  const Vec<T> magic = Vec<T>::broadcast(C::round_magic);
  n = fma(x, Vec<T>::broadcast(C::log2e), magic) - magic;
  const Vec<T> r = fnma(n, Vec<T>::broadcast(C::ln2_lo), fnma(n, Vec<T>::broadcast(C::ln2_hi), x));
  return fma(r * r, polynomial(r, C::exp_q), r);
}

// min and max give their second operand when one is NaN, so clamping in this order keeps NaN.
template <class T>
FASTDL_INLINE Vec<T> exp(Vec<T> x) {
  using C = MathConstants<T>;
  x = min(Vec<T>::broadcast(C::exp_max), max(Vec<T>::broadcast(C::exp_min), x));
  Vec<T> n;
  const Vec<T> p = reduced_expm1(x, n);
  return scale_by_pow2(p + constant<T>(1), n);
}

// exp(x) for x up to 88, what the exponentials of a softmax need. ln 2 is not split: what that adds to the
// error, 4e-9 x of the result, is little beside what rounding x, a difference, did. NaN gives NaN.
template <class T>
FASTDL_INLINE Vec<T> exp_bounded(Vec<T> x) {
  using C = MathConstants<T>;
  const Vec<T> magic = Vec<T>::broadcast(C::round_magic);
  x = max(Vec<T>::broadcast(C::exp_min), x);
  const Vec<T> n = fma(x, Vec<T>::broadcast(C::log2e), magic) - magic;
  const Vec<T> r = fnma(n, Vec<T>::broadcast(C::ln2), x);
  return scale_by_pow2(fma(r * r, polynomial(r, C::exp_q), r) + constant<T>(1), n);
}

// 2^x for x up to 127 (1023), what the exponentials of a softmax need: its base is the caller's to choose,
// and with base 2 the reduction is exact and needs no constants of ln 2. 1 ulp; -inf gives 0, NaN gives NaN.
template <class T>
FASTDL_INLINE Vec<T> exp2_bounded(Vec<T> x) {
  using C = MathConstants<T>;
  const Vec<T> magic = Vec<T>::broadcast(C::round_magic);
  x = max(Vec<T>::broadcast(C::exp2_min), x);
  const Vec<T> n = (x + magic) - magic, f = x - n;
  return scale_by_pow2(fma(f, polynomial(f, C::exp2_q), constant<T>(1)), n);
}

// 2^n (p + 1) - 1, with half of 2^n so that it does not overflow before the result does.
template <class T>
FASTDL_INLINE Vec<T> expm1(Vec<T> x0) {
  using C = MathConstants<T>;
  const Vec<T> x = min(Vec<T>::broadcast(C::exp_max), max(Vec<T>::broadcast(C::expm1_min), x0));
  Vec<T> n;
  const Vec<T> p = reduced_expm1(x, n);
  const Vec<T> half = scale_by_pow2(constant<T>(0.5), n);
  const Vec<T> y = fma(half, p, half - constant<T>(0.5));
  return select(abs(x0) < Vec<T>::broadcast(C::tiny), x0, y + y);
}

// log of 2^e (1 + f), |f| small: s = f / (2 + f), log (1 + f) = 2 atanh s.
template <class T>
FASTDL_INLINE Vec<T> log_from_parts(Vec<T> f, Vec<T> e) {
  using C = MathConstants<T>;
  const Vec<T> s = f / (f + constant<T>(2)), z = s * s, h = constant<T>(0.5) * f * f;
  // log m = f - (h - s (h + R)): the large terms f and h are exact or nearly so, the rest is small.
  const Vec<T> t = fma(s, fma(z, polynomial(z, C::log_p), h), e * Vec<T>::broadcast(C::ln2_lo));
  return fma(e, Vec<T>::broadcast(C::ln2_hi), f - (h - t));
}

template <class T>
FASTDL_INLINE Vec<T> log_positive(Vec<T> x) {
  const Vec<T> one = constant<T>(1);
  Vec<T> e = exponent(x), m = mantissa(x);
  const Mask<T> big = m > constant<T>(1.41421356237309505);
  m = select(big, m * constant<T>(0.5), m);
  e = select(big, e + one, e);
  return log_from_parts(m - one, e);
}

template <class T>
FASTDL_INLINE Vec<T> log(Vec<T> x) {
  const Vec<T> infinity = constant<T>(__builtin_inf()), nan = constant<T>(__builtin_nan(""));
  const Vec<T> y = select(x < infinity, log_positive(x), x);
  return select(x > Vec<T>::zero(), y, select(x == Vec<T>::zero(), -infinity, nan));
}

// log u + c / u where u = 1 + x rounded and c what the rounding lost.
template <class T>
FASTDL_INLINE Vec<T> log1p(Vec<T> x) {
  using C = MathConstants<T>;
  const Vec<T> one = constant<T>(1), u = x + one;
  const Vec<T> infinity = constant<T>(__builtin_inf()), nan = constant<T>(__builtin_nan(""));
  const Vec<T> c = select(x > one, one - (u - x), x - (u - one));
  Vec<T> y = select(x < infinity, log_positive(u) + c / u, x);
  y = select(u > Vec<T>::zero(), y, select(u == Vec<T>::zero(), -infinity, nan));
  return select(abs(x) < Vec<T>::broadcast(C::tiny), x, y);
}

// For x in [0, 1] (or NaN), what softplus and its kin need: 1 + x is never rounded, x or (x - 1) / 2 is used
// as it is.
template <class T>
FASTDL_INLINE Vec<T> log1p_unit(Vec<T> x) {
  const Vec<T> one = constant<T>(1);
  const Mask<T> big = x > constant<T>(0.41421356237309505);
  return log_from_parts(select(big, (x - one) * constant<T>(0.5), x), select(big, one, Vec<T>::zero()));
}

// An odd polynomial near 0, then 1 - 2 / (exp(2 |x|) + 1), where what is taken from 1 is at most a half.
template <class T>
FASTDL_INLINE Vec<T> tanh(Vec<T> x) {
  using C = MathConstants<T>;
  const Vec<T> a = min(Vec<T>::broadcast(C::tanh_max), abs(x)), z = a * a, two = constant<T>(2);
  const Vec<T> small = fma(a * z, polynomial(z, C::tanh_p), a);
  const Vec<T> large = constant<T>(1) - two / (exp(a + a) + constant<T>(1));
  return copysign(select(a < Vec<T>::broadcast(C::tanh_split), small, large), x);
}

// 1 / (1 + exp(-x)), from exp(-|x|) so that nothing overflows and the left tail keeps its relative accuracy.
template <class T>
FASTDL_INLINE Vec<T> sigmoid(Vec<T> x) {
  const Vec<T> one = constant<T>(1), e = exp(-abs(x));
  return select(x >= Vec<T>::zero(), one, e) / (one + e);
}

// exp(a^2) erfc(a) for 0 <= a <= erfc_max.
template <class T>
FASTDL_INLINE Vec<T> erfcx(Vec<T> a) {
  using C = MathConstants<T>;
  const Vec<T> k = Vec<T>::broadcast(C::erfcx_k), r = constant<T>(1) / (a + k);
  return r * polynomial((a - k) * r, C::erfcx_p);
}

// What rounding took from a * a: one FMA, or else Dekker's product of the two halves of a's digits.
template <class T>
FASTDL_INLINE Vec<T> square_residue(Vec<T> a, Vec<T> square) {
#if FASTDL_ISA_ID == FASTDL_ISA_ID_generic
  const Vec<T> c = a * constant<T>(sizeof(T) == 4 ? 4097. : 134217729.);
  const Vec<T> high = c - (c - a), low = a - high;
  return ((high * high - square) + (high + high) * low) + low * low;
#else
  return fma(a, a, -square);
#endif
}

// exp(-scale a^2), accurate although a^2 is rounded.
template <class T>
FASTDL_INLINE Vec<T> exp_minus_square(Vec<T> a, double scale) {
  const Vec<T> k = constant<T>(scale), square = a * a;
  const Vec<T> e = exp(-(k * square));
  return fnma(e, k * square_residue(a, square), e);
}

// erfc(a) for a >= 0 (or NaN).
template <class T>
FASTDL_INLINE Vec<T> erfc_nonnegative(Vec<T> a) {
  a = min(Vec<T>::broadcast(MathConstants<T>::erfc_max), a);
  return exp_minus_square(a, 1) * erfcx(a);
}

template <class T>
FASTDL_INLINE Vec<T> erfc(Vec<T> x) {
  const Vec<T> tail = erfc_nonnegative(abs(x));
  return select(x < Vec<T>::zero(), constant<T>(2) - tail, tail);
}

template <class T>
FASTDL_INLINE Vec<T> erf(Vec<T> x) {
  using C = MathConstants<T>;
  const Vec<T> a = abs(x);
  const Vec<T> small = fma(x, polynomial(x * x, C::erf_p), x);
  const Vec<T> large = copysign(constant<T>(1) - erfc_nonnegative(a), x);
  return select(a < Vec<T>::broadcast(C::erf_split), small, large);
}

// The normal distribution function P(X <= x); density gets exp(-x^2 / 2) / sqrt(2 pi).
template <class T>
FASTDL_INLINE Vec<T> normal_cdf(Vec<T> x, Vec<T>& density) {
  const Vec<T> a = min(constant<T>(MathConstants<T>::erfc_max * 1.4142), abs(x));
  const Vec<T> e = exp_minus_square(a, 0.5);
  const Vec<T> tail = constant<T>(0.5) * e * erfcx(a * constant<T>(0.70710678118654752440));
  density = e * constant<T>(0.39894228040143267794);
  return select(x < Vec<T>::zero(), tail, constant<T>(1) - tail);
}

// 1/2 + x p(2 x^2 / max^2 - 1): an odd function plus 1/2 by a polynomial alone, without the exponential that
// only the far tails need.
template <class Fit>
FASTDL_INLINE Vec<float> half_plus_odd(Vec<float> x) {
  constexpr float limit = Fit::limit * Fit::limit;
  const Vec<float> square = min(constant<float>(limit), x * x);
  const Vec<float> u = fma(square, constant<float>(2.0 / limit), constant<float>(-1));
  return fma(x, long_polynomial(u, Fit::p), constant<float>(0.5));
}

// x P(X <= x). In float32 within some 2^-22.5 |x|, so that the left tail beyond -5 is lost; that is what
// gelu's users and other libraries expect, and takes half the time.
FASTDL_INLINE Vec<float> gelu(Vec<float> x) {
  const Vec<float> cdf = half_plus_odd<NormalCdfFit>(x);
  return x * min(constant<float>(1), max(Vec<float>::zero(), cdf));
}
FASTDL_INLINE Vec<float> gelu_slope(Vec<float> x) {
  const Vec<float> limit = constant<float>(GeluSlopeFit::limit);
  return half_plus_odd<GeluSlopeFit>(min(limit, max(-limit, x)));
}
FASTDL_INLINE Vec<double> gelu(Vec<double> x) {
  Vec<double> density;
  return x * normal_cdf(x, density);
}
FASTDL_INLINE Vec<double> gelu_slope(Vec<double> x) {
  Vec<double> density;
  const Vec<double> cdf = normal_cdf(x, density);
  return fma(x, density, cdf);
}

}  // namespace fastdl::cpu::FASTDL_ISA
