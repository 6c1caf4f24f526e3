// Multi-tensor steps: one launch for up to 48 tensors, whose pointers travel in the launch's parameters, so
// that a step can be captured in a graph. Each tensor is read and written once.
#pragma once

#include <cmath>
#include <memory>
#include <vector>

#include "common/optim.h"
#include "cuda/map.cuh"
#include "cuda/shared.cuh"
#include "cuda/tensor.h"

namespace fastdl::cuda::optim {

using check::kOptimLists;

constexpr int kThreads = 256;
constexpr int64_t kChunk = 8192;  // elements a block takes at a time
constexpr int kWidth = 4;         // and a thread

// One parameter with its gradient and states, as flat memory.
struct Item {
  void* data[kOptimLists];  // NULL where the list is absent
  uint8_t dtype[kOptimLists];
  bool vector;  // groups of kWidth elements are aligned in every list
  bool fresh;
  const float* step;  // NULL, or the step count
  int64_t n, first;   // elements; chunks of the batch before this item's
};
constexpr int kBatch = 48;
struct Batch {
  int count;
  int64_t chunks;
  Item items[kBatch];
};
static_assert(sizeof(Batch) < 3900, "kernel parameters are limited to 4 KB");

// Elements i .. i + count of a list in the type computed with.
template <class T, class S>
__device__ __forceinline__ void load_as(const void* data, int64_t i, int count, bool vector, T (&x)[kWidth]) {
  const S* const from = static_cast<const S*>(data) + i;
  constexpr int kPack = sizeof(S) == 8 ? 2 : kWidth;
  if (vector && count == kWidth) {
#pragma unroll
    for (int k = 0; k < kWidth; k += kPack) {
      const auto p = *reinterpret_cast<const Pack<S, kPack>*>(from + k);
#pragma unroll
      for (int j = 0; j < kPack; ++j) x[k + j] = widen(p.at[j]);
    }
  } else {
    for (int j = 0; j < count; ++j) x[j] = widen(from[j]);
  }
}
template <class T, class S>
__device__ __forceinline__ void store_as(void* data, int64_t i, int count, bool vector,
                                         const T (&x)[kWidth]) {
  S* const to = static_cast<S*>(data) + i;
  constexpr int kPack = sizeof(S) == 8 ? 2 : kWidth;
  if (vector && count == kWidth) {
#pragma unroll
    for (int k = 0; k < kWidth; k += kPack) {
      Pack<S, kPack> p;
#pragma unroll
      for (int j = 0; j < kPack; ++j) p.at[j] = narrow<S>(x[k + j]);
      *reinterpret_cast<Pack<S, kPack>*>(to + k) = p;
    }
  } else {
    for (int j = 0; j < count; ++j) to[j] = narrow<S>(x[j]);
  }
}

// Calls f(S{}) with the storage type of a list of an item that is computed in T.
template <class T, class F>
__device__ __forceinline__ void with_storage(uint8_t dtype, F&& f) {
  if constexpr (sizeof(T) == 8) {
    f(double{});
  } else {
    if (dtype == static_cast<uint8_t>(DType::kFloat32)) f(float{});
    else if (dtype == static_cast<uint8_t>(DType::kBFloat16)) f(bfloat16{});
    else f(float16{});
  }
}

struct StepShared {
  SharedArray<double, 2> scalars;
};

// Which item a chunk belongs to: the last that begins at or before it.
__device__ __forceinline__ int item_of(const Batch& batch, int64_t chunk) {
  int low = 0, high = batch.count - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (batch.items[middle].first <= chunk) low = middle;
    else high = middle - 1;
  }
  return low;
}

// rule(values of one element, which lists there are, fresh, scalars) updates the values: parameter, gradient,
// states. rule.scalars(item, out): numbers that depend on device memory, such as the step count, computed
// once a chunk.
template <class T, class Rule>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 8 ? 2 : 4)
    multi_tensor_step(Batch batch, Rule rule) {
  auto& shared = shared_memory<StepShared>();
  for (int64_t chunk = blockIdx.x; chunk < batch.chunks; chunk += gridDim.x) {
    const Item& item = batch.items[item_of(batch, chunk)];
    T scalars[2] = {};
    if constexpr (Rule::kUsesScalars) {
      if (threadIdx.x == 0) {
        double values[2];
        rule.scalars(item, values);
        shared.scalars[0] = values[0];
        shared.scalars[1] = values[1];
      }
      __syncthreads();
      scalars[0] = static_cast<T>(static_cast<double>(shared.scalars[0]));
      scalars[1] = static_cast<T>(static_cast<double>(shared.scalars[1]));
      __syncthreads();
    }
    const int64_t begin = (chunk - item.first) * kChunk,
                  end = begin + kChunk < item.n ? begin + kChunk : item.n;
    for (int64_t i = begin + static_cast<int64_t>(threadIdx.x) * kWidth; i < end; i += kThreads * kWidth) {
      const int count = end - i < kWidth ? static_cast<int>(end - i) : kWidth;
      T x[Rule::kLists][kWidth] = {};
#pragma unroll
      for (int k = 0; k < Rule::kLists; ++k) {
        if (!item.data[k]) continue;
        with_storage<T>(item.dtype[k], [&](auto zero) {
          load_as<T, decltype(zero)>(item.data[k], i, count, item.vector, x[k]);
        });
      }
#pragma unroll
      for (int j = 0; j < kWidth; ++j) {
        T v[kOptimLists] = {};
#pragma unroll
        for (int k = 0; k < Rule::kLists; ++k) v[k] = x[k][j];
        rule(v, item, scalars);
#pragma unroll
        for (int k = 0; k < Rule::kLists; ++k) x[k][j] = v[k];
      }
#pragma unroll
      for (int k = 0; k < Rule::kLists; ++k) {
        if (k == check::kGradients || !item.data[k]) continue;
        with_storage<T>(item.dtype[k], [&](auto zero) {
          store_as<T, decltype(zero)>(item.data[k], i, count, item.vector, x[k]);
        });
      }
      if (item.data[check::kRounded]) {
        with_storage<T>(item.dtype[check::kRounded], [&](auto zero) {
          store_as<T, decltype(zero)>(item.data[check::kRounded], i, count, item.vector, x[0]);
        });
      }
    }
  }
}

// The lists of one call, checked and flattened. Tensors whose layouts differ are copied, and copied back by
// finish().
class Items {
 public:
  Items(Context* context, const char* op, int32_t count, std::initializer_list<fastdl_tensor_list> lists,
        std::initializer_list<const char*> names, int read_only, fastdl_tensor_list rounded)
      : context_(context) {
    check::optim_count(op, count, *lists.begin(), *names.begin());
    std::vector<check::OptimViews> all;
    for (int32_t i = 0; i < count; ++i) {
      all.push_back(check::optim_views(op, i, lists, names, read_only, rounded));
    }
    for (const check::OptimViews& views : all) add(views, read_only);
  }

  // Checked step counts; raised once all are.
  void raise(int32_t count, fastdl_tensor_list steps, const char* op);
  void set_fresh(const uint8_t* fresh) {
    for (size_t i = 0; fresh && i < items_.size(); ++i) items_[i].fresh = fresh[i] != 0;
  }

  // f(batch, T{}) for batches of items computed in T.
  template <class F>
  void for_batches(F&& f) const {
    for (const bool wide : {false, true}) {
      Batch batch{};
      const auto flush = [&] {
        if (batch.count == 0) return;
        if (wide) f(batch, double{});
        else f(batch, float{});
        batch = Batch{};
      };
      for (const Item& item : items_) {
        if (item.n == 0 || (item.dtype[0] == static_cast<uint8_t>(DType::kFloat64)) != wide) continue;
        Item& added = batch.items[batch.count++] = item;
        added.first = batch.chunks;
        batch.chunks += (item.n + kChunk - 1) / kChunk;
        if (batch.count == kBatch) flush();
      }
      flush();
    }
  }

  void finish() {
    for (auto& out : written_) out->write_back();
  }

 private:
  void add(const check::OptimViews& views, int read_only) {
    bool same = true;
    for (const View& v : views) same = same && (!v.data || same_dense_layout(views[0], v));
    Item item{};
    item.n = views[0].size();
    item.vector = true;
    for (int k = 0; k < kOptimLists; ++k) {
      const View& v = views[static_cast<size_t>(k)];
      if (!v.data) continue;
      item.dtype[k] = static_cast<uint8_t>(v.dtype);
      item.data[k] = same ? v.data : flat(v, k == read_only, k == check::kRounded);
      const auto pack = static_cast<uintptr_t>(item_size(v.dtype) == 8 ? 16 : item_size(v.dtype) * kWidth);
      item.vector = item.vector && reinterpret_cast<uintptr_t>(item.data[k]) % pack == 0;
    }
    items_.push_back(item);
  }
  void* flat(const View& v, bool read_only, bool write_only) {
    if (read_only) {
      read_.push_back(std::make_unique<Contiguous>(context_, v));
      return (*read_.back())->data;
    }
    written_.push_back(std::make_unique<ContiguousOut>(context_, v));
    ContiguousOut& out = *written_.back();
    if (!write_only && out->data != v.data) copy(context_, v, *out);
    return out->data;
  }

  Context* context_;
  std::vector<Item> items_;
  std::vector<std::unique_ptr<Contiguous>> read_;
  std::vector<std::unique_ptr<ContiguousOut>> written_;
};

template <template <class> class Rule, class Options>
void step(Context* context, Items& items, const Options& o) {
  items.for_batches([&](const Batch& batch, auto zero) {
    using T = decltype(zero);
    launch(context, FASTDL_KERNEL(multi_tensor_step<T, Rule<T>>),
           {blocks_for(batch.chunks, 1), kThreads, sizeof(StepShared)}, batch, Rule<T>(o));
  });
  items.finish();
}

}  // namespace fastdl::cuda::optim
