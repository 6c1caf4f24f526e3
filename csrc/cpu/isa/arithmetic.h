// Kernels of the arithmetic family, and the one that writes past the caches.
#pragma once

#include <cstdint>

#include "common/narrow.h"

namespace fastdl::cpu {

template <class S>
struct ArithmeticTable {
  // out = a op b for n contiguous elements, kind: fastdl_arithmetic_kind; b NULL: op number. out may be a or
  // b.
  void (*binary)(int32_t kind, int64_t n, const S* a, const S* b, compute_t<S> number, S* out);
};

struct ArithmeticKernels {
  ArithmeticTable<float> f32;
  ArithmeticTable<double> f64;
  ArithmeticTable<bfloat16> bf16;
  ArithmeticTable<float16> f16;
  // Copies bytes with non-temporal stores, which do not read the lines they write nor keep them in the cache.
  void (*stream)(int64_t bytes, const void* from, void* to);
};

template <class S>
const ArithmeticTable<S>& table_for(const ArithmeticKernels& k) {
  return table_of<S>(k);
}

}  // namespace fastdl::cpu
