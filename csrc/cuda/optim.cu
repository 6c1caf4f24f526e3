// Multi-tensor optimizer steps: one launch for up to 48 tensors, whose pointers travel in the launch's
// parameters, so that a step can be captured in a graph. Each tensor is read and written once.
#include "common/optim.h"

#include <cmath>
#include <memory>
#include <vector>

#include "cuda/map.cuh"
#include "cuda/shared.cuh"
#include "cuda/tensor.h"
#include "fastdl/cuda.h"

namespace fastdl::cuda {
namespace {

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
__global__ void __launch_bounds__(kThreads) multi_tensor_step(Batch batch, Rule rule) {
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

template <class T>
struct Sgd {
  static constexpr int kLists = 3;
  static constexpr bool kUsesScalars = false;
  T sign, decay, rate, momentum, damping;
  bool nesterov;
  explicit Sgd(const fastdl_sgd_options& o)
      : sign(o.maximize ? T(-1) : T(1)),
        decay(static_cast<T>(o.weight_decay)),
        rate(static_cast<T>(o.lr)),
        momentum(static_cast<T>(o.momentum)),
        damping(static_cast<T>(1 - o.dampening)),
        nesterov(o.nesterov != 0) {}
  __device__ void operator()(T (&v)[kOptimLists], const Item& item, const T (&)[2]) const {
    T d = fma(decay, v[0], v[1] * sign);
    if (item.data[2]) {
      v[2] = item.fresh ? d : fma(momentum, v[2], damping * d);
      d = nesterov ? fma(momentum, v[2], d) : v[2];
    }
    v[0] = fma(-rate, d, v[0]);
  }
};

template <class T>
struct Adam {
  static constexpr int kLists = 5;
  static constexpr bool kUsesScalars = true;
  double lr, beta1, beta2;
  T sign, weight_decay, decay, eps, rest1, keep2, rest2;
  explicit Adam(const fastdl_adam_options& o)
      : lr(o.lr),
        beta1(o.beta1),
        beta2(o.beta2),
        sign(o.maximize ? T(-1) : T(1)),
        weight_decay(static_cast<T>(o.decoupled ? 0 : o.weight_decay)),
        decay(static_cast<T>(o.decoupled ? 1 - o.lr * o.weight_decay : 1)),
        eps(static_cast<T>(o.eps)),
        rest1(static_cast<T>(1 - o.beta1)),
        keep2(static_cast<T>(o.beta2)),
        rest2(static_cast<T>(1 - o.beta2)) {}
  __device__ void scalars(const Item& item, double (&out)[2]) const {
    const double t = *item.step;
    out[0] = lr / (1 - pow(beta1, t));
    out[1] = 1 / sqrt(1 - pow(beta2, t));
  }
  __device__ void operator()(T (&v)[kOptimLists], const Item& item, const T (&scalars)[2]) const {
    const T x = v[0] * decay, d = fma(weight_decay, x, v[1] * sign);
    v[2] = fma(d - v[2], rest1, v[2]);
    v[3] = fma(rest2 * d, d, keep2 * v[3]);
    T square = v[3];
    if (item.data[4]) square = v[4] = Max{}(v[4], square);
    v[0] = fma(-scalars[0], v[2] / fma(sqrt(square), scalars[1], eps), x);
  }
};

template <class T>
struct Adagrad {
  static constexpr int kLists = 3;
  static constexpr bool kUsesScalars = true;
  double lr, lr_decay;
  T sign, decay, eps;
  explicit Adagrad(const fastdl_adagrad_options& o)
      : lr(o.lr),
        lr_decay(o.lr_decay),
        sign(o.maximize ? T(-1) : T(1)),
        decay(static_cast<T>(o.weight_decay)),
        eps(static_cast<T>(o.eps)) {}
  __device__ void scalars(const Item& item, double (&out)[2]) const {
    const double t = *item.step;
    out[0] = lr / (1 + (t - 1) * lr_decay);
    out[1] = 0;
  }
  __device__ void operator()(T (&v)[kOptimLists], const Item&, const T (&scalars)[2]) const {
    const T d = fma(decay, v[0], v[1] * sign);
    v[2] = fma(d, d, v[2]);
    v[0] = fma(-scalars[0], d / (sqrt(v[2]) + eps), v[0]);
  }
};

template <class T>
struct Rmsprop {
  static constexpr int kLists = 5;
  static constexpr bool kUsesScalars = false;
  T sign, decay, rate, eps, momentum, alpha, rest;
  explicit Rmsprop(const fastdl_rmsprop_options& o)
      : sign(o.maximize ? T(-1) : T(1)),
        decay(static_cast<T>(o.weight_decay)),
        rate(static_cast<T>(o.lr)),
        eps(static_cast<T>(o.eps)),
        momentum(static_cast<T>(o.momentum)),
        alpha(static_cast<T>(o.alpha)),
        rest(static_cast<T>(1 - o.alpha)) {}
  __device__ void operator()(T (&v)[kOptimLists], const Item& item, const T (&)[2]) const {
    const T d = fma(decay, v[0], v[1] * sign);
    v[2] = fma(rest * d, d, alpha * v[2]);
    T square = v[2];
    if (item.data[3]) {
      v[3] = fma(d - v[3], rest, v[3]);
      square = fma(-v[3], v[3], square);
    }
    T u = d / (sqrt(square) + eps);
    if (item.data[4]) u = v[4] = fma(momentum, v[4], u);
    v[0] = fma(-rate, u, v[0]);
  }
};

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

struct StepPointers {
  float* step[kBatch];
};
__global__ void raise_steps(StepPointers pointers, int count) {
  if (static_cast<int>(threadIdx.x) < count) *pointers.step[threadIdx.x] += 1.0f;
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
  void raise(int32_t count, fastdl_tensor_list steps, const char* op) {
    std::vector<float*> pointers;
    for (int32_t i = 0; i < count; ++i) pointers.push_back(check::optim_step(steps, i, op).as<float>());
    for (size_t i = 0; i < pointers.size(); ++i) items_[i].step = pointers[i];
    for (size_t first = 0; first < pointers.size(); first += kBatch) {
      StepPointers batch{};
      const size_t n = std::min(pointers.size() - first, size_t{kBatch});
      for (size_t i = 0; i < n; ++i) batch.step[i] = pointers[first + i];
      launch(context_, FASTDL_KERNEL(raise_steps), {1, 64}, batch, static_cast<int>(n));
    }
  }
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
}  // namespace fastdl::cuda

using namespace fastdl;
using namespace fastdl::cuda;

extern "C" {

fastdl_status fastdl_cuda_sgd_step(fastdl_context* context, int32_t count, fastdl_tensor_list params,
                                   fastdl_tensor_list grads, fastdl_tensor_list buffers, const uint8_t* fresh,
                                   const fastdl_sgd_options* options) {
  return guarded([&] {
    const auto o = check::sgd(options, grads, &buffers);
    Items items(context, "sgd", count, {params, grads, buffers}, {"param", "grad", "momentum_buffer"},
                check::kGradients, o.rounded);
    items.set_fresh(fresh);
    step<Sgd>(context, items, o);
  });
}

fastdl_status fastdl_cuda_adam_step(fastdl_context* context, int32_t count, fastdl_tensor_list params,
                                    fastdl_tensor_list grads, fastdl_tensor_list avgs,
                                    fastdl_tensor_list avg_sqs, fastdl_tensor_list max_avg_sqs,
                                    fastdl_tensor_list steps, const fastdl_adam_options* options) {
  return guarded([&] {
    const auto o = check::adam(options, grads, avgs, avg_sqs, &max_avg_sqs, steps);
    Items items(context, "adam", count, {params, grads, avgs, avg_sqs, max_avg_sqs},
                {"param", "grad", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"}, check::kGradients, o.rounded);
    items.raise(count, steps, "adam");
    step<Adam>(context, items, o);
  });
}

fastdl_status fastdl_cuda_adagrad_step(fastdl_context* context, int32_t count, fastdl_tensor_list params,
                                       fastdl_tensor_list grads, fastdl_tensor_list sums,
                                       fastdl_tensor_list steps, const fastdl_adagrad_options* options) {
  return guarded([&] {
    const auto o = check::adagrad(options, grads, sums, steps);
    Items items(context, "adagrad", count, {params, grads, sums}, {"param", "grad", "sum"}, check::kGradients,
                o.rounded);
    items.raise(count, steps, "adagrad");
    step<Adagrad>(context, items, o);
  });
}

fastdl_status fastdl_cuda_rmsprop_step(fastdl_context* context, int32_t count, fastdl_tensor_list params,
                                       fastdl_tensor_list grads, fastdl_tensor_list square_avgs,
                                       fastdl_tensor_list avgs, fastdl_tensor_list buffers,
                                       fastdl_tensor_list steps, const fastdl_rmsprop_options* options) {
  return guarded([&] {
    const auto o = check::rmsprop(options, grads, square_avgs, &avgs, &buffers);
    Items items(context, "rmsprop", count, {params, grads, square_avgs, avgs, buffers},
                {"param", "grad", "square_avg", "grad_avg", "momentum_buffer"}, check::kGradients, o.rounded);
    if (steps) items.raise(count, steps, "rmsprop");
    step<Rmsprop>(context, items, o);
  });
}

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
