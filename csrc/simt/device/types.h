// CUDA's qualifiers and vector types, for a host compiler.
#pragma once

#include <stddef.h>

#include <memory>  // before __noinline__ becomes a macro: libstdc++ uses it as an attribute

#define __global__
#define __device__
#define __host__
#define __constant__
#define __managed__
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#undef __noinline__
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __cluster_dims__(...)
#define __align__(n) __attribute__((aligned(n)))
// Static shared memory: a block runs on one OS thread, one block at a time. (Not checked for races or bounds:
// use dynamic shared memory through SharedArray for that.)
#define __shared__ thread_local

#define FASTDL_SIMT_VECTOR(T, name, a2, a4)                          \
  struct name##1 { T x; };                                           \
  struct alignas(a2) name##2 { T x, y; };                            \
  struct name##3 { T x, y, z; };                                     \
  struct alignas(a4) name##4 { T x, y, z, w; };                      \
  inline name##1 make_##name##1(T x) { return {x}; }                 \
  inline name##2 make_##name##2(T x, T y) { return {x, y}; }         \
  inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; } \
  inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }

// clang-format off
FASTDL_SIMT_VECTOR(signed char, char, 2, 4)
FASTDL_SIMT_VECTOR(unsigned char, uchar, 2, 4)
FASTDL_SIMT_VECTOR(short, short, 4, 8)
FASTDL_SIMT_VECTOR(unsigned short, ushort, 4, 8)
FASTDL_SIMT_VECTOR(int, int, 8, 16)
FASTDL_SIMT_VECTOR(unsigned int, uint, 8, 16)
FASTDL_SIMT_VECTOR(long long, longlong, 16, 16)
FASTDL_SIMT_VECTOR(unsigned long long, ulonglong, 16, 16)
FASTDL_SIMT_VECTOR(float, float, 8, 16)
FASTDL_SIMT_VECTOR(double, double, 16, 16)
// clang-format on
#undef FASTDL_SIMT_VECTOR

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
  constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
  constexpr operator uint3() const { return uint3{x, y, z}; }
};

typedef struct CUstream_st* cudaStream_t;
typedef struct CUevent_st* cudaEvent_t;
