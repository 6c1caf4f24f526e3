// Layer and RMS normalisation. Rows of up to 4 packs of 16 bytes a thread are read once and kept in registers
// (a warp's: 1024 elements of 16 bits, a block's: 8192); of longer ones the rest is read again. Backward
// reads the data twice: row by row for grad_x, column by column for the gradients of weight and bias.
#include "common/norm.h"

#include "cuda/norm.cuh"
#include "cuda/rows.cuh"
#include "cuda/tensor.h"
#include "fastdl/cuda.h"

namespace fastdl::cuda {
namespace {

template <class T>
__device__ __forceinline__ T reciprocal_sqrt(T x) {
  return T(1) / sqrt(x);
}

template <int Threads, int Width, class S, class T = compute_t<S>>
__global__ void __launch_bounds__(kRowThreads)
    row_norm(int64_t rows, int64_t n, bool rms, T eps, const S* x, const T* weight, const T* bias, S* y,
             T* mean_out, T* rstd_out) {
  using P = Pack<S, Width>;
  const RowTeam<Threads, T> team{shared_memory<RowShared<T>>()};
  for (int64_t row = team.first_row(); row < rows; row += team.step()) {
    const RowShare<Threads, Width, S> share(x + row * n, n, team.thread());
    T mean = 0, squares = 0;
    if (!rms) {
      share.each([&](int64_t, const P& p) {
#pragma unroll
        for (int j = 0; j < Width; ++j) mean += widen(p.at[j]);
      });
      mean = team.sum(mean) / static_cast<T>(n);
    }
    share.each([&](int64_t, const P& p) {
#pragma unroll
      for (int j = 0; j < Width; ++j) {
        const T d = widen(p.at[j]) - mean;
        squares += d * d;
      }
    });
    const T rstd = reciprocal_sqrt(team.sum(squares) / static_cast<T>(n) + eps);
    share.each([&](int64_t i, const P& p) {
      P out;
#pragma unroll
      for (int j = 0; j < Width; ++j) {
        T v = (widen(p.at[j]) - mean) * rstd;
        if (weight) v = v * weight[i + j];
        if (bias) v = v + bias[i + j];
        out.at[j] = narrow<S>(v);
      }
      *reinterpret_cast<P*>(y + row * n + i) = out;
    });
    if (team.thread() == 0) {
      if (mean_out) mean_out[row] = mean;
      if (rstd_out) rstd_out[row] = rstd;
    }
  }
}

// dx = rstd (g - mean(g) - xhat mean(g xhat)) with g = dy weight; for RMS without the first mean.
template <int Threads, int Width, class S, class T = compute_t<S>>
__global__ void __launch_bounds__(kRowThreads)
    row_norm_backward(int64_t rows, int64_t n, bool rms, const S* dy, const S* x, const T* weight,
                      const T* means, const T* rstds, S* dx) {
  using P = Pack<S, Width>;
  const RowTeam<Threads, T> team{shared_memory<RowShared<T>>()};
  for (int64_t row = team.first_row(); row < rows; row += team.step()) {
    const RowShare<Threads, Width, S> share(x + row * n, n, team.thread());
    const S* const g_row = dy + row * n;
    const T mean = means ? means[row] : T(0), rstd = rstds[row];
    T sum = 0, dot = 0;
    share.each([&](int64_t i, const P& p) {
      const P g = *reinterpret_cast<const P*>(g_row + i);
#pragma unroll
      for (int j = 0; j < Width; ++j) {
        const T scaled = weight ? widen(g.at[j]) * weight[i + j] : widen(g.at[j]);
        sum += scaled;
        dot += scaled * ((widen(p.at[j]) - mean) * rstd);
      }
    });
    const T mean_dot = team.sum(dot) / static_cast<T>(n);
    const T mean_sum = rms ? T(0) : team.sum(sum) / static_cast<T>(n);
    share.each([&](int64_t i, const P& p) {
      const P g = *reinterpret_cast<const P*>(g_row + i);
      P out;
#pragma unroll
      for (int j = 0; j < Width; ++j) {
        const T scaled = weight ? widen(g.at[j]) * weight[i + j] : widen(g.at[j]);
        out.at[j] = narrow<S>(rstd * (scaled - mean_sum - (widen(p.at[j]) - mean) * rstd * mean_dot));
      }
      *reinterpret_cast<P*>(dx + row * n + i) = out;
    });
  }
}

// The sums behind the gradients of bias and weight.
template <class T>
struct RowTerm {
  const T *means, *rstds;
  __device__ __forceinline__ void operator()(int64_t, int64_t row, int64_t, T g, T x, T& s1, T& s2) const {
    s1 += g;
    s2 += g * ((x - (means ? means[row] : T(0))) * rstds[row]);
  }
};

void forward(Context* context, const check::RowNorm& k, double eps, bool rms) {
  if (k.x.size() == 0) return;
  dispatch_storage(k.x.dtype, [&](auto zero) {
    using S = decltype(zero);
    using T = compute_t<S>;
    const Contiguous x(context, k.x);
    const Computed weight(context, k.weight), bias(context, k.bias);
    ContiguousOut y(context, k.out);
    with_row_team<S>(
        k.n,
        [&](auto threads, auto width) {
          constexpr int kTeam = decltype(threads)::value, kWidth = decltype(width)::value;
          launch(context, FASTDL_KERNEL(row_norm<kTeam, kWidth, S>),
                 {blocks_for(k.rows, kRowThreads / kTeam), kRowThreads, sizeof(RowShared<T>)}, k.rows, k.n,
                 rms, static_cast<T>(eps), x->as<const S>(), weight.as<const T>(), bias.as<const T>(),
                 y->as<S>(), k.mean.as<T>(), k.rstd.as<T>());
        },
        x->data, y->data);
    y.write_back();
  });
}

void backward(Context* context, const check::RowNormBackward& k, bool rms) {
  dispatch_storage(k.x.dtype, [&](auto zero) {
    using S = decltype(zero);
    using T = compute_t<S>;
    const Contiguous dy(context, k.grad_out), x(context, k.x);
    const Computed weight(context, k.weight);
    const S *g = dy->as<const S>(), *xp = x->as<const S>();
    const T *means = rms ? nullptr : k.mean.as<const T>(), *rstds = k.rstd.as<const T>();
    if (k.grad_x.data && k.x.size() != 0) {
      ContiguousOut dx(context, k.grad_x);
      with_row_team<S>(
          k.n,
          [&](auto threads, auto width) {
            constexpr int kTeam = decltype(threads)::value, kWidth = decltype(width)::value;
            launch(context, FASTDL_KERNEL(row_norm_backward<kTeam, kWidth, S>),
                   {blocks_for(k.rows, kRowThreads / kTeam), kRowThreads, sizeof(RowShared<T>)}, k.rows, k.n,
                   rms, g, xp, weight.as<const T>(), means, rstds, dx->as<S>());
          },
          g, xp, dx->data);
      dx.write_back();
    }
    if (!k.grad_weight.data && !k.grad_bias.data) return;
    const ColumnShape shape{1, k.rows, k.n};
    const Workspace partial(context, static_cast<size_t>(2 * shape.chunks() * k.n) * sizeof(T));
    add_columns<S>(context, shape, RowTerm<T>{means, rstds}, g, xp, partial.as<T>());
    const auto finish = [&](const View& target, const T* from) {
      if (!target.data) return;
      ComputedOut out(context, target);
      add_up_columns<T>(context, shape.chunks(), k.n, 2 * k.n, from, out.as<T>());
      out.write_back();
    };
    finish(k.grad_bias, partial.as<T>());
    finish(k.grad_weight, partial.as<T>() + k.n);
  });
}

}  // namespace
}  // namespace fastdl::cuda

using namespace fastdl;
using namespace fastdl::cuda;

extern "C" {

fastdl_status fastdl_cuda_layer_norm_forward(fastdl_context* context, const fastdl_tensor* x,
                                             const fastdl_tensor* weight, const fastdl_tensor* bias,
                                             const fastdl_tensor* out, const fastdl_tensor* mean,
                                             const fastdl_tensor* rstd, int32_t normalized_ndim, double eps) {
  return guarded([&] {
    forward(context,
            check::row_norm_forward("layer_norm", x, weight, bias, out, mean, rstd, normalized_ndim, eps),
            eps, false);
  });
}

fastdl_status fastdl_cuda_layer_norm_backward(fastdl_context* context, const fastdl_tensor* grad_out,
                                              const fastdl_tensor* x, const fastdl_tensor* weight,
                                              const fastdl_tensor* mean, const fastdl_tensor* rstd,
                                              const fastdl_tensor* grad_x, const fastdl_tensor* grad_weight,
                                              const fastdl_tensor* grad_bias, int32_t normalized_ndim) {
  return guarded([&] {
    backward(context,
             check::row_norm_backward("layer_norm_backward", grad_out, x, weight, mean, rstd, grad_x,
                                      grad_weight, grad_bias, normalized_ndim, false),
             false);
  });
}

fastdl_status fastdl_cuda_rms_norm_forward(fastdl_context* context, const fastdl_tensor* x,
                                           const fastdl_tensor* weight, const fastdl_tensor* out,
                                           const fastdl_tensor* rstd, int32_t normalized_ndim, double eps) {
  return guarded([&] {
    forward(context,
            check::row_norm_forward("rms_norm", x, weight, nullptr, out, nullptr, rstd, normalized_ndim, eps),
            eps, true);
  });
}

fastdl_status fastdl_cuda_rms_norm_backward(fastdl_context* context, const fastdl_tensor* grad_out,
                                            const fastdl_tensor* x, const fastdl_tensor* weight,
                                            const fastdl_tensor* rstd, const fastdl_tensor* grad_x,
                                            const fastdl_tensor* grad_weight, int32_t normalized_ndim) {
  return guarded([&] {
    backward(context,
             check::row_norm_backward("rms_norm_backward", grad_out, x, weight, nullptr, rstd, grad_x,
                                      grad_weight, nullptr, normalized_ndim, true),
             true);
  });
}
}
