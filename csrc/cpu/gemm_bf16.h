// bfloat16 matrix multiplication inside the library, where the instruction set has bfloat16 products
// (kernels().gemm_bf16 is not null); elsewhere bfloat16 operands are widened to float32 at the entry point.
#pragma once

#include "cpu/context.h"
#include "cpu/gemm.h"
#include "cpu/isa/gemm_bf16.h"

namespace fastdl::cpu {

template <>
struct GemmEpilogue<bfloat16> {
  float alpha = 1, beta = 0;
  const bfloat16* bias = nullptr;
  const bfloat16* residual = nullptr;
  int64_t ld_residual = 0;
  fastdl_activation activation{FASTDL_ACT_NONE, 0, 0};
};

// As Gemm<float>; sums and epilogue are float32, C is rounded once.
template <>
struct Gemm<bfloat16> {
  int64_t m, n, k;
  const bfloat16* a;
  int64_t a_row, a_k;
  const bfloat16* b;
  int64_t b_k, b_n;
  bfloat16* c;
  int64_t ldc;
  GemmEpilogue<bfloat16> end{};
  const bfloat16* packed_b = nullptr;
  float* c32 = nullptr;  // in place of c: C in float32
};

template <>
void gemm(Context* context, const Gemm<bfloat16>& g);
template <>
void gemm_batched(Context* context, const Gemm<bfloat16>& g, const GemmBatch& batch);

// Panels of nr columns, each k_padded * nr elements.
template <>
int64_t packed_b_size<bfloat16>(int64_t k, int64_t n);
template <>
void pack_b(Context* context, const bfloat16* b, int64_t b_k, int64_t b_n, int64_t k, int64_t n,
            bfloat16* out);

}  // namespace fastdl::cpu
