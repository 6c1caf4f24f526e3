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

}  // namespace fastdl::cpu
