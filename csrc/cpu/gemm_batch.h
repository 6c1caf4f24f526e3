// Products of one shape at fixed distances, for any element type.
#pragma once

#include <algorithm>
#include <type_traits>

#include "cpu/gemm_bf16.h"
#include "cpu/parallel.h"

namespace fastdl::cpu {

template <class T>
Gemm<T> batch_item(Gemm<T> g, const GemmBatch& batch, int64_t i) {
  g.a += i * batch.a;
  if (g.b) g.b += i * batch.b;
  if (g.c) g.c += i * batch.c;
  if constexpr (std::is_same_v<T, bfloat16>) {
    if (g.c32) g.c32 += i * batch.c;
  }
  if (g.end.residual) g.end.residual += i * batch.residual;
  return g;
}

// Every item by gemm(), several at once where they are many or small. cost: of one item.
template <class T>
void gemm_items(Context* context, const Gemm<T>& g, const GemmBatch& batch, double cost) {
  const auto items = [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) gemm(context, batch_item(g, batch, i));
  };
  if (batch.count < 8 && cost >= kSerialCost) return items(0, batch.count);
  const int64_t grain = std::max<int64_t>(1, static_cast<int64_t>(kSerialCost / 4 / (cost + 1)));
  parallel_ranges(context, batch.count, grain, cost, items);
}

}  // namespace fastdl::cpu
