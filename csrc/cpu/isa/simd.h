// Vec<float> and Vec<double>: one SIMD register of the instruction set this file is compiled for.
//
// Every isa/*.cpp is compiled once per instruction set with -DFASTDL_ISA=<name> and that set's -m flags. All
// code lives in namespace fastdl::cpu::<name>: an inline function shared between two sets would let the
// linker keep, say, the AVX-512 copy for everybody, and older processors would crash. For the same reason: no
// STL in isa/.
//
// The interface, the same in every simd_<isa>.h (V = Vec<T>, M = Mask<T>):
//   V::width                        lanes
//   V::load(p), V::load(p, n)       n: the first n lanes (0..width), the others zero; never touches memory
//   past n v.store(p), v.store(p, n) V::broadcast(x), V::zero(), V::iota()            iota: 0, 1, 2, ... a +
//   b, a - b, a * b, a / b, -a, +=, -=, *=, /= fma(a, b, c) = a*b + c, fnma(a, b, c) = c - a*b   (one
//   rounding where the machine has FMA) min, max                        fast: the second operand if either is
//   NaN min_nan, max_nan                NaN if either is NaN abs, sqrt, floor, ceil, trunc, round_nearest
//   (ties to even), copysign(magnitude, sign) a & b, a | b, a ^ b, andnot(a, b) = ~a & b        on the bits
//   a == b, a != b, a < b, a <= b, a > b, a >= b      -> M;   isnan(a) -> M
//   m & n, m | n, m ^ n, ~m, any(m), all(m), M::first(n)
//   load_mask<T>(bytes, n), store_mask(m, bytes, n)   one byte per lane, zero or not / 0 or 1
//   select(m, a, b)                 m ? a : b
//   reduce_add, reduce_max, reduce_min, reduce_max_nan, reduce_min_nan       a fixed order for each ISA
//   scale_by_pow2(x, n)             x * 2^n for integer-valued n in [-250, 250] (float) or [-2000, 2000]
//   (double) exponent(x), mantissa(x)        x = mantissa * 2^exponent, mantissa in [1, 2); for finite x > 0,
//   subnormals too prefetch(p)
#pragma once

#include <cstddef>
#include <cstdint>

#ifndef FASTDL_ISA
#error "FASTDL_ISA names the instruction set: generic, avx2, avx512 or neon"
#endif

#define FASTDL_ISA_ID_generic 1
#define FASTDL_ISA_ID_avx2 2
#define FASTDL_ISA_ID_avx512 3
#define FASTDL_ISA_ID_neon 4
#define FASTDL_ISA_ID_avx512_bf16 5
#define FASTDL_ISA_ID_amx 6
#define FASTDL_ISA_ID_amx_emulated 7
#define FASTDL_CONCAT_(a, b) a##b
#define FASTDL_CONCAT(a, b) FASTDL_CONCAT_(a, b)
#define FASTDL_ISA_ID FASTDL_CONCAT(FASTDL_ISA_ID_, FASTDL_ISA)

// Loops over the registers of a tile: arrays of Vec stay in registers only where every index is a constant.
#if defined(__clang__)
#define FASTDL_UNROLL _Pragma("unroll")
#else
#define FASTDL_UNROLL _Pragma("GCC unroll 16")
#endif

#ifndef FASTDL_INLINE
#define FASTDL_INLINE inline __attribute__((always_inline))
#endif

namespace fastdl::cpu::FASTDL_ISA {
template <class T>
struct Vec;
template <class T>
struct Mask;
}  // namespace fastdl::cpu::FASTDL_ISA

#if FASTDL_ISA_ID == 3 || FASTDL_ISA_ID >= 5
#include "simd_avx512.h"
#elif FASTDL_ISA_ID == 2
#include "simd_avx2.h"
#elif FASTDL_ISA_ID == 4
#include "simd_neon.h"
#else
#include "simd_generic.h"
#endif

// What needs only the operations above.
namespace fastdl::cpu::FASTDL_ISA {

template <class T>
FASTDL_INLINE Vec<T>& operator+=(Vec<T>& a, Vec<T> b) {
  return a = a + b;
}
template <class T>
FASTDL_INLINE Vec<T>& operator-=(Vec<T>& a, Vec<T> b) {
  return a = a - b;
}
template <class T>
FASTDL_INLINE Vec<T>& operator*=(Vec<T>& a, Vec<T> b) {
  return a = a * b;
}
template <class T>
FASTDL_INLINE Vec<T>& operator/=(Vec<T>& a, Vec<T> b) {
  return a = a / b;
}
template <class T>
FASTDL_INLINE Mask<T> isnan(Vec<T> a) {
  return a != a;
}

// The fast max returns b when either is NaN, so only a NaN in a is left to restore.
#if FASTDL_ISA_ID != FASTDL_ISA_ID_neon  // which has instructions for it
template <class T>
FASTDL_INLINE Vec<T> max_nan(Vec<T> a, Vec<T> b) {
  return select(isnan(a), a, max(a, b));
}
template <class T>
FASTDL_INLINE Vec<T> min_nan(Vec<T> a, Vec<T> b) {
  return select(isnan(a), a, min(a, b));
}
#endif

template <class T>
FASTDL_INLINE T nan_or(Mask<T> nan, T value) {
  return any(nan) ? static_cast<T>(__builtin_nan("")) : value;
}
template <class T>
FASTDL_INLINE T reduce_max_nan(Vec<T> a) {
  return nan_or(isnan(a), reduce_max(a));
}
template <class T>
FASTDL_INLINE T reduce_min_nan(Vec<T> a) {
  return nan_or(isnan(a), reduce_min(a));
}

// log2(width) perfect shuffles of the rows transpose a square block (H. S. Stone, "Parallel Processing with
// the Perfect Shuffle", 1971).
template <class T>
FASTDL_INLINE void transpose(Vec<T> (&rows)[Vec<T>::width]) {
  constexpr int W = Vec<T>::width;
  FASTDL_UNROLL for (int stage = 1; stage < W; stage *= 2) {
    Vec<T> next[W];
    FASTDL_UNROLL for (int i = 0; i < W / 2; ++i) {
      next[2 * i] = zip_lo(rows[i], rows[i + W / 2]);
      next[2 * i + 1] = zip_hi(rows[i], rows[i + W / 2]);
    }
    FASTDL_UNROLL for (int i = 0; i < W; ++i) rows[i] = next[i];
  }
}

FASTDL_INLINE void prefetch(const void* p) { __builtin_prefetch(p, 0, 3); }

}  // namespace fastdl::cpu::FASTDL_ISA
