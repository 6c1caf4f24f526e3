#include "common/activation.h"

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

template <class S>
void prelu(Context* context, const View& x, const compute_t<S>* w, const View& out,
           const check::PreluShape& s) {
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
                    compute_t<S>* dw, const check::PreluShape& s) {
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

fastdl_status fastdl_activation_forward(fastdl_context* context, const fastdl_tensor* x,
                                        const fastdl_tensor* out, const fastdl_activation* activation) {
  return guarded([&] {
    const check::Activation a = check::activation_forward(x, out, activation);
    dispatch_storage(a.x.dtype, [&](auto zero) {
      using S = decltype(zero);
      in_one_layout<Memory>(
          context, [&](const View& to, const View& from) { forward<S>(context, from, to, a.f); }, a.out, a.x);
    });
  });
}

fastdl_status fastdl_activation_backward(fastdl_context* context, const fastdl_tensor* grad_out,
                                         const fastdl_tensor* saved, const fastdl_tensor* grad_x,
                                         const fastdl_activation* activation, int32_t from_output) {
  return guarded([&] {
    const check::ActivationBackward a =
        check::activation_backward(grad_out, saved, grad_x, activation, from_output);
    dispatch_storage(a.grad_out.dtype, [&](auto zero) {
      using S = decltype(zero);
      in_one_layout<Memory>(
          context,
          [&](const View& dx, const View& dy, const View& kept) {
            backward<S>(context, dy, kept, dx, a.f, a.from_output);
          },
          a.grad_x, a.grad_out, a.saved);
    });
  });
}

fastdl_status fastdl_elementary(fastdl_context* context, const fastdl_tensor* x, const fastdl_tensor* out,
                                int32_t kind) {
  return guarded([&] {
    const check::Elementary e = check::elementary(x, out, kind);
    dispatch_storage(e.x.dtype, [&](auto zero) {
      using S = decltype(zero);
      in_one_layout<Memory>(
          context, [&](const View& to, const View& from) { elementary<S>(context, from, to, kind); }, e.out,
          e.x);
    });
  });
}

fastdl_status fastdl_glu_forward(fastdl_context* context, const fastdl_tensor* x, const fastdl_tensor* out,
                                 int32_t dim) {
  return guarded([&] {
    const check::Glu glu = check::glu_forward(x, out, dim);
    const check::GluShape& s = glu.shape;
    dispatch_storage(glu.x.dtype, [&](auto zero) {
      using S = decltype(zero);
      const Contiguous xc(context, glu.x);
      ContiguousOut yc(context, glu.out);
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
                                  const fastdl_tensor* x, const fastdl_tensor* grad_x, int32_t dim) {
  return guarded([&] {
    const check::GluBackward glu = check::glu_backward(grad_out, x, grad_x, dim);
    const check::GluShape& s = glu.shape;
    dispatch_storage(glu.x.dtype, [&](auto zero) {
      using S = decltype(zero);
      const Contiguous gc(context, glu.grad_out), xc(context, glu.x);
      ContiguousOut dxc(context, glu.grad_x);
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

fastdl_status fastdl_prelu_forward(fastdl_context* context, const fastdl_tensor* x,
                                   const fastdl_tensor* weight, const fastdl_tensor* out) {
  return guarded([&] {
    const check::Prelu p = check::prelu_forward(x, weight, out);
    dispatch_storage(p.x.dtype, [&](auto zero) {
      using S = decltype(zero);
      const Computed wc(context, p.weight);
      const compute_t<S>* w = wc.as<compute_t<S>>();
      if (p.weight.size() == 1 && same_dense_layout(p.x, p.out)) {
        return prelu<S>(context, p.x, w, p.out, p.shape);
      }
      const Contiguous xc(context, p.x);
      ContiguousOut yc(context, p.out);
      prelu<S>(context, *xc, w, *yc, p.shape);
      yc.write_back();
    });
  });
}

fastdl_status fastdl_prelu_backward(fastdl_context* context, const fastdl_tensor* grad_out,
                                    const fastdl_tensor* x, const fastdl_tensor* weight,
                                    const fastdl_tensor* grad_x, const fastdl_tensor* grad_weight) {
  return guarded([&] {
    const check::PreluBackward p = check::prelu_backward(grad_out, x, weight, grad_x, grad_weight);
    dispatch_storage(p.x.dtype, [&](auto zero) {
      using S = decltype(zero);
      using T = compute_t<S>;
      const Contiguous gc(context, p.grad_out), xc(context, p.x);
      const Computed wc(context, p.weight);
      ComputedOut dwc(context, p.grad_weight);
      ContiguousOut dxc(context, p.grad_x);
      prelu_backward<S>(context, *gc, *xc, wc.as<T>(), grad_x ? &*dxc : nullptr,
                        grad_weight ? dwc.as<T>() : nullptr, p.shape);
      if (grad_x) dxc.write_back();
      if (grad_weight) dwc.write_back();
    });
  });
}

int32_t fastdl_activation_from_output(const fastdl_activation* f) { return check::derivative_from_output(f); }
}
