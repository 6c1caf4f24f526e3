// float32 products from bfloat16 ones.
#pragma once

#include "cpu/gemm.h"

namespace fastdl::cpu {

// Whether this product is faster so, in the precision and the instruction set in force. Decided by shape.
bool split_pays(const Context* context, const Gemm<float>& g);
void gemm_split(Context* context, const Gemm<float>& g);

// B cut into its parts once, for Gemm::split_b: 6 bytes an element, for every precision. 0 bytes: it never
// pays.
int64_t split_b_bytes(int64_t k, int64_t n);
void split_b(Context* context, const float* b, int64_t b_k, int64_t b_n, int64_t k, int64_t n, void* out);

}  // namespace fastdl::cpu
