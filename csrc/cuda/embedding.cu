// Look-up of table rows, and the sums of their gradients. Forward moves whole rows, 16 bytes to a thread:
// each is read and written once. Backward sorts the places by row (sort.cu: some bytes per index beside the
// rows of the gradient), then a warp adds up each row's summands in the order of their places, so that no
// atomics are needed; rows that occur often are shared by the warps of a block.
#include "cuda/embedding.cuh"

#include "common/embedding.h"
#include "cuda/shared.cuh"
#include "cuda/sort.cuh"
#include "fastdl/cuda.h"

namespace fastdl::cuda {
namespace {

// Rows in units of 16 bytes, or of one element. A bad index gives NaN, which all bits set are in each dtype.
template <class Unit>
__global__ void __launch_bounds__(kMapThreads)
    gather_rows(int64_t size, int64_t units, const Unit* weight, const int64_t* indices, Unit* out) {
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kMapThreads + threadIdx.x; i < size;
       i += static_cast<int64_t>(gridDim.x) * kMapThreads) {
    const int64_t index = indices[i / units];
    Unit value;
    if (index >= 0) value = weight[index * units + i % units];
    else memset(&value, 0xFF, sizeof value);
    out[i] = value;
  }
}

template <class Unit>
void gather(Context* context, int64_t rows, int64_t units, const View& weight, const int64_t* indices,
            const View& out) {
  const int64_t size = rows * units;
  if (size == 0) return;
  launch(context, FASTDL_KERNEL(gather_rows<Unit>), {blocks_for(size, kMapThreads), kMapThreads}, size, units,
         weight.as<const Unit>(), indices, out.as<Unit>());
}

void gather(Context* context, const View& weight, const int64_t* indices, const View& out) {
  const int64_t columns = weight.shape[1], bytes = columns * item_size(weight.dtype);
  const int64_t rows = columns ? out.size() / columns : 0;
  if (bytes % 16 == 0 && aligned_to(16, weight.data, out.data)) {
    return gather<Pack<uint32_t, 4>>(context, rows, bytes / 16, weight, indices, out);
  }
  switch (item_size(weight.dtype)) {
    case 8:
      return gather<uint64_t>(context, rows, columns, weight, indices, out);
    case 4:
      return gather<uint32_t>(context, rows, columns, weight, indices, out);
    default:
      return gather<uint16_t>(context, rows, columns, weight, indices, out);
  }
}

constexpr int64_t kOften = 128;  // from so many summands on, a block takes a row

// The sum of the summands begin, begin + step, ... before end of `row` in one column.
template <class S, class T = compute_t<S>>
__device__ __forceinline__ T sum_of(const RowSums<T>& s, const S* grad, int64_t row, int64_t column,
                                    int64_t begin, int64_t end, int64_t step) {
  T sum = 0;
  for (int64_t k = begin; k < end; k += step) {
    const int64_t place = s.places[k], source = s.source ? s.source[place] : place;
    if (source < 0) continue;
    const int64_t at = source * s.columns + column;
    if (s.which) {
      // A row that occurs twice among the candidates of one maximum counts once.
      if (s.which[at] != row || (k > s.starts[row] && s.source[s.places[k - 1]] == source)) continue;
    }
    const T value = widen(grad[at]);
    sum += s.factors ? s.factors[place] * value : value;
  }
  return sum;
}

template <class T>
__device__ __forceinline__ T frequency_factor(const RowSums<T>& s, int64_t count) {
  return s.by_frequency && count > 0 ? T(1) / static_cast<T>(count) : T(1);
}

// A warp to a row and 32 columns.
template <class S>
__global__ void __launch_bounds__(kTableThreads)
    sum_rare_rows(RowSums<compute_t<S>> s, const S* grad, S* grad_weight) {
  const int64_t groups = (s.columns + kWarp - 1) / kWarp;
  for (int64_t task = static_cast<int64_t>(blockIdx.x) * kTableWarps + warp(); task < s.limit * groups;
       task += static_cast<int64_t>(gridDim.x) * kTableWarps) {
    const int64_t row = task / groups, column = task % groups * kWarp + lane();
    const int64_t begin = s.starts[row], end = s.starts[row + 1];
    if (end - begin >= kOften || column >= s.columns) continue;
    const auto sum = sum_of(s, grad, row, column, begin, end, 1);
    grad_weight[row * s.columns + column] = narrow<S>(sum * frequency_factor(s, end - begin));
  }
}

template <class T>
struct SumsShared {
  SharedArray<T, kTableThreads> sums;
};

// A block to a row and 32 columns; its warps take the summands in turn.
template <class S>
__global__ void __launch_bounds__(kTableThreads)
    sum_frequent_rows(RowSums<compute_t<S>> s, const S* grad, S* grad_weight) {
  using T = compute_t<S>;
  auto& shared = shared_memory<SumsShared<T>>();
  const int64_t groups = (s.columns + kWarp - 1) / kWarp;
  for (int64_t task = blockIdx.x; task < s.limit * groups; task += gridDim.x) {
    const int64_t row = task / groups, column = task % groups * kWarp + lane();
    const int64_t begin = s.starts[row], end = s.starts[row + 1];
    if (end - begin < kOften) continue;
    T sum = 0;
    if (column < s.columns) sum = sum_of(s, grad, row, column, begin + warp(), end, kTableWarps);
    shared.sums[static_cast<int>(threadIdx.x)] = sum;
    __syncthreads();
    if (warp() == 0 && column < s.columns) {
      for (int w = 1; w < kTableWarps; ++w) sum += static_cast<T>(shared.sums[w * kWarp + lane()]);
      grad_weight[row * s.columns + column] = narrow<S>(sum * frequency_factor(s, end - begin));
    }
    __syncthreads();
  }
}

// The p-norm of a row, in float64.
template <class S>
__device__ __forceinline__ double row_norm(double p, int64_t n, int64_t stride, const S* x) {
  double sum = 0;
  if (isinf(p)) {
    for (int64_t j = lane(); j < n; j += kWarp)
      sum = Max{}(fabs(static_cast<double>(widen(x[j * stride]))), sum);
    return warp_reduce(sum, Max{});
  }
  for (int64_t j = lane(); j < n; j += kWarp) {
    const double a = fabs(static_cast<double>(widen(x[j * stride])));
    sum += p == 2 ? a * a : p == 1 ? a : pow(a, p);
  }
  sum = warp_reduce(sum, Sum{});
  return p == 2 ? sqrt(sum) : p == 1 ? sum : pow(sum, 1 / p);
}

// A warp to a row; rows that no index names stay as they are.
template <class S>
__global__ void __launch_bounds__(kTableThreads)
    renorm_rows(int64_t rows, int64_t n, int64_t row_stride, int64_t stride, const int64_t* starts,
                double max_norm, double p, S* weight) {
  using T = compute_t<S>;
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * kTableWarps + warp(); row < rows;
       row += static_cast<int64_t>(gridDim.x) * kTableWarps) {
    if (starts[row + 1] == starts[row]) continue;
    S* const w = weight + row * row_stride;
    const double norm = row_norm(p, n, stride, w);
    if (!(norm > max_norm)) continue;
    const T factor = static_cast<T>(max_norm / (norm + 1e-7));
    for (int64_t j = lane(); j < n; j += kWarp) w[j * stride] = narrow<S>(widen(w[j * stride]) * factor);
  }
}

}  // namespace

template <class S>
void sum_rows(Context* context, const RowSums<compute_t<S>>& s, const S* grad, S* grad_weight) {
  if (s.limit * s.columns == 0) return;
  const int64_t tasks = s.limit * ((s.columns + kWarp - 1) / kWarp);
  launch(context, FASTDL_KERNEL(sum_rare_rows<S>), {blocks_for(tasks, kTableWarps), kTableThreads}, s, grad,
         grad_weight);
  launch(context, FASTDL_KERNEL(sum_frequent_rows<S>),
         {blocks_for(tasks, 1), kTableThreads, sizeof(SumsShared<compute_t<S>>)}, s, grad, grad_weight);
}
template void sum_rows<float>(Context*, const RowSums<float>&, const float*, float*);
template void sum_rows<double>(Context*, const RowSums<double>&, const double*, double*);
template void sum_rows<bfloat16>(Context*, const RowSums<float>&, const bfloat16*, bfloat16*);
template void sum_rows<float16>(Context*, const RowSums<float>&, const float16*, float16*);

}  // namespace fastdl::cuda

using namespace fastdl;
using namespace fastdl::cuda;

extern "C" {

fastdl_status fastdl_cuda_embedding_forward(fastdl_context* context, const fastdl_tensor* weight,
                                            const fastdl_tensor* indices, const fastdl_tensor* out) {
  return guarded([&] {
    const check::Embedding e = check::embedding_forward(weight, indices, out);
    const Indices rows(context, e.indices, e.weight.shape[0]);
    const Contiguous w(context, e.weight);
    ContiguousOut y(context, e.out);
    gather(context, *w, rows.data(), *y);
    y.write_back();
  });
}

fastdl_status fastdl_cuda_embedding_backward(fastdl_context* context, const fastdl_tensor* grad_out,
                                             const fastdl_tensor* indices, const fastdl_tensor* grad_weight,
                                             int64_t padding_idx, int32_t scale_grad_by_freq) {
  return guarded([&] {
    const check::EmbeddingBackward e = check::embedding_backward(grad_out, indices, grad_weight);
    const int64_t limit = e.grad_weight.shape[0], columns = e.grad_weight.shape[1];
    const Indices rows(context, e.indices, limit);
    const PlacesByRow groups(context, rows.data(), e.indices.size(), limit);
    dispatch_storage(e.grad_weight.dtype, [&](auto zero) {
      using S = decltype(zero);
      const Contiguous g(context, e.grad_out);
      ContiguousOut dw(context, e.grad_weight);
      const RowSums<compute_t<S>> sums{limit,   columns, groups.places(), groups.starts(),
                                       nullptr, nullptr, nullptr,         scale_grad_by_freq != 0};
      sum_rows<S>(context, sums, g->as<const S>(), dw->as<S>());
      if (padding_idx >= 0 && padding_idx < limit && columns > 0) {
        check_cuda(cudaMemsetAsync(dw->as<S>() + padding_idx * columns, 0,
                                   static_cast<size_t>(columns) * sizeof(S), stream_of(context)),
                   "embedding_backward");
      }
      dw.write_back();
    });
  });
}

fastdl_status fastdl_cuda_embedding_renorm(fastdl_context* context, const fastdl_tensor* weight,
                                           const fastdl_tensor* indices, double max_norm, double norm_type) {
  return guarded([&] {
    const check::EmbeddingRenorm e = check::embedding_renorm(weight, indices, max_norm, norm_type);
    const View& w = e.weight;
    if (w.size() == 0) return;
    const Indices rows(context, e.indices, w.shape[0]);
    const PlacesByRow groups(context, rows.data(), e.indices.size(), w.shape[0]);
    dispatch_storage(w.dtype, [&](auto zero) {
      using S = decltype(zero);
      launch(context, FASTDL_KERNEL(renorm_rows<S>), {blocks_for(w.shape[0], kTableWarps), kTableThreads},
             w.shape[0], w.shape[1], w.strides[0], w.strides[1], groups.starts(), max_norm, norm_type,
             w.as<S>());
    });
  });
}
}
