// Which elements dropout keeps, and what they are multiplied by; see fastdl/dropout.h. Made by
// check::dropout_mask().
#pragma once

#include <cstdint>

namespace fastdl {

struct DropoutMask {
  uint64_t seed, offset;
  uint64_t threshold;  // of 2^32
  double scale;
};

}  // namespace fastdl
