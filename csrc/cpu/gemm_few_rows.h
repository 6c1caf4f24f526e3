// Products with up to 4 rows, or one column, of plain operands: bound by reading B, once.
#pragma once

#include "cpu/gemm.h"

namespace fastdl::cpu {

template <class T>
void gemm_dot(Context* context, const Gemm<T>& g);  // up to dot_rows rows, both operands contiguous along K
template <class T>
void gemm_gemv(Context* context, const Gemm<T>& g);  // up to gemv_rows rows, B contiguous along N
template <class T>
void gemm_column(Context* context, const Gemm<T>& g);  // one column

}  // namespace fastdl::cpu
