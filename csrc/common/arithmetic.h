// Checked arguments of the arithmetic family, the same on every backend.
#pragma once

#include "common/view.h"
#include "fastdl/arithmetic.h"

namespace fastdl::check {

struct Arithmetic {
  View a, b, out;  // b: a where there is none
};
Arithmetic arithmetic(const fastdl_tensor* a, const fastdl_tensor* b, const fastdl_tensor* out, int32_t kind);

}  // namespace fastdl::check
