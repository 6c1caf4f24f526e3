// What matmul.cpp and matmul_backward.cpp share: which products have kernels of their own, and results in
// float32.
#pragma once

#include <type_traits>

#include "cpu/gemm.h"
#include "cpu/narrow.h"
#include "cpu/tensor.h"

namespace fastdl::cpu {

// Whether products of this dtype have kernels in the instruction set in force. Those of other 16-bit operands
// are computed in float32.
inline bool has_products(DType dtype) { return !is_narrow(dtype); }
inline bool has_products(const fastdl_tensor* t) { return !t || t->dtype.bits != 16; }

// Calls f(T{}) for a dtype that has products.
template <class F>
void dispatch_products(DType dtype, F&& f) {
  dispatch_float(dtype, f);
}

// A result: of the operands' dtype, or float32 where they are bfloat16.
inline View result_view(const fastdl_tensor* t, DType dtype, const char* op, const char* name) {
  const bool wide = dtype == DType::kBFloat16 && t && t->dtype.code == FASTDL_FLOAT && t->dtype.bits == 32;
  return out_view(t, wide ? DType::kFloat32 : dtype, op, name);
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
template <class T>
void advance_result(Gemm<T>& g, int64_t elements) {
  if constexpr (std::is_same_v<T, bfloat16>) {
    if (g.c32) {
      g.c32 += elements;
      return;
    }
  }
  g.c += elements;
}

}  // namespace fastdl::cpu
