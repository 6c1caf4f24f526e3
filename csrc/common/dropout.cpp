#include "common/dropout.h"

#include <cmath>

namespace fastdl::check {

DropoutMask dropout_mask(double p, uint64_t seed, uint64_t offset, const char* op) {
  FASTDL_CHECK(p >= 0 && p <= 1, FASTDL_ERROR_VALUE, "%s: expected a probability between 0 and 1, got %g", op,
               p);
  const double two_to_32 = 4294967296.0;
  return {seed, offset, static_cast<uint64_t>(std::floor(p * two_to_32 + 0.5)), p < 1 ? 1 / (1 - p) : 0.0};
}

Dropout dropout(const fastdl_tensor* x_, const fastdl_tensor* out_, double p, uint64_t seed,
                uint64_t offset) {
  const char* op = "dropout";
  const View x = any_float_view(x_, op, "x"), out = out_view(out_, x.dtype, op, "out");
  check_same_shape(x, "x", out, "out", op);
  return {x, out, dropout_mask(p, seed, offset, op)};
}

}  // namespace fastdl::check
