// Checked arguments of dropout, the same on every backend.
#pragma once

#include "common/dropout_mask.h"
#include "common/view.h"
#include "fastdl/dropout.h"

namespace fastdl::check {

// Checks 0 <= p <= 1; `op` goes into the message.
DropoutMask dropout_mask(double p, uint64_t seed, uint64_t offset, const char* op);

struct Dropout {
  View x, out;
  DropoutMask mask;
};
Dropout dropout(const fastdl_tensor* x, const fastdl_tensor* out, double p, uint64_t seed, uint64_t offset);

}  // namespace fastdl::check
