// float32 products from bfloat16 ones.
#pragma once

#include "cpu/gemm.h"

namespace fastdl::cpu {

// Whether this product is better done so, for the precision in force and the instruction set.
bool split_pays(Context* context, const Gemm<float>& g);
void gemm_split(Context* context, const Gemm<float>& g);

}  // namespace fastdl::cpu
