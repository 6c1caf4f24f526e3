// Kernels of the pool family: one output position (or tap) at a time over contiguous channels, or a row of
// windows that all have the same taps.
#pragma once

#include <cstdint>

namespace fastdl::cpu {

// A row of windows: window o has its taps at positions[t] + o * step of the plane. Positions are below 2^24,
// so that float32 holds them exactly.
struct PoolRow {
  int64_t outputs, step, taps;
  const int64_t* positions;
  int64_t channels;  // elements from one position to the next
};

template <class T>
struct PoolTable {
  // Maxima and their positions of a row of windows over all channels; x: the input plane.
  void (*max_row)(const PoolRow& row, const T* x, T* best, int32_t* where);
  // Adds dy to dx, the plane, where `where` says, for the first n channels.
  void (*max_scatter_row)(const PoolRow& row, int64_t n, const T* dy, const int32_t* where, T* dx);
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
