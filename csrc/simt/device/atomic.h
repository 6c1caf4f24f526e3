// Atomics and fences. Blocks run on several OS threads, so these are real atomics.
#pragma once

#include <cstring>

#include "../simt.h"

namespace fastdl::simt {

// A loop that spins on an atomic would never let the fiber run that it waits for: every so often an atomic
// yields.
void count_atomic();

template <class T>
struct BitsOf {
  using type = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;
  static type from(T value) {
    type bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
  }
  static T to(type bits) {
    T value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }
};

template <class T, class F>
T atomic_update(T* address, F&& f) {
  count_atomic();
  using Bits = BitsOf<T>;
  auto* word = reinterpret_cast<typename Bits::type*>(address);
  typename Bits::type before = __atomic_load_n(word, __ATOMIC_SEQ_CST);
  while (!__atomic_compare_exchange_n(word, &before, Bits::from(f(Bits::to(before))), true, __ATOMIC_SEQ_CST,
                                      __ATOMIC_SEQ_CST)) {
  }
  return Bits::to(before);
}

}  // namespace fastdl::simt

#define FASTDL_SIMT_ATOMICS(T)                                                         \
  inline T atomicAdd(T* p, T v) {                                                      \
    return fastdl::simt::atomic_update(p, [=](T o) { return static_cast<T>(o + v); }); \
  }                                                                                    \
  inline T atomicExch(T* p, T v) {                                                     \
    return fastdl::simt::atomic_update(p, [=](T) { return v; });                       \
  }
#define FASTDL_SIMT_INTEGER_ATOMICS(T)                                                 \
  FASTDL_SIMT_ATOMICS(T)                                                               \
  inline T atomicSub(T* p, T v) {                                                      \
    return fastdl::simt::atomic_update(p, [=](T o) { return static_cast<T>(o - v); }); \
  }                                                                                    \
  inline T atomicMax(T* p, T v) {                                                      \
    return fastdl::simt::atomic_update(p, [=](T o) { return o > v ? o : v; });         \
  }                                                                                    \
  inline T atomicMin(T* p, T v) {                                                      \
    return fastdl::simt::atomic_update(p, [=](T o) { return o < v ? o : v; });         \
  }                                                                                    \
  inline T atomicAnd(T* p, T v) {                                                      \
    return fastdl::simt::atomic_update(p, [=](T o) { return o & v; });                 \
  }                                                                                    \
  inline T atomicOr(T* p, T v) {                                                       \
    return fastdl::simt::atomic_update(p, [=](T o) { return o | v; });                 \
  }                                                                                    \
  inline T atomicXor(T* p, T v) {                                                      \
    return fastdl::simt::atomic_update(p, [=](T o) { return o ^ v; });                 \
  }                                                                                    \
  inline T atomicCAS(T* p, T expected, T v) {                                          \
    return fastdl::simt::atomic_update(p, [=](T o) { return o == expected ? v : o; }); \
  }
FASTDL_SIMT_INTEGER_ATOMICS(int)
FASTDL_SIMT_INTEGER_ATOMICS(unsigned)
FASTDL_SIMT_INTEGER_ATOMICS(unsigned long long)
FASTDL_SIMT_ATOMICS(float)
FASTDL_SIMT_ATOMICS(double)
#undef FASTDL_SIMT_INTEGER_ATOMICS
#undef FASTDL_SIMT_ATOMICS

inline unsigned atomicInc(unsigned* p, unsigned limit) {
  return fastdl::simt::atomic_update(p, [=](unsigned o) { return o >= limit ? 0u : o + 1; });
}
inline unsigned atomicDec(unsigned* p, unsigned limit) {
  return fastdl::simt::atomic_update(p, [=](unsigned o) { return o == 0 || o > limit ? limit : o - 1; });
}

inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __threadfence_block() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __threadfence_system() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __nanosleep(unsigned) { fastdl::simt::spin(); }
