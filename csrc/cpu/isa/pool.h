// Kernels of the pool family: one output position (or tap) at a time over contiguous channels.
#pragma once

#include <cstdint>

namespace fastdl::cpu {

template <class T>
struct PoolTable {
  // best[c] = x[c], where[c] = position.
  void (*max_first)(int64_t n, const T* x, int32_t position, T* best, int32_t* where);
  // Where x[c] > best[c] or x[c] is NaN: best[c] = x[c], where[c] = position.
  void (*max_next)(int64_t n, const T* x, int32_t position, T* best, int32_t* where);
  // out[c] = the maximum over `taps` pointers (positions not wanted).
  void (*max_of)(int64_t n, int64_t taps, const T* const* x, T* out);
  // dx[c] += where[c] == position ? dy[c] : 0.
  void (*max_scatter)(int64_t n, const T* dy, const int32_t* where, int32_t position, T* dx);
  // out[c] = scale * sum over `taps` pointers.
  void (*sum_of)(int64_t n, int64_t taps, const T* const* x, T scale, T* out);
  // dx[c] += scale * dy[c].
  void (*add_scaled)(int64_t n, const T* dy, T scale, T* dx);
};

struct PoolKernels {
  PoolTable<float> f32;
  PoolTable<double> f64;
};

template <class T>
const PoolTable<T>& table_for(const PoolKernels& k) {
  if constexpr (sizeof(T) == 4) return k.f32;
  else return k.f64;
}

}  // namespace fastdl::cpu
