// The 16-bit floating-point types: storage only, all arithmetic is float32.
#pragma once

#include <cstdint>

namespace fastdl::cpu {

struct bfloat16 {  // 8 exponent bits, 7 of mantissa: the upper half of a float32
  uint16_t bits;
};

struct float16 {  // IEEE binary16
  uint16_t bits;
};

// The type in which elements stored as S are computed with.
template <class S>
struct Compute {
  using type = S;
};
template <>
struct Compute<bfloat16> {
  using type = float;
};
template <>
struct Compute<float16> {
  using type = float;
};
template <class S>
using compute_t = typename Compute<S>::type;

}  // namespace fastdl::cpu
