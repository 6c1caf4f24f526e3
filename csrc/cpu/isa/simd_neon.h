// Vec<T> for 64-bit ARM, whose every processor has NEON with FMA. See simd.h for the meaning of each
// operation.
#pragma once

#include <arm_neon.h>

namespace fastdl::cpu::FASTDL_ISA {

template <>
struct Mask<float> {
  uint32x4_t m;
  static FASTDL_INLINE Mask first(int n) {
    const uint32x4_t lane = {0, 1, 2, 3};
    return {vcltq_u32(lane, vdupq_n_u32(static_cast<uint32_t>(n)))};
  }
};

template <>
struct Mask<double> {
  uint64x2_t m;
  static FASTDL_INLINE Mask first(int n) {
    const uint64x2_t lane = {0, 1};
    return {vcltq_u64(lane, vdupq_n_u64(static_cast<uint64_t>(n)))};
  }
};

// There are no masked loads and stores: a part of a vector is moved in halves and lanes.
template <>
struct Vec<float> {
  static constexpr int width = 4;
  float32x4_t v;
  static FASTDL_INLINE Vec load(const float* p) { return {vld1q_f32(p)}; }
  static FASTDL_INLINE Vec load(const float* p, int n) {
    if (n == width) return load(p);
    const float32x4_t none = vdupq_n_f32(0);
    if (!(n & 2)) return {n & 1 ? vld1q_lane_f32(p, none, 0) : none};
    const float32x4_t two = vcombine_f32(vld1_f32(p), vget_low_f32(none));
    return {n & 1 ? vld1q_lane_f32(p + 2, two, 2) : two};
  }
  FASTDL_INLINE void store(float* p) const { vst1q_f32(p, v); }
  FASTDL_INLINE void stream(float* p) const { store(p); }
  FASTDL_INLINE void store(float* p, int n) const {
    if (n == width) return store(p);
    if (!(n & 2)) {
      if (n & 1) vst1q_lane_f32(p, v, 0);
      return;
    }
    vst1_f32(p, vget_low_f32(v));
    if (n & 1) vst1q_lane_f32(p + 2, v, 2);
  }
  static FASTDL_INLINE Vec broadcast(float x) { return {vdupq_n_f32(x)}; }
  static FASTDL_INLINE Vec zero() { return broadcast(0); }
  static FASTDL_INLINE Vec iota() { return {float32x4_t{0, 1, 2, 3}}; }
};

template <>
struct Vec<double> {
  static constexpr int width = 2;
  float64x2_t v;
  static FASTDL_INLINE Vec load(const double* p) { return {vld1q_f64(p)}; }
  static FASTDL_INLINE Vec load(const double* p, int n) {
    if (n == width) return load(p);
    const float64x2_t none = vdupq_n_f64(0);
    return {n ? vld1q_lane_f64(p, none, 0) : none};
  }
  FASTDL_INLINE void store(double* p) const { vst1q_f64(p, v); }
  FASTDL_INLINE void stream(double* p) const { store(p); }
  FASTDL_INLINE void store(double* p, int n) const {
    if (n == width) return store(p);
    if (n) vst1q_lane_f64(p, v, 0);
  }
  static FASTDL_INLINE Vec broadcast(double x) { return {vdupq_n_f64(x)}; }
  static FASTDL_INLINE Vec zero() { return broadcast(0); }
  static FASTDL_INLINE Vec iota() { return {float64x2_t{0, 1}}; }
};

// The two types differ in the suffix of each intrinsic only. The instructions for min and max give NaN if
// either operand is one; the fast min and max are to give the second.
#define FASTDL_NEON(T, B, N)                                                                             \
  FASTDL_INLINE uint##B##x##N##_t bits(Vec<T> a) { return vreinterpretq_u##B##_f##B(a.v); }              \
  FASTDL_INLINE Vec<T> from_bits(uint##B##x##N##_t b) { return {vreinterpretq_f##B##_u##B(b)}; }         \
  FASTDL_INLINE Vec<T> operator+(Vec<T> a, Vec<T> b) { return {vaddq_f##B(a.v, b.v)}; }                  \
  FASTDL_INLINE Vec<T> operator-(Vec<T> a, Vec<T> b) { return {vsubq_f##B(a.v, b.v)}; }                  \
  FASTDL_INLINE Vec<T> operator*(Vec<T> a, Vec<T> b) { return {vmulq_f##B(a.v, b.v)}; }                  \
  FASTDL_INLINE Vec<T> operator/(Vec<T> a, Vec<T> b) { return {vdivq_f##B(a.v, b.v)}; }                  \
  FASTDL_INLINE Vec<T> operator&(Vec<T> a, Vec<T> b) { return from_bits(vandq_u##B(bits(a), bits(b))); } \
  FASTDL_INLINE Vec<T> operator|(Vec<T> a, Vec<T> b) { return from_bits(vorrq_u##B(bits(a), bits(b))); } \
  FASTDL_INLINE Vec<T> operator^(Vec<T> a, Vec<T> b) { return from_bits(veorq_u##B(bits(a), bits(b))); } \
  FASTDL_INLINE Vec<T> andnot(Vec<T> a, Vec<T> b) { return from_bits(vbicq_u##B(bits(b), bits(a))); }    \
  FASTDL_INLINE Vec<T> operator-(Vec<T> a) { return {vnegq_f##B(a.v)}; }                                 \
  FASTDL_INLINE Vec<T> fma(Vec<T> a, Vec<T> b, Vec<T> c) { return {vfmaq_f##B(c.v, a.v, b.v)}; }         \
  FASTDL_INLINE Vec<T> fnma(Vec<T> a, Vec<T> b, Vec<T> c) { return {vfmsq_f##B(c.v, a.v, b.v)}; }        \
  FASTDL_INLINE Mask<T> operator==(Vec<T> a, Vec<T> b) { return {vceqq_f##B(a.v, b.v)}; }                \
  FASTDL_INLINE Mask<T> operator<(Vec<T> a, Vec<T> b) { return {vcltq_f##B(a.v, b.v)}; }                 \
  FASTDL_INLINE Mask<T> operator<=(Vec<T> a, Vec<T> b) { return {vcleq_f##B(a.v, b.v)}; }                \
  FASTDL_INLINE Mask<T> operator>(Vec<T> a, Vec<T> b) { return {vcgtq_f##B(a.v, b.v)}; }                 \
  FASTDL_INLINE Mask<T> operator>=(Vec<T> a, Vec<T> b) { return {vcgeq_f##B(a.v, b.v)}; }                \
  FASTDL_INLINE Mask<T> operator&(Mask<T> a, Mask<T> b) { return {vandq_u##B(a.m, b.m)}; }               \
  FASTDL_INLINE Mask<T> operator|(Mask<T> a, Mask<T> b) { return {vorrq_u##B(a.m, b.m)}; }               \
  FASTDL_INLINE Mask<T> operator^(Mask<T> a, Mask<T> b) { return {veorq_u##B(a.m, b.m)}; }               \
  FASTDL_INLINE Mask<T> operator~(Mask<T> a) { return a ^ Mask<T>{vdupq_n_u##B(~uint##B##_t{0})}; }      \
  FASTDL_INLINE Mask<T> operator!=(Vec<T> a, Vec<T> b) { return ~(a == b); }                             \
  FASTDL_INLINE bool any(Mask<T> a) { return vmaxvq_u8(vreinterpretq_u8_u##B(a.m)) != 0; }               \
  FASTDL_INLINE bool all(Mask<T> a) { return vminvq_u8(vreinterpretq_u8_u##B(a.m)) != 0; }               \
  FASTDL_INLINE Vec<T> select(Mask<T> m, Vec<T> a, Vec<T> b) { return {vbslq_f##B(m.m, a.v, b.v)}; }     \
  FASTDL_INLINE Vec<T> min(Vec<T> a, Vec<T> b) { return select(a < b, a, b); }                           \
  FASTDL_INLINE Vec<T> max(Vec<T> a, Vec<T> b) { return select(a > b, a, b); }                           \
  FASTDL_INLINE Vec<T> min_nan(Vec<T> a, Vec<T> b) { return {vminq_f##B(a.v, b.v)}; }                    \
  FASTDL_INLINE Vec<T> max_nan(Vec<T> a, Vec<T> b) { return {vmaxq_f##B(a.v, b.v)}; }                    \
  FASTDL_INLINE Vec<T> abs(Vec<T> a) { return {vabsq_f##B(a.v)}; }                                       \
  FASTDL_INLINE Vec<T> sqrt(Vec<T> a) { return {vsqrtq_f##B(a.v)}; }                                     \
  FASTDL_INLINE Vec<T> floor(Vec<T> a) { return {vrndmq_f##B(a.v)}; }                                    \
  FASTDL_INLINE Vec<T> ceil(Vec<T> a) { return {vrndpq_f##B(a.v)}; }                                     \
  FASTDL_INLINE Vec<T> trunc(Vec<T> a) { return {vrndq_f##B(a.v)}; }                                     \
  FASTDL_INLINE Vec<T> round_nearest(Vec<T> a) { return {vrndnq_f##B(a.v)}; }                            \
  FASTDL_INLINE Vec<T> copysign(Vec<T> a, Vec<T> sign) {                                                 \
    return {vbslq_f##B(bits(Vec<T>::broadcast(T(-0.0))), sign.v, a.v)};                                  \
  }                                                                                                      \
  FASTDL_INLINE T reduce_add(Vec<T> a) { return vaddvq_f##B(a.v); }                                      \
  FASTDL_INLINE T reduce_max(Vec<T> a) { return vmaxvq_f##B(a.v); }                                      \
  FASTDL_INLINE T reduce_min(Vec<T> a) { return vminvq_f##B(a.v); }                                      \
  FASTDL_INLINE Vec<T> zip_lo(Vec<T> a, Vec<T> b) { return {vzip1q_f##B(a.v, b.v)}; }                    \
  FASTDL_INLINE Vec<T> zip_hi(Vec<T> a, Vec<T> b) { return {vzip2q_f##B(a.v, b.v)}; }

FASTDL_NEON(float, 32, 4)
FASTDL_NEON(double, 64, 2)
#undef FASTDL_NEON

// 2^n for integer-valued n within the normal range.
FASTDL_INLINE Vec<float> pow2(Vec<float> n) {
  return {vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n.v), vdupq_n_s32(127)), 23))};
}
FASTDL_INLINE Vec<double> pow2(Vec<double> n) {
  return {vreinterpretq_f64_s64(vshlq_n_s64(vaddq_s64(vcvtq_s64_f64(n.v), vdupq_n_s64(1023)), 52))};
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
  const Vec<float> e = {vcvtq_f32_u32(vshrq_n_u32(bits(y), 23))};
  return e - select(tiny, Vec<float>::broadcast(127.f + 24.f), Vec<float>::broadcast(127.f));
}
FASTDL_INLINE Vec<double> exponent(Vec<double> x) {
  const Mask<double> tiny = x < Vec<double>::broadcast(2.2250738585072014e-308);
  const Vec<double> y = select(tiny, x * Vec<double>::broadcast(9007199254740992.), x);
  const Vec<double> e = {vcvtq_f64_u64(vshrq_n_u64(bits(y), 52))};
  return e - select(tiny, Vec<double>::broadcast(1023. + 53.), Vec<double>::broadcast(1023.));
}
FASTDL_INLINE Vec<float> mantissa(Vec<float> x) {
  const Mask<float> tiny = x < Vec<float>::broadcast(1.17549435e-38f);
  const Vec<float> y = select(tiny, x * Vec<float>::broadcast(16777216.f), x);
  return {vbslq_f32(vdupq_n_u32(0x007fffff), y.v, vdupq_n_f32(1))};
}
FASTDL_INLINE Vec<double> mantissa(Vec<double> x) {
  const Mask<double> tiny = x < Vec<double>::broadcast(2.2250738585072014e-308);
  const Vec<double> y = select(tiny, x * Vec<double>::broadcast(9007199254740992.), x);
  return {vbslq_f64(vdupq_n_u64(0x000fffffffffffff), y.v, vdupq_n_f64(1))};
}

template <class T>
FASTDL_INLINE Mask<T> load_mask(const unsigned char* p, int n) {
  alignas(16) T lane[Vec<T>::width] = {};
  for (int i = 0; i < n; ++i) lane[i] = p[i] ? T(1) : T(0);
  return Vec<T>::load(lane) != Vec<T>::zero();
}
// The lanes' bytes, 0 or 1, from the first on.
FASTDL_INLINE uint8x8_t mask_bytes(Mask<float> m) {
  const uint16x4_t halves = vmovn_u32(m.m);
  return vand_u8(vmovn_u16(vcombine_u16(halves, halves)), vdup_n_u8(1));
}
FASTDL_INLINE uint8x8_t mask_bytes(Mask<double> m) {
  const uint32x2_t words = vmovn_u64(m.m);
  return mask_bytes(Mask<float>{vcombine_u32(words, words)});
}
template <class T>
FASTDL_INLINE void store_mask(Mask<T> m, unsigned char* p, int n) {
  unsigned char lane[8];
  vst1_u8(lane, mask_bytes(m));
  if (n == Vec<T>::width) __builtin_memcpy(p, lane, Vec<T>::width);
  else
    for (int i = 0; i < n; ++i) p[i] = lane[i];
}

}  // namespace fastdl::cpu::FASTDL_ISA
