// Depthwise convolution, and that of one channel, with kernels three pixels wide, line by line
// (isa/conv_depthwise.h).
#include <algorithm>
#include <type_traits>

#include "cpu/conv_depthwise.h"
#include "cpu/conv_one_channel.h"
#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "cpu/round.h"

namespace fastdl::cpu::conv {
namespace {

constexpr int64_t kMostLines = 9;           // of a kernel
constexpr int64_t kLeastOutputs = 8;        // of one channel: fewer leave most of a vector empty
constexpr int64_t kTasks = 8;               // wanted, to balance a few threads
constexpr double kTaskBytes = 256 << 10;    // of a task, or a strip of one: it stays in the L2 cache
constexpr int64_t kMostShares = 16;         // partial sums of a gradient of weights
constexpr int64_t kFinishedTogether = 512;  // channels whose sums are added by one task

template <class S>
const DepthwiseLinesTable<S>& table() {
  const DepthwiseLinesKernels& k = *kernels().conv->depthwise_lines;
  if constexpr (std::is_same_v<S, bfloat16>) return k.bf16;
  else if constexpr (std::is_same_v<S, float>) return k.f32;
  else return k.f64;
}

// A gather as rows of outputs, one or two at a time.
template <class S, class A>
struct Rows {
  void (*row)(const DepthwiseLines<S, A>&);
  void (*pair)(const DepthwiseLines<S, A>&);
  const Image<const A>& in;
  const Image<S>& out;
  const Epilogue<S>& end;
  const Lattice& l;
  const compute_t<S>* w;  // [slot][w_row]
  int64_t w_row, kernel_h;
  int64_t together;  // rows

  int64_t per_plane() const { return ceil_div(out.size[1], together); }
  int64_t count() const { return out.n * out.size[0] * per_plane(); }
};

const int64_t& at(const std::vector<int64_t>& v, int64_t i) { return v[static_cast<size_t>(i)]; }

// Unit i of the rows; `more`: the next one follows in the same task.
template <class S, class A>
void run_rows(const Rows<S, A>& r, int64_t i, bool more, DepthwiseLines<S, A> p) {
  const int64_t h = i % r.per_plane() * r.together, d = i / r.per_plane() % r.out.size[0],
                n = i / r.per_plane() / r.out.size[0];
  const bool pair = r.together == 2 && h + 1 < r.out.size[1];
  const AxisTaps &td = r.l.taps[0], &th = r.l.taps[1];
  const A* a[kMostLines];
  const compute_t<S>* w[kMostLines];
  const auto line = [&](int64_t id, int64_t ih) -> const A* {
    if (id < 0 || id >= r.in.size[0] || ih < 0 || ih >= r.in.size[1]) return nullptr;
    return r.in.at(n, id, ih, 0);
  };
  int64_t lines = 0;
  for (int64_t t = 0; t < td.count(); ++t) {
    const int64_t id = d * r.l.in_step[0] + at(td.offset, t);
    for (int64_t u = 0; u < th.count(); ++u, ++lines) {
      a[lines] = line(id, h * r.l.in_step[1] + at(th.offset, u));
      w[lines] = r.w + (at(td.slot, t) * r.kernel_h + at(th.slot, u)) * 3 * r.w_row;
    }
  }
  if (pair) a[lines] = line(d * r.l.in_step[0] + td.offset[0], h + 1 + th.offset.back());
  p.a = a;
  p.w = w;
  p.lines = lines;
  // What the next rows of this plane add to the lines that these see.
  const int64_t id = d * r.l.in_step[0] + td.offset.back(),
                last = (h + (pair ? 1 : 0)) * r.l.in_step[1] + th.offset.back(),
                further = r.together * r.l.in_step[1];
  for (int64_t k = 0; k < 2; ++k) p.ahead[k] = more && k < further ? line(id, last + 1 + k) : nullptr;
  for (int row = 0; row < (pair ? 2 : 1); ++row) {
    p.y[row] = r.out.at(n, d, h + row, 0);
    p.residual[row] = r.end.residual.data ? r.end.residual.at(n, d, h + row, 0) : nullptr;
  }
  if (pair) r.pair(p);
  else r.row(p);
}

bool three_wide(const Geometry& g) {
  return g.kernel[2] == 3 && g.dilation[2] == 1 && (g.stride[2] == 1 || g.stride[2] == 2) &&
         g.kernel[0] * g.kernel[1] <= kMostLines;
}

// w: [slot][channels of the output].
template <class S, class A>
void gather_rows(Context* context, const Geometry& g, const Lattice& l, const Image<const A>& in,
                 const compute_t<S>* w, const compute_t<S>* bias, const Image<S>& out, const Epilogue<S>& end,
                 void (*row)(const DepthwiseLines<S, A>&), void (*pair)(const DepthwiseLines<S, A>&)) {
  const bool pairs = pair && l.in_step[1] == 1 && l.in_step[2] == 1 && g.kernel[0] == 1 && g.kernel[1] == 3 &&
                     g.dilation[1] == 1;
  const Rows<S, A> rows{row, pair, in, out, end, l, w, out.c, g.kernel[1], pairs ? 2 : 1};
  DepthwiseLines<S, A> p{};
  p.w_row = out.c;
  p.a_row = in.step[2];
  p.first = l.taps[2].offset[0];
  p.size = in.size[2];
  p.y_row = out.step[2];
  p.bias = bias;
  p.residual_row = end.residual.step[2];
  p.count = out.size[2];
  p.columns = out.c;
  p.relu = end.activation.kind == FASTDL_ACT_RELU;
  const double bytes =
      static_cast<double>(out.size[2] * out.c * static_cast<int64_t>(sizeof(S)) +
                          in.size[2] * l.in_step[1] * in.c * static_cast<int64_t>(sizeof(A)));
  const int64_t all = rows.count(), fit = static_cast<int64_t>(kTaskBytes / bytes) / rows.together;
  const int64_t some = std::clamp<int64_t>(fit, 1, ceil_div(all, kTasks));
  const double cost = static_cast<double>(some * rows.together * out.size[2] * out.c * g.taps()) / 16;
  parallel_for(context, ceil_div(all, some), cost, [&](int64_t task) {
    const int64_t last = std::min(all, (task + 1) * some) - 1;
    for (int64_t i = task * some; i <= last; ++i) run_rows(rows, i, i < last && in.c > 1, p);
  });
}

}  // namespace

template <class S>
bool depthwise_lines(Context* context, const Geometry& g, const Image<const S>& in, const compute_t<S>* w,
                     const compute_t<S>* bias, bool data_gradient, const Image<S>& out,
                     const Epilogue<S>& end) {
  if (!three_wide(g)) return false;
  if (data_gradient && (g.stride[0] != 1 || g.stride[1] != 1 || g.stride[2] != 1)) return false;
  const Lattice l = data_gradient ? data_lattices(g)[0] : forward_lattice(g);
  const auto& k = table<S>();
  gather_rows<S, S>(context, g, l, in, w, bias, out, end, k.row[g.stride[2] - 1], k.pair);
  return true;
}

template <class S>
bool one_channel_forward(Context* context, const Geometry& g, const Source<S>& in, const S* weight,
                         const Image<S>& out, const Epilogue<S>& end) {
  using T = compute_t<S>;
  const auto& k = table<S>();
  const auto row = three_wide(g) ? k.one_channel_row[g.stride[2] - 1] : nullptr;
  const bool simple = end.activation.kind == FASTDL_ACT_NONE || end.activation.kind == FASTDL_ACT_RELU;
  if (!row || g.c != 1 || g.o < kLeastOutputs || in.masked() || !simple) return false;
  const int64_t lines = in.x.n * in.x.size[0] * in.x.size[1], length = in.x.size[2];
  Workspace space(context, static_cast<size_t>((g.taps() + 1) * g.o) * sizeof(T));
  T *const w = space.as<T>(), *const bias = w + g.taps() * g.o;
  if (!pack_depthwise(context, g.o, g.taps(), weight, false, w)) return false;
  if (end.bias) widen(end.bias, g.o, bias);
  Image<const T> image;
  Workspace wide(context, std::is_same_v<S, T> ? 0 : static_cast<size_t>(lines * length) * sizeof(T));
  if constexpr (std::is_same_v<S, T>) {
    image = in.x;
  } else {
    image.data = wide.as<T>();
    image.n = in.x.n;
    image.c = image.c_step = image.step[2] = 1;
    image.step[1] = length;
    image.step[0] = in.x.size[1] * length;
    image.n_step = in.x.size[0] * image.step[0];
    std::copy(in.x.size, in.x.size + 3, image.size);
    const int64_t pieces = in.x.step[2] == 1 ? 1 : length;
    parallel_ranges(context, lines, 16, static_cast<double>(length) / 8, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t h = i % in.x.size[1], d = i / in.x.size[1] % in.x.size[0],
                      n = i / in.x.size[1] / in.x.size[0];
        for (int64_t q = 0; q < pieces; ++q)
          widen(in.x.at(n, d, h, q), length / pieces, wide.as<T>() + i * length + q);
      }
    });
  }
  gather_rows<S, T>(context, g, forward_lattice(g), image, w, end.bias ? bias : nullptr, out, end, row,
                    k.one_channel_pair);
  return true;
}

namespace {

// Taps outside the image see zeros, and 0 * g is NaN where g is NaN or Inf, which its sum then is too: only
// then what the kernels leave out is added.
template <class S>
void add_padding(const Geometry& g, const Image<const S>& grad, int64_t c0, int64_t c1, compute_t<S>* sum,
                 int64_t row) {
  using T = compute_t<S>;
  const auto outside = [&](int axis, int64_t i, int64_t t) {
    const int64_t at = i * g.stride[axis] - g.padding[axis] + t * g.dilation[axis];
    return at < 0 || at >= g.in[axis];
  };
  std::vector<T> wide(static_cast<size_t>(c1 - c0));
  for (int64_t i = 0; i < g.n * g.out[0] * g.out[1] * g.out[2]; ++i) {
    const int64_t q = i % g.out[2], h = i / g.out[2] % g.out[1], plane = i / g.out[2] / g.out[1];
    widen(grad.at(plane / g.out[0], plane % g.out[0], h, q) + c0, c1 - c0, wide.data());
    for (int64_t t = 0; t < 9; ++t) {
      if (!outside(1, h, t / 3) && !outside(2, q, t % 3)) continue;
      for (int64_t c = c0; c < c1; ++c) sum[t * row + c] += T(0) * wide[static_cast<size_t>(c - c0)];
    }
  }
}

// Adds the shares of the sums [share][10][row] and writes channels [c0, c1).
template <class S>
void finish_weight_channels(const Geometry& g, const Image<const S>& grad, compute_t<S>* sums, int64_t shares,
                            int64_t row, int64_t c0, int64_t c1, const View& grad_weight,
                            const View* grad_bias) {
  using T = compute_t<S>;
  if (shares > 1) {
    for (int64_t t = 0; t < 10; ++t)
      table_for<T>(*kernels().conv)
          .add_rows(sums + (10 + t) * row + c0, shares - 1, 10 * row, c1 - c0, sums + t * row + c0);
  }
  if (!all_finite(sums + 9 * row + c0, c1 - c0)) add_padding(g, grad, c0, c1, sums, row);
  const int64_t* const s = grad_weight.strides;
  const int axis = grad_weight.ndim - 2;
  for (int64_t t = 0; t < 9; ++t)
    narrow(sums + t * row + c0, c1 - c0,
           grad_weight.as<S>() + c0 * s[0] + t / 3 * s[axis] + t % 3 * s[axis + 1], s[0]);
  if (grad_bias)
    narrow(sums + 9 * row + c0, c1 - c0, grad_bias->as<S>() + c0 * grad_bias->strides[0],
           grad_bias->strides[0]);
}

}  // namespace

template <class S>
bool depthwise_lines_weight_gradient(Context* context, const Geometry& g, const Image<const S>& in,
                                     const Image<const S>& grad, const View* grad_weight,
                                     const View* grad_bias) {
  using T = compute_t<S>;
  const bool plane_by_plane = g.kernel[0] == 1 && g.padding[0] == 0 && (g.out[0] - 1) * g.stride[0] < g.in[0];
  if (!grad_weight || !three_wide(g) || g.kernel[1] != 3 || !plane_by_plane) return false;
  DepthwiseLinesWeight<S> p{};
  p.a_line = in.step[1];
  p.a_row = in.step[2];
  p.g_line = grad.step[1];
  p.g_row = grad.step[2];
  p.size_h = in.size[1];
  p.size_w = in.size[2];
  p.first_w = -g.padding[2];
  p.first_h = -g.padding[1];
  p.step_h = g.stride[1];
  p.dilation_h = g.dilation[1];
  p.count = g.out[2];
  p.columns = g.c;
  p.c_row = round_up(g.c, 16);
  // A share of the lines sums into its own copy; shapes alone say how many there are.
  const int64_t lines = g.out[1], all = g.n * g.out[0] * lines, size = 10 * p.c_row;
  const double line_bytes = static_cast<double>((g.out[2] + g.in[2] * p.step_h) * g.c) * sizeof(S);
  const int64_t strip = std::max<int64_t>(1, static_cast<int64_t>(kTaskBytes / std::max(line_bytes, 1.0)));
  const int64_t shares = std::clamp<int64_t>(all / strip, 1, kMostShares);
  Workspace space(context, static_cast<size_t>(shares * size) * sizeof(T));
  T* const sums = space.as<T>();
  const double cost = static_cast<double>(all * g.out[2] * g.c * 9) / 16 / static_cast<double>(shares);
  parallel_for(context, shares, cost, [&](int64_t share) {
    DepthwiseLinesWeight<S> part = p;
    part.c = sums + share * size;
    std::fill(part.c, part.c + size, T(0));
    const int64_t end = all * (share + 1) / shares;
    for (int64_t i = all * share / shares, n; i < end; i += n) {
      const int64_t h = i % lines, plane = i / lines;
      n = std::min({end - i, lines - h, strip});
      part.h0 = h;
      part.h1 = h + n;
      part.a = in.at(plane / g.out[0], plane % g.out[0] * g.stride[0], 0, 0);
      part.g = grad.at(plane / g.out[0], plane % g.out[0], 0, 0);
      table<S>().weight[g.stride[2] - 1](part);
    }
  });
  parallel_ranges(
      context, g.c, kFinishedTogether, static_cast<double>(shares) * 2, [&](int64_t c0, int64_t c1) {
        finish_weight_channels<S>(g, grad, sums, shares, p.c_row, c0, c1, *grad_weight, grad_bias);
      });
  return true;
}

#define FASTDL_INSTANTIATE(S)                                                                             \
  template bool depthwise_lines<S>(Context*, const Geometry&, const Image<const S>&, const compute_t<S>*, \
                                   const compute_t<S>*, bool, const Image<S>&, const Epilogue<S>&);       \
  template bool one_channel_forward<S>(Context*, const Geometry&, const Source<S>&, const S*,             \
                                       const Image<S>&, const Epilogue<S>&);                              \
  template bool depthwise_lines_weight_gradient<S>(Context*, const Geometry&, const Image<const S>&,      \
                                                   const Image<const S>&, const View*, const View*);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(double)
FASTDL_INSTANTIATE(bfloat16)
#undef FASTDL_INSTANTIATE

}  // namespace fastdl::cpu::conv
