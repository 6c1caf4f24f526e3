// Dropout for other families.
#pragma once

#include "common/dropout_mask.h"
#include "common/view.h"
#include "cuda/context.h"

namespace fastdl::cuda {

// out = x after dropout; its elements, in C order, are numbers first, first + 1, ... of the mask.
void dropout(Context* context, const DropoutMask& mask, int64_t first, const View& x, const View& out);

}  // namespace fastdl::cuda
