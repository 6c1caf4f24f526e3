// Kernels of the dropout family.
#pragma once

#include <cstdint>

namespace fastdl::cpu {

// Which elements are kept, and what they are multiplied by; see fastdl/dropout.h. Made by dropout_mask().
struct DropoutMask {
  uint64_t seed, offset;
  uint64_t threshold;  // of 2^32
  double scale;
};

template <class T>
struct DropoutTable {
  // y[i] = kept(first + i) ? x[i] * scale : 0 for n contiguous elements; y may be x.
  void (*apply)(const DropoutMask& mask, int64_t first, int64_t n, const T* x, T* y);
};

struct DropoutKernels {
  DropoutTable<float> f32;
  DropoutTable<double> f64;
};

template <class T>
const DropoutTable<T>& table_for(const DropoutKernels& k) {
  if constexpr (sizeof(T) == 4) return k.f32;
  else return k.f64;
}

}  // namespace fastdl::cpu
