// Batch and group normalisation on channels-last memory. Forward reads x twice, for the statistics and for
// the result; backward reads both inputs twice.
#include "common/norm.h"
#include "cuda/norm_columns.cuh"
#include "cuda/tensor.h"
#include "fastdl/cuda.h"

namespace fastdl::cuda {
namespace {

template <class T>
Workspace partial_sums(Context* context, const ColumnShape& s) {
  return Workspace(context, static_cast<size_t>(s.samples * s.chunks() * 2 * s.c) * sizeof(T));
}

template <class S>
void take_moments(Context* context, const ColumnShape& s, const S* x, compute_t<S>* partial) {
  with_pack_width<S>(
      s.c,
      [&](auto width) {
        constexpr int kWidth = decltype(width)::value;
        const Launch shape{column_blocks(s, kWidth),
                           {kColumnLanes, kColumnRows},
                           sizeof(ColumnSumsShared<compute_t<S>, kWidth>)};
        launch(context, FASTDL_KERNEL(column_moments<kWidth, S>), shape, s, s.chunk_rows(), x, partial);
      },
      x);
}

template <class S>
void apply_affine(Context* context, const ColumnShape& s, const Coefficients<compute_t<S>>& k, const View& x,
                  const View& target) {
  ContiguousOut y(context, target);
  with_pack_width<S>(
      s.c,
      [&](auto width) {
        constexpr int kWidth = decltype(width)::value;
        launch(context, FASTDL_KERNEL(column_affine<kWidth, S>),
               {blocks_for(s.size(), kMapThreads * kWidth), kMapThreads}, s, k, x.as<const S>(), y->as<S>());
      },
      x.data, y->data);
  y.write_back();
}

template <class S>
void apply_gradient(Context* context, const ColumnShape& s, const Coefficients<compute_t<S>>& k,
                    const View& dy, const View& x, const View& target) {
  if (!target.data || s.size() == 0) return;
  ContiguousOut dx(context, target);
  with_pack_width<S>(
      s.c,
      [&](auto width) {
        constexpr int kWidth = decltype(width)::value;
        launch(context, FASTDL_KERNEL(column_gradient<kWidth, S>),
               {blocks_for(s.size(), kMapThreads * kWidth), kMapThreads}, s, k, dy.as<const S>(),
               x.as<const S>(), dx->as<S>());
      },
      dy.data, x.data, dx->data);
  dx.write_back();
}

template <class S>
void batch_forward(Context* context, const check::ColumnNorm& p, const fastdl_batch_norm_options& o) {
  using T = compute_t<S>;
  const ColumnShape s{p.samples, p.rows, p.c};
  if (s.c == 0) return;
  const Contiguous x(context, p.x);
  const Computed weight(context, p.weight), bias(context, p.bias), old_mean(context, p.running_mean),
      old_var(context, p.running_var);
  ComputedOut running_mean(context, p.running_mean), running_var(context, p.running_var),
      mean(context, p.mean), rstd(context, p.rstd);
  const CoefficientMemory<T> memory(context, s);
  const bool measure = o.training && s.rows > 0;
  const Workspace partial = partial_sums<T>(context, s);
  if (measure) take_moments<S>(context, s, x->as<const S>(), partial.as<T>());
  const BatchStatistics<T> v{weight.as<const T>(),  bias.as<const T>(),   old_mean.as<const T>(),
                             old_var.as<const T>(), running_mean.as<T>(), running_var.as<T>(),
                             mean.as<T>(),          rstd.as<T>()};
  launch(context, FASTDL_KERNEL(batch_coefficients<T>), {blocks_for(s.c, kChannelThreads), kChannelThreads},
         s, s.chunk_rows(), measure ? partial.as<const T>() : nullptr, o.momentum, o.eps, v, memory.k);
  mean.write_back();
  rstd.write_back();
  if (measure) {
    running_mean.write_back();
    running_var.write_back();
  }
  if (s.size() != 0) apply_affine<S>(context, s, memory.k, *x, p.out);
}

template <class S>
void batch_backward(Context* context, const check::ColumnNormBackward& p, bool training) {
  using T = compute_t<S>;
  const ColumnShape s{p.samples, p.rows, p.c};
  if (s.c == 0) return;
  const Contiguous dy(context, p.grad_out), x(context, p.x);
  const Computed weight(context, p.weight), mean(context, p.mean), rstd(context, p.rstd);
  ComputedOut dw(context, p.grad_weight), db(context, p.grad_bias);
  const CoefficientMemory<T> memory(context, s);
  const Workspace partial = partial_sums<T>(context, s);
  add_columns<S>(context, s, CenteredTerm<T>{mean.as<const T>(), s.c, 1}, dy->as<const S>(), x->as<const S>(),
                 partial.as<T>());
  launch(context, FASTDL_KERNEL(batch_gradients<T>), {blocks_for(s.c, kChannelThreads), kChannelThreads}, s,
         s.chunk_rows(), partial.as<const T>(), training, weight.as<const T>(), mean.as<const T>(),
         rstd.as<const T>(), dw.as<T>(), db.as<T>(), memory.k);
  dw.write_back();
  db.write_back();
  apply_gradient<S>(context, s, memory.k, *dy, *x, p.grad_x);
}

template <class S>
void group_forward(Context* context, const check::ColumnNorm& p, int64_t groups, double eps) {
  using T = compute_t<S>;
  const ColumnShape s{p.samples, p.rows, p.c};
  if (s.size() == 0) return;
  const Contiguous x(context, p.x);
  const Computed weight(context, p.weight), bias(context, p.bias);
  ComputedOut mean(context, p.mean), rstd(context, p.rstd);
  const CoefficientMemory<T> memory(context, s);
  const Workspace partial = partial_sums<T>(context, s);
  take_moments<S>(context, s, x->as<const S>(), partial.as<T>());
  launch(context, FASTDL_KERNEL(group_coefficients<T>),
         {blocks_for(s.samples * groups, kChannelThreads), kChannelThreads}, s, s.chunk_rows(),
         partial.as<const T>(), groups, eps, weight.as<const T>(), bias.as<const T>(), mean.as<T>(),
         rstd.as<T>(), memory.k);
  mean.write_back();
  rstd.write_back();
  apply_affine<S>(context, s, memory.k, *x, p.out);
}

template <class S>
void group_backward(Context* context, const check::ColumnNormBackward& p, int64_t groups) {
  using T = compute_t<S>;
  const ColumnShape s{p.samples, p.rows, p.c};
  const Contiguous dy(context, p.grad_out), x(context, p.x);
  const Computed weight(context, p.weight), mean(context, p.mean), rstd(context, p.rstd);
  const CoefficientMemory<T> memory(context, s);
  const Workspace partial = partial_sums<T>(context, s),
                  shares(context, static_cast<size_t>(s.samples * 2 * s.c) * sizeof(double));
  if (s.samples * s.c > 0) {
    add_columns<S>(context, s, CenteredTerm<T>{mean.as<const T>(), groups, s.c / groups}, dy->as<const S>(),
                   x->as<const S>(), partial.as<T>());
    launch(context, FASTDL_KERNEL(group_gradients<T>),
           {blocks_for(s.samples * groups, kChannelThreads), kChannelThreads}, s, s.chunk_rows(),
           partial.as<const T>(), groups, weight.as<const T>(), mean.as<const T>(), rstd.as<const T>(),
           shares.as<double>(), memory.k);
  }
  const auto finish = [&](const View& target, const double* from) {
    if (!target.data) return;
    ComputedOut out(context, target);
    add_up_columns<double>(context, s.samples, s.c, 2 * s.c, from, out.as<T>());
    out.write_back();
  };
  finish(p.grad_weight, shares.as<double>());
  finish(p.grad_bias, shares.as<double>() + s.c);
  apply_gradient<S>(context, s, memory.k, *dy, *x, p.grad_x);
}

}  // namespace
}  // namespace fastdl::cuda

using namespace fastdl;
using namespace fastdl::cuda;

extern "C" {

fastdl_status fastdl_cuda_batch_norm_forward(fastdl_context* context, const fastdl_tensor* x,
                                             const fastdl_tensor* weight, const fastdl_tensor* bias,
                                             const fastdl_tensor* running_mean,
                                             const fastdl_tensor* running_var, const fastdl_tensor* out,
                                             const fastdl_tensor* mean, const fastdl_tensor* rstd,
                                             const fastdl_batch_norm_options* options) {
  return guarded([&] {
    const auto o =
        read_options(options, fastdl_batch_norm_options FASTDL_BATCH_NORM_OPTIONS_INIT, "batch_norm");
    const check::ColumnNorm p =
        check::batch_norm_forward(x, weight, bias, running_mean, running_var, out, mean, rstd, o);
    dispatch_storage(p.x.dtype, [&](auto zero) { batch_forward<decltype(zero)>(context, p, o); });
  });
}

fastdl_status fastdl_cuda_batch_norm_backward(fastdl_context* context, const fastdl_tensor* grad_out,
                                              const fastdl_tensor* x, const fastdl_tensor* weight,
                                              const fastdl_tensor* mean, const fastdl_tensor* rstd,
                                              const fastdl_tensor* grad_x, const fastdl_tensor* grad_weight,
                                              const fastdl_tensor* grad_bias, int32_t training) {
  return guarded([&] {
    const check::ColumnNormBackward p =
        check::batch_norm_backward(grad_out, x, weight, mean, rstd, grad_x, grad_weight, grad_bias);
    dispatch_storage(p.x.dtype,
                     [&](auto zero) { batch_backward<decltype(zero)>(context, p, training != 0); });
  });
}

fastdl_status fastdl_cuda_group_norm_forward(fastdl_context* context, const fastdl_tensor* x,
                                             const fastdl_tensor* weight, const fastdl_tensor* bias,
                                             const fastdl_tensor* out, const fastdl_tensor* mean,
                                             const fastdl_tensor* rstd, int64_t groups, double eps) {
  return guarded([&] {
    const check::ColumnNorm p = check::group_norm_forward(x, weight, bias, out, mean, rstd, groups, eps);
    dispatch_storage(p.x.dtype, [&](auto zero) { group_forward<decltype(zero)>(context, p, groups, eps); });
  });
}

fastdl_status fastdl_cuda_group_norm_backward(fastdl_context* context, const fastdl_tensor* grad_out,
                                              const fastdl_tensor* x, const fastdl_tensor* weight,
                                              const fastdl_tensor* mean, const fastdl_tensor* rstd,
                                              const fastdl_tensor* grad_x, const fastdl_tensor* grad_weight,
                                              const fastdl_tensor* grad_bias, int64_t groups) {
  return guarded([&] {
    const check::ColumnNormBackward p =
        check::group_norm_backward(grad_out, x, weight, mean, rstd, grad_x, grad_weight, grad_bias, groups);
    dispatch_storage(p.x.dtype, [&](auto zero) { group_backward<decltype(zero)>(context, p, groups); });
  });
}
}
