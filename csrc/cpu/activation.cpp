#include "fastdl/activation.h"

#include <algorithm>

#include "cpu/convert.h"
#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "cpu/stream.h"
#include "cpu/tensor.h"

namespace fastdl::cpu {
namespace {

constexpr int64_t kGrain =
    16384;  // elements per task: 64 KiB of float32, small enough to balance, large enough to stream

fastdl_activation checked(const fastdl_activation* f, const char* op) {
  FASTDL_CHECK(f != nullptr, FASTDL_ERROR_VALUE, "%s: activation is required, got NULL", op);
  FASTDL_CHECK(f->kind >= FASTDL_ACT_NONE && f->kind <= FASTDL_ACT_THRESHOLD, FASTDL_ERROR_VALUE,
               "%s: unknown activation kind %d", op, f->kind);
  return *f;
}

template <class S>
void forward(Context* context, const View& x, const View& out, const fastdl_activation& f) {
  const auto& table = table_for<S>(*kernels().activation);
  const Output output(out.nbytes());
  parallel_ranges(context, x.size(), kGrain, 1.0, [&](int64_t begin, int64_t end) {
    output.put_pieces(context, out.as<S>(), begin, end,
                      [&](S* to, int64_t i, int64_t j) { table.forward(f, j - i, x.as<S>() + i, to); });
  });
}

template <class S>
void backward(Context* context, const View& dy, const View& saved, const View& dx, const fastdl_activation& f,
              bool from_output) {
  const auto& table = table_for<S>(*kernels().activation);
  const Output output(dx.nbytes());
  parallel_ranges(context, dy.size(), kGrain, 1.0, [&](int64_t begin, int64_t end) {
    output.put_pieces(context, dx.as<S>(), begin, end, [&](S* to, int64_t i, int64_t j) {
      table.backward(f, from_output, j - i, dy.as<S>() + i, saved.as<S>() + i, to);
    });
  });
}

template <class S>
void elementary(Context* context, const View& x, const View& out, int32_t kind) {
  const auto& table = table_for<S>(*kernels().activation);
  const Output output(out.nbytes());
  parallel_ranges(context, x.size(), kGrain, 2.0, [&](int64_t begin, int64_t end) {
    output.put_pieces(context, out.as<S>(), begin, end,
                      [&](S* to, int64_t i, int64_t j) { table.elementary(kind, j - i, x.as<S>() + i, to); });
  });
}

int checked_dim(int32_t dim, const View& v, const char* op) {
  FASTDL_CHECK(dim >= -v.ndim && dim < v.ndim, FASTDL_ERROR_INDEX,
               "%s: dim %d is out of range for a tensor of %d dimensions", op, dim, v.ndim);
  return dim < 0 ? dim + v.ndim : dim;
}

// GLU seen as `outer` blocks of [a: n][b: n].
struct GluShape {
  int64_t outer = 1, n = 1;
};
GluShape glu_shape(const View& x, const View& half, int dim, const char* op) {
  FASTDL_CHECK(x.shape[dim] % 2 == 0, FASTDL_ERROR_SHAPE,
               "%s: expected an even extent in dim %d, got shape %s", op, dim, shape_string(x).c_str());
  View expected = x;
  expected.shape[dim] /= 2;
  FASTDL_CHECK(same_shape(half, expected), FASTDL_ERROR_SHAPE,
               "%s: expected an output of shape %s for x of shape %s, got %s", op,
               shape_string(expected).c_str(), shape_string(x).c_str(), shape_string(half).c_str());
  GluShape s;
  for (int i = 0; i < dim; ++i) s.outer *= half.shape[i];
  for (int i = dim; i < half.ndim; ++i) s.n *= half.shape[i];
  return s;
}

// Calls body(block, begin, end) for ranges [begin, end) within each of `outer` blocks of n elements: several
// blocks to a task when they are short, several tasks to a block when they are long.
template <class Body>
void parallel_blocks(Context* context, int64_t outer, int64_t n, Body&& body) {
  if (outer * n == 0) return;
  if (n >= kGrain) {
    const int64_t pieces = (n + kGrain - 1) / kGrain;
    parallel_for(context, outer * pieces, kGrain * 4.0, [&](int64_t task) {
      const int64_t begin = task % pieces * kGrain;
      body(task / pieces, begin, begin + kGrain < n ? begin + kGrain : n);
    });
    return;
  }
  parallel_ranges(context, outer, kGrain / n, static_cast<double>(n) * 4, [&](int64_t first, int64_t last) {
    for (int64_t block = first; block < last; ++block) body(block, 0, n);
  });
}

// PReLU seen as [outer, channels, inner], one weight per channel; inner == 1 when channels come last in
// memory.
struct PreluShape {
  int64_t outer = 1, channels = 1, inner = 1;
};

// True if x's memory has the channels last and is contiguous so.
bool has_channels_last(const View& v) {
  return v.ndim > 2 && channels_last(v).contiguous() && !v.contiguous();
}

PreluShape prelu_shape(const View& x, int64_t weights, bool last, const char* op) {
  PreluShape s;
  if (weights == 1) {
    s.inner = x.size();
    return s;
  }
  FASTDL_CHECK(x.ndim >= 2 && x.shape[1] == weights, FASTDL_ERROR_SHAPE,
               "%s: expected 1 weight or one for each channel (dim 1) of x, got %lld for shape %s", op,
               static_cast<long long>(weights), shape_string(x).c_str());
  s.channels = weights;
  s.outer = x.shape[0];
  for (int i = 2; i < x.ndim; ++i) (last ? s.outer : s.inner) *= x.shape[i];
  return s;
}

template <class S>
void prelu(Context* context, const View& x, const compute_t<S>* w, const View& out, PreluShape s) {
  const auto& table = table_for<S>(*kernels().activation);
  const S* xp = x.as<S>();
  S* y = out.as<S>();
  if (s.inner == 1 && s.channels > 1) {
    parallel_blocks(context, s.outer, s.channels, [&](int64_t row, int64_t begin, int64_t end) {
      const int64_t at = row * s.channels + begin;
      table.prelu(end - begin, xp + at, w + begin, true, y + at);
    });
    return;
  }
  parallel_blocks(context, s.outer * s.channels, s.inner, [&](int64_t row, int64_t begin, int64_t end) {
    const int64_t at = row * s.inner + begin;
    table.prelu(end - begin, xp + at, w + row % s.channels, false, y + at);
  });
}

// Weight gradients: partial sums of fixed pieces, then added up in float64 in a fixed order.
template <class S>
void prelu_backward(Context* context, const View& dy, const View& x, const compute_t<S>* w, const View* dx,
                    compute_t<S>* dw, PreluShape s) {
  using T = compute_t<S>;
  const auto& table = table_for<S>(*kernels().activation);
  const S *gp = dy.as<S>(), *xp = x.as<S>();
  S* dxp = dx ? dx->as<S>() : nullptr;
  const bool per_element = s.inner == 1 && s.channels > 1;
  const int64_t rows = per_element ? s.outer : s.outer * s.channels, n = per_element ? s.channels : s.inner;
  // A partial sum per row piece (one weight per row), or a row of partial sums per group of rows.
  const int64_t piece = per_element ? std::max<int64_t>(1, kGrain / std::max<int64_t>(n, 1)) : kGrain;
  const int64_t pieces = per_element ? (rows + piece - 1) / piece : (n + piece - 1) / piece;
  const int64_t partials = per_element ? pieces * n : rows * pieces;
  const Workspace scratch(context, static_cast<size_t>(partials) * sizeof(T));
  T* sums = scratch.as<T>();
  if (per_element) {
    parallel_for(context, pieces, static_cast<double>(piece * n) * 2, [&](int64_t task) {
      T* sum = sums + task * n;
      for (int64_t i = 0; i < n; ++i) sum[i] = T(0);
      for (int64_t row = task * piece; row < std::min(rows, (task + 1) * piece); ++row) {
        const int64_t at = row * n;
        table.prelu_backward(n, gp + at, xp + at, w, true, dxp ? dxp + at : nullptr, sum);
      }
    });
  } else {
    parallel_blocks(context, rows, n, [&](int64_t row, int64_t begin, int64_t end) {
      const int64_t at = row * n + begin;
      T* sum = sums + row * pieces + begin / piece;
      *sum = T(0);
      table.prelu_backward(end - begin, gp + at, xp + at, w + row % s.channels, false,
                           dxp ? dxp + at : nullptr, sum);
    });
  }
  if (!dw) return;
  for (int64_t c = 0; c < s.channels; ++c) {
    double total = 0;
    if (per_element) {
      for (int64_t p = 0; p < pieces; ++p) total += static_cast<double>(sums[p * n + c]);
    } else {
      for (int64_t o = 0; o < s.outer; ++o) {
        for (int64_t p = 0; p < pieces; ++p) {
          total += static_cast<double>(sums[(o * s.channels + c) * pieces + p]);
        }
      }
    }
    dw[c] = static_cast<T>(total);
  }
}

}  // namespace
}  // namespace fastdl::cpu

using namespace fastdl::cpu;

extern "C" {

fastdl_status fastdl_activation_forward(fastdl_context* context, const fastdl_tensor* x_,
                                        const fastdl_tensor* out_, const fastdl_activation* activation) {
  return guarded([&] {
    const char* op = "activation";
    const View x = any_float_view(x_, op, "x"), out = out_view(out_, x.dtype, op, "out");
    const fastdl_activation f = checked(activation, op);
    check_same_shape(x, "x", out, "out", op);
    dispatch_storage(x.dtype, [&](auto zero) {
      using S = decltype(zero);
      if (same_dense_layout(x, out)) return forward<S>(context, x, out, f);
      const Contiguous xc(context, x);
      ContiguousOut yc(context, out);
      forward<S>(context, *xc, *yc, f);
      yc.write_back();
    });
  });
}

fastdl_status fastdl_activation_backward(fastdl_context* context, const fastdl_tensor* grad_out,
                                         const fastdl_tensor* saved_, const fastdl_tensor* grad_x,
                                         const fastdl_activation* activation, int32_t from_output) {
  return guarded([&] {
    const char* op = "activation_backward";
    const View dy = any_float_view(grad_out, op, "grad_out");
    const View saved = view_like(saved_, dy.dtype, op, "saved"),
               dx = out_view(grad_x, dy.dtype, op, "grad_x");
    const fastdl_activation f = checked(activation, op);
    check_same_shape(dy, "grad_out", saved, "saved", op);
    check_same_shape(dy, "grad_out", dx, "grad_x", op);
    FASTDL_CHECK(!from_output || fastdl_activation_from_output(&f), FASTDL_ERROR_VALUE,
                 "%s: this activation's derivative needs its input, not its output", op);
    dispatch_storage(dy.dtype, [&](auto zero) {
      using S = decltype(zero);
      if (same_dense_layout(dy, saved) && same_dense_layout(dy, dx)) {
        return backward<S>(context, dy, saved, dx, f, from_output != 0);
      }
      const Contiguous dyc(context, dy), sc(context, saved);
      ContiguousOut dxc(context, dx);
      backward<S>(context, *dyc, *sc, *dxc, f, from_output != 0);
      dxc.write_back();
    });
  });
}

fastdl_status fastdl_elementary(fastdl_context* context, const fastdl_tensor* x_, const fastdl_tensor* out_,
                                int32_t kind) {
  return guarded([&] {
    const char* op = "elementary";
    const View x = any_float_view(x_, op, "x"), out = out_view(out_, x.dtype, op, "out");
    check_same_shape(x, "x", out, "out", op);
    FASTDL_CHECK(kind >= FASTDL_EXP && kind <= FASTDL_ERFC, FASTDL_ERROR_VALUE, "%s: unknown kind %d", op,
                 kind);
    dispatch_storage(x.dtype, [&](auto zero) {
      using S = decltype(zero);
      if (same_dense_layout(x, out)) return elementary<S>(context, x, out, kind);
      const Contiguous xc(context, x);
      ContiguousOut yc(context, out);
      elementary<S>(context, *xc, *yc, kind);
      yc.write_back();
    });
  });
}

fastdl_status fastdl_glu_forward(fastdl_context* context, const fastdl_tensor* x_, const fastdl_tensor* out_,
                                 int32_t dim) {
  return guarded([&] {
    const char* op = "glu";
    const View x = any_float_view(x_, op, "x"), out = out_view(out_, x.dtype, op, "out");
    const GluShape s = glu_shape(x, out, checked_dim(dim, x, op), op);
    dispatch_storage(x.dtype, [&](auto zero) {
      using S = decltype(zero);
      const Contiguous xc(context, x);
      ContiguousOut yc(context, out);
      const auto& table = table_for<S>(*kernels().activation);
      parallel_blocks(context, s.outer, s.n, [&](int64_t block, int64_t begin, int64_t end) {
        const S* a = xc->as<S>() + block * 2 * s.n + begin;
        table.glu(end - begin, a, a + s.n, yc->as<S>() + block * s.n + begin);
      });
      yc.write_back();
    });
  });
}

fastdl_status fastdl_glu_backward(fastdl_context* context, const fastdl_tensor* grad_out,
                                  const fastdl_tensor* x_, const fastdl_tensor* grad_x, int32_t dim) {
  return guarded([&] {
    const char* op = "glu_backward";
    const View dy = any_float_view(grad_out, op, "grad_out");
    const View x = view_like(x_, dy.dtype, op, "x"), dx = out_view(grad_x, dy.dtype, op, "grad_x");
    check_same_shape(x, "x", dx, "grad_x", op);
    const GluShape s = glu_shape(x, dy, checked_dim(dim, x, op), op);
    dispatch_storage(x.dtype, [&](auto zero) {
      using S = decltype(zero);
      const Contiguous gc(context, dy), xc(context, x);
      ContiguousOut dxc(context, dx);
      const auto& table = table_for<S>(*kernels().activation);
      parallel_blocks(context, s.outer, s.n, [&](int64_t block, int64_t begin, int64_t end) {
        const S* a = xc->as<S>() + block * 2 * s.n + begin;
        S* da = dxc->as<S>() + block * 2 * s.n + begin;
        table.glu_backward(end - begin, gc->as<S>() + block * s.n + begin, a, a + s.n, da, da + s.n);
      });
      dxc.write_back();
    });
  });
}

fastdl_status fastdl_prelu_forward(fastdl_context* context, const fastdl_tensor* x_,
                                   const fastdl_tensor* weight_, const fastdl_tensor* out_) {
  return guarded([&] {
    const char* op = "prelu";
    View x = any_float_view(x_, op, "x"), out = out_view(out_, x.dtype, op, "out");
    const View weight = view_like(weight_, x.dtype, op, "weight");
    check_same_shape(x, "x", out, "out", op);
    const bool last = has_channels_last(x) && weight.size() != 1;
    const PreluShape s = prelu_shape(x, weight.size(), last, op);
    if (last) x = channels_last(x), out = channels_last(out);
    dispatch_storage(x.dtype, [&](auto zero) {
      using S = decltype(zero);
      const Computed wc(context, weight);
      const compute_t<S>* w = wc.as<compute_t<S>>();
      if (weight.size() == 1 && same_dense_layout(x, out)) return prelu<S>(context, x, w, out, s);
      const Contiguous xc(context, x);
      ContiguousOut yc(context, out);
      prelu<S>(context, *xc, w, *yc, s);
      yc.write_back();
    });
  });
}

fastdl_status fastdl_prelu_backward(fastdl_context* context, const fastdl_tensor* grad_out,
                                    const fastdl_tensor* x_, const fastdl_tensor* weight_,
                                    const fastdl_tensor* grad_x, const fastdl_tensor* grad_weight) {
  return guarded([&] {
    const char* op = "prelu_backward";
    View dy = any_float_view(grad_out, op, "grad_out"), x = view_like(x_, dy.dtype, op, "x");
    const View weight = view_like(weight_, x.dtype, op, "weight");
    View dx = grad_x ? out_view(grad_x, x.dtype, op, "grad_x") : x;
    const View dw = grad_weight ? out_view(grad_weight, x.dtype, op, "grad_weight") : weight;
    check_same_shape(x, "x", dy, "grad_out", op);
    check_same_shape(x, "x", dx, "grad_x", op);
    check_same_shape(weight, "weight", dw, "grad_weight", op);
    const bool last = has_channels_last(x) && weight.size() != 1;
    const PreluShape s = prelu_shape(x, weight.size(), last, op);
    if (last) x = channels_last(x), dy = channels_last(dy), dx = channels_last(dx);
    dispatch_storage(x.dtype, [&](auto zero) {
      using S = decltype(zero);
      using T = compute_t<S>;
      const Contiguous gc(context, dy), xc(context, x);
      const Computed wc(context, weight);
      ComputedOut dwc(context, dw);
      ContiguousOut dxc(context, dx);
      prelu_backward<S>(context, *gc, *xc, wc.as<T>(), grad_x ? &*dxc : nullptr,
                        grad_weight ? dwc.as<T>() : nullptr, s);
      if (grad_x) dxc.write_back();
      if (grad_weight) dwc.write_back();
    });
  });
}

int32_t fastdl_activation_from_output(const fastdl_activation* f) {
  if (!f) return 0;
  switch (f->kind) {
    case FASTDL_ACT_NONE:
    case FASTDL_ACT_RELU:
    case FASTDL_ACT_RELU6:
    case FASTDL_ACT_SELU:
    case FASTDL_ACT_HARDTANH:
    case FASTDL_ACT_SIGMOID:
    case FASTDL_ACT_TANH:
      return 1;
    case FASTDL_ACT_LEAKY_RELU:
    case FASTDL_ACT_ELU:
    case FASTDL_ACT_CELU:
      return f->alpha > 0;
    default:
      return 0;
  }
}
}
