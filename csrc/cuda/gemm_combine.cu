#include "cuda/gemm_combine.cuh"

#include "cuda/launch.h"

namespace fastdl::cuda {
namespace {

// The parts of a split along k, added in their order.
template <class S>
__global__ void __launch_bounds__(256)
    gemm_combine(int64_t parts, int64_t m, int64_t n, GemmBatch batch, int64_t batch_count,
                 const float* partial, GemmEnd<S> end) {
  const int64_t size = batch_count * m * n, step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < size; i += step) {
    float sum = 0;
    for (int64_t part = 0; part < parts; ++part) sum += partial[part * size + i];
    const BatchOffsets o = offsets_of(batch, i / (m * n));
    end.store(o.c, o.residual, i % (m * n) / n, i % n, sum);
  }
}

}  // namespace

template <class S>
void combine_parts(Context* context, int64_t parts, int64_t m, int64_t n, const GemmBatch& batch,
                   const float* partial, const GemmEnd<S>& end) {
  const int64_t items = batch.count();
  launch(context, FASTDL_KERNEL(gemm_combine<S>), {blocks_for(items * m * n, 256), 256}, parts, m, n, batch,
         items, partial, end);
}

template void combine_parts<float>(Context*, int64_t, int64_t, int64_t, const GemmBatch&, const float*,
                                   const GemmEnd<float>&);
template void combine_parts<bfloat16>(Context*, int64_t, int64_t, int64_t, const GemmBatch&, const float*,
                                      const GemmEnd<bfloat16>&);
template void combine_parts<float16>(Context*, int64_t, int64_t, int64_t, const GemmBatch&, const float*,
                                     const GemmEnd<float16>&);

}  // namespace fastdl::cuda
