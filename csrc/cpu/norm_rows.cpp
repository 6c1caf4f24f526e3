// Layer and RMS normalisation: each row on its own; weight gradients summed over fixed chunks of rows.
#include <algorithm>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "cpu/stream.h"
#include "cpu/tensor.h"
#include "cpu/widen.h"
#include "fastdl/norm.h"

namespace fastdl::cpu {
namespace {

constexpr int64_t kChunkElements = 32768;  // of x per task: L2-resident, and enough to pay for a thread

constexpr int64_t kLongestRow = 2 * kChunkElements;  // longer ones are written in place

// The dtype of parameters and statistics.
DType wide(DType t) { return is_narrow(t) ? DType::kFloat32 : t; }

struct Rows {
  int64_t rows = 1, n = 1;
  int64_t chunk() const { return std::max<int64_t>(1, kChunkElements / std::max<int64_t>(1, n)); }
};

Rows split(const View& x, int32_t normalized_ndim, const char* op) {
  FASTDL_CHECK(normalized_ndim >= 1 && normalized_ndim <= x.ndim, FASTDL_ERROR_SHAPE,
               "%s: cannot normalise over the last %d dimensions of an input of shape %s", op,
               normalized_ndim, shape_string(x).c_str());
  Rows r;
  for (int i = 0; i < x.ndim; ++i) (i < x.ndim - normalized_ndim ? r.rows : r.n) *= x.shape[i];
  return r;
}

// A parameter (or its gradient): NULL, or the shape of x's last dimensions.
View parameter(const fastdl_tensor* t, const View& x, int32_t normalized_ndim, const char* op,
               const char* name) {
  View p;
  if (!t) return p;
  p = view_like(t, wide(x.dtype), op, name);
  bool fits = p.ndim == normalized_ndim;
  for (int i = 0; fits && i < p.ndim; ++i) fits = p.shape[i] == x.shape[x.ndim - normalized_ndim + i];
  FASTDL_CHECK(fits, FASTDL_ERROR_SHAPE,
               "%s: %s of shape %s does not fit the last %d dimensions of an input of shape %s", op, name,
               shape_string(p).c_str(), normalized_ndim, shape_string(x).c_str());
  return p;
}

View statistic(const fastdl_tensor* t, const View& x, int64_t count, const char* op, const char* name) {
  View s;
  if (!t) return s;
  s = view_like(t, wide(x.dtype), op, name);
  FASTDL_CHECK(s.size() == count && s.contiguous(), FASTDL_ERROR_SHAPE,
               "%s: expected %s to hold %lld contiguous elements, got shape %s", op, name,
               static_cast<long long>(count), shape_string(s).c_str());
  return s;
}

void forward(Context* context, const char* op, const fastdl_tensor* x_, const fastdl_tensor* weight,
             const fastdl_tensor* bias, const fastdl_tensor* out_, const fastdl_tensor* mean_,
             const fastdl_tensor* rstd_, int32_t normalized_ndim, double eps, bool rms) {
  const View x = any_float_view(x_, op, "x"), out = out_view(out_, x.dtype, op, "out");
  check_same_shape(x, "x", out, "out", op);
  const Rows r = split(x, normalized_ndim, op);
  const View w = parameter(weight, x, normalized_ndim, op, "weight");
  const View b = parameter(bias, x, normalized_ndim, op, "bias");
  const View mean = statistic(mean_, x, r.rows, op, "mean"), rstd = statistic(rstd_, x, r.rows, op, "rstd");
  FASTDL_CHECK(eps >= 0, FASTDL_ERROR_VALUE, "%s: eps must not be negative, got %g", op, eps);
  if (x.size() == 0) return;
  const Contiguous xc(context, x), wc(context, w), bc(context, b);
  ContiguousOut yc(context, out);
  dispatch_storage(x.dtype, [&](auto zero) {
    using S = decltype(zero);
    using T = compute_t<S>;
    const auto& table = table_for<S>(*kernels().norm);
    const Output output(r.n <= kLongestRow ? out.nbytes() : 0);
    const T* wp = weight ? wc->as<T>() : nullptr;
    const T* bp = bias ? bc->as<T>() : nullptr;
    parallel_ranges(
        context, r.rows, r.chunk(), static_cast<double>(r.n) * 0.5, [&](int64_t begin, int64_t end) {
          const auto rows = [&](S* to, int64_t first, int64_t count) {
            for (int64_t i = begin + first; i < begin + first + count; ++i, to += r.n) {
              table.row_forward(r.n, xc->as<S>() + i * r.n, wp, bp, rms, static_cast<T>(eps), to,
                                mean_ ? mean.as<T>() + i : nullptr, rstd_ ? rstd.as<T>() + i : nullptr);
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

void backward(Context* context, const char* op, const fastdl_tensor* grad_out, const fastdl_tensor* x_,
              const fastdl_tensor* weight, const fastdl_tensor* mean_, const fastdl_tensor* rstd_,
              const fastdl_tensor* grad_x, const fastdl_tensor* grad_weight, const fastdl_tensor* grad_bias,
              int32_t normalized_ndim, bool rms) {
  const View dy = any_float_view(grad_out, op, "grad_out"), x = view_like(x_, dy.dtype, op, "x");
  check_same_shape(dy, "grad_out", x, "x", op);
  const Rows r = split(x, normalized_ndim, op);
  const View w = parameter(weight, x, normalized_ndim, op, "weight");
  const View dw = parameter(grad_weight, x, normalized_ndim, op, "grad_weight");
  const View db = parameter(grad_bias, x, normalized_ndim, op, "grad_bias");
  if (grad_weight) check_out(dw, op, "grad_weight");
  if (grad_bias) check_out(db, op, "grad_bias");
  FASTDL_CHECK(rstd_ && (rms || mean_), FASTDL_ERROR_VALUE,
               "%s: the statistics of the forward call are required", op);
  const View mean = statistic(mean_, x, r.rows, op, "mean"), rstd = statistic(rstd_, x, r.rows, op, "rstd");
  View dx;
  if (grad_x) {
    dx = out_view(grad_x, dy.dtype, op, "grad_x");
    check_same_shape(x, "x", dx, "grad_x", op);
  }
  const Contiguous dyc(context, dy), xc(context, x), wc(context, w);
  ContiguousOut dxc(context, dx);
  dispatch_storage(x.dtype, [&](auto zero) {
    using S = decltype(zero);
    using T = compute_t<S>;
    backward<S>(context, r, dyc->as<S>(), xc->as<S>(), weight ? wc->as<T>() : nullptr,
                rms ? nullptr : mean.as<T>(), rstd.as<T>(), rms, grad_x ? dxc->as<S>() : nullptr,
                grad_weight ? &dw : nullptr, grad_bias ? &db : nullptr);
  });
  if (grad_x) dxc.write_back();
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
  return guarded(
      [&] { forward(context, "layer_norm", x, weight, bias, out, mean, rstd, normalized_ndim, eps, false); });
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
    backward(context, "layer_norm_backward", grad_out, x, weight, mean, rstd, grad_x, grad_weight, grad_bias,
             normalized_ndim, false);
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
    forward(context, "rms_norm", x, weight, nullptr, out, nullptr, rstd, normalized_ndim, eps, true);
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
    backward(context, "rms_norm_backward", grad_out, x, weight, nullptr, rstd, grad_x, grad_weight, nullptr,
             normalized_ndim, true);
  });
}
}
