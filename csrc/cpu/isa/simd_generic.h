// Vec<T> for any machine: 16-byte vectors of the compiler's own (GCC and Clang vector extensions), which
// become SSE2 on x86-64, NEON on ARM64 and scalar code where there is nothing. See simd.h for the meaning of
// each operation.
#pragma once

namespace fastdl::cpu::FASTDL_ISA {

template <class T>
struct Lanes;  // raw vector, its signed and unsigned bits, and the constants that depend on the format

template <>
struct Lanes<float> {
  typedef float Raw __attribute__((vector_size(16)));
  typedef int32_t Int __attribute__((vector_size(16)));
  typedef uint32_t Bits __attribute__((vector_size(16)));
  static constexpr int width = 4, mantissa_bits = 23, bias = 127;
  static constexpr uint32_t sign = 0x80000000u, mantissa = 0x007fffffu, one = 0x3f800000u;
  static constexpr float integers = 8388608.f;  // 2^23: from here on every float is an integer
  static constexpr float min_normal = 1.17549435e-38f;
};

template <>
struct Lanes<double> {
  typedef double Raw __attribute__((vector_size(16)));
  typedef int64_t Int __attribute__((vector_size(16)));
  typedef uint64_t Bits __attribute__((vector_size(16)));
  static constexpr int width = 2, mantissa_bits = 52, bias = 1023;
  static constexpr uint64_t sign = 0x8000000000000000u, mantissa = 0x000fffffffffffffu,
                            one = 0x3ff0000000000000u;
  static constexpr double integers = 4503599627370496.;  // 2^52
  static constexpr double min_normal = 2.2250738585072014e-308;
};

template <class T>
struct Mask {
  typename Lanes<T>::Int m;
  static FASTDL_INLINE Mask first(int n) {
    Mask r;
    for (int i = 0; i < Lanes<T>::width; ++i) r.m[i] = i < n ? -1 : 0;
    return r;
  }
};

template <class T>
struct Vec {
  using Raw = typename Lanes<T>::Raw;
  using Bits = typename Lanes<T>::Bits;
  static constexpr int width = Lanes<T>::width;
  Raw v;
  static FASTDL_INLINE Vec load(const T* p) {
    Vec r;
    __builtin_memcpy(&r.v, p, 16);
    return r;
  }
  static FASTDL_INLINE Vec load(const T* p, int n) {
    if (n == width) return load(p);
    Vec r = zero();
    for (int i = 0; i < width; ++i)
      if (i < n) r.v[i] = p[i];
    return r;
  }
  FASTDL_INLINE void store(T* p) const { __builtin_memcpy(p, &v, 16); }
  FASTDL_INLINE void stream(T* p) const { store(p); }
  FASTDL_INLINE void store(T* p, int n) const {
    if (n == width) return store(p);
    for (int i = 0; i < width; ++i)
      if (i < n) p[i] = v[i];
  }
  static FASTDL_INLINE Vec broadcast(T x) {  // one shuffle; lane by lane the compiler would insert each
    if constexpr (width == 4) return {Raw{x, x, x, x}};
    else return {Raw{x, x}};
  }
  static FASTDL_INLINE Vec zero() { return {Raw{}}; }
  static FASTDL_INLINE Vec iota() {
    Vec r;
    for (int i = 0; i < width; ++i) r.v[i] = static_cast<T>(i);
    return r;
  }
  FASTDL_INLINE Bits bits() const { return (Bits)v; }
  static FASTDL_INLINE Vec from_bits(Bits b) { return {(Raw)b}; }
};

template <class T>
using BitsOf = typename Lanes<T>::Bits;
template <class T>
using IntOf = typename Lanes<T>::Int;

// The arithmetic operators are given per type: as templates they would not take part in overload resolution
// alike everywhere else in isa/, where they are plain functions.
#define FASTDL_GENERIC(T)                                                                               \
  FASTDL_INLINE Vec<T> operator+(Vec<T> a, Vec<T> b) { return {a.v + b.v}; }                            \
  FASTDL_INLINE Vec<T> operator-(Vec<T> a, Vec<T> b) { return {a.v - b.v}; }                            \
  FASTDL_INLINE Vec<T> operator*(Vec<T> a, Vec<T> b) { return {a.v * b.v}; }                            \
  FASTDL_INLINE Vec<T> operator/(Vec<T> a, Vec<T> b) { return {a.v / b.v}; }                            \
  FASTDL_INLINE Vec<T> operator&(Vec<T> a, Vec<T> b) { return Vec<T>::from_bits(a.bits() & b.bits()); } \
  FASTDL_INLINE Vec<T> operator|(Vec<T> a, Vec<T> b) { return Vec<T>::from_bits(a.bits() | b.bits()); } \
  FASTDL_INLINE Vec<T> operator^(Vec<T> a, Vec<T> b) { return Vec<T>::from_bits(a.bits() ^ b.bits()); } \
  FASTDL_INLINE Vec<T> andnot(Vec<T> a, Vec<T> b) { return Vec<T>::from_bits(~a.bits() & b.bits()); }   \
  FASTDL_INLINE Vec<T> operator-(Vec<T> a) { return Vec<T>::from_bits(a.bits() ^ Lanes<T>::sign); }     \
  FASTDL_INLINE Vec<T> fma(Vec<T> a, Vec<T> b, Vec<T> c) { return {a.v * b.v + c.v}; }                  \
  FASTDL_INLINE Vec<T> fnma(Vec<T> a, Vec<T> b, Vec<T> c) { return {c.v - a.v * b.v}; }                 \
  FASTDL_INLINE Mask<T> operator==(Vec<T> a, Vec<T> b) { return {(IntOf<T>)(a.v == b.v)}; }             \
  FASTDL_INLINE Mask<T> operator!=(Vec<T> a, Vec<T> b) { return {(IntOf<T>)(a.v != b.v)}; }             \
  FASTDL_INLINE Mask<T> operator<(Vec<T> a, Vec<T> b) { return {(IntOf<T>)(a.v < b.v)}; }               \
  FASTDL_INLINE Mask<T> operator<=(Vec<T> a, Vec<T> b) { return {(IntOf<T>)(a.v <= b.v)}; }             \
  FASTDL_INLINE Mask<T> operator>(Vec<T> a, Vec<T> b) { return b < a; }                                 \
  FASTDL_INLINE Mask<T> operator>=(Vec<T> a, Vec<T> b) { return b <= a; }                               \
  FASTDL_INLINE Mask<T> operator&(Mask<T> a, Mask<T> b) { return {a.m & b.m}; }                         \
  FASTDL_INLINE Mask<T> operator|(Mask<T> a, Mask<T> b) { return {a.m | b.m}; }                         \
  FASTDL_INLINE Mask<T> operator^(Mask<T> a, Mask<T> b) { return {a.m ^ b.m}; }                         \
  FASTDL_INLINE Mask<T> operator~(Mask<T> a) { return {~a.m}; }

FASTDL_GENERIC(float)
FASTDL_GENERIC(double)
#undef FASTDL_GENERIC

template <class T>
FASTDL_INLINE Vec<T> select(Mask<T> m, Vec<T> a, Vec<T> b) {
  const BitsOf<T> mask = (BitsOf<T>)m.m;
  return Vec<T>::from_bits((mask & a.bits()) | (~mask & b.bits()));
}
template <class T>
FASTDL_INLINE bool any(Mask<T> a) {
  bool r = false;
  for (int i = 0; i < Lanes<T>::width; ++i) r = r || a.m[i] != 0;
  return r;
}
template <class T>
FASTDL_INLINE bool all(Mask<T> a) {
  bool r = true;
  for (int i = 0; i < Lanes<T>::width; ++i) r = r && a.m[i] != 0;
  return r;
}
template <class T>
FASTDL_INLINE Vec<T> min(Vec<T> a, Vec<T> b) {
  return select(a < b, a, b);
}
template <class T>
FASTDL_INLINE Vec<T> max(Vec<T> a, Vec<T> b) {
  return select(a > b, a, b);
}
template <class T>
FASTDL_INLINE Vec<T> abs(Vec<T> a) {
  return Vec<T>::from_bits(a.bits() & ~Lanes<T>::sign);
}
template <class T>
FASTDL_INLINE Vec<T> copysign(Vec<T> a, Vec<T> sign) {
  return Vec<T>::from_bits((a.bits() & ~Lanes<T>::sign) | (sign.bits() & Lanes<T>::sign));
}
template <class T>
FASTDL_INLINE Vec<T> sqrt(Vec<T> a) {
  Vec<T> r;
  for (int i = 0; i < Vec<T>::width; ++i)
    r.v[i] = sizeof(T) == 4 ? static_cast<T>(__builtin_sqrtf(static_cast<float>(a.v[i])))
                            : static_cast<T>(__builtin_sqrt(static_cast<double>(a.v[i])));
  return r;
}

// SSE2 has no rounding instruction. Adding and taking away 2^23 (2^52) rounds to an integer, ties to even;
// values already past it, infinities and NaN stay as they are, and so does the sign of zero.
template <class T>
FASTDL_INLINE Vec<T> round_nearest(Vec<T> a) {
  const Vec<T> big = Vec<T>::broadcast(Lanes<T>::integers), magnitude = abs(a);
  return select(magnitude < big, copysign((magnitude + big) - big, a), a);
}
template <class T>
FASTDL_INLINE Vec<T> floor(Vec<T> a) {
  const Vec<T> r = round_nearest(a);
  return select(r > a, r - Vec<T>::broadcast(T(1)), r);
}
template <class T>
FASTDL_INLINE Vec<T> ceil(Vec<T> a) {
  return -floor(-a);
}
template <class T>
FASTDL_INLINE Vec<T> trunc(Vec<T> a) {
  return copysign(floor(abs(a)), a);
}

template <class T>
FASTDL_INLINE T reduce_add(Vec<T> a) {
  if constexpr (Vec<T>::width == 4) return (a.v[0] + a.v[2]) + (a.v[1] + a.v[3]);
  return a.v[0] + a.v[1];
}
template <class T>
FASTDL_INLINE T reduce_max(Vec<T> a) {
  T r = a.v[0];
  for (int i = 1; i < Vec<T>::width; ++i) r = r > a.v[i] ? r : a.v[i];
  return r;
}
template <class T>
FASTDL_INLINE T reduce_min(Vec<T> a) {
  T r = a.v[0];
  for (int i = 1; i < Vec<T>::width; ++i) r = r < a.v[i] ? r : a.v[i];
  return r;
}

// 2^n for integer-valued n within the normal range: adding 1.5 * 2^23 (2^52) leaves the integer in the low
// bits.
template <class T>
FASTDL_INLINE Vec<T> pow2(Vec<T> n) {
  const Vec<T> biased = n + Vec<T>::broadcast(T(1.5) * Lanes<T>::integers + T(Lanes<T>::bias));
  return Vec<T>::from_bits(biased.bits() << Lanes<T>::mantissa_bits);
}

// In two steps, since 2^n itself may leave the normal range; a result below the normal range may round twice.
template <class T>
FASTDL_INLINE Vec<T> scale_by_pow2(Vec<T> x, Vec<T> n) {
  const Vec<T> half = floor(n * Vec<T>::broadcast(T(0.5)));
  return x * pow2(half) * pow2(n - half);
}

// Subnormals are scaled up by 2^(mantissa_bits + 1) first, so that their exponent field means something.
template <class T>
FASTDL_INLINE Vec<T> exponent(Vec<T> x) {
  constexpr int shift = Lanes<T>::mantissa_bits + 1;
  const Mask<T> tiny = x < Vec<T>::broadcast(Lanes<T>::min_normal);
  const Vec<T> y = select(tiny, x * Vec<T>::broadcast(T(2) * Lanes<T>::integers), x);
  const Vec<T> big = Vec<T>::broadcast(Lanes<T>::integers);
  const Vec<T> e = Vec<T>::from_bits((y.bits() >> Lanes<T>::mantissa_bits) | big.bits()) - big;
  return e - select(tiny, Vec<T>::broadcast(T(Lanes<T>::bias + shift)), Vec<T>::broadcast(T(Lanes<T>::bias)));
}
template <class T>
FASTDL_INLINE Vec<T> mantissa(Vec<T> x) {
  const Mask<T> tiny = x < Vec<T>::broadcast(Lanes<T>::min_normal);
  const Vec<T> y = select(tiny, x * Vec<T>::broadcast(T(2) * Lanes<T>::integers), x);
  return Vec<T>::from_bits((y.bits() & Lanes<T>::mantissa) | Lanes<T>::one);
}

FASTDL_INLINE Vec<float> zip_lo(Vec<float> a, Vec<float> b) {
  return {__builtin_shufflevector(a.v, b.v, 0, 4, 1, 5)};
}
FASTDL_INLINE Vec<float> zip_hi(Vec<float> a, Vec<float> b) {
  return {__builtin_shufflevector(a.v, b.v, 2, 6, 3, 7)};
}
FASTDL_INLINE Vec<double> zip_lo(Vec<double> a, Vec<double> b) {
  return {__builtin_shufflevector(a.v, b.v, 0, 2)};
}
FASTDL_INLINE Vec<double> zip_hi(Vec<double> a, Vec<double> b) {
  return {__builtin_shufflevector(a.v, b.v, 1, 3)};
}

template <class T>
FASTDL_INLINE Mask<T> load_mask(const unsigned char* p, int n) {
  Mask<T> r;
  for (int i = 0; i < Vec<T>::width; ++i) r.m[i] = i < n && p[i] ? -1 : 0;
  return r;
}
template <class T>
FASTDL_INLINE void store_mask(Mask<T> m, unsigned char* p, int n) {
  for (int i = 0; i < Vec<T>::width; ++i)
    if (i < n) p[i] = m.m[i] ? 1 : 0;
}

}  // namespace fastdl::cpu::FASTDL_ISA
