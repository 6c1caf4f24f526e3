// What matmul.cpp and matmul_backward.cpp share: which products have kernels of their own, and results in
// float32.
#pragma once

#include <type_traits>

#include "common/matmul.h"
#include "cpu/gemm_bf16.h"
#include "cpu/kernels.h"
#include "cpu/tensor.h"

namespace fastdl::cpu {

// Whether products of this dtype have kernels in the instruction set in force. Those of other 16-bit operands
// are computed in float32.
inline bool has_products(DType dtype) {
  return !is_narrow(dtype) || (dtype == DType::kBFloat16 && kernels().gemm_bf16);
}
inline bool has_products(const fastdl_tensor* t) {
  return !t || t->dtype.bits != 16 || (t->dtype.code == FASTDL_BFLOAT && kernels().gemm_bf16);
}

// Calls f(T{}) for a dtype that has products.
template <class F>
void dispatch_products(DType dtype, F&& f) {
  if (dtype == DType::kBFloat16) return f(bfloat16{});
  dispatch_float(dtype, f);
}

template <class T>
void set_result(Gemm<T>& g, const View& out) {
  if constexpr (std::is_same_v<T, bfloat16>) {
    if (out.dtype == DType::kFloat32) {
      g.c32 = out.as<float>();
      return;
    }
  }
  g.c = out.as<T>();
}

}  // namespace fastdl::cpu
