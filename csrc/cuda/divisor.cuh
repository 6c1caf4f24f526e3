// Division by numbers known before the launch.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace fastdl::cuda {

// Divides numbers below 2^31 (Granlund and Montgomery, "Division by
// invariant integers using multiplication", 1994).
struct Divisor {
  uint32_t value, multiplier, shift;

  Divisor() = default;
  explicit Divisor(int64_t d) : value(static_cast<uint32_t>(d)), multiplier(0), shift(0) {
    if (value <= 1) return;
    uint32_t bits = 1;
    while (uint64_t{1} << bits < value) ++bits;
    multiplier = static_cast<uint32_t>(((uint64_t{1} << (31 + bits)) + value - 1) / value);
    shift = bits - 1;
  }
  // Returns x / value and leaves x % value in x.
  __device__ __forceinline__ uint32_t divide(uint32_t& x) const {
    const uint32_t quotient = value <= 1 ? x : __umulhi(x, multiplier) >> shift;
    x -= quotient * value;
    return quotient;
  }
};

}  // namespace fastdl::cuda
