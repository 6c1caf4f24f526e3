// Pooling on channels-last memory: a thread has 16 bytes of channels of one output position (backward: of one
// input position, for which it gathers from the windows that reach it, so that nothing is added twice at
// once). Neighbouring windows share taps through the caches: each element comes from memory once.
#include "common/pool.h"

#include "cuda/map.cuh"
#include "cuda/tensor.h"
#include "fastdl/cuda.h"

namespace fastdl::cuda {
namespace {

using check::PoolPlan;
using check::PoolReach;
using check::PoolWindow;

constexpr int kThreads = 256;

// Positions of maxima: the caller's int32 or int64.
struct Positions {
  void* data;  // NULL: not wanted
  bool wide;
  __device__ int64_t get(int64_t i) const {
    return wide ? static_cast<const int64_t*>(data)[i] : static_cast<const int32_t*>(data)[i];
  }
  __device__ void set(int64_t i, int64_t position) const {
    if (wide) static_cast<int64_t*>(data)[i] = position;
    else static_cast<int32_t*>(data)[i] = static_cast<int32_t>(position);
  }
};

// Task i of a grid-stride loop: a pack of channels of a position in planes of the given extents.
struct PoolTask {
  int64_t sample, at[3], channel;
  __device__ PoolTask(int64_t i, const int64_t (&plane)[3], int64_t packs, int width) {
    channel = i % packs * width;
    i /= packs;
    at[2] = i % plane[2];
    i /= plane[2];
    at[1] = i % plane[1];
    i /= plane[1];
    at[0] = i % plane[0];
    sample = i / plane[0];
  }
};

// f(position in the plane) for every tap of a window, in order.
template <class F>
__device__ __forceinline__ void for_taps(const PoolPlan& p, const PoolWindow& d, const PoolWindow& h,
                                         const PoolWindow& w, F&& f) {
  for (int64_t i = 0; i < d.count; ++i) {
    for (int64_t j = 0; j < h.count; ++j) {
      const int64_t at = ((d.begin + i * d.step) * p.in[1] + h.begin + j * h.step) * p.in[2] + w.begin;
      for (int64_t k = 0; k < w.count; ++k) f(at + k * w.step);
    }
  }
}

template <int Width, class S>
__global__ void __launch_bounds__(kThreads, 2)
    max_pool(PoolPlan p, int64_t tasks, const S* x, S* out, Positions where) {
  using T = compute_t<S>;
  using P = Pack<S, Width>;
  const int64_t packs = p.c / Width;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < tasks;
       i += static_cast<int64_t>(gridDim.x) * kThreads) {
    const PoolTask t(i, p.out, packs, Width);
    const S* const plane = x + t.sample * p.in_plane() * p.c + t.channel;
    T top[Width];
    int64_t at[Width];
#pragma unroll
    for (int j = 0; j < Width; ++j) top[j] = -static_cast<T>(INFINITY), at[j] = -1;
    for_taps(p, p.window(0, t.at[0]), p.window(1, t.at[1]), p.window(2, t.at[2]), [&](int64_t position) {
      const P v = *reinterpret_cast<const P*>(plane + position * p.c);
#pragma unroll
      for (int j = 0; j < Width; ++j) {
        const T value = widen(v.at[j]);
        // The first of equals stays, but of NaNs the last; and a NaN is larger than all.
        if (value > top[j] || value != value || at[j] < 0) top[j] = value, at[j] = position;
      }
    });
    P y;
#pragma unroll
    for (int j = 0; j < Width; ++j) y.at[j] = narrow<S>(top[j]);
    *reinterpret_cast<P*>(out + i * Width) = y;
    if (where.data) {
#pragma unroll
      for (int j = 0; j < Width; ++j) where.set(i * Width + j, at[j]);
    }
  }
}

template <int Width, class S>
__global__ void __launch_bounds__(kThreads, 2) avg_pool(PoolPlan p, int64_t tasks, const S* x, S* out) {
  using T = compute_t<S>;
  using P = Pack<S, Width>;
  const int64_t packs = p.c / Width;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < tasks;
       i += static_cast<int64_t>(gridDim.x) * kThreads) {
    const PoolTask t(i, p.out, packs, Width);
    const S* const plane = x + t.sample * p.in_plane() * p.c + t.channel;
    const PoolWindow d = p.window(0, t.at[0]), h = p.window(1, t.at[1]), w = p.window(2, t.at[2]);
    // Long sums go through partial sums of this many taps, which keeps their rounding error small.
    constexpr int kPartial = 64;
    T total[Width] = {}, sum[Width] = {};
    int count = 0;
    for_taps(p, d, h, w, [&](int64_t position) {
      const P v = *reinterpret_cast<const P*>(plane + position * p.c);
#pragma unroll
      for (int j = 0; j < Width; ++j) sum[j] += widen(v.at[j]);
      if (++count < kPartial) return;
      count = 0;
#pragma unroll
      for (int j = 0; j < Width; ++j) total[j] += sum[j], sum[j] = T(0);
    });
    const bool empty = d.count == 0 || h.count == 0 || w.count == 0;
    const T scale = empty ? T(0) : static_cast<T>(1 / static_cast<double>(p.divisor_of(d, h, w)));
    P y;
#pragma unroll
    for (int j = 0; j < Width; ++j) y.at[j] = narrow<S>((total[j] + sum[j]) * scale);
    *reinterpret_cast<P*>(out + i * Width) = y;
  }
}

// f(window as [depth, height, width], its element) for the windows that reach a position, in order.
template <class F>
__device__ __forceinline__ void for_reach(const PoolPlan& p, const PoolTask& t, F&& f) {
  const PoolReach d = p.reach(0, t.at[0]), h = p.reach(1, t.at[1]), w = p.reach(2, t.at[2]);
  for (int64_t i = d.first; i < d.last; ++i) {
    for (int64_t j = h.first; j < h.last; ++j) {
      for (int64_t k = w.first; k < w.last; ++k) {
        f(i, j, k, ((t.sample * p.out[0] + i) * p.out[1] + j) * p.out[2] + k);
      }
    }
  }
}

template <int Width, class S>
__global__ void __launch_bounds__(kThreads, 2)
    max_pool_backward(PoolPlan p, int64_t tasks, const S* dy, Positions where, S* dx) {
  using T = compute_t<S>;
  using P = Pack<S, Width>;
  const int64_t packs = p.c / Width;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < tasks;
       i += static_cast<int64_t>(gridDim.x) * kThreads) {
    const PoolTask t(i, p.in, packs, Width);
    const int64_t position = (t.at[0] * p.in[1] + t.at[1]) * p.in[2] + t.at[2];
    T sum[Width] = {};
    for_reach(p, t, [&](int64_t, int64_t, int64_t, int64_t window) {
      const int64_t at = window * p.c + t.channel;
      const P g = *reinterpret_cast<const P*>(dy + at);
#pragma unroll
      for (int j = 0; j < Width; ++j) {
        if (where.get(at + j) == position) sum[j] += widen(g.at[j]);
      }
    });
    P y;
#pragma unroll
    for (int j = 0; j < Width; ++j) y.at[j] = narrow<S>(sum[j]);
    *reinterpret_cast<P*>(dx + i * Width) = y;
  }
}

template <int Width, class S>
__global__ void __launch_bounds__(kThreads, 2)
    avg_pool_backward(PoolPlan p, int64_t tasks, const S* dy, S* dx) {
  using T = compute_t<S>;
  using P = Pack<S, Width>;
  const int64_t packs = p.c / Width;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < tasks;
       i += static_cast<int64_t>(gridDim.x) * kThreads) {
    const PoolTask t(i, p.in, packs, Width);
    T sum[Width] = {};
    for_reach(p, t, [&](int64_t d, int64_t h, int64_t w, int64_t window) {
      const P g = *reinterpret_cast<const P*>(dy + window * p.c + t.channel);
      const int64_t divisor = p.divisor_of(p.window(0, d), p.window(1, h), p.window(2, w));
      const T scale = static_cast<T>(1 / static_cast<double>(divisor));
#pragma unroll
      for (int j = 0; j < Width; ++j) sum[j] += widen(g.at[j]) * scale;
    });
    P y;
#pragma unroll
    for (int j = 0; j < Width; ++j) y.at[j] = narrow<S>(sum[j]);
    *reinterpret_cast<P*>(dx + i * Width) = y;
  }
}

Positions positions(const View& v) { return {v.data, v.dtype == DType::kInt64}; }

// Calls f(S{}, integral_constant<width>, blocks and threads, tasks): a thread for each pack of channels of
// out.
template <class F>
void for_packs(const View& in, const View& out, int64_t channels, F&& f) {
  dispatch_storage(out.dtype, [&](auto zero) {
    using S = decltype(zero);
    const auto run = [&](auto width) {
      const int64_t tasks = out.size() / width;
      f(zero, width, Launch{blocks_for(tasks, kThreads), kThreads}, tasks);
    };
    with_pack_width<S>(channels, run, in.data, out.data);
  });
}

}  // namespace
}  // namespace fastdl::cuda

using namespace fastdl;
using namespace fastdl::cuda;

extern "C" {

fastdl_status fastdl_cuda_max_pool_forward(fastdl_context* context, const fastdl_tensor* x,
                                           const fastdl_tensor* out, const fastdl_tensor* indices,
                                           const fastdl_pool_options* options) {
  return guarded([&] {
    const check::MaxPool p = check::max_pool_forward(x, out, indices, options);
    if (p.out.size() == 0) return;
    const Contiguous xc(context, p.x);
    ContiguousOut yc(context, p.out), wc(context, p.indices);
    for_packs(*xc, *yc, p.plan.c, [&](auto zero, auto width, const Launch& grid, int64_t tasks) {
      using S = decltype(zero);
      launch(context, FASTDL_KERNEL(max_pool<decltype(width)::value, S>), grid, p.plan, tasks,
             xc->as<const S>(), yc->as<S>(), positions(*wc));
    });
    yc.write_back();
    if (indices) wc.write_back();
  });
}

fastdl_status fastdl_cuda_max_pool_backward(fastdl_context* context, const fastdl_tensor* grad_out,
                                            const fastdl_tensor* indices, const fastdl_tensor* grad_x,
                                            const fastdl_pool_options* options) {
  return guarded([&] {
    const check::MaxPool p = check::max_pool_backward(grad_out, indices, grad_x, options);
    if (p.x.size() == 0) return;
    const Contiguous dy(context, p.out), where(context, p.indices);
    ContiguousOut dx(context, p.x);
    for_packs(*dy, *dx, p.plan.c, [&](auto zero, auto width, const Launch& grid, int64_t tasks) {
      using S = decltype(zero);
      launch(context, FASTDL_KERNEL(max_pool_backward<decltype(width)::value, S>), grid, p.plan, tasks,
             dy->as<const S>(), positions(*where), dx->as<S>());
    });
    dx.write_back();
  });
}

fastdl_status fastdl_cuda_avg_pool_forward(fastdl_context* context, const fastdl_tensor* x,
                                           const fastdl_tensor* out, const fastdl_pool_options* options) {
  return guarded([&] {
    const check::AvgPool p = check::avg_pool_forward(x, out, options);
    if (p.out.size() == 0) return;
    const Contiguous xc(context, p.x);
    ContiguousOut yc(context, p.out);
    for_packs(*xc, *yc, p.plan.c, [&](auto zero, auto width, const Launch& grid, int64_t tasks) {
      using S = decltype(zero);
      launch(context, FASTDL_KERNEL(avg_pool<decltype(width)::value, S>), grid, p.plan, tasks,
             xc->as<const S>(), yc->as<S>());
    });
    yc.write_back();
  });
}

fastdl_status fastdl_cuda_avg_pool_backward(fastdl_context* context, const fastdl_tensor* grad_out,
                                            const fastdl_tensor* grad_x, const fastdl_pool_options* options) {
  return guarded([&] {
    const check::AvgPool p = check::avg_pool_backward(grad_out, grad_x, options);
    if (p.x.size() == 0) return;
    const Contiguous dy(context, p.out);
    ContiguousOut dx(context, p.x);
    for_packs(*dy, *dx, p.plan.c, [&](auto zero, auto width, const Launch& grid, int64_t tasks) {
      using S = decltype(zero);
      launch(context, FASTDL_KERNEL(avg_pool_backward<decltype(width)::value, S>), grid, p.plan, tasks,
             dy->as<const S>(), dx->as<S>());
    });
    dx.write_back();
  });
}
}
