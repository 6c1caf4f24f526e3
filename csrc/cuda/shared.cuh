// placeholder until the executor's version is merged
#pragma once
#include <cuda_runtime.h>
namespace fastdl::cuda {
template <class T, int N> struct alignas(16) SharedArray { T at_[N]; __device__ T& operator[](int i) { return at_[i]; } __device__ T* data() { return at_; } };
template <class S> __device__ __forceinline__ S& shared_memory() { extern __shared__ __align__(128) unsigned char bytes[]; return *reinterpret_cast<S*>(bytes); }
template <class V> __device__ __forceinline__ V shared_load(const void* p) { return *static_cast<const V*>(p); }
template <class V> __device__ __forceinline__ void shared_store(void* p, const V& v) { *static_cast<V*>(p) = v; }
}
