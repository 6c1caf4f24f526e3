// Kernels of the dropout family.
#pragma once

#include <cstdint>

#include "common/dropout_mask.h"
#include "common/narrow.h"

namespace fastdl::cpu {

template <class S>
struct DropoutTable {
  // y[i] = kept(first + i) ? x[i] * scale : 0 for n contiguous elements; y may be x.
  void (*apply)(const DropoutMask& mask, int64_t first, int64_t n, const S* x, S* y);
};

struct DropoutKernels {
  DropoutTable<float> f32;
  DropoutTable<double> f64;
  DropoutTable<bfloat16> bf16;
  DropoutTable<float16> f16;
};

template <class S>
const DropoutTable<S>& table_for(const DropoutKernels& k) {
  return table_of<S>(k);
}

}  // namespace fastdl::cpu
