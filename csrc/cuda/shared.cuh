// Dynamic shared memory as a struct of arrays. On the device these are plain arrays; in the host executor
// every access through operator[] is checked for bounds and races.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

#if defined(FASTDL_SIMT)
#include "../simt/shared_ref.h"
#endif

namespace fastdl::cuda {

template <class T, int N>
struct SharedArray {
  T elements[N];

  static constexpr int size() { return N; }

#if defined(FASTDL_SIMT)
  simt::SharedRef<T> operator[](long long i) {
    if (i < 0 || i >= N) simt::fail_index(i, N);
    return simt::SharedRef<T>(elements + i);
  }
  // The address of element i (up to one past the end), for vector and PTX accesses, which note theirs
  // themselves.
  T* at(long long i) {
    if (i < 0 || i > N) simt::fail_index(i, N);
    return elements + i;
  }
#else
  __device__ __forceinline__ T& operator[](int i) { return elements[i]; }
  __device__ __forceinline__ T* at(int i) { return elements + i; }
#endif
  __device__ __forceinline__ T* data() { return elements; }
};

// All of a kernel's shared memory: a struct of SharedArrays, whose size the launch has to give.
template <class S>
__device__ __forceinline__ S& shared_memory() {
#if defined(FASTDL_SIMT)
  return *reinterpret_cast<S*>(simt::dynamic_shared(sizeof(S), alignof(S)));
#else
  extern __shared__ __align__(1024) unsigned char fastdl_dynamic_shared[];
  return *reinterpret_cast<S*>(fastdl_dynamic_shared);
#endif
}

}  // namespace fastdl::cuda
