// Convolutions with one tap that are one matrix product.
#pragma once

#include "common/narrow.h"
#include "cpu/conv_plan.h"

namespace fastdl::cpu::conv {

// As gather(), if one tap and few positions that see the image (of a data gradient: no padding) make it a
// product best left to gemm(); else false, and nothing is done. weight: C-contiguous.
template <class T>
bool pointwise_gather(Context* context, const Geometry& g, const Source<T>& in, const T* weight,
                      bool data_gradient, const Image<T>& out, const Epilogue<T>& end);

}  // namespace fastdl::cpu::conv
