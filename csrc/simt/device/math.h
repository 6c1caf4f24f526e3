// Device intrinsics and math functions. The fast ones (__expf and so on) are the exact ones here.
#pragma once

#include <math.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#include "../simt.h"

namespace fastdl::simt {
template <class To, class From>
inline To bit_cast(From value) {
  static_assert(sizeof(To) == sizeof(From), "of one size");
  To to;
  std::memcpy(&to, &value, sizeof to);
  return to;
}
}  // namespace fastdl::simt

// --- bits ---

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll(static_cast<unsigned long long>(x)) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline unsigned __brev(unsigned x) {
  unsigned y = 0;
  for (int i = 0; i < 32; ++i) y |= (x >> i & 1u) << (31 - i);
  return y;
}
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const uint64_t bytes = static_cast<uint64_t>(y) << 32 | x;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) {
    const unsigned s = selector >> (4 * i);
    unsigned byte = static_cast<unsigned>(bytes >> (8 * (s & 7))) & 0xFF;
    if (s & 8) byte = byte & 0x80 ? 0xFF : 0;  // the sign, replicated
    result |= byte << (8 * i);
  }
  return result;
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((static_cast<uint64_t>(high) << 32 | low) << (shift & 31) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((static_cast<uint64_t>(high) << 32 | low) >> (shift & 31));
}
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(static_cast<uint64_t>(a) * b >> 32);
}
inline int __mulhi(int a, int b) { return static_cast<int>(static_cast<int64_t>(a) * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  __extension__ typedef unsigned __int128 Wide;
  return static_cast<unsigned long long>(static_cast<Wide>(a) * b >> 64);
}
inline int __mul24(int a, int b) {  // the low 24 bits of either, signed
  const int64_t x = static_cast<int32_t>(static_cast<uint32_t>(a) << 8) >> 8;
  const int64_t y = static_cast<int32_t>(static_cast<uint32_t>(b) << 8) >> 8;
  return static_cast<int>(static_cast<uint32_t>(x * y));
}
inline unsigned __umul24(unsigned a, unsigned b) { return (a & 0xFFFFFFu) * (b & 0xFFFFFFu); }

inline unsigned __float_as_uint(float x) { return fastdl::simt::bit_cast<unsigned>(x); }
inline int __float_as_int(float x) { return fastdl::simt::bit_cast<int>(x); }
inline float __uint_as_float(unsigned x) { return fastdl::simt::bit_cast<float>(x); }
inline float __int_as_float(int x) { return fastdl::simt::bit_cast<float>(x); }
inline long long __double_as_longlong(double x) { return fastdl::simt::bit_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return fastdl::simt::bit_cast<double>(x); }

// --- arithmetic ---

// Rounded one by one: the compiler must not fuse them.
inline float __fadd_rn(float a, float b) {
  volatile float r = a + b;
  return r;
}
inline float __fsub_rn(float a, float b) {
  volatile float r = a - b;
  return r;
}
inline float __fmul_rn(float a, float b) {
  volatile float r = a * b;
  return r;
}
inline double __dadd_rn(double a, double b) {
  volatile double r = a + b;
  return r;
}
inline double __dmul_rn(double a, double b) {
  volatile double r = a * b;
  return r;
}
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline float __frsqrt_rn(float a) { return 1.0f / std::sqrt(a); }
inline float __fdividef(float a, float b) { return a / b; }
inline float rsqrtf(float a) { return 1.0f / std::sqrt(a); }
inline double rsqrt(double a) { return 1.0 / std::sqrt(a); }
inline float rsqrt(float a) { return rsqrtf(a); }
inline float __expf(float a) { return std::exp(a); }
inline float __exp10f(float a) { return std::pow(10.0f, a); }
inline float __logf(float a) { return std::log(a); }
inline float __log2f(float a) { return std::log2(a); }
inline float __log10f(float a) { return std::log10(a); }
inline float __powf(float a, float b) { return std::pow(a, b); }
inline float __sinf(float a) { return std::sin(a); }
inline float __cosf(float a) { return std::cos(a); }
inline float __tanf(float a) { return std::tan(a); }
inline float __saturatef(float a) { return a > 0.0f ? (a < 1.0f ? a : 1.0f) : 0.0f; }
inline void sincospif(float a, float* s, float* c) {
  *s = static_cast<float>(std::sin(a * 3.14159265358979323846));
  *c = static_cast<float>(std::cos(a * 3.14159265358979323846));
}

// --- conversions ---

inline int __float2int_rn(float a) { return static_cast<int>(std::nearbyint(a)); }
inline int __float2int_rz(float a) { return static_cast<int>(a); }
inline int __float2int_rd(float a) { return static_cast<int>(std::floor(a)); }
inline int __float2int_ru(float a) { return static_cast<int>(std::ceil(a)); }
inline unsigned __float2uint_rn(float a) { return static_cast<unsigned>(std::nearbyint(a)); }
inline float __int2float_rn(int a) { return static_cast<float>(a); }
inline float __uint2float_rn(unsigned a) { return static_cast<float>(a); }
inline float __double2float_rn(double a) { return static_cast<float>(a); }

// --- minimum, maximum ---

#define FASTDL_SIMT_MIN_MAX(A, B, R)                                                      \
  inline R min(A a, B b) {                                                                \
    return static_cast<R>(a) < static_cast<R>(b) ? static_cast<R>(a) : static_cast<R>(b); \
  }                                                                                       \
  inline R max(A a, B b) {                                                                \
    return static_cast<R>(a) > static_cast<R>(b) ? static_cast<R>(a) : static_cast<R>(b); \
  }
FASTDL_SIMT_MIN_MAX(int, int, int)
FASTDL_SIMT_MIN_MAX(unsigned, unsigned, unsigned)
FASTDL_SIMT_MIN_MAX(int, unsigned, unsigned)
FASTDL_SIMT_MIN_MAX(unsigned, int, unsigned)
FASTDL_SIMT_MIN_MAX(long, long, long)
FASTDL_SIMT_MIN_MAX(unsigned long, unsigned long, unsigned long)
FASTDL_SIMT_MIN_MAX(long, unsigned long, unsigned long)
FASTDL_SIMT_MIN_MAX(unsigned long, long, unsigned long)
FASTDL_SIMT_MIN_MAX(long long, long long, long long)
FASTDL_SIMT_MIN_MAX(unsigned long long, unsigned long long, unsigned long long)
FASTDL_SIMT_MIN_MAX(long long, unsigned long long, unsigned long long)
FASTDL_SIMT_MIN_MAX(unsigned long long, long long, unsigned long long)
#undef FASTDL_SIMT_MIN_MAX
// As fmin and fmax: of a NaN and a number, the number.
inline float min(float a, float b) { return std::fmin(a, b); }
inline float max(float a, float b) { return std::fmax(a, b); }
inline double min(double a, double b) { return std::fmin(a, b); }
inline double max(double a, double b) { return std::fmax(a, b); }
inline double min(float a, double b) { return std::fmin(static_cast<double>(a), b); }
inline double max(float a, double b) { return std::fmax(static_cast<double>(a), b); }
inline double min(double a, float b) { return std::fmin(a, static_cast<double>(b)); }
inline double max(double a, float b) { return std::fmax(a, static_cast<double>(b)); }

// --- memory, time, ends ---

template <class T>
inline T __ldg(const T* p) {
  return *p;
}
template <class T>
inline T __ldcg(const T* p) {
  return *p;
}
template <class T>
inline T __ldca(const T* p) {
  return *p;
}
template <class T>
inline T __ldcs(const T* p) {
  return *p;
}
template <class T>
inline T __ldcv(const T* p) {
  return *static_cast<const volatile T*>(p);
}
template <class T>
inline void __stcg(T* p, T v) {
  *p = v;
}
template <class T>
inline void __stcs(T* p, T v) {
  *p = v;
}
template <class T>
inline void __stwt(T* p, T v) {
  *p = v;
}
template <class T>
inline size_t __cvta_generic_to_shared(T* p) {
  return static_cast<size_t>(reinterpret_cast<const unsigned char*>(p) - fastdl::simt::dynamic_shared());
}

inline long long clock64() {
#if defined(__x86_64__)
  return static_cast<long long>(__builtin_ia32_rdtsc());
#else
  long long ticks = 0;
#if defined(__aarch64__)
  __asm__ __volatile__("mrs %0, cntvct_el0" : "=r"(ticks));
#endif
  return ticks;
#endif
}
[[noreturn]] inline void __trap() { fastdl::simt::fail("__trap()"); }
inline void __brkpt() {}

#include <assert.h>
#undef assert
#ifdef NDEBUG
#define assert(condition) ((void)0)
#else
#define assert(condition) \
  ((condition)            \
       ? (void)0          \
       : ::fastdl::simt::fail("assertion failed: " #condition " (" __FILE__ ":" FASTDL_SIMT_LINE ")"))
#define FASTDL_SIMT_TEXT_(x) #x
#define FASTDL_SIMT_TEXT(x) FASTDL_SIMT_TEXT_(x)
#define FASTDL_SIMT_LINE FASTDL_SIMT_TEXT(__LINE__)
#endif
