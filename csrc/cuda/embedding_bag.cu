// Bags: sums, means and maxima of groups of table rows. A warp has a bag and 32 columns; backward goes the
// way of embedding.cu, with the bag of a place in the place's stead.
#include "common/embedding.h"
#include "cuda/embedding.cuh"
#include "cuda/sort.cuh"
#include "fastdl/cuda.h"

namespace fastdl::cuda {
namespace {

// Where bags begin and end: at offsets, or every `length` places.
struct BagEnds {
  const int64_t* offsets;  // NULL: equal bags
  int64_t bags, length, places;
  bool has_last;  // offsets hold the end of the last bag
  uint32_t* error;

  // False if the offsets of this bag are no range.
  __device__ bool range(int64_t bag, int64_t& begin, int64_t& end) const {
    if (!offsets) {
      begin = bag * length, end = begin + length;
      return true;
    }
    begin = offsets[bag], end = bag + 1 < bags || has_last ? offsets[bag + 1] : places;
    if (begin >= 0 && end >= begin && (bag > 0 || begin == 0)) return true;
    note_error(error);
    return false;
  }
};

template <class S>
__global__ void __launch_bounds__(kTableThreads)
    bag_forward(int32_t mode, int64_t padding, BagEnds ends, int64_t columns, const int64_t* indices,
                const S* weight, const S* scales, S* out, int64_t* which) {
  using T = compute_t<S>;
  const int64_t groups = (columns + kWarp - 1) / kWarp;
  for (int64_t task = static_cast<int64_t>(blockIdx.x) * kTableWarps + warp(); task < ends.bags * groups;
       task += static_cast<int64_t>(gridDim.x) * kTableWarps) {
    const int64_t bag = task / groups, column = task % groups * kWarp + lane();
    int64_t begin = 0, end = 0, count = 0, from = -1;
    bool good = ends.range(bag, begin, end);
    if (!good) begin = end = 0;
    if (column >= columns) continue;
    T value = 0;
    for (int64_t p = begin; p < end; ++p) {
      const int64_t row = indices[p];
      if (row < 0) good = false;
      if (row == padding || row < 0) continue;
      const T x = widen(weight[row * columns + column]);
      if (mode != FASTDL_BAG_MAX) value += scales ? widen(scales[p]) * x : x;
      else if (count == 0 || x > value || (x != x && value == value)) value = x, from = row;
      ++count;
    }
    if (mode == FASTDL_BAG_MEAN && count > 0) value *= T(1) / static_cast<T>(count);
    if (!good) value = static_cast<T>(NAN);
    out[bag * columns + column] = narrow<S>(value);
    if (which) which[bag * columns + column] = from;
  }
}

// For each place the bag that holds it (-1: none), and its factor in the sum.
template <class S>
__global__ void __launch_bounds__(kTableThreads)
    bag_places(int32_t mode, int64_t padding, BagEnds ends, const int64_t* indices, const S* scales,
               int64_t* bag_of, compute_t<S>* factors) {
  using T = compute_t<S>;
  for (int64_t bag = static_cast<int64_t>(blockIdx.x) * kTableWarps + warp(); bag < ends.bags;
       bag += static_cast<int64_t>(gridDim.x) * kTableWarps) {
    int64_t begin = 0, end = 0;
    if (!ends.range(bag, begin, end)) continue;
    int64_t counted = 0;
    for (int64_t p = begin + lane(); p < end; p += kWarp) counted += indices[p] != padding;
    counted = warp_reduce(counted, Sum{});
    for (int64_t p = begin + lane(); p < end; p += kWarp) {
      bag_of[p] = bag;
      factors[p] = scales                    ? widen(scales[p])
                   : mode == FASTDL_BAG_MEAN ? T(1) / static_cast<T>(counted)
                                             : T(1);
    }
  }
}

// A warp to a place: the product of its row and its bag's gradient.
template <class S>
__global__ void __launch_bounds__(kTableThreads)
    bag_scale_gradients(int64_t places, int64_t columns, int64_t padding, const int64_t* bag_of,
                        const int64_t* indices, const S* grad, const S* weight, S* grad_scales) {
  using T = compute_t<S>;
  for (int64_t p = static_cast<int64_t>(blockIdx.x) * kTableWarps + warp(); p < places;
       p += static_cast<int64_t>(gridDim.x) * kTableWarps) {
    const int64_t bag = bag_of[p], row = indices[p];
    T sum = 0;
    if (bag >= 0 && row >= 0 && row != padding) {
      for (int64_t j = lane(); j < columns; j += kWarp) {
        sum += widen(grad[bag * columns + j]) * widen(weight[row * columns + j]);
      }
    }
    sum = warp_reduce(sum, Sum{});
    if (lane() == 0) grad_scales[p] = narrow<S>(row < 0 ? static_cast<T>(NAN) : sum);
  }
}

// The checked values of a call's indices and offsets.
struct Places {
  Indices indices, offsets;
  BagEnds ends;
  Places(Context* context, const check::Bags& b)
      : indices(context, b.indices, b.weight.shape[0]),
        offsets(context, b.offsets, b.indices.size() + 1),
        ends{b.offsets.ndim ? offsets.data() : nullptr, b.count,
             b.offsets.ndim ? 0 : b.indices.shape[1],   b.indices.size(),
             b.options.include_last_offset != 0,        error_word()} {}
};

template <class S>
void backward(Context* context, const check::EmbeddingBagBackward& e) {
  using T = compute_t<S>;
  const check::Bags& b = e.bags;
  const int64_t n = b.indices.size(), limit = b.weight.shape[0], columns = b.weight.shape[1];
  const int64_t padding = b.options.padding_idx;
  const Places places(context, b);
  const Contiguous g(context, e.grad_out), scales(context, b.scales), which(context, e.max_indices);
  const S* const s = b.scales.ndim ? scales->as<const S>() : nullptr;
  const Workspace bag_of(context, static_cast<size_t>(n) * sizeof(int64_t)),
      factors(context, static_cast<size_t>(n) * sizeof(T));
  if (n > 0) {
    check_cuda(cudaMemsetAsync(bag_of.as<void>(), 0xFF, static_cast<size_t>(n) * sizeof(int64_t),
                               stream_of(context)),
               "embedding_bag_backward");
  }
  if (b.count > 0 && n > 0) {
    launch(context, FASTDL_KERNEL(bag_places<S>), {blocks_for(b.count, kTableWarps), kTableThreads},
           b.options.mode, padding, places.ends, places.indices.data(), s, bag_of.as<int64_t>(),
           factors.as<T>());
  }
  if (e.grad_weight.ndim) {
    const PlacesByRow groups(context, places.indices.data(), n, limit);
    ContiguousOut dw(context, e.grad_weight);
    const RowSums<T> sums{limit,
                          columns,
                          groups.places(),
                          groups.starts(),
                          bag_of.as<const int64_t>(),
                          e.max ? nullptr : factors.as<const T>(),
                          e.max ? which->as<const int64_t>() : nullptr,
                          b.options.scale_grad_by_freq != 0 && !e.max};
    sum_rows<S>(context, sums, g->as<const S>(), dw->as<S>());
    if (padding >= 0 && padding < limit && columns > 0) {
      check_cuda(cudaMemsetAsync(dw->as<S>() + padding * columns, 0, static_cast<size_t>(columns) * sizeof(S),
                                 stream_of(context)),
                 "embedding_bag_backward");
    }
    dw.write_back();
  }
  if (e.grad_scales.ndim && n > 0) {
    const Contiguous w(context, b.weight);
    ContiguousOut ds(context, e.grad_scales);
    launch(context, FASTDL_KERNEL(bag_scale_gradients<S>), {blocks_for(n, kTableWarps), kTableThreads}, n,
           columns, padding, bag_of.as<const int64_t>(), places.indices.data(), g->as<const S>(),
           w->as<const S>(), ds->as<S>());
    ds.write_back();
  }
}

}  // namespace
}  // namespace fastdl::cuda

using namespace fastdl;
using namespace fastdl::cuda;

extern "C" {

fastdl_status fastdl_cuda_embedding_bag_forward(fastdl_context* context, const fastdl_tensor* weight,
                                                const fastdl_tensor* indices, const fastdl_tensor* offsets,
                                                const fastdl_tensor* per_sample_weights,
                                                const fastdl_tensor* out, const fastdl_tensor* max_indices,
                                                const fastdl_embedding_bag_options* options) {
  return guarded([&] {
    const check::EmbeddingBag e =
        check::embedding_bag_forward(weight, indices, offsets, per_sample_weights, out, max_indices, options);
    const check::Bags& b = e.bags;
    const int64_t columns = b.weight.shape[1];
    const Places places(context, b);
    if (e.out.size() == 0) return;
    dispatch_storage(b.weight.dtype, [&](auto zero) {
      using S = decltype(zero);
      const Contiguous w(context, b.weight), scales(context, b.scales);
      ContiguousOut y(context, e.out), which(context, e.max_indices);
      const int64_t tasks = b.count * ((columns + kWarp - 1) / kWarp);
      launch(context, FASTDL_KERNEL(bag_forward<S>), {blocks_for(tasks, kTableWarps), kTableThreads},
             b.options.mode, b.options.padding_idx, places.ends, columns, places.indices.data(),
             w->as<const S>(), b.scales.ndim ? scales->as<const S>() : nullptr, y->as<S>(),
             max_indices ? which->as<int64_t>() : nullptr);
      y.write_back();
      if (max_indices) which.write_back();
    });
  });
}

fastdl_status fastdl_cuda_embedding_bag_backward(
    fastdl_context* context, const fastdl_tensor* grad_out, const fastdl_tensor* weight,
    const fastdl_tensor* indices, const fastdl_tensor* offsets, const fastdl_tensor* per_sample_weights,
    const fastdl_tensor* max_indices, const fastdl_tensor* grad_weight,
    const fastdl_tensor* grad_per_sample_weights, const fastdl_embedding_bag_options* options) {
  return guarded([&] {
    const check::EmbeddingBagBackward e =
        check::embedding_bag_backward(grad_out, weight, indices, offsets, per_sample_weights, max_indices,
                                      grad_weight, grad_per_sample_weights, options);
    dispatch_storage(e.bags.weight.dtype, [&](auto zero) { backward<decltype(zero)>(context, e); });
  });
}
}
