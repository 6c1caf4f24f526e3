// Positions in a plane, int32, compared and selected beside the floats they belong to.
#pragma once

#include "cpu/isa/vectors.h"

namespace fastdl::cpu::FASTDL_ISA {

// Positions travel through the lanes of floating-point registers: float32 lanes hold the int32's bits,
// float64 lanes its value.
FASTDL_INLINE Vec<float> position_lanes(int64_t position, float) {
  const int32_t p = static_cast<int32_t>(position);
  float bits;
  __builtin_memcpy(&bits, &p, 4);
  return Vec<float>::broadcast(bits);
}
FASTDL_INLINE Vec<double> position_lanes(int64_t position, double) {
  return Vec<double>::broadcast(static_cast<double>(position));
}
FASTDL_INLINE Vec<float> load_positions(const int32_t* from, int m, float) {
  return load(reinterpret_cast<const float*>(from), m);
}
FASTDL_INLINE Vec<double> load_positions(const int32_t* from, int m, double) {
  double values[Vec<double>::width] = {};
  for (int i = 0; i < m; ++i) values[i] = static_cast<double>(from[i]);
  return Vec<double>::load(values);
}
FASTDL_INLINE void store_positions(Vec<float> v, int32_t* to, int m) {
  store(v, reinterpret_cast<float*>(to), m);
}
FASTDL_INLINE void store_positions(Vec<double> v, int32_t* to, int m) {
  double values[Vec<double>::width];
  v.store(values);
  for (int i = 0; i < m; ++i) to[i] = static_cast<int32_t>(values[i]);
}
// Bits that differ never look like a zero: neither is negative.
template <class T>
FASTDL_INLINE Mask<T> same_position(Vec<T> a, Vec<T> b) {
  return (a ^ b) == Vec<T>::zero();
}

}  // namespace fastdl::cpu::FASTDL_ISA
