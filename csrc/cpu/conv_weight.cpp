// dw[tap][c][o] = sum over output positions of in[step * j + offset][c] * g[j][o], and the sums of g for the
// bias. The positions are cut by shape alone into shares, each share sums into its own copy of dw, and the
// copies are added in order: the bits do not depend on the number of threads.
#include <algorithm>
#include <type_traits>

#include "cpu/conv_depthwise.h"
#include "cpu/conv_one_channel.h"
#include "cpu/conv_plan.h"
#include "cpu/conv_winograd.h"
#include "cpu/kernels.h"
#include "cpu/parallel.h"

namespace fastdl::cpu::conv {
namespace {

constexpr double kTaskWork = 4e6;   // multiplications of a task,
constexpr double kLeastWork = 5e5;  // or fewer, where there would not be kFewTasks to share out
constexpr int64_t kFewTasks = 8, kMaxTasks = 64;
constexpr int64_t kCopyingGroups = 4;      // tasks that may share, and each copy, one region
constexpr int64_t kCopiesBytes = 8 << 20;  // memory for the copies of dw
// Positions per block: their data fits L1 and L2. The sums are loaded and stored once per block, so that
// blocks are longer where they do not fit the L2 cache themselves.
constexpr int64_t kBlockRows = 128, kLongBlockRows = 768, kLongBlockBytes = 512 << 10;
constexpr int64_t kShortRun = 8;  // fewer channels side by side than this are gathered

template <class T>
struct WeightGradient {
  Context* context;
  const Geometry& geometry;
  const Source<T>& in;
  const Source<T>& grad;
  Lattice l, grad_lattice;  // of the taps, and of the gradient alone
  Blocks blocks;
  int64_t shares, panels, panel_groups;
  bool copy_in, copy_grad, depthwise, gathered, want_weight, want_bias;
  Spread spread;
  T* sums;       // [shares][size]: weights [group][slot][c][o] or depthwise [slot][c][o], then the bias
  int64_t size;  // of one copy

  int64_t rows() const { return geometry.taps() * geometry.c_per_group(); }  // of dw as a matrix, per group
  int64_t weight_size() const { return want_weight ? rows() * geometry.o : 0; }
};

// Which lines of the block there are, as pieces of the sum: filled once, moved for each tile.
template <class T>
struct Line {
  const T* in;
  const T* grad;
};

template <class T>
std::vector<Line<T>> lines_of(const WeightGradient<T>& p, const Region<T>& in, const Region<T>& grad,
                              const Block& b) {
  std::vector<Line<T>> lines;
  lines.reserve(static_cast<size_t>(b.n * b.d * b.h));
  for (int64_t n = 0; n < b.n; ++n) {
    for (int64_t d = b.d0; d < b.d0 + b.d; ++d) {
      for (int64_t h = b.h0; h < b.h0 + b.h; ++h) {
        lines.push_back({in.at(n, d * p.l.in_step[0] + p.l.taps[0].offset[0],
                               h * p.l.in_step[1] + p.l.taps[1].offset[0], p.l.taps[2].offset[0]),
                         grad.at(n, d, h, 0)});
      }
    }
  }
  return lines;
}

// Offset of a tap from the first one.
template <class T>
int64_t tap_offset(const WeightGradient<T>& p, const Region<T>& in, int64_t td, int64_t th, int64_t tw) {
  const auto from_first = [&](int axis, int64_t t) {
    const auto& o = p.l.taps[axis].offset;
    return o[static_cast<size_t>(t)] - o[0];
  };
  return from_first(0, td) * in.step[0] + from_first(1, th) * in.step[1] + from_first(2, tw) * in.step[2];
}

// Runs of rows of dw whose inputs lie side by side: channels of a tap, or of a line of taps.
struct Run {
  int64_t row, offset, length;
};
template <class T>
std::vector<Run> runs_of(const WeightGradient<T>& p, const Region<T>& in) {
  const Geometry& g = p.geometry;
  const int64_t c = g.c_per_group();
  const bool merged = g.groups == 1 && in.step[2] == c && p.l.taps[2].consecutive();
  const int64_t stride = merged ? g.kernel[2] : 1;
  std::vector<Run> runs;
  for (int64_t td = 0; td < g.kernel[0]; ++td) {
    for (int64_t th = 0; th < g.kernel[1]; ++th) {
      for (int64_t tw = 0; tw < g.kernel[2]; tw += stride) {
        runs.push_back(
            {((td * g.kernel[1] + th) * g.kernel[2] + tw) * c, tap_offset(p, in, td, th, tw), stride * c});
      }
    }
  }
  return runs;
}

template <class T>
void sum_tiles(const WeightGradient<T>& p, const Region<T>& in, const Region<T>& grad, const Block& b,
               int64_t panel0, int64_t panel1, bool first, T* sums) {
  const auto& k = gemm_kernels_of<T>(*kernels().gemm);
  const Geometry& g = p.geometry;
  const int64_t o_group = g.o_per_group(), per_group = p.panels / g.groups;
  const std::vector<Line<T>> lines = lines_of(p, in, grad, b);
  const std::vector<Run> runs = runs_of(p, in);
  std::vector<GemmPiece<T>> pieces(lines.size());
  GemmTile<T> t{};
  t.a_row = 1;
  t.a_k = p.l.in_step[2] * in.step[2];
  t.b_k = grad.step[2];
  t.ldc = o_group;
  t.alpha = T(1);
  t.beta = first ? T(0) : T(1);
  t.pieces = pieces.data();
  t.count = static_cast<int64_t>(pieces.size());
  for (int64_t panel = panel0; panel < panel1; ++panel) {
    const int64_t group = panel / per_group, column = panel % per_group * k.nr;
    t.cols = static_cast<int>(std::min<int64_t>(k.nr, o_group - column));
    T* const c = sums + group * p.rows() * o_group + column;
    for (const Run& run : runs) {
      const int64_t tiles = (run.length + k.mr - 1) / k.mr, tile = (run.length + tiles - 1) / tiles;
      for (int64_t i = 0; i < run.length; i += tile) {
        const int64_t in_offset = run.offset + group * g.c_per_group() + i;
        const int64_t grad_offset = group * o_group + column;
        for (size_t line = 0; line < lines.size(); ++line) {
          pieces[line] = {lines[line].in + in_offset, lines[line].grad + grad_offset, p.l.count[2]};
        }
        t.rows = static_cast<int>(std::min(tile, run.length - i));
        t.c = c + (run.row + i) * o_group;
        gemm_tile(k, t);
      }
    }
  }
}

// Few channels: each row of dw gets its inputs side by side, one per output position.
template <class T>
void sum_gathered(const WeightGradient<T>& p, const Region<T>& in, const Region<T>& grad, const Block& b,
                  int64_t panel0, int64_t panel1, bool first, T* sums) {
  const auto& k = gemm_kernels_of<T>(*kernels().gemm);
  const Geometry& g = p.geometry;
  const std::vector<Line<T>> lines = lines_of(p, in, grad, b);
  const int64_t count = p.l.count[2], step = p.l.in_step[2] * in.step[2];
  const int64_t positions = static_cast<int64_t>(lines.size()) * count, rows = p.rows();
  Workspace scratch(p.context, static_cast<size_t>(rows * positions) * sizeof(T));
  T* to = scratch.as<T>();
  for (int64_t td = 0; td < g.kernel[0]; ++td) {
    for (int64_t th = 0; th < g.kernel[1]; ++th) {
      for (int64_t tw = 0; tw < g.kernel[2]; ++tw) {
        for (int64_t c = 0; c < g.c; ++c) {
          const int64_t offset = tap_offset(p, in, td, th, tw) + c;
          for (const Line<T>& line : lines) {
            const T* from = line.in + offset;
            if (step == 1) to = std::copy(from, from + count, to);
            else
              for (int64_t q = 0; q < count; ++q) *to++ = from[q * step];
          }
        }
      }
    }
  }
  // Where the gradient's lines follow each other as the gathered ones do, they are one long sum.
  int64_t joined = 1;
  while (joined < static_cast<int64_t>(lines.size()) &&
         lines[static_cast<size_t>(joined)].grad == lines[0].grad + joined * count * grad.step[2]) {
    ++joined;
  }
  if (static_cast<int64_t>(lines.size()) % joined != 0) joined = 1;
  std::vector<GemmPiece<T>> pieces(lines.size() / static_cast<size_t>(joined));
  GemmTile<T> t{};
  t.a_row = positions;
  t.a_k = 1;
  t.b_k = grad.step[2];
  t.ldc = g.o;
  t.alpha = T(1);
  t.beta = first ? T(0) : T(1);
  t.pieces = pieces.data();
  t.count = static_cast<int64_t>(pieces.size());
  const int64_t tiles = (rows + k.mr - 1) / k.mr, tile = (rows + tiles - 1) / tiles;
  for (int64_t panel = panel0; panel < panel1; ++panel) {
    const int64_t column = panel * k.nr;
    t.cols = static_cast<int>(std::min<int64_t>(k.nr, g.o - column));
    for (int64_t i = 0; i < rows; i += tile) {
      for (size_t piece = 0; piece < pieces.size(); ++piece) {
        const int64_t line = static_cast<int64_t>(piece) * joined;
        pieces[piece] = {scratch.as<T>() + i * positions + line * count,
                         lines[static_cast<size_t>(line)].grad + column, joined * count};
      }
      t.rows = static_cast<int>(std::min(tile, rows - i));
      t.c = sums + i * g.o + column;
      gemm_tile(k, t);
    }
  }
}

template <class T>
void sum_depthwise(const WeightGradient<T>& p, const Region<T>& in, const Region<T>& grad, const Block& b,
                   T* sums) {
  const Geometry& g = p.geometry;
  std::vector<ConvTap> taps;
  for (int64_t td = 0; td < g.kernel[0]; ++td) {
    for (int64_t th = 0; th < g.kernel[1]; ++th) {
      for (int64_t tw = 0; tw < g.kernel[2]; ++tw) {
        for (int64_t i = 0; i < g.c_per_group(); ++i)
          taps.push_back({tap_offset(p, in, td, th, tw) + i * g.o, 0});
      }
    }
  }
  ConvDepthwiseWeight<T> d{};
  d.taps = taps.data();
  d.num_taps = static_cast<int64_t>(taps.size());
  d.a_row = p.l.in_step[2] * in.step[2];
  d.g_row = grad.step[2];
  d.rows = p.l.count[2];
  d.columns = g.o;
  d.c = sums;
  d.c_row = g.o;
  for (const Line<T>& line : lines_of(p, in, grad, b)) {
    d.a = line.in;
    d.g = line.grad;
    table_for<T>(*kernels().conv).depthwise_weight(d);
  }
}

template <class T>
void run_task(const WeightGradient<T>& p, int64_t task) {
  const int64_t share = task / p.panel_groups, part = task % p.panel_groups;
  const int64_t panel0 = p.panels * part / p.panel_groups, panel1 = p.panels * (part + 1) / p.panel_groups;
  const int64_t in_elements = p.copy_in ? region_elements(p.l, p.blocks, p.spread.channels(p.in.x.c)) : 0;
  const int64_t grad_elements = p.copy_grad ? region_elements(p.grad_lattice, p.blocks, p.grad.x.c) : 0;
  Workspace scratch(p.context, static_cast<size_t>(in_elements + grad_elements) * sizeof(T));
  T* const sums = p.sums + share * p.size;
  T* const bias = sums + p.weight_size();
  if (p.depthwise) std::fill(sums, bias, T(0));
  if (part == 0) std::fill(bias, sums + p.size, T(0));
  const int64_t block0 = p.blocks.count() * share / p.shares;
  const int64_t block1 = p.blocks.count() * (share + 1) / p.shares;
  for (int64_t i = block0; i < block1; ++i) {
    const Block b = p.blocks[i];
    const Region<T> grad =
        p.copy_grad ? copy_region(p.context, p.grad, p.grad_lattice, b, {}, scratch.as<T>() + in_elements)
                    : region_in_place(p.grad, b);
    if (p.want_bias && part == 0) {
      for (int64_t n = 0; n < b.n; ++n) {
        for (int64_t d = b.d0; d < b.d0 + b.d; ++d) {
          for (int64_t h = b.h0; h < b.h0 + b.h; ++h) {
            table_for<T>(*kernels().conv)
                .add_rows(grad.at(n, d, h, 0), p.l.count[2], grad.step[2], p.geometry.o, bias);
          }
        }
      }
    }
    if (!p.want_weight) continue;
    const Region<T> in = p.copy_in ? copy_region(p.context, p.in, p.l, b, p.spread, scratch.as<T>())
                                   : region_in_place(p.in, b);
    if (p.depthwise) sum_depthwise(p, in, grad, b, sums);
    else if (p.gathered) sum_gathered(p, in, grad, b, panel0, panel1, i == block0, sums);
    else sum_tiles(p, in, grad, b, panel0, panel1, i == block0, sums);
  }
}

template <class T>
void finish_bias(const WeightGradient<T>& p, const View& out) {
  T* const sum = p.sums + p.weight_size();
  if (p.shares > 1) {
    table_for<T>(*kernels().conv).add_rows(sum + p.size, p.shares - 1, p.size, p.geometry.o, sum);
  }
  for (int64_t o = 0; o < p.geometry.o; ++o) out.as<T>()[o * out.strides[0]] = sum[o];
}

}  // namespace

template <class T>
void weight_gradient(Context* context, const Geometry& g, const Source<T>& in, const Source<T>& grad,
                     const View* grad_weight, const View* grad_bias) {
  if (g.o == 0) return;
  if (grad_weight && grad_weight->size() == 0) grad_weight = nullptr;
  if (!grad_weight && !grad_bias) return;
  if (is_depthwise(g) && in.plain() && grad.plain())
    return depthwise_weight_gradient<T>(context, g, in.x, grad.x, grad_weight, grad_bias);
  if (grad_weight && one_channel_weight_gradient(context, g, in, grad, *grad_weight, grad_bias)) return;
  if constexpr (std::is_same_v<T, float>) {
    if (grad_weight && winograd_weight_gradient(context, g, in, grad, *grad_weight, grad_bias)) return;
  }
  const auto& k = gemm_kernels_of<T>(*kernels().gemm);
  const int64_t sums_bytes = g.taps() * g.c_per_group() * g.o * static_cast<int64_t>(sizeof(T));
  const int64_t block_rows = grad_weight && sums_bytes > kLongBlockBytes ? kLongBlockRows : kBlockRows;
  WeightGradient<T> p{context,
                      g,
                      in,
                      grad,
                      forward_lattice(g),
                      plain_lattice(g),
                      Blocks(g.n, g.out, block_rows),
                      1,
                      1,
                      1,
                      false,
                      false,
                      false,
                      false,
                      grad_weight != nullptr,
                      grad_bias != nullptr,
                      {},
                      nullptr,
                      0};
  const bool empty = g.n * g.out[0] * g.out[1] * g.out[2] == 0;
  p.depthwise = use_depthwise(g.groups, g.c_per_group(), g.o_per_group(), k.width);
  p.copy_grad = !grad.plain();
  p.copy_in = !in.plain();
  for (int axis = 0; axis < 3; ++axis) p.copy_in = p.copy_in || p.l.reaches_out(axis, in.x.size[axis]);
  if (p.depthwise && (g.c_per_group() != 1 || g.o_per_group() != 1)) {
    p.spread = {g.groups, g.c_per_group(), g.o_per_group()};
    p.copy_in = true;
  }
  p.panels = p.depthwise ? 1 : g.groups * ((g.o_per_group() + k.nr - 1) / k.nr);
  p.gathered = !p.depthwise && g.groups == 1 && g.kernel[2] * g.c < kShortRun;
  p.size = p.weight_size() + (p.want_bias ? g.o : 0);

  const double additions = static_cast<double>(g.n * g.out[0] * g.out[1] * g.out[2] * g.o);
  const double work = p.want_weight ? g.multiplications() + additions : additions;
  const int64_t few = std::clamp<int64_t>(static_cast<int64_t>(work / kLeastWork), 1, kFewTasks);
  const int64_t wanted = std::clamp<int64_t>(static_cast<int64_t>(work / kTaskWork), few, kMaxTasks);
  const int64_t blocks = std::max<int64_t>(p.blocks.count(), 1);
  const int64_t most =
      std::max<int64_t>(1, kCopiesBytes / (std::max<int64_t>(p.size, 1) * static_cast<int64_t>(sizeof(T))));
  // Two tasks may share a region; a finer cut by columns only where the copies would take too much memory.
  p.panel_groups = p.want_weight ? std::min<int64_t>({p.panels, 2, wanted}) : 1;
  p.shares = std::min({blocks, (wanted + p.panel_groups - 1) / p.panel_groups, most});
  if (p.want_weight) {
    // Each of them copies its regions anew.
    const int64_t most_groups = in.plain() && grad.plain() ? p.panels : std::min(p.panels, kCopyingGroups);
    p.panel_groups = std::max(p.panel_groups, std::min(most_groups, wanted / p.shares));
  }
  Workspace sums(context, static_cast<size_t>(p.size * p.shares) * sizeof(T));
  p.sums = sums.as<T>();
  const int64_t tasks = p.shares * p.panel_groups;
  if (empty) {
    std::fill(p.sums, p.sums + p.size * p.shares, T(0));
  } else {
    parallel_for(context, tasks, work / static_cast<double>(tasks * k.width) + 500,
                 [&](int64_t task) { run_task(p, task); });
  }
  if (grad_weight) finish_weight<T, T>(context, g, p.depthwise, p.sums, p.size, p.shares, *grad_weight);
  if (grad_bias) finish_bias(p, *grad_bias);
}

template <class T>
void sum_pixels(Context* context, const Source<T>& g, const View& sum) {
  Geometry geometry{g.x.n, 0, g.x.c, 1, {}, {}, {1, 1, 1}, {1, 1, 1}, {1, 1, 1}, {0, 0, 0}};
  for (int i = 0; i < 3; ++i) geometry.in[i] = geometry.out[i] = g.x.size[i];
  weight_gradient<T>(context, geometry, g, g, nullptr, &sum);
}

#define FASTDL_INSTANTIATE(T)                                                                     \
  template void weight_gradient<T>(Context*, const Geometry&, const Source<T>&, const Source<T>&, \
                                   const View*, const View*);                                     \
  template void sum_pixels<T>(Context*, const Source<T>&, const View&);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(double)
#undef FASTDL_INSTANTIATE

}  // namespace fastdl::cpu::conv
