// Vec<T> for AVX-512 (F, BW, VL, DQ). See simd.h for the meaning of each operation.
#pragma once

// GCC 12's own header declares undefined vectors as `__m512 y = y` and then warns about them wherever it is
// inlined.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

namespace fastdl::cpu::FASTDL_ISA {

template <>
struct Mask<float> {
  __mmask16 m;
  static FASTDL_INLINE Mask first(int n) { return {static_cast<__mmask16>((1u << n) - 1u)}; }
};

template <>
struct Mask<double> {
  __mmask8 m;
  static FASTDL_INLINE Mask first(int n) { return {static_cast<__mmask8>((1u << n) - 1u)}; }
};

template <>
struct Vec<float> {
  static constexpr int width = 16;
  __m512 v;
  static FASTDL_INLINE Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static FASTDL_INLINE Vec load(const float* p, int n) {
    return {_mm512_maskz_loadu_ps(Mask<float>::first(n).m, p)};
  }
  FASTDL_INLINE void store(float* p) const { _mm512_storeu_ps(p, v); }
  FASTDL_INLINE void stream(float* p) const { _mm512_stream_ps(p, v); }
  FASTDL_INLINE void store(float* p, int n) const { _mm512_mask_storeu_ps(p, Mask<float>::first(n).m, v); }
  static FASTDL_INLINE Vec broadcast(float x) { return {_mm512_set1_ps(x)}; }
  static FASTDL_INLINE Vec zero() { return {_mm512_setzero_ps()}; }
  static FASTDL_INLINE Vec iota() {
    return {_mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)};
  }
};

template <>
struct Vec<double> {
  static constexpr int width = 8;
  __m512d v;
  static FASTDL_INLINE Vec load(const double* p) { return {_mm512_loadu_pd(p)}; }
  static FASTDL_INLINE Vec load(const double* p, int n) {
    return {_mm512_maskz_loadu_pd(Mask<double>::first(n).m, p)};
  }
  FASTDL_INLINE void store(double* p) const { _mm512_storeu_pd(p, v); }
  FASTDL_INLINE void stream(double* p) const { _mm512_stream_pd(p, v); }
  FASTDL_INLINE void store(double* p, int n) const { _mm512_mask_storeu_pd(p, Mask<double>::first(n).m, v); }
  static FASTDL_INLINE Vec broadcast(double x) { return {_mm512_set1_pd(x)}; }
  static FASTDL_INLINE Vec zero() { return {_mm512_setzero_pd()}; }
  static FASTDL_INLINE Vec iota() { return {_mm512_setr_pd(0, 1, 2, 3, 4, 5, 6, 7)}; }
};

// The two types differ in the suffix of each intrinsic only.
#define FASTDL_AVX512(T, S, MASKT)                                                                       \
  FASTDL_INLINE Vec<T> operator+(Vec<T> a, Vec<T> b) { return {_mm512_add_##S(a.v, b.v)}; }              \
  FASTDL_INLINE Vec<T> operator-(Vec<T> a, Vec<T> b) { return {_mm512_sub_##S(a.v, b.v)}; }              \
  FASTDL_INLINE Vec<T> operator*(Vec<T> a, Vec<T> b) { return {_mm512_mul_##S(a.v, b.v)}; }              \
  FASTDL_INLINE Vec<T> operator/(Vec<T> a, Vec<T> b) { return {_mm512_div_##S(a.v, b.v)}; }              \
  FASTDL_INLINE Vec<T> operator&(Vec<T> a, Vec<T> b) { return {_mm512_and_##S(a.v, b.v)}; }              \
  FASTDL_INLINE Vec<T> operator|(Vec<T> a, Vec<T> b) { return {_mm512_or_##S(a.v, b.v)}; }               \
  FASTDL_INLINE Vec<T> operator^(Vec<T> a, Vec<T> b) { return {_mm512_xor_##S(a.v, b.v)}; }              \
  FASTDL_INLINE Vec<T> andnot(Vec<T> a, Vec<T> b) { return {_mm512_andnot_##S(a.v, b.v)}; }              \
  FASTDL_INLINE Vec<T> operator-(Vec<T> a) { return a ^ Vec<T>::broadcast(T(-0.0)); }                    \
  FASTDL_INLINE Vec<T> fma(Vec<T> a, Vec<T> b, Vec<T> c) { return {_mm512_fmadd_##S(a.v, b.v, c.v)}; }   \
  FASTDL_INLINE Vec<T> fnma(Vec<T> a, Vec<T> b, Vec<T> c) { return {_mm512_fnmadd_##S(a.v, b.v, c.v)}; } \
  FASTDL_INLINE Vec<T> min(Vec<T> a, Vec<T> b) { return {_mm512_min_##S(a.v, b.v)}; }                    \
  FASTDL_INLINE Vec<T> max(Vec<T> a, Vec<T> b) { return {_mm512_max_##S(a.v, b.v)}; }                    \
  FASTDL_INLINE Vec<T> abs(Vec<T> a) { return andnot(Vec<T>::broadcast(T(-0.0)), a); }                   \
  FASTDL_INLINE Vec<T> sqrt(Vec<T> a) { return {_mm512_sqrt_##S(a.v)}; }                                 \
  FASTDL_INLINE Vec<T> floor(Vec<T> a) { return {_mm512_roundscale_##S(a.v, 9)}; }                       \
  FASTDL_INLINE Vec<T> ceil(Vec<T> a) { return {_mm512_roundscale_##S(a.v, 10)}; }                       \
  FASTDL_INLINE Vec<T> trunc(Vec<T> a) { return {_mm512_roundscale_##S(a.v, 11)}; }                      \
  FASTDL_INLINE Vec<T> round_nearest(Vec<T> a) { return {_mm512_roundscale_##S(a.v, 8)}; }               \
  FASTDL_INLINE Vec<T> copysign(Vec<T> a, Vec<T> sign) {                                                 \
    return abs(a) | (sign & Vec<T>::broadcast(T(-0.0)));                                                 \
  }                                                                                                      \
  FASTDL_INLINE Mask<T> operator==(Vec<T> a, Vec<T> b) {                                                 \
    return {_mm512_cmp_##S##_mask(a.v, b.v, _CMP_EQ_OQ)};                                                \
  }                                                                                                      \
  FASTDL_INLINE Mask<T> operator!=(Vec<T> a, Vec<T> b) {                                                 \
    return {_mm512_cmp_##S##_mask(a.v, b.v, _CMP_NEQ_UQ)};                                               \
  }                                                                                                      \
  FASTDL_INLINE Mask<T> operator<(Vec<T> a, Vec<T> b) {                                                  \
    return {_mm512_cmp_##S##_mask(a.v, b.v, _CMP_LT_OQ)};                                                \
  }                                                                                                      \
  FASTDL_INLINE Mask<T> operator<=(Vec<T> a, Vec<T> b) {                                                 \
    return {_mm512_cmp_##S##_mask(a.v, b.v, _CMP_LE_OQ)};                                                \
  }                                                                                                      \
  FASTDL_INLINE Mask<T> operator>(Vec<T> a, Vec<T> b) { return b < a; }                                  \
  FASTDL_INLINE Mask<T> operator>=(Vec<T> a, Vec<T> b) { return b <= a; }                                \
  FASTDL_INLINE Mask<T> operator&(Mask<T> a, Mask<T> b) { return {static_cast<MASKT>(a.m & b.m)}; }      \
  FASTDL_INLINE Mask<T> operator|(Mask<T> a, Mask<T> b) { return {static_cast<MASKT>(a.m | b.m)}; }      \
  FASTDL_INLINE Mask<T> operator^(Mask<T> a, Mask<T> b) { return {static_cast<MASKT>(a.m ^ b.m)}; }      \
  FASTDL_INLINE Mask<T> operator~(Mask<T> a) { return {static_cast<MASKT>(~a.m)}; }                      \
  FASTDL_INLINE bool any(Mask<T> a) { return a.m != 0; }                                                 \
  FASTDL_INLINE bool all(Mask<T> a) { return a.m == static_cast<MASKT>(~0u); }                           \
  FASTDL_INLINE Vec<T> select(Mask<T> m, Vec<T> a, Vec<T> b) {                                           \
    return {_mm512_mask_blend_##S(m.m, b.v, a.v)};                                                       \
  }                                                                                                      \
  FASTDL_INLINE T reduce_add(Vec<T> a) { return _mm512_reduce_add_##S(a.v); }                            \
  FASTDL_INLINE T reduce_max(Vec<T> a) { return _mm512_reduce_max_##S(a.v); }                            \
  FASTDL_INLINE T reduce_min(Vec<T> a) { return _mm512_reduce_min_##S(a.v); }                            \
  FASTDL_INLINE Vec<T> scale_by_pow2(Vec<T> x, Vec<T> n) { return {_mm512_scalef_##S(x.v, n.v)}; }       \
  FASTDL_INLINE Vec<T> exponent(Vec<T> x) { return {_mm512_getexp_##S(x.v)}; }                           \
  FASTDL_INLINE Vec<T> mantissa(Vec<T> x) {                                                              \
    return {_mm512_getmant_##S(x.v, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_src)};                              \
  }

FASTDL_AVX512(float, ps, __mmask16)
FASTDL_AVX512(double, pd, __mmask8)
#undef FASTDL_AVX512

FASTDL_INLINE Vec<float> zip_lo(Vec<float> a, Vec<float> b) {
  const __m512i i = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  return {_mm512_permutex2var_ps(a.v, i, b.v)};
}
FASTDL_INLINE Vec<float> zip_hi(Vec<float> a, Vec<float> b) {
  const __m512i i = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  return {_mm512_permutex2var_ps(a.v, i, b.v)};
}
FASTDL_INLINE Vec<double> zip_lo(Vec<double> a, Vec<double> b) {
  return {_mm512_permutex2var_pd(a.v, _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11), b.v)};
}
FASTDL_INLINE Vec<double> zip_hi(Vec<double> a, Vec<double> b) {
  return {_mm512_permutex2var_pd(a.v, _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15), b.v)};
}

template <class T>
FASTDL_INLINE Mask<T> load_mask(const unsigned char* p, int n) {
  const __m128i bytes = _mm_maskz_loadu_epi8(static_cast<__mmask16>((1u << n) - 1u), p);
  return {static_cast<decltype(Mask<T>::m)>(_mm_test_epi8_mask(bytes, bytes))};
}
template <class T>
FASTDL_INLINE void store_mask(Mask<T> m, unsigned char* p, int n) {
  _mm_mask_storeu_epi8(p, static_cast<__mmask16>((1u << n) - 1u), _mm_maskz_set1_epi8(m.m, 1));
}

}  // namespace fastdl::cpu::FASTDL_ISA
