// Loads and stores that convert between the type elements are stored in and the type they are computed with,
// so that a kernel written on Vec<compute_t<S>> serves S = float, double, bfloat16 and float16:
//   load_as(p), load_as(p, n)            Vec<compute_t<S>> from S* p; n as for Vec::load
//   store_as(v, p), store_as(v, p, n)    rounds to nearest, ties to even; NaN becomes a quiet NaN
//   store_pair_as(v, w, p)               two vectors of float
//   load_two(p), store_two(t, p)         two vectors in some order, the same for both: for work element by
//   element to_compute(s), to_storage<S>(x)      one element
// Every instruction set gives the same bits: subnormals are kept, and so are the sign and the upper bits of a
// NaN.
#pragma once

#include "common/narrow.h"
#include "simd.h"

namespace fastdl::cpu::FASTDL_ISA {

template <class T = float>
FASTDL_INLINE Vec<T> load_as(const float* p) {
  return Vec<T>::load(p);
}
template <class T = float>
FASTDL_INLINE Vec<T> load_as(const float* p, int n) {
  return Vec<T>::load(p, n);
}
template <class T = double>
FASTDL_INLINE Vec<T> load_as(const double* p) {
  return Vec<T>::load(p);
}
template <class T = double>
FASTDL_INLINE Vec<T> load_as(const double* p, int n) {
  return Vec<T>::load(p, n);
}
template <class T>
FASTDL_INLINE void store_as(Vec<T> v, T* p) {
  v.store(p);
}
template <class T>
FASTDL_INLINE void store_as(Vec<T> v, T* p, int n) {
  v.store(p, n);
}

// The conversions of one element, on its bits. Written without branches: the compiler turns loops over lanes
// into vectors.
FASTDL_INLINE float float_of(uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, 4);
  return x;
}
FASTDL_INLINE uint32_t bits_of(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  return bits;
}

FASTDL_INLINE float to_compute(bfloat16 s) { return float_of(static_cast<uint32_t>(s.bits) << 16); }

FASTDL_INLINE float to_compute(float16 s) {
  // Moved into place, the exponent is too small by the difference of the biases, 112: a factor that is exact
  // and brings subnormals to their normal form as well. Inf and NaN get the largest exponent.
  const uint32_t magnitude = static_cast<uint32_t>(s.bits & 0x7fffu) << 13;
  const uint32_t sign = static_cast<uint32_t>(s.bits & 0x8000u) << 16;
  const uint32_t finite = bits_of(float_of(magnitude) * 5.192296858534828e33f);  // 2^112
  const uint32_t quiet = magnitude > 0x0f800000u ? 0x00400000u : 0u;
  return float_of(sign | (magnitude >= 0x0f800000u ? magnitude | 0x7f800000u | quiet : finite));
}

template <class S>
S to_storage(compute_t<S> x);

template <>
FASTDL_INLINE bfloat16 to_storage<bfloat16>(float x) {
  const uint32_t u = bits_of(x);
  // Just below half of the last kept place, or half if that place is odd: a carry then rounds to even.
  const uint32_t rounded = (u + 0x7fffu + (u >> 16 & 1u)) >> 16;
  const uint32_t quiet = u >> 16 | 0x40u;
  return {static_cast<uint16_t>((u & 0x7fffffffu) > 0x7f800000u ? quiet : rounded)};
}

template <>
FASTDL_INLINE float16 to_storage<float16>(float x) {
  const uint32_t u = bits_of(x), magnitude = u & 0x7fffffffu, sign = u >> 16 & 0x8000u;
  // From 2^-14 on: the exponent rebiased, 13 bits rounded off; a carry out of the mantissa raises the
  // exponent.
  const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  // Below: a sum whose last place is 2^-24, half precision's smallest step, is rounded by the addition
  // itself.
  const uint32_t subnormal = bits_of(float_of(magnitude) + 0.5f) - 0x3f000000u;
  const uint32_t nan = 0x7e00u | (magnitude >> 13 & 0x3ffu);
  const uint32_t finite = magnitude < 0x38800000u ? subnormal : magnitude < 0x477ff000u ? normal : 0x7c00u;
  return {static_cast<uint16_t>(sign | (magnitude > 0x7f800000u ? nan : finite))};
}

template <>
FASTDL_INLINE float to_storage<float>(float x) {
  return x;
}
template <>
FASTDL_INLINE double to_storage<double>(double x) {
  return x;
}
FASTDL_INLINE float to_compute(float x) { return x; }
FASTDL_INLINE double to_compute(double x) { return x; }

#if FASTDL_ISA_ID == 3 || FASTDL_ISA_ID >= 5

FASTDL_INLINE Vec<float> widened(__m256i bits, bfloat16) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
}
FASTDL_INLINE Vec<float> widened(__m256i bits, float16) { return {_mm512_cvtph_ps(bits)}; }

// The rounded number in the upper half of each lane.
FASTDL_INLINE __m512i rounded_high(Vec<float> x) {
  const __m512i u = _mm512_castps_si512(x.v);
  const __mmask16 odd = _mm512_test_epi32_mask(u, _mm512_set1_epi32(0x10000));
  const __mmask16 nan = _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q);
  __m512i r = _mm512_add_epi32(u, _mm512_set1_epi32(0x7fff));
  r = _mm512_mask_add_epi32(r, odd, r, _mm512_set1_epi32(1));
  return _mm512_mask_or_epi32(r, nan, u, _mm512_set1_epi32(0x400000));
}
FASTDL_INLINE __m256i narrowed(Vec<float> x, bfloat16) {
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded_high(x), 16));
}
FASTDL_INLINE __m256i narrowed(Vec<float> x, float16) {
  return _mm512_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

FASTDL_INLINE __m256i load_narrow(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}
FASTDL_INLINE __m256i load_narrow(const void* p, int n) {
  return _mm256_maskz_loadu_epi16(Mask<float>::first(n).m, p);
}
FASTDL_INLINE void store_narrow(__m256i v, void* p) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }
FASTDL_INLINE void store_narrow(__m256i v, void* p, int n) {
  _mm256_mask_storeu_epi16(p, Mask<float>::first(n).m, v);
}

#elif FASTDL_ISA_ID == 2

FASTDL_INLINE Vec<float> widened(__m128i bits, bfloat16) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16))};
}
FASTDL_INLINE Vec<float> widened(__m128i bits, float16) { return {_mm256_cvtph_ps(bits)}; }

FASTDL_INLINE __m128i narrowed(Vec<float> x, bfloat16) {
  const __m256i u = _mm256_castps_si256(x.v), kept = _mm256_srli_epi32(u, 16);
  const __m256i odd = _mm256_and_si256(kept, _mm256_set1_epi32(1));
  const __m256i rounded =
      _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), odd), 16);
  const __m256i quiet = _mm256_or_si256(kept, _mm256_set1_epi32(0x40));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x.v, x.v, _CMP_UNORD_Q));
  const __m256i words = _mm256_blendv_epi8(rounded, quiet, nan);
  return _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
}
FASTDL_INLINE __m128i narrowed(Vec<float> x, float16) {
  return _mm256_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

// There are no masked loads and stores of 16-bit lanes: partial vectors go through memory.
FASTDL_INLINE __m128i load_narrow(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
FASTDL_INLINE __m128i load_narrow(const void* p, int n) {
  alignas(16) uint16_t lanes[8] = {};
  for (int i = 0; i < n; ++i) lanes[i] = static_cast<const bfloat16*>(p)[i].bits;
  return _mm_load_si128(reinterpret_cast<const __m128i*>(lanes));
}
FASTDL_INLINE void store_narrow(__m128i v, void* p) { _mm_storeu_si128(static_cast<__m128i*>(p), v); }
FASTDL_INLINE void store_narrow(__m128i v, void* p, int n) {
  alignas(16) uint16_t lanes[8];
  _mm_store_si128(reinterpret_cast<__m128i*>(lanes), v);
  for (int i = 0; i < n; ++i) static_cast<bfloat16*>(p)[i].bits = lanes[i];
}

#elif FASTDL_ISA_ID == FASTDL_ISA_ID_neon

FASTDL_INLINE Vec<float> widened(uint16x4_t bits, bfloat16) {
  return {vreinterpretq_f32_u32(vshll_n_u16(bits, 16))};
}
FASTDL_INLINE Vec<float> widened(uint16x4_t bits, float16) {
  return {vcvt_f32_f16(vreinterpret_f16_u16(bits))};
}

FASTDL_INLINE uint16x4_t narrowed(Vec<float> x, bfloat16) {
  const uint32x4_t u = bits(x), odd = vandq_u32(vshrq_n_u32(u, 16), vdupq_n_u32(1));
  const uint32x4_t rounded = vaddq_u32(vaddq_u32(u, vdupq_n_u32(0x7fff)), odd);
  const uint32x4_t quiet = vorrq_u32(u, vdupq_n_u32(0x400000));
  return vshrn_n_u32(vbslq_u32(isnan(x).m, quiet, rounded), 16);
}
FASTDL_INLINE uint16x4_t narrowed(Vec<float> x, float16) { return vreinterpret_u16_f16(vcvt_f16_f32(x.v)); }

FASTDL_INLINE uint16x4_t load_narrow(const void* p) { return vld1_u16(static_cast<const uint16_t*>(p)); }
FASTDL_INLINE uint16x4_t load_narrow(const void* p, int n) {
  uint16_t lanes[4] = {};
  for (int i = 0; i < n; ++i) lanes[i] = static_cast<const bfloat16*>(p)[i].bits;
  return vld1_u16(lanes);
}
FASTDL_INLINE void store_narrow(uint16x4_t v, void* p) { vst1_u16(static_cast<uint16_t*>(p), v); }
FASTDL_INLINE void store_narrow(uint16x4_t v, void* p, int n) {
  uint16_t lanes[4];
  vst1_u16(lanes, v);
  for (int i = 0; i < n; ++i) static_cast<bfloat16*>(p)[i].bits = lanes[i];
}

#else

struct NarrowLanes {
  uint16_t lane[Vec<float>::width];
};

template <class S>
FASTDL_INLINE Vec<float> widened(NarrowLanes bits, S) {
  float x[Vec<float>::width];
  for (int i = 0; i < Vec<float>::width; ++i) x[i] = to_compute(S{bits.lane[i]});
  return Vec<float>::load(x);
}
template <class S>
FASTDL_INLINE NarrowLanes narrowed(Vec<float> v, S) {
  float x[Vec<float>::width];
  v.store(x);
  NarrowLanes bits;
  for (int i = 0; i < Vec<float>::width; ++i) bits.lane[i] = to_storage<S>(x[i]).bits;
  return bits;
}

FASTDL_INLINE NarrowLanes load_narrow(const void* p, int n = Vec<float>::width) {
  NarrowLanes bits;
  for (int i = 0; i < Vec<float>::width; ++i) {
    bits.lane[i] = 0;
    if (i < n) bits.lane[i] = static_cast<const bfloat16*>(p)[i].bits;
  }
  return bits;
}
FASTDL_INLINE void store_narrow(NarrowLanes bits, void* p, int n = Vec<float>::width) {
  for (int i = 0; i < Vec<float>::width; ++i)
    if (i < n) static_cast<bfloat16*>(p)[i].bits = bits.lane[i];
}

#endif

#define FASTDL_NARROW(S)                                                                 \
  template <class T = float>                                                             \
  FASTDL_INLINE Vec<T> load_as(const S* p) {                                             \
    return widened(load_narrow(p), S{});                                                 \
  }                                                                                      \
  template <class T = float>                                                             \
  FASTDL_INLINE Vec<T> load_as(const S* p, int n) {                                      \
    return widened(load_narrow(p, n), S{});                                              \
  }                                                                                      \
  FASTDL_INLINE void store_as(Vec<float> v, S* p) { store_narrow(narrowed(v, S{}), p); } \
  FASTDL_INLINE void store_as(Vec<float> v, S* p, int n) { store_narrow(narrowed(v, S{}), p, n); }

FASTDL_NARROW(bfloat16)
FASTDL_NARROW(float16)
#undef FASTDL_NARROW

// Two vectors, which follow one another in memory: for bfloat16 this saves half the work of packing.
template <class S>
FASTDL_INLINE void store_pair_as(Vec<float> v, Vec<float> w, S* p) {
  store_as(v, p);
  store_as(w, p + Vec<float>::width);
}
#if FASTDL_ISA_ID == 3 || FASTDL_ISA_ID >= 5
template <>
FASTDL_INLINE void store_pair_as(Vec<float> v, Vec<float> w, bfloat16* p) {
  alignas(64) static constexpr uint16_t upper[32] = {1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21,
                                                     23, 25, 27, 29, 31, 33, 35, 37, 39, 41, 43,
                                                     45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
  const __m512i index = _mm512_load_si512(upper);
  _mm512_storeu_si512(p, _mm512_permutex2var_epi16(rounded_high(v), index, rounded_high(w)));
}
#endif

template <class T>
struct Two {
  Vec<T> a, b;
};
template <class S>
FASTDL_INLINE Two<compute_t<S>> load_two(const S* p) {
  return {load_as(p), load_as(p + Vec<compute_t<S>>::width)};
}
template <class S>
FASTDL_INLINE void store_two(Two<compute_t<S>> t, S* p) {
  store_as(t.a, p);
  store_as(t.b, p + Vec<compute_t<S>>::width);
}
#if FASTDL_ISA_ID == 3
// The even and the odd elements: no shuffles, and all 32 are rounded at once.
template <>
FASTDL_INLINE Two<float> load_two(const bfloat16* p) {
  const __m512i u = _mm512_loadu_si512(p), high = _mm512_set1_epi32(-65536);
  return {{_mm512_castsi512_ps(_mm512_slli_epi32(u, 16))}, {_mm512_castsi512_ps(_mm512_and_si512(u, high))}};
}
template <>
FASTDL_INLINE void store_two(Two<float> t, bfloat16* p) {
  constexpr int kSelect = 0xe4, kOrAnd = 0xf8;  // truth tables: c ? a : b and a | (b & c)
  const __m512i even = _mm512_castps_si512(t.a.v), odd = _mm512_castps_si512(t.b.v);
  const __m512i low = _mm512_set1_epi32(0xffff), one = _mm512_set1_epi16(1);
  const __m512i kept = _mm512_ternarylogic_epi32(_mm512_srli_epi32(even, 16), odd, low, kSelect);
  const __m512i lost = _mm512_ternarylogic_epi32(even, _mm512_slli_epi32(odd, 16), low, kSelect);
  // Upwards if what is lost is more than a half, or a half and what is kept is odd.
  const __m512i last = _mm512_ternarylogic_epi32(lost, kept, one, kOrAnd);
  const __mmask32 up = _mm512_cmpgt_epu16_mask(last, _mm512_set1_epi16(-0x8000));
  __m512i bits = _mm512_mask_add_epi16(kept, up, kept, one);
  if (__builtin_expect(_mm512_cmp_ps_mask(t.a.v, t.b.v, _CMP_UNORD_Q) != 0, 0)) {  // a NaN somewhere
    const __m512i a = _mm512_maskz_set1_epi32(_mm512_cmp_ps_mask(t.a.v, t.a.v, _CMP_UNORD_Q), 0xffff);
    const __m512i b = _mm512_maskz_set1_epi32(_mm512_cmp_ps_mask(t.b.v, t.b.v, _CMP_UNORD_Q), -0x10000);
    const __m512i nan = _mm512_or_si512(a, b), quiet = _mm512_or_si512(kept, _mm512_set1_epi16(0x40));
    bits = _mm512_ternarylogic_epi32(quiet, bits, nan, kSelect);
  }
  _mm512_storeu_si512(p, bits);
}
#endif

}  // namespace fastdl::cpu::FASTDL_ISA
