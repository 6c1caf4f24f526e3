#include "cpu/conv_depthwise.h"

#include <algorithm>
#include <type_traits>

#include "cpu/kernels.h"
#include "cpu/parallel.h"

namespace fastdl::cpu::conv {
namespace {

constexpr double kTaskBytes = 256 << 10;  // of a task: it stays in the L2 cache and is worth handing out
constexpr int64_t kMostShares = 32;       // partial sums of a gradient of weights

template <class S>
void run(const ConvDepthwise<S>& p) {
  if constexpr (std::is_same_v<S, bfloat16>) kernels().conv->depthwise_bf16(p);
  else table_for<S>(*kernels().conv).depthwise(p);
}
template <class S>
void run(const ConvDepthwiseWeight<S>& p) {
  if constexpr (std::is_same_v<S, bfloat16>) kernels().conv->depthwise_weight_bf16(p);
  else table_for<S>(*kernels().conv).depthwise_weight(p);
}

// The taps of one line of outputs, cut where the line begins or ceases to reach outside: calls
// f(first output, outputs, taps, offset of the first output's input) with taps relative to that input.
template <class X, class F>
void for_stretches(const Lattice& l, const X& x, const int64_t kernel[3], int64_t c, int64_t jd, int64_t jh,
                   std::vector<ConvTap>& taps, F&& f) {
  const AxisTaps& tw = l.taps[2];
  const int64_t count = l.count[2], step = l.in_step[2];
  const auto at = [](const std::vector<int64_t>& v, int64_t i) { return v[static_cast<size_t>(i)]; };
  // Outputs [q0, q1) see all taps of the line.
  int64_t q0 = 0, q1 = count;
  if (tw.count()) {
    q0 = std::clamp<int64_t>((-tw.offset.front() + step - 1) / step, 0, count);
    const int64_t room = x.size[2] - 1 - tw.offset.back();
    q1 = std::clamp<int64_t>(room < 0 ? 0 : room / step + 1, q0, count);
  }
  for (int64_t q = 0, n; q < count; q += n) {
    n = q >= q0 && q < q1 ? q1 - q : 1;
    taps.clear();
    for (int64_t td = 0; td < l.taps[0].count(); ++td) {
      const int64_t id = jd * l.in_step[0] + at(l.taps[0].offset, td);
      if (id < 0 || id >= x.size[0]) continue;
      for (int64_t th = 0; th < l.taps[1].count(); ++th) {
        const int64_t ih = jh * l.in_step[1] + at(l.taps[1].offset, th);
        if (ih < 0 || ih >= x.size[1]) continue;
        for (int64_t t = 0; t < tw.count(); ++t) {
          const int64_t iw = q * step + at(tw.offset, t);
          if (iw < 0 || iw >= x.size[2]) continue;
          const int64_t slot =
              (at(l.taps[0].slot, td) * kernel[1] + at(l.taps[1].slot, th)) * kernel[2] + at(tw.slot, t);
          taps.push_back({id * x.step[0] + ih * x.step[1] + iw * x.step[2], slot * c});
        }
      }
    }
    f(q, n);
  }
}

// bias + sum of 0 * w over the taps that fall into the padding: NaN where such a weight is NaN or Inf, as in
// any sum over padding.
template <class T>
const T* padded_bias(const Geometry& g, const T* w, const T* bias, const std::vector<ConvTap>& taps, T* to) {
  for (int64_t c = 0; c < g.c; ++c) to[c] = bias ? bias[c] : T(0);
  for (int64_t t = 0; t < g.taps(); ++t) {
    const auto inside = [&](const ConvTap& tap) { return tap.b == t * g.c; };
    if (std::any_of(taps.begin(), taps.end(), inside)) continue;
    for (int64_t c = 0; c < g.c; ++c) to[c] += T(0) * w[t * g.c + c];
  }
  return to;
}

// The inputs that the next line of outputs adds to those of this one.
constexpr int kMostAhead = 4;
template <class X>
int fetched_ahead(const Lattice& l, const X& x, const std::vector<ConvTap>& taps, int64_t* ahead) {
  const int64_t lines = l.in_step[1], pixels = l.in_step[2], w = l.taps[2].count();
  if (w == 0 || static_cast<int64_t>(taps.size()) < w || lines * pixels > kMostAhead) return 0;
  int count = 0;
  for (int64_t line = 1; line <= lines; ++line) {
    for (int64_t pixel = 0; pixel < pixels; ++pixel)
      ahead[count++] = taps[taps.size() - static_cast<size_t>(w)].a + line * x.step[1] + pixel * x.step[2];
  }
  return count;
}

// Lines of an image per task.
template <class S>
int64_t lines_per_task(const Geometry& g, int64_t lines, double bytes_per_line) {
  const int64_t most = std::max<int64_t>(1, static_cast<int64_t>(kTaskBytes / std::max(bytes_per_line, 1.0)));
  return std::min(most, std::max<int64_t>(1, g.n * lines / 8));
}

}  // namespace

bool is_depthwise(const Geometry& g) { return g.groups == g.c && g.groups == g.o && g.groups > 1; }

template <class S>
void depthwise_gather(Context* context, const Geometry& g, const Image<const S>& in, const S* weight,
                      bool data_gradient, const Image<S>& out, const Epilogue<S>& end) {
  using T = compute_t<S>;
  Workspace packed(context, static_cast<size_t>((g.taps() + 1) * g.c) * sizeof(T));
  T* const w = packed.as<T>();
  const bool finite = pack_depthwise(context, g.c, g.taps(), weight, data_gradient, w);
  T* const bias = w + g.taps() * g.c;
  if (end.bias) widen(end.bias, g.c, bias);
  if (finite && depthwise_lines<S>(context, g, in, w, end.bias ? bias : nullptr, data_gradient, out, end)) {
    return;
  }
  const std::vector<Lattice> lattices =
      data_gradient ? data_lattices(g) : std::vector<Lattice>{forward_lattice(g)};
  const bool relu = end.activation.kind == FASTDL_ACT_RELU;
  const int64_t lines = out.size[0] * out.size[1];
  const double line_bytes = static_cast<double>((out.size[2] + in.size[2]) * g.c) * sizeof(S);
  const int64_t some = lines_per_task<S>(g, lines, line_bytes), all = out.n * lines;
  const double cost = static_cast<double>(some * out.size[2] * g.c * g.taps()) / 16;
  parallel_for(context, (all + some - 1) / some, cost, [&](int64_t task) {
    std::vector<ConvTap> taps;
    const std::vector<ConvTap> none;
    int64_t ahead[kMostAhead];
    Workspace spare(context, finite ? 0 : static_cast<size_t>(g.c) * sizeof(T));
    ConvDepthwise<S> p{};
    p.b = w;
    p.columns = g.c;
    p.relu = relu;
    for (int64_t i = task * some; i < std::min(all, (task + 1) * some); ++i) {
      const int64_t h = i % out.size[1], d = i / out.size[1] % out.size[0], n = i / lines;
      for (const Lattice& l : lattices) {
        if (d % l.out_step[0] != l.out_start[0] || h % l.out_step[1] != l.out_start[1]) continue;
        p.y_row = l.out_step[2] * out.step[2];
        p.residual_row = l.out_step[2] * end.residual.step[2];
        p.a_row = l.in_step[2] * in.step[2];
        p.a = in.data + n * in.n_step;
        for_stretches(
            l, in, g.kernel, g.c, d / l.out_step[0], h / l.out_step[1], taps, [&](int64_t q, int64_t count) {
              const int64_t first = l.out_start[2] + q * l.out_step[2];
              p.taps = taps.data();
              p.num_taps = static_cast<int64_t>(taps.size());
              p.rows = count;
              const bool more = i + 1 < std::min(all, (task + 1) * some) && count > 1;
              p.num_ahead = fetched_ahead(l, in, more ? taps : none, ahead);
              p.ahead = ahead;
              p.y = out.at(n, d, h, first);
              p.residual = end.residual.data ? end.residual.at(n, d, h, first) : nullptr;
              const T* const plain = end.bias ? bias : nullptr;
              p.bias = finite || data_gradient ? plain : padded_bias(g, w, plain, taps, spare.as<T>());
              run(p);
            });
      }
    }
  });
}

template <class S>
void depthwise_weight_gradient(Context* context, const Geometry& g, const Image<const S>& in,
                               const Image<const S>& grad, const View* grad_weight, const View* grad_bias) {
  using T = compute_t<S>;
  if (depthwise_lines_weight_gradient(context, g, in, grad, grad_weight, grad_bias)) return;
  const Lattice l = forward_lattice(g);
  const int64_t taps_size = g.taps() * g.c, size = taps_size + g.c, lines = g.out[0] * g.out[1],
                all = g.n * lines;
  // A share of the lines sums into its own copy; shapes alone say how many there are.
  const double line_bytes = static_cast<double>((g.out[2] + g.in[2]) * g.c) * sizeof(S);
  const int64_t shares =
      std::clamp<int64_t>(static_cast<int64_t>(static_cast<double>(all) * line_bytes / kTaskBytes), 1,
                          std::min(kMostShares, std::max<int64_t>(all, 1)));
  Workspace space(context, static_cast<size_t>(shares * size) * sizeof(T));
  T* const sums = space.as<T>();
  const double cost = static_cast<double>(all * g.out[2] * taps_size) / 16 / static_cast<double>(shares);
  parallel_for(context, shares, cost, [&](int64_t share) {
    T* const sum = sums + share * size;
    T* const bias = sum + taps_size;
    std::fill(sum, sum + size, T(0));
    Workspace scratch(context, static_cast<size_t>(g.c) * sizeof(T));
    std::vector<ConvTap> taps;
    ConvDepthwiseWeight<S> p{};
    p.a_row = l.in_step[2] * in.step[2];
    p.g_row = grad.step[2];
    p.columns = g.c;
    p.c_row = g.c;
    for (int64_t i = all * share / shares; i < all * (share + 1) / shares; ++i) {
      const int64_t h = i % g.out[1], d = i / g.out[1] % g.out[0], n = i / lines;
      if (grad_weight) {
        p.a = in.data + n * in.n_step;
        for_stretches(l, in, g.kernel, g.c, d, h, taps, [&](int64_t q, int64_t count) {
          p.g = grad.at(n, d, h, q);
          p.rows = count;
          // Taps come in the order of their sums, perhaps with gaps: each stretch of neighbours is one call.
          for (size_t t = 0, end; t < taps.size(); t = end) {
            for (end = t + 1; end < taps.size() && taps[end].b == taps[end - 1].b + g.c; ++end) {
            }
            p.taps = taps.data() + t;
            p.num_taps = static_cast<int64_t>(end - t);
            p.c = sum + taps[t].b;
            run(p);
          }
        });
      }
      if (!grad_bias) continue;
      const S* const line = grad.at(n, d, h, 0);
      if constexpr (std::is_same_v<S, bfloat16>) {
        for (int64_t q = 0; q < g.out[2]; ++q) {
          widen(line + q * grad.step[2], g.c, scratch.as<T>());
          kernels().conv->f32.add_rows(scratch.as<T>(), 1, g.c, g.c, bias);
        }
      } else {
        table_for<T>(*kernels().conv).add_rows(line, g.out[2], grad.step[2], g.c, bias);
      }
    }
  });
  if (shares > 1) table_for<T>(*kernels().conv).add_rows(sums + size, shares - 1, size, size, sums);
  if (grad_weight) {
    const int nd = grad_weight->ndim - 2;
    for (int64_t t = 0; t < g.taps(); ++t) {
      S* to = grad_weight->as<S>();
      int64_t rest = t;
      for (int i = 0; i < nd; ++i) {
        const int64_t extent = g.kernel[2 - i];
        to += rest % extent * grad_weight->strides[1 + nd - i];
        rest /= extent;
      }
      narrow(sums + t * g.c, g.c, to, grad_weight->strides[0]);
    }
  }
  if (grad_bias) narrow(sums + taps_size, g.c, grad_bias->as<S>(), grad_bias->strides[0]);
}

#define FASTDL_INSTANTIATE(S)                                                                         \
  template void depthwise_gather<S>(Context*, const Geometry&, const Image<const S>&, const S*, bool, \
                                    const Image<S>&, const Epilogue<S>&);                             \
  template void depthwise_weight_gradient<S>(Context*, const Geometry&, const Image<const S>&,        \
                                             const Image<const S>&, const View*, const View*);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(double)
FASTDL_INSTANTIATE(bfloat16)
#undef FASTDL_INSTANTIATE

}  // namespace fastdl::cpu::conv
