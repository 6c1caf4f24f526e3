// One input channel: as a matrix product the sums would have nine rows, and the inputs would be copied nine
// times. Here the nine sums of as many outputs as there are lanes stay in registers along a line, and the
// gradient is read once, where it lies, ReLU's derivative on the way. Lines of bfloat16 are widened in the
// cache.
#include "cpu/conv_one_channel.h"

#include <algorithm>
#include <type_traits>

#include "cpu/conv_depthwise.h"
#include "cpu/isa/conv_pooled.h"
#include "cpu/kernels.h"
#include "cpu/parallel.h"

namespace fastdl::cpu::conv {
namespace {

constexpr int64_t kTaps = 9, kShares = 8;  // copies of the sums
constexpr int64_t kLeastLines = 4;         // of a share

template <class S>
bool suits(const Geometry& g, const Source<S>& grad) {
  if (g.c != 1 || g.groups != 1 || g.in[0] != 1 || g.out[0] != 1 || g.padding[0] != 0) return false;
  if (g.kernel[0] != 1 || g.kernel[1] != 3 || g.kernel[2] != 3 || g.n * g.out[1] * g.out[2] == 0)
    return false;
  if (!grad.x.channels_together()) return false;
  if (!grad.masked()) return true;
  return grad.activation.kind == FASTDL_ACT_RELU && grad.saved.channels_together();
}

// A line of an image as the kernel reads it: where it lies, or widened into `to`.
template <class S>
struct Line {
  const compute_t<S>* data;
  int64_t step;

  Line(const Image<const S>& x, int64_t n, int64_t h, compute_t<S>* to) {
    const S* const from = x.at(n, 0, h, 0);
    if constexpr (std::is_same_v<S, bfloat16>) {
      data = to;
      step = x.c;
      const bool dense = x.line_dense();
      const int64_t pieces = dense ? 1 : x.size[2], size = dense ? x.size[2] * x.c : x.c;
      for (int64_t q = 0; q < pieces; ++q) widen(from + q * x.step[2], size, to + q * x.c);
    } else {
      data = from;
      step = x.step[2];
    }
  }
};

}  // namespace

template <class S>
bool one_channel_weight_gradient(Context* context, const Geometry& g, const Source<S>& in,
                                 const Source<S>& grad, const View& grad_weight, const View* grad_bias) {
  using T = compute_t<S>;
  if (!suits(g, grad)) return false;
  const auto& k = pooled_table<T>(*kernels().conv->pooled);
  const Lattice lattice = forward_lattice(g);
  const int64_t lines = g.n * g.out[1], shares = std::clamp<int64_t>(lines / kLeastLines, 1, kShares);
  const int64_t size = (kTaps + 1) * g.o;  // [tap][output], then the bias
  const int64_t region = ((g.out[1] - 1) * g.stride[1] + 2 * g.dilation[1] + 1) *
                         ((g.out[2] - 1) * g.stride[2] + 2 * g.dilation[2] + 1);
  const Workspace sums(context, static_cast<size_t>(size * shares) * sizeof(T));
  const double cost = static_cast<double>(g.multiplications()) / static_cast<double>(k.width * shares);
  parallel_for(context, shares, cost, [&](int64_t share) {
    const int64_t line_size = std::is_same_v<S, T> ? 0 : g.out[2] * g.o;
    const Workspace scratch(context, static_cast<size_t>(region + 2 * line_size) * sizeof(T));
    T* const wide = scratch.as<T>() + region;
    T* const mine = sums.as<T>() + share * size;
    std::fill(mine, mine + size, T(0));
    for (int64_t line = lines * share / shares, end = lines * (share + 1) / shares; line < end;) {
      const int64_t n = line / g.out[1], h0 = line % g.out[1], count = std::min(g.out[1] - h0, end - line);
      const Region<T> x = copy_region(context, in, lattice, {n, 1, 0, 1, h0, count}, {}, scratch.as<T>());
      for (int64_t h = h0; h < h0 + count; ++h) {
        OneChannelLine<T> p{};
        const Line<S> gradient(grad.x, n, h, wide);
        p.g = gradient.data;
        p.g_step = gradient.step;
        if (grad.masked()) {
          const Line<S> saved(grad.saved, n, h, wide + line_size);
          p.out = saved.data;
          p.out_step = saved.step;
        }
        p.positions = g.out[2];
        p.outputs = g.o;
        p.x = x.at(0, 0, h * g.stride[1] - g.padding[1], -g.padding[2]);
        p.x_step = g.stride[2];
        p.x_line = g.dilation[1] * x.step[1];
        p.x_tap = g.dilation[2];
        p.sums = mine;
        k.one_channel(p);
      }
      line += count;
    }
  });
  T* const total = sums.as<T>();
  if (shares > 1) {
    table_for<T>(*kernels().conv).add_rows(total + size, shares - 1, size, size, total);
  }
  const int nd = grad_weight.ndim;
  const int64_t w_step = grad_weight.strides[nd - 1], h_step = nd > 3 ? grad_weight.strides[nd - 2] : 0;
  for (int64_t t = 0; t < kTaps; ++t)
    narrow(total + t * g.o, g.o, grad_weight.as<S>() + t / 3 * h_step + t % 3 * w_step,
           grad_weight.strides[0]);
  if (grad_bias) narrow(total + kTaps * g.o, g.o, grad_bias->as<S>(), grad_bias->strides[0]);
  return true;
}

#define FASTDL_INSTANTIATE(T)                                                               \
  template bool one_channel_weight_gradient<T>(Context*, const Geometry&, const Source<T>&, \
                                               const Source<T>&, const View&, const View*);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(double)
FASTDL_INSTANTIATE(bfloat16)
#undef FASTDL_INSTANTIATE

}  // namespace fastdl::cpu::conv
