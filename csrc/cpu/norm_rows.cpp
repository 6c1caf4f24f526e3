// Layer and RMS normalisation: each row on its own; weight gradients summed over fixed chunks of rows.
#include <algorithm>
#include <vector>

#include "common/norm.h"
#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "cpu/stream.h"
#include "cpu/tensor.h"
#include "cpu/widen.h"

namespace fastdl::cpu {
namespace {

constexpr int64_t kChunkElements = 32768;  // of x per task: L2-resident, and enough to pay for a thread

constexpr int64_t kLongestRow = 2 * kChunkElements;  // longer ones are written in place

struct Rows {
  int64_t rows = 1, n = 1;
  int64_t chunk() const { return std::max<int64_t>(1, kChunkElements / std::max<int64_t>(1, n)); }
};

void forward(Context* context, const check::RowNorm& k, double eps, bool rms) {
  const Rows r{k.rows, k.n};
  if (k.x.size() == 0) return;
  const Contiguous xc(context, k.x), wc(context, k.weight), bc(context, k.bias);
  ContiguousOut yc(context, k.out);
  dispatch_storage(k.x.dtype, [&](auto zero) {
    using S = decltype(zero);
    using T = compute_t<S>;
    const auto& table = table_for<S>(*kernels().norm);
    const Output output(r.n <= kLongestRow ? k.out.nbytes() : 0);
    const T* wp = k.weight.data ? wc->as<T>() : nullptr;
    const T* bp = k.bias.data ? bc->as<T>() : nullptr;
    parallel_ranges(context, r.rows, r.chunk(), static_cast<double>(r.n) * 0.5,
                    [&](int64_t begin, int64_t end) {
                      const auto rows = [&](S* to, int64_t first, int64_t count) {
                        for (int64_t i = begin + first; i < begin + first + count; ++i, to += r.n) {
                          table.row_forward(r.n, xc->as<S>() + i * r.n, wp, bp, rms, static_cast<T>(eps), to,
                                            k.mean.data ? k.mean.as<T>() + i : nullptr,
                                            k.rstd.data ? k.rstd.as<T>() + i : nullptr);
                        }
                      };
                      output.put_rows(context, yc->as<S>() + begin * r.n, end - begin, r.n, rows);
                    });
  });
  yc.write_back();
}

// target[i] = sum over chunks of partial[chunk][i], in chunk order.
template <class T>
void combine(Context* context, int64_t chunks, int64_t stride, int64_t n, const T* partial,
             const View& target) {
  ContiguousOut out(context, target);
  T* to = out->as<T>();
  parallel_ranges(context, n, 4096, static_cast<double>(chunks), [&](int64_t begin, int64_t end) {
    std::fill(to + begin, to + end, T(0));
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      const T* from = partial + chunk * stride;
      for (int64_t i = begin; i < end; ++i) to[i] += from[i];
    }
  });
  out.write_back();
}

template <class S, class T = compute_t<S>>
void backward(Context* context, const Rows& r, const S* dy, const S* x, const T* w, const T* mean,
              const T* rstd, bool rms, S* dx, const View* dw, const View* db) {
  const auto& table = table_for<S>(*kernels().norm);
  const int64_t chunks = (r.rows + r.chunk() - 1) / r.chunk();
  const Workspace partial(context, dw || db ? static_cast<size_t>(chunks * 2 * r.n) * sizeof(T) : 0);
  const Output output(dx && r.n <= kLongestRow ? r.rows * r.n * static_cast<int64_t>(sizeof(S)) : 0);
  parallel_for(context, chunks, static_cast<double>(r.n * r.chunk()), [&](int64_t chunk) {
    T* pw = dw ? partial.as<T>() + chunk * 2 * r.n : nullptr;
    T* pb = db ? partial.as<T>() + (chunk * 2 + 1) * r.n : nullptr;
    if (pw) std::fill(pw, pw + r.n, T(0));
    if (pb) std::fill(pb, pb + r.n, T(0));
    const int64_t begin = chunk * r.chunk(), end = std::min(r.rows, begin + r.chunk());
    output.put_rows(context, dx ? dx + begin * r.n : dx, end - begin, r.n,
                    [&](S* to, int64_t first, int64_t count) {
                      for (int64_t i = begin + first; i < begin + first + count; ++i) {
                        table.row_backward(r.n, dy + i * r.n, x + i * r.n, w, mean ? mean[i] : T(0), rstd[i],
                                           rms, to, pw, pb);
                        if (to) to += r.n;
                      }
                    });
  });
  if (dw) combine<T>(context, chunks, 2 * r.n, r.n, partial.as<T>(), *dw);
  if (db) combine<T>(context, chunks, 2 * r.n, r.n, partial.as<T>() + r.n, *db);
}

void backward(Context* context, const check::RowNormBackward& k, bool rms) {
  const Contiguous dyc(context, k.grad_out), xc(context, k.x), wc(context, k.weight);
  ContiguousOut dxc(context, k.grad_x);
  dispatch_storage(k.x.dtype, [&](auto zero) {
    using S = decltype(zero);
    using T = compute_t<S>;
    backward<S>(context, Rows{k.rows, k.n}, dyc->as<S>(), xc->as<S>(), k.weight.data ? wc->as<T>() : nullptr,
                rms ? nullptr : k.mean.as<T>(), k.rstd.as<T>(), rms, k.grad_x.data ? dxc->as<S>() : nullptr,
                k.grad_weight.data ? &k.grad_weight : nullptr, k.grad_bias.data ? &k.grad_bias : nullptr);
  });
  if (k.grad_x.data) dxc.write_back();
}

}  // namespace
}  // namespace fastdl::cpu

using namespace fastdl::cpu;

extern "C" {

fastdl_status fastdl_layer_norm_forward(fastdl_context* context, const fastdl_tensor* x,
                                        const fastdl_tensor* weight, const fastdl_tensor* bias,
                                        const fastdl_tensor* out, const fastdl_tensor* mean,
                                        const fastdl_tensor* rstd, int32_t normalized_ndim, double eps) {
  if (narrow_like(x, weight, bias)) {
    return in_float32("layer_norm", fastdl_layer_norm_forward, context, x,
                      of_any_dtype(reads(weight, "weight")), of_any_dtype(reads(bias, "bias")), out, mean,
                      rstd, normalized_ndim, eps);
  }
  return guarded([&] {
    forward(context,
            check::row_norm_forward("layer_norm", x, weight, bias, out, mean, rstd, normalized_ndim, eps),
            eps, false);
  });
}

fastdl_status fastdl_layer_norm_backward(fastdl_context* context, const fastdl_tensor* grad_out,
                                         const fastdl_tensor* x, const fastdl_tensor* weight,
                                         const fastdl_tensor* mean, const fastdl_tensor* rstd,
                                         const fastdl_tensor* grad_x, const fastdl_tensor* grad_weight,
                                         const fastdl_tensor* grad_bias, int32_t normalized_ndim) {
  if (narrow_like(x, weight, grad_weight, grad_bias)) {
    return in_float32("layer_norm_backward", fastdl_layer_norm_backward, context, grad_out, x,
                      of_any_dtype(reads(weight, "weight")), mean, rstd, grad_x,
                      of_any_dtype(writes(grad_weight, "grad_weight")),
                      of_any_dtype(writes(grad_bias, "grad_bias")), normalized_ndim);
  }
  return guarded([&] {
    backward(context,
             check::row_norm_backward("layer_norm_backward", grad_out, x, weight, mean, rstd, grad_x,
                                      grad_weight, grad_bias, normalized_ndim, false),
             false);
  });
}

fastdl_status fastdl_rms_norm_forward(fastdl_context* context, const fastdl_tensor* x,
                                      const fastdl_tensor* weight, const fastdl_tensor* out,
                                      const fastdl_tensor* rstd, int32_t normalized_ndim, double eps) {
  if (narrow_like(x, weight)) {
    return in_float32("rms_norm", fastdl_rms_norm_forward, context, x, of_any_dtype(reads(weight, "weight")),
                      out, rstd, normalized_ndim, eps);
  }
  return guarded([&] {
    forward(context,
            check::row_norm_forward("rms_norm", x, weight, nullptr, out, nullptr, rstd, normalized_ndim, eps),
            eps, true);
  });
}

fastdl_status fastdl_rms_norm_backward(fastdl_context* context, const fastdl_tensor* grad_out,
                                       const fastdl_tensor* x, const fastdl_tensor* weight,
                                       const fastdl_tensor* rstd, const fastdl_tensor* grad_x,
                                       const fastdl_tensor* grad_weight, int32_t normalized_ndim) {
  if (narrow_like(x, weight, grad_weight)) {
    return in_float32("rms_norm_backward", fastdl_rms_norm_backward, context, grad_out, x,
                      of_any_dtype(reads(weight, "weight")), rstd, grad_x,
                      of_any_dtype(writes(grad_weight, "grad_weight")), normalized_ndim);
  }
  return guarded([&] {
    backward(context,
             check::row_norm_backward("rms_norm_backward", grad_out, x, weight, nullptr, rstd, grad_x,
                                      grad_weight, nullptr, normalized_ndim, true),
             true);
  });
}
}
