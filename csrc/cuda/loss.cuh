// What loss.cu and loss_rows.cu share: sums of long vectors, and the loss made of them.
#pragma once

#include <algorithm>

#include "cuda/columns.cuh"
#include "cuda/errors.cuh"
#include "cuda/map.cuh"

namespace fastdl::cuda {

constexpr int kSumThreads = 256;
// Blocks of a sum over n elements: the length alone decides, so that the order of additions does not depend
// on the device.
inline int64_t sum_blocks(int64_t n) { return std::min<int64_t>((n + 2047) / 2048, 1024); }

template <class T>
struct VectorSumShared {
  SharedArray<T, kSumThreads / kWarp> sums;
};

// partial[block] = the sum of term(i) over every gridDim-th stretch of elements.
template <class Term>
__global__ void __launch_bounds__(kSumThreads) sum_terms(int64_t n, Term term, double* partial) {
  auto& shared = shared_memory<VectorSumShared<double>>();
  double sum = 0;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kSumThreads + threadIdx.x; i < n;
       i += static_cast<int64_t>(gridDim.x) * kSumThreads) {
    sum += static_cast<double>(term(i));
  }
  sum = block_reduce<kSumThreads>(sum, Sum{}, shared.sums);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// *total = the sum of term(i) for i < n, in float64.
template <class Term>
void add_up(Context* context, int64_t n, const Term& term, double* total) {
  const int64_t blocks = sum_blocks(n);
  const Workspace partial(context, static_cast<size_t>(blocks) * sizeof(double));
  if (n > 0) {
    const Launch shape{static_cast<unsigned>(blocks), kSumThreads, sizeof(VectorSumShared<double>)};
    launch(context, FASTDL_KERNEL(sum_terms<Term>), shape, n, term, partial.as<double>());
  }
  add_up_columns<double>(context, blocks, 1, 1, partial.as<const double>(), total);
}

// *loss = *total, or over a mean *total / divisor.
template <class S>
__global__ void finish_loss(const double* total, double divisor, const double* divisor_at, S* loss) {
  const double d = divisor_at ? *divisor_at : divisor;
  *loss = narrow<S>(static_cast<compute_t<S>>(*total / d));
}

}  // namespace fastdl::cuda
