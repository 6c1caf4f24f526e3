// What the kernels of attention are called with. Every count is 64-bit, strides are in elements.
#pragma once

#include <cstdint>

#include "common/attention.h"
#include "cuda/attention_mask.cuh"
#include "cuda/context.h"

namespace fastdl::cuda {

// A tensor (batch, head, row, feature) of any strides.
template <class S>
struct AttentionRows {
  S* data;
  int64_t batch, head, row, column;

  explicit AttentionRows(const View& v)
      : data(v.as<S>()), batch(v.strides[0]), head(v.strides[1]), row(v.strides[2]), column(v.strides[3]) {}
  AttentionRows() = default;
  __device__ __forceinline__ S* at(int64_t b, int64_t h, int64_t i) const {
    return data + b * batch + h * head + i * row;
  }
};

struct AttentionExtents {
  int64_t batch, heads, groups, queries, keys, e, ev;
  bool causal;

  explicit AttentionExtents(const AttentionProblem& p)
      : batch(p.batch),
        heads(p.heads),
        groups(p.groups),
        queries(p.queries),
        keys(p.keys),
        e(p.e),
        ev(p.ev),
        causal(p.causal) {}
  AttentionExtents() = default;
  __device__ __forceinline__ int64_t group_of(int64_t head) const { return head / (heads / groups); }
  // Keys that queries up to `end` (exclusive) see.
  __device__ __forceinline__ int64_t key_end(int64_t end) const { return causal && end < keys ? end : keys; }
  // The first query that sees key j.
  __device__ __forceinline__ int64_t query_begin(int64_t j) const { return causal ? j : 0; }
};

// Whether rows of x can be read and written 16 bytes at a time.
inline bool in_packs(const View& x) {
  const int64_t per = 16 / item_size(x.dtype);
  bool fits = x.strides[3] == 1 && reinterpret_cast<uintptr_t>(x.data) % 16 == 0;
  for (int dim = 0; dim < 3; ++dim) fits = fits && (x.shape[dim] <= 1 || x.strides[dim] % per == 0);
  return fits;
}

// S: float, double, bfloat16 or float16. lse may be NULL.
template <class S>
void attention_forward(Context* context, const AttentionProblem& p, compute_t<S>* lse);
template <class S>
void attention_backward(Context* context, const AttentionProblem& p, const AttentionGradients& g,
                        const compute_t<S>* lse);

// Whether a block of the current device can have so much shared memory: some have 99 KiB for the 163 or more
// of those the kernels are tuned for.
bool has_shared_memory(size_t bytes);

#define FASTDL_ATTENTION_OF(linkage, S)                                                                     \
  linkage template void attention_forward<S>(Context*, const AttentionProblem&, compute_t<S>*);             \
  linkage template void attention_backward<S>(Context*, const AttentionProblem&, const AttentionGradients&, \
                                              const compute_t<S>*);
FASTDL_ATTENTION_OF(extern, float)
FASTDL_ATTENTION_OF(extern, double)
FASTDL_ATTENTION_OF(extern, bfloat16)
FASTDL_ATTENTION_OF(extern, float16)

}  // namespace fastdl::cuda
