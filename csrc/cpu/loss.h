// What loss.cpp and loss_elementwise.cpp share.
#pragma once

#include <algorithm>

#include "cpu/tensor.h"
#include "fastdl/loss.h"

namespace fastdl::cpu {

inline void check_reduction(int32_t reduction, const char* op) {
  FASTDL_CHECK(reduction >= FASTDL_REDUCTION_NONE && reduction <= FASTDL_REDUCTION_SUM, FASTDL_ERROR_VALUE,
               "%s: unknown reduction %d", op, reduction);
}

}  // namespace fastdl::cpu
