// Dropout masks for the families that drop on the way: attention weights, the outputs between recurrent
// layers.
#pragma once

#include "cpu/isa/dropout.h"

namespace fastdl::cpu {

// Checks 0 <= p <= 1; `op` goes into the message.
DropoutMask dropout_mask(double p, uint64_t seed, uint64_t offset, const char* op);

}  // namespace fastdl::cpu
