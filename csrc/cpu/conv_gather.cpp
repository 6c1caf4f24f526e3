// out[j] = activation(bias + residual + sum over taps of in[step * j + offset] * w[tap]): forward passes and
// data gradients. Tasks are blocks of output positions (times groups of weight panels where those are few).
#include <algorithm>

#include "cpu/conv_plan.h"
#include "cpu/kernels.h"
#include "cpu/parallel.h"

namespace fastdl::cpu::conv {
namespace {

constexpr double kTaskWork = 2e6;          // multiplications of a task: some 10 us, worth handing out
constexpr int64_t kTasks = 16;             // wanted where there is work for them
constexpr int64_t kRegionBytes = 1 << 18;  // a copied region stays in L2 beside a weight panel
constexpr int64_t kShortLine = 7;          // output lines shorter than this are gathered into patches

// All that tasks share.
template <class T>
struct Gather {
  Context* context;
  const Source<T>& in;
  const Lattice& l;
  const PackedWeights<T>& w;
  const Image<T>& out;
  const Epilogue<T>& end;
  Blocks blocks;
  int64_t panels, panel_groups;  // weight panels of all groups, and the shares they are cut into
  bool copied;                   // the region is a copy with zeros around it
  bool skip;                     // taps outside on the first two axes are left out
  bool exact;                    // taps outside on any axis are left out
  bool patches;                  // the taps of each output position are gathered side by side
  bool stream;                   // outputs are written past the cache
  Spread spread;

  int64_t reduce() const { return w.reduce; }
  bool relu() const { return end.activation.kind == FASTDL_ACT_RELU; }
  bool later_activation() const { return end.activation.kind != FASTDL_ACT_NONE && !relu(); }
  int64_t patch() const { return l.num_taps() * w.reduce; }
  bool inside(int axis, int64_t j, int64_t tap) const {
    const int64_t i = j * l.in_step[axis] + l.taps[axis].offset[static_cast<size_t>(tap)];
    return i >= 0 && i < in.x.size[axis];
  }
  int64_t slot(int64_t td, int64_t th, int64_t tw) const {
    const auto at = [](const std::vector<int64_t>& v, int64_t i) { return v[static_cast<size_t>(i)]; };
    return (at(l.taps[0].slot, td) * w.kernel[1] + at(l.taps[1].slot, th)) * w.kernel[2] +
           at(l.taps[2].slot, tw);
  }
  T* out_at(int64_t n, int64_t d, int64_t h, int64_t q) const {
    return out.at(n, l.out_start[0] + d * l.out_step[0], l.out_start[1] + h * l.out_step[1],
                  l.out_start[2] + q * l.out_step[2]);
  }
  const T* residual_at(int64_t n, int64_t d, int64_t h, int64_t q) const {
    if (!end.residual.data) return nullptr;
    return end.residual.at(n, l.out_start[0] + d * l.out_step[0], l.out_start[1] + h * l.out_step[1],
                           l.out_start[2] + q * l.out_step[2]);
  }
  int64_t out_row() const { return l.out_step[2] * out.step[2]; }
  int64_t residual_row() const { return l.out_step[2] * end.residual.step[2]; }
};

// Calls f(image, d, h) for every output line of the block; n counts from the first image of the block.
template <class F>
void for_lines(const Block& b, F&& f) {
  for (int64_t n = 0; n < b.n; ++n) {
    for (int64_t d = b.d0; d < b.d0 + b.d; ++d) {
      for (int64_t h = b.h0; h < b.h0 + b.h; ++h) f(n, d, h);
    }
  }
}

// Calls f(td, th, id, ih) for the tap lines that count at output line (d, h), with the input line they meet.
template <class T, class F>
void for_taps(const Gather<T>& g, int64_t d, int64_t h, F&& f) {
  for (int64_t td = 0; td < g.l.taps[0].count(); ++td) {
    if (g.skip && !g.inside(0, d, td)) continue;
    for (int64_t th = 0; th < g.l.taps[1].count(); ++th) {
      if (g.skip && !g.inside(1, h, th)) continue;
      f(td, th, d * g.l.in_step[0] + g.l.taps[0].offset[static_cast<size_t>(td)],
        h * g.l.in_step[1] + g.l.taps[1].offset[static_cast<size_t>(th)]);
    }
  }
}

// The products that make up output position (d, h, q) and, each a step further, its successors on the line.
template <class T>
void add_pieces(const Gather<T>& g, const Region<T>& region, int64_t group, const T* panel, int64_t n,
                int64_t d, int64_t h, int64_t q, std::vector<GemmPiece<T>>& pieces) {
  const auto& k = gemm_kernels_of<T>(*kernels().gemm);
  const AxisTaps& tw = g.l.taps[2];
  int64_t w0 = 0, w1 = tw.count();
  if (g.exact) {
    while (w0 < w1 && !g.inside(2, q, w0)) ++w0;
    while (w0 < w1 && !g.inside(2, q, w1 - 1)) --w1;
  }
  pieces.clear();
  if (w0 == w1) return;
  // The taps of a line that lie side by side in memory, channels and all, are one long product.
  const bool merged = g.w.groups == 1 && region.step[2] == g.reduce() && tw.consecutive();
  for_taps(g, d, h, [&](int64_t td, int64_t th, int64_t id, int64_t ih) {
    const int64_t stride = merged ? w1 - w0 : 1;
    for (int64_t t = w0; t < w1; t += stride) {
      const int64_t iw = q * g.l.in_step[2] + tw.offset[static_cast<size_t>(t)];
      pieces.push_back({region.at(n, id, ih, iw) + group * g.reduce(),
                        panel + g.slot(td, th, t) * g.reduce() * k.nr, stride * g.reduce()});
    }
  });
}

template <class T>
void run_lines(const Gather<T>& g, const Region<T>& region, const Block& b, int64_t panel0, int64_t panel1) {
  const auto& k = gemm_kernels_of<T>(*kernels().gemm);
  const int64_t per_group = g.panels / g.w.groups, count = g.l.count[2];
  const int64_t panel_size = g.w.kernel[0] * g.w.kernel[1] * g.w.kernel[2] * g.reduce() * k.nr;
  // Equal tiles rather than full ones and a rest; alone where the taps differ from one position to the next.
  const int64_t tiles = g.exact ? count : (count + k.mr - 1) / k.mr;
  const int64_t tile = tiles ? (count + tiles - 1) / tiles : 0;
  std::vector<GemmPiece<T>> pieces;
  GemmTile<T> t{};
  t.a_row = g.l.in_step[2] * region.step[2];
  t.a_k = 1;
  t.b_k = k.nr;
  t.ldc = g.out_row();
  t.alpha = T(1);
  t.ld_residual = g.residual_row();
  t.relu = g.relu();
  t.stream = g.stream;
  for (int64_t p = panel0; p < panel1; ++p) {
    const int64_t group = p / per_group, column = p % per_group * k.nr;
    t.cols = static_cast<int>(std::min<int64_t>(k.nr, g.w.columns - column));
    const int64_t channel = group * g.w.columns + column;
    t.bias = g.end.bias ? g.end.bias + channel : nullptr;
    for_lines(b, [&](int64_t n, int64_t d, int64_t h) {
      for (int64_t q = 0; q < count; q += tile) {
        if (q == 0 || g.exact) {
          add_pieces(g, region, group, g.w.data + p * panel_size, n, d, h, q, pieces);
        } else {
          for (auto& piece : pieces) piece.a += tile * t.a_row;
        }
        t.pieces = pieces.data();
        t.count = static_cast<int64_t>(pieces.size());
        t.rows = static_cast<int>(std::min(tile, count - q));
        t.c = g.out_at(b.n0 + n, d, h, q) + channel;
        const T* residual = g.residual_at(b.n0 + n, d, h, q);
        t.residual = residual ? residual + channel : nullptr;
        gemm_tile(k, t);
      }
    });
  }
}

// Lines too short to fill a tile: the inputs of every output position are copied side by side, after which
// the block is one plain matrix product. Needs outputs that lie row after row.
template <class T>
void run_patches(const Gather<T>& g, const Region<T>& region, const Block& b, int64_t panel0,
                 int64_t panel1) {
  const auto& k = gemm_kernels_of<T>(*kernels().gemm);
  const int64_t patch = g.patch(), rows = b.n * b.d * b.h * g.l.count[2];
  const AxisTaps& tw = g.l.taps[2];
  const bool merged = region.step[2] == g.reduce() && tw.consecutive();
  const int64_t stride = merged ? tw.count() : 1, run = stride * g.reduce();
  Workspace scratch(g.context, static_cast<size_t>(rows * patch) * sizeof(T));
  T* to = scratch.as<T>();
  for_lines(b, [&](int64_t n, int64_t d, int64_t h) {
    for (int64_t q = 0; q < g.l.count[2]; ++q) {
      for_taps(g, d, h, [&](int64_t, int64_t, int64_t id, int64_t ih) {
        for (int64_t t = 0; t < tw.count(); t += stride, to += run) {
          const T* from = region.at(n, id, ih, q * g.l.in_step[2] + tw.offset[static_cast<size_t>(t)]);
          std::copy(from, from + run, to);
        }
      });
    }
  });
  GemmTile<T> t{};
  t.a_row = patch;
  t.a_k = 1;
  t.b_k = k.nr;
  t.ldc = dense_row(g.out, g.l);
  t.alpha = T(1);
  t.ld_residual = g.end.residual.data ? dense_row(g.end.residual, g.l) : 0;
  t.relu = g.relu();
  GemmPiece<T> piece{nullptr, nullptr, patch};
  t.pieces = &piece;
  t.count = 1;
  T* const out = g.out_at(b.n0, b.d0, b.h0, 0);
  const T* const residual = g.residual_at(b.n0, b.d0, b.h0, 0);
  for (int64_t p = panel0; p < panel1; ++p) {
    const int64_t column = p * k.nr;
    piece.b = g.w.data + p * patch * k.nr;
    t.cols = static_cast<int>(std::min<int64_t>(k.nr, g.w.columns - column));
    t.bias = g.end.bias ? g.end.bias + column : nullptr;
    for (int64_t r = 0; r < rows; r += k.mr) {
      t.rows = static_cast<int>(std::min<int64_t>(k.mr, rows - r));
      piece.a = scratch.as<T>() + r * patch;
      t.c = out + r * t.ldc + column;
      t.residual = residual ? residual + r * t.ld_residual + column : nullptr;
      gemm_tile(k, t);
    }
  }
}

template <class T>
void run_depthwise(const Gather<T>& g, const Region<T>& region, const Block& b) {
  const auto& kernel = table_for<T>(*kernels().conv);
  const int64_t columns = g.w.groups * g.w.columns, count = g.l.count[2];
  std::vector<ConvTap> taps;
  ConvDepthwise<T> p{};
  p.b = g.w.data;
  p.a_row = g.l.in_step[2] * region.step[2];
  p.y_row = g.out_row();
  p.bias = g.end.bias;
  p.residual_row = g.residual_row();
  p.columns = columns;
  p.relu = g.relu();
  p.rows = g.exact ? 1 : count;
  for_lines(b, [&](int64_t n, int64_t d, int64_t h) {
    for (int64_t q = 0; q < count; q += p.rows) {
      taps.clear();
      p.a = region.data;
      for_taps(g, d, h, [&](int64_t td, int64_t th, int64_t id, int64_t ih) {
        for (int64_t tw = 0; tw < g.l.taps[2].count(); ++tw) {
          if (g.exact && !g.inside(2, q, tw)) continue;
          const int64_t iw = q * g.l.in_step[2] + g.l.taps[2].offset[static_cast<size_t>(tw)];
          for (int64_t i = 0; i < g.reduce(); ++i) {
            taps.push_back({region.at(n, id, ih, iw) - region.data + i * columns,
                            (g.slot(td, th, tw) * g.reduce() + i) * columns});
          }
        }
      });
      p.taps = taps.data();
      p.num_taps = static_cast<int64_t>(taps.size());
      p.y = g.out_at(b.n0 + n, d, h, q);
      p.residual = g.residual_at(b.n0 + n, d, h, q);
      kernel.depthwise(p);
    }
  });
}

// Activations that the kernels do not apply themselves, while the outputs are still in the cache.
template <class T>
void apply_activation(const Gather<T>& g, const Block& b, int64_t channel0, int64_t channel1) {
  const auto& activation = table_for<T>(*kernels().activation);
  const bool dense = g.out_row() == g.out.c && channel1 - channel0 == g.out.c;
  for_lines(b, [&](int64_t n, int64_t d, int64_t h) {
    T* y = g.out_at(b.n0 + n, d, h, 0) + channel0;
    if (dense) return activation.forward(g.end.activation, g.l.count[2] * g.out.c, y, y);
    for (int64_t q = 0; q < g.l.count[2]; ++q, y += g.out_row())
      activation.forward(g.end.activation, channel1 - channel0, y, y);
  });
}

template <class T>
void run_task(const Gather<T>& g, int64_t task) {
  const auto& k = gemm_kernels_of<T>(*kernels().gemm);
  const Block b = g.blocks[task / g.panel_groups];
  const int64_t share = task % g.panel_groups;
  const int64_t panel0 = g.panels * share / g.panel_groups, panel1 = g.panels * (share + 1) / g.panel_groups;
  const int64_t elements = g.copied ? region_elements(g.l, g.blocks, g.spread.channels(g.in.x.c)) : 0;
  Workspace scratch(g.context, static_cast<size_t>(elements) * sizeof(T));
  const Region<T> region = !g.copied       ? region_in_place(g.in, b)
                           : elements == 0 ? Region<T>{}
                                           : copy_region(g.context, g.in, g.l, b, g.spread, scratch.as<T>());
  if (g.w.depthwise) run_depthwise(g, region, b);
  else if (g.patches) run_patches(g, region, b, panel0, panel1);
  else run_lines(g, region, b, panel0, panel1);
  if (g.stream) end_stream();
  if (!g.later_activation()) return;
  if (g.panel_groups == 1) return apply_activation(g, b, 0, g.out.c);
  const int64_t per_group = g.panels / g.w.groups;
  for (int64_t p = panel0; p < panel1; ++p) {
    const int64_t column = p % per_group * k.nr, channel = p / per_group * g.w.columns + column;
    apply_activation(g, b, channel, channel + std::min<int64_t>(k.nr, g.w.columns - column));
  }
}

}  // namespace

template <class T>
void gather(Context* context, const Source<T>& in, const Lattice& l, const PackedWeights<T>& w,
            const Image<T>& out, const Epilogue<T>& end, bool zeros_count) {
  const auto& k = gemm_kernels_of<T>(*kernels().gemm);
  const int64_t rows = out.n * l.rows_per_image();
  if (rows == 0 || out.c == 0) return;
  const double row_work = std::max(1.0, static_cast<double>(out.c * w.reduce * l.num_taps()));
  // Few enough positions that a region's copy fits the cache, enough that a task is worth its overhead.
  const int64_t pixel_bytes = std::max<int64_t>(1, in.x.c) * static_cast<int64_t>(sizeof(T));
  int64_t target = std::max<int64_t>(static_cast<int64_t>(kTaskWork / row_work), 8 * k.mr);
  target = std::max(target, rows / (4 * kTasks));
  target = std::min(target, std::max<int64_t>(kRegionBytes / pixel_bytes, 2 * k.mr));
  target = std::min(target, std::max<int64_t>(rows / kTasks, 4 * k.mr));

  Gather<T> g{context, in,    l,     w,     out,   end, Blocks(out.n, l.count, target), 0, 1,
              false,   false, false, false, false, {}};
  bool outside[3];
  for (int axis = 0; axis < 3; ++axis) outside[axis] = l.reaches_out(axis, in.x.size[axis]);
  const bool any_outside = outside[0] || outside[1] || outside[2];
  g.exact = any_outside && !w.finite && !zeros_count;
  g.skip = any_outside && (w.finite || !zeros_count);
  g.copied = !in.plain() || outside[2] || (any_outside && !g.skip) || l.num_taps() == 0;
  if (w.depthwise) {
    if (w.reduce != 1 || w.columns != 1) {
      g.spread = {w.groups, w.reduce, w.columns};
      g.copied = true;
    }
  } else {
    g.panels = w.groups * ((w.columns + k.nr - 1) / k.nr);
    g.patches = w.groups == 1 && l.count[2] < kShortLine && l.num_taps() > 1 && dense_row(out, l) != 0 &&
                (!end.residual.data || dense_row(end.residual, l) != 0);
    if (g.patches && !g.exact && any_outside) {
      g.skip = false;  // every patch has all taps
      g.copied = true;
    }
    g.patches = g.patches && !g.exact;
    const double work = row_work * static_cast<double>(rows);
    const int64_t wanted = std::min<int64_t>(kTasks, static_cast<int64_t>(work / kTaskWork) + 1);
    const int64_t blocks = g.blocks.count();
    g.panel_groups = std::min(g.panels, std::max<int64_t>(1, (wanted + blocks - 1) / blocks));
    g.stream = !g.patches && !g.later_activation() && streams(out, w.columns, k.nr);
  }
  const int64_t tasks = g.blocks.count() * g.panel_groups;
  const double cost = row_work * static_cast<double>(rows) / (static_cast<double>(tasks) * k.width) + 500;
  parallel_for(context, tasks, cost, [&](int64_t task) { run_task(g, task); });
}

template void gather<float>(Context*, const Source<float>&, const Lattice&, const PackedWeights<float>&,
                            const Image<float>&, const Epilogue<float>&, bool);
template void gather<double>(Context*, const Source<double>&, const Lattice&, const PackedWeights<double>&,
                             const Image<double>&, const Epilogue<double>&, bool);

}  // namespace fastdl::cpu::conv
