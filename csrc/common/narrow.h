// The 16-bit floating-point types: storage only, all arithmetic is float32.
#pragma once

#include <cstdint>
#include <type_traits>

namespace fastdl {

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

// Of a family's four tables, the one for storage type S.
template <class S, class Tables>
const auto& table_of(const Tables& tables) {
  if constexpr (std::is_same_v<S, float>) return tables.f32;
  else if constexpr (std::is_same_v<S, double>) return tables.f64;
  else if constexpr (std::is_same_v<S, bfloat16>) return tables.bf16;
  else return tables.f16;
}

}  // namespace fastdl
