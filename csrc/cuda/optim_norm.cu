// Norms of lists of tensors, and products with numbers that depend on them.
#include "cuda/optim.cuh"
#include "fastdl/cuda.h"

namespace fastdl::cuda::optim {
namespace {

template <class T>
struct Scale {
  static constexpr int kLists = 1;
  static constexpr bool kUsesScalars = false;
  T factor;
  explicit Scale(double f) : factor(static_cast<T>(f)) {}
  __device__ void operator()(T (&v)[kOptimLists], const Item&, const T (&)[2]) const { v[0] *= factor; }
};

// Times max_norm / (*norm + 1e-6) where that is less than 1 or NaN.
struct Clip {
  double max_norm;
  const double* norm;
};
template <class T>
struct ClipNorm {
  static constexpr int kLists = 1;
  static constexpr bool kUsesScalars = true;
  Clip clip;
  explicit ClipNorm(const Clip& c) : clip(c) {}
  __device__ void scalars(const Item&, double (&out)[2]) const {
    const double factor = clip.max_norm / (*clip.norm + 1e-6);
    out[0] = factor >= 1 ? 1 : factor;
    out[1] = 0;
  }
  __device__ void operator()(T (&v)[kOptimLists], const Item&, const T (&scalars)[2]) const {
    v[0] *= scalars[0];
  }
};

template <class T>
struct NormShared {
  SharedArray<T, kThreads / kWarp> sums;
};

// partial[chunk of the batch]: of |x|^p the sum, of an infinite p the largest, in float64.
template <class T>
__global__ void __launch_bounds__(kThreads) multi_tensor_norm(Batch batch, double p, double* partial) {
  auto& shared = shared_memory<NormShared<double>>();
  for (int64_t chunk = blockIdx.x; chunk < batch.chunks; chunk += gridDim.x) {
    const Item& item = batch.items[item_of(batch, chunk)];
    const int64_t begin = (chunk - item.first) * kChunk,
                  end = begin + kChunk < item.n ? begin + kChunk : item.n;
    double sum = 0;
    with_storage<T>(item.dtype[0], [&](auto zero) {
      for (int64_t i = begin + static_cast<int64_t>(threadIdx.x) * kWidth; i < end; i += kThreads * kWidth) {
        const int count = end - i < kWidth ? static_cast<int>(end - i) : kWidth;
        T x[kWidth] = {};
        load_as<T, decltype(zero)>(item.data[0], i, count, item.vector, x);
        for (int j = 0; j < count; ++j) {
          const double a = fabs(static_cast<double>(x[j]));
          if (isinf(p)) sum = Max{}(a, sum);
          else sum += p == 2 ? a * a : p == 1 ? a : pow(a, p);
        }
      }
    });
    sum = isinf(p) ? block_reduce<kThreads>(sum, Max{}, shared.sums)
                   : block_reduce<kThreads>(sum, Sum{}, shared.sums);
    if (threadIdx.x == 0) partial[chunk] = sum;
  }
}

// The norm of all chunks from those of each, by one block.
__global__ void __launch_bounds__(kThreads)
    multi_tensor_norm_end(const double* partial, int64_t chunks, double p, double* norm) {
  auto& shared = shared_memory<NormShared<double>>();
  double total = 0;
  for (int64_t i = threadIdx.x; i < chunks; i += kThreads) {
    total = isinf(p) ? Max{}(partial[i], total) : total + partial[i];
  }
  total = isinf(p) ? block_reduce<kThreads>(total, Max{}, shared.sums)
                   : block_reduce<kThreads>(total, Sum{}, shared.sums);
  if (threadIdx.x == 0) *norm = isinf(p) || p == 1 ? total : p == 2 ? sqrt(total) : pow(total, 1 / p);
}

bool in_host_memory(const void* p) {
  cudaPointerAttributes attributes{};
  check_cuda(cudaPointerGetAttributes(&attributes, p), "cudaPointerGetAttributes");
  return attributes.type != cudaMemoryTypeDevice && attributes.type != cudaMemoryTypeManaged;
}

// The norm of `items` into device memory, on the context's stream.
void queue_norm(Context* context, const Items& items, double p, double* norm) {
  int64_t chunks = 0;
  items.for_batches([&](const Batch& batch, auto) { chunks += batch.chunks; });
  const Workspace partial(context, static_cast<size_t>(chunks) * sizeof(double));
  int64_t done = 0;
  items.for_batches([&](const Batch& batch, auto zero) {
    using T = decltype(zero);
    launch(context, FASTDL_KERNEL(multi_tensor_norm<T>),
           {blocks_for(batch.chunks, 1), kThreads, sizeof(NormShared<double>)}, batch, p,
           partial.as<double>() + done);
    done += batch.chunks;
  });
  launch(context, FASTDL_KERNEL(multi_tensor_norm_end), {1, kThreads, sizeof(NormShared<double>)},
         partial.as<double>(), chunks, p, norm);
}

}  // namespace
}  // namespace fastdl::cuda::optim

using namespace fastdl;
using namespace fastdl::cuda;
using namespace fastdl::cuda::optim;

extern "C" {

fastdl_status fastdl_cuda_norm(fastdl_context* context, int32_t count, fastdl_tensor_list tensors, double p,
                               double* norm) {
  return guarded([&] {
    check::norm(p, norm);
    const Items items(context, "norm", count, {tensors}, {"tensor"}, 0, nullptr);
    if (!in_host_memory(norm)) return queue_norm(context, items, p, norm);
    const Workspace result(context, sizeof(double));
    queue_norm(context, items, p, result.as<double>());
    check_cuda(
        cudaMemcpyAsync(norm, result.as<void>(), sizeof(double), cudaMemcpyDeviceToHost, stream_of(context)),
        "norm");
    check_cuda(cudaStreamSynchronize(stream_of(context)), "norm");
  });
}

fastdl_status fastdl_cuda_scale(fastdl_context* context, int32_t count, fastdl_tensor_list tensors,
                                double factor) {
  return guarded([&] {
    Items items(context, "scale", count, {tensors}, {"tensor"}, -1, nullptr);
    step<Scale>(context, items, factor);
  });
}

fastdl_status fastdl_cuda_clip_norm(fastdl_context* context, int32_t count, fastdl_tensor_list tensors,
                                    double max_norm, const double* norm) {
  return guarded([&] {
    check::clip_norm(max_norm, norm);
    FASTDL_CHECK(!in_host_memory(norm), FASTDL_ERROR_DEVICE, "clip_norm: norm is not in device memory");
    Items items(context, "clip_norm", count, {tensors}, {"tensor"}, -1, nullptr);
    step<ClipNorm>(context, items, Clip{max_norm, norm});
  });
}
}
