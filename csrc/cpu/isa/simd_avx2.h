// Vec<T> for AVX2 + FMA. See simd.h for the meaning of each operation.
#pragma once

#include <immintrin.h>

namespace fastdl::cpu::FASTDL_ISA {

// Loading `width - n` entries in gives n lanes of ones followed by zeros.
alignas(64) static constexpr int32_t kFirst32[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};
alignas(64) static constexpr int64_t kFirst64[8] = {-1, -1, -1, -1, 0, 0, 0, 0};

FASTDL_INLINE __m256i first_lanes32(int n) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kFirst32 + 8 - n));
}
FASTDL_INLINE __m256i first_lanes64(int n) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kFirst64 + 4 - n));
}

template <>
struct Mask<float> {
  __m256 m;
  static FASTDL_INLINE Mask first(int n) { return {_mm256_castsi256_ps(first_lanes32(n))}; }
};

template <>
struct Mask<double> {
  __m256d m;
  static FASTDL_INLINE Mask first(int n) { return {_mm256_castsi256_pd(first_lanes64(n))}; }
};

template <>
struct Vec<float> {
  static constexpr int width = 8;
  __m256 v;
  static FASTDL_INLINE Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
  static FASTDL_INLINE Vec load(const float* p, int n) { return {_mm256_maskload_ps(p, first_lanes32(n))}; }
  FASTDL_INLINE void store(float* p) const { _mm256_storeu_ps(p, v); }
  FASTDL_INLINE void stream(float* p) const { _mm256_stream_ps(p, v); }
  FASTDL_INLINE void store(float* p, int n) const { _mm256_maskstore_ps(p, first_lanes32(n), v); }
  static FASTDL_INLINE Vec broadcast(float x) { return {_mm256_set1_ps(x)}; }
  static FASTDL_INLINE Vec zero() { return {_mm256_setzero_ps()}; }
  static FASTDL_INLINE Vec iota() { return {_mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7)}; }
};

template <>
struct Vec<double> {
  static constexpr int width = 4;
  __m256d v;
  static FASTDL_INLINE Vec load(const double* p) { return {_mm256_loadu_pd(p)}; }
  static FASTDL_INLINE Vec load(const double* p, int n) { return {_mm256_maskload_pd(p, first_lanes64(n))}; }
  FASTDL_INLINE void store(double* p) const { _mm256_storeu_pd(p, v); }
  FASTDL_INLINE void stream(double* p) const { _mm256_stream_pd(p, v); }
  FASTDL_INLINE void store(double* p, int n) const { _mm256_maskstore_pd(p, first_lanes64(n), v); }
  static FASTDL_INLINE Vec broadcast(double x) { return {_mm256_set1_pd(x)}; }
  static FASTDL_INLINE Vec zero() { return {_mm256_setzero_pd()}; }
  static FASTDL_INLINE Vec iota() { return {_mm256_setr_pd(0, 1, 2, 3)}; }
};

// The two types differ in the suffix of each intrinsic only.
#define FASTDL_AVX2(T, S, ALL)                                                                             \
  FASTDL_INLINE Vec<T> operator+(Vec<T> a, Vec<T> b) { return {_mm256_add_##S(a.v, b.v)}; }                \
  FASTDL_INLINE Vec<T> operator-(Vec<T> a, Vec<T> b) { return {_mm256_sub_##S(a.v, b.v)}; }                \
  FASTDL_INLINE Vec<T> operator*(Vec<T> a, Vec<T> b) { return {_mm256_mul_##S(a.v, b.v)}; }                \
  FASTDL_INLINE Vec<T> operator/(Vec<T> a, Vec<T> b) { return {_mm256_div_##S(a.v, b.v)}; }                \
  FASTDL_INLINE Vec<T> operator&(Vec<T> a, Vec<T> b) { return {_mm256_and_##S(a.v, b.v)}; }                \
  FASTDL_INLINE Vec<T> operator|(Vec<T> a, Vec<T> b) { return {_mm256_or_##S(a.v, b.v)}; }                 \
  FASTDL_INLINE Vec<T> operator^(Vec<T> a, Vec<T> b) { return {_mm256_xor_##S(a.v, b.v)}; }                \
  FASTDL_INLINE Vec<T> andnot(Vec<T> a, Vec<T> b) { return {_mm256_andnot_##S(a.v, b.v)}; }                \
  FASTDL_INLINE Vec<T> operator-(Vec<T> a) { return a ^ Vec<T>::broadcast(T(-0.0)); }                      \
  FASTDL_INLINE Vec<T> fma(Vec<T> a, Vec<T> b, Vec<T> c) { return {_mm256_fmadd_##S(a.v, b.v, c.v)}; }     \
  FASTDL_INLINE Vec<T> fnma(Vec<T> a, Vec<T> b, Vec<T> c) { return {_mm256_fnmadd_##S(a.v, b.v, c.v)}; }   \
  FASTDL_INLINE Vec<T> min(Vec<T> a, Vec<T> b) { return {_mm256_min_##S(a.v, b.v)}; }                      \
  FASTDL_INLINE Vec<T> max(Vec<T> a, Vec<T> b) { return {_mm256_max_##S(a.v, b.v)}; }                      \
  FASTDL_INLINE Vec<T> abs(Vec<T> a) { return andnot(Vec<T>::broadcast(T(-0.0)), a); }                     \
  FASTDL_INLINE Vec<T> sqrt(Vec<T> a) { return {_mm256_sqrt_##S(a.v)}; }                                   \
  FASTDL_INLINE Vec<T> floor(Vec<T> a) { return {_mm256_round_##S(a.v, 9)}; }                              \
  FASTDL_INLINE Vec<T> ceil(Vec<T> a) { return {_mm256_round_##S(a.v, 10)}; }                              \
  FASTDL_INLINE Vec<T> trunc(Vec<T> a) { return {_mm256_round_##S(a.v, 11)}; }                             \
  FASTDL_INLINE Vec<T> round_nearest(Vec<T> a) { return {_mm256_round_##S(a.v, 8)}; }                      \
  FASTDL_INLINE Vec<T> copysign(Vec<T> a, Vec<T> sign) {                                                   \
    return abs(a) | (sign & Vec<T>::broadcast(T(-0.0)));                                                   \
  }                                                                                                        \
  FASTDL_INLINE Mask<T> operator==(Vec<T> a, Vec<T> b) { return {_mm256_cmp_##S(a.v, b.v, _CMP_EQ_OQ)}; }  \
  FASTDL_INLINE Mask<T> operator!=(Vec<T> a, Vec<T> b) { return {_mm256_cmp_##S(a.v, b.v, _CMP_NEQ_UQ)}; } \
  FASTDL_INLINE Mask<T> operator<(Vec<T> a, Vec<T> b) { return {_mm256_cmp_##S(a.v, b.v, _CMP_LT_OQ)}; }   \
  FASTDL_INLINE Mask<T> operator<=(Vec<T> a, Vec<T> b) { return {_mm256_cmp_##S(a.v, b.v, _CMP_LE_OQ)}; }  \
  FASTDL_INLINE Mask<T> operator>(Vec<T> a, Vec<T> b) { return b < a; }                                    \
  FASTDL_INLINE Mask<T> operator>=(Vec<T> a, Vec<T> b) { return b <= a; }                                  \
  FASTDL_INLINE Mask<T> operator&(Mask<T> a, Mask<T> b) { return {_mm256_and_##S(a.m, b.m)}; }             \
  FASTDL_INLINE Mask<T> operator|(Mask<T> a, Mask<T> b) { return {_mm256_or_##S(a.m, b.m)}; }              \
  FASTDL_INLINE Mask<T> operator^(Mask<T> a, Mask<T> b) { return {_mm256_xor_##S(a.m, b.m)}; }             \
  FASTDL_INLINE Mask<T> operator~(Mask<T> a) { return a ^ Mask<T>::first(Vec<T>::width); }                 \
  FASTDL_INLINE bool any(Mask<T> a) { return _mm256_movemask_##S(a.m) != 0; }                              \
  FASTDL_INLINE bool all(Mask<T> a) { return _mm256_movemask_##S(a.m) == (ALL); }                          \
  FASTDL_INLINE Vec<T> select(Mask<T> m, Vec<T> a, Vec<T> b) { return {_mm256_blendv_##S(b.v, a.v, m.m)}; }

FASTDL_AVX2(float, ps, 0xff)
FASTDL_AVX2(double, pd, 0xf)
#undef FASTDL_AVX2

// Halves are combined until one lane is left.
#define FASTDL_AVX2_REDUCE(NAME, OP)                                                             \
  FASTDL_INLINE float NAME(Vec<float> a) {                                                       \
    __m128 r = _mm_##OP##_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));        \
    r = _mm_##OP##_ps(r, _mm_movehl_ps(r, r));                                                   \
    return _mm_cvtss_f32(_mm_##OP##_ss(r, _mm_movehdup_ps(r)));                                  \
  }                                                                                              \
  FASTDL_INLINE double NAME(Vec<double> a) {                                                     \
    const __m128d r = _mm_##OP##_pd(_mm256_castpd256_pd128(a.v), _mm256_extractf128_pd(a.v, 1)); \
    return _mm_cvtsd_f64(_mm_##OP##_sd(r, _mm_unpackhi_pd(r, r)));                               \
  }

FASTDL_AVX2_REDUCE(reduce_add, add)
FASTDL_AVX2_REDUCE(reduce_max, max)
FASTDL_AVX2_REDUCE(reduce_min, min)
#undef FASTDL_AVX2_REDUCE

// 2^n for integer-valued n within the normal range: adding 1.5 * 2^23 (2^52) leaves the integer in the low
// bits.
FASTDL_INLINE Vec<float> pow2(Vec<float> n) {
  const Vec<float> biased = n + Vec<float>::broadcast(12582912.f + 127.f);
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(biased.v), 23))};
}
FASTDL_INLINE Vec<double> pow2(Vec<double> n) {
  const Vec<double> biased = n + Vec<double>::broadcast(6755399441055744. + 1023.);
  return {_mm256_castsi256_pd(_mm256_slli_epi64(_mm256_castpd_si256(biased.v), 52))};
}

// In two steps, since 2^n itself may leave the normal range; a result below the normal range may round twice.
template <class T>
FASTDL_INLINE Vec<T> scale_by_pow2(Vec<T> x, Vec<T> n) {
  const Vec<T> half = floor(n * Vec<T>::broadcast(T(0.5)));
  return x * pow2(half) * pow2(n - half);
}

// Subnormals are scaled up first, so that their exponent field means something.
FASTDL_INLINE Vec<float> exponent(Vec<float> x) {
  const Mask<float> tiny = x < Vec<float>::broadcast(1.17549435e-38f);
  const Vec<float> y = select(tiny, x * Vec<float>::broadcast(16777216.f), x);
  const Vec<float> e = {_mm256_cvtepi32_ps(_mm256_srli_epi32(_mm256_castps_si256(y.v), 23))};
  return e - select(tiny, Vec<float>::broadcast(127.f + 24.f), Vec<float>::broadcast(127.f));
}
FASTDL_INLINE Vec<double> exponent(Vec<double> x) {
  const Mask<double> tiny = x < Vec<double>::broadcast(2.2250738585072014e-308);
  const Vec<double> y = select(tiny, x * Vec<double>::broadcast(9007199254740992.), x);
  const __m256i field = _mm256_srli_epi64(_mm256_castpd_si256(y.v), 52);
  const Vec<double> two52 = Vec<double>::broadcast(4503599627370496.);
  const Vec<double> e = Vec<double>{_mm256_castsi256_pd(field)} | two52;
  return (e - two52) - select(tiny, Vec<double>::broadcast(1023. + 53.), Vec<double>::broadcast(1023.));
}
FASTDL_INLINE Vec<float> mantissa(Vec<float> x) {
  const Mask<float> tiny = x < Vec<float>::broadcast(1.17549435e-38f);
  const Vec<float> y = select(tiny, x * Vec<float>::broadcast(16777216.f), x);
  const Vec<float> field = {_mm256_castsi256_ps(_mm256_set1_epi32(0x007fffff))};
  return (y & field) | Vec<float>::broadcast(1.f);
}
FASTDL_INLINE Vec<double> mantissa(Vec<double> x) {
  const Mask<double> tiny = x < Vec<double>::broadcast(2.2250738585072014e-308);
  const Vec<double> y = select(tiny, x * Vec<double>::broadcast(9007199254740992.), x);
  const Vec<double> field = {_mm256_castsi256_pd(_mm256_set1_epi64x(0x000fffffffffffff))};
  return (y & field) | Vec<double>::broadcast(1.);
}

// The unpack instructions work within 128-bit halves; exchanging halves afterwards gives the whole
// interleaving.
FASTDL_INLINE Vec<float> zip_lo(Vec<float> a, Vec<float> b) {
  return {_mm256_permute2f128_ps(_mm256_unpacklo_ps(a.v, b.v), _mm256_unpackhi_ps(a.v, b.v), 0x20)};
}
FASTDL_INLINE Vec<float> zip_hi(Vec<float> a, Vec<float> b) {
  return {_mm256_permute2f128_ps(_mm256_unpacklo_ps(a.v, b.v), _mm256_unpackhi_ps(a.v, b.v), 0x31)};
}
FASTDL_INLINE Vec<double> zip_lo(Vec<double> a, Vec<double> b) {
  return {_mm256_permute2f128_pd(_mm256_unpacklo_pd(a.v, b.v), _mm256_unpackhi_pd(a.v, b.v), 0x20)};
}
FASTDL_INLINE Vec<double> zip_hi(Vec<double> a, Vec<double> b) {
  return {_mm256_permute2f128_pd(_mm256_unpacklo_pd(a.v, b.v), _mm256_unpackhi_pd(a.v, b.v), 0x31)};
}

template <class T>
FASTDL_INLINE Mask<T> load_mask(const unsigned char* p, int n) {
  alignas(32) T lane[Vec<T>::width] = {};
  for (int i = 0; i < n; ++i) lane[i] = p[i] ? T(1) : T(0);
  return Vec<T>::load(lane) != Vec<T>::zero();
}
FASTDL_INLINE int mask_bits(Mask<float> m) { return _mm256_movemask_ps(m.m); }
FASTDL_INLINE int mask_bits(Mask<double> m) { return _mm256_movemask_pd(m.m); }
template <class T>
FASTDL_INLINE void store_mask(Mask<T> m, unsigned char* p, int n) {
  const int bits = mask_bits(m);
  for (int i = 0; i < n; ++i) p[i] = static_cast<unsigned char>(bits >> i & 1);
}

}  // namespace fastdl::cpu::FASTDL_ISA
