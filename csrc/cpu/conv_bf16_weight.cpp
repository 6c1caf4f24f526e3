// dw[tap][c][o] = sum over output positions of in[step * j + offset][c] * g[j][o] of bfloat16 tensors, as
// conv_weight.cpp does it in float32. Products are of pairs of positions, so both operands are packed, a
// block of lines at a time: each line of the gradient once, each line of the input once for every place it
// takes in a line of taps.
#include "cpu/conv_bf16.h"

#include <algorithm>

#include "cpu/conv_one_channel.h"
#include "cpu/conv_winograd.h"
#include "cpu/kernels.h"
#include "cpu/matrix_unit.h"
#include "cpu/parallel.h"
#include "cpu/round.h"

namespace fastdl::cpu::conv {
namespace {

constexpr double kTaskWork = 8e6;   // multiplications of a task,
constexpr double kLeastWork = 1e6;  // or fewer, where there would not be kFewTasks to share out
constexpr int64_t kFewTasks = 8, kMaxTasks = 16;
constexpr int64_t kCopiesBytes = 8 << 20;  // memory for the copies of dw
// Positions per block: the sums are loaded and stored once per block. A task takes some rows (taps of a line
// and channels) and panels of columns of dw, so that its sums and what it packs, 256 + 2 x 256 KiB, fit the
// L2 cache.
constexpr int64_t kBlockRows = 512, kTaskRows = 256, kTaskPanels = 8;
constexpr int64_t kPackedBytes = 2 * kBlockRows * kTaskRows;

const Bf16Kernels& table() { return *kernels().gemm_bf16; }

struct WeightGradient {
  Context* context;
  const Geometry& geometry;
  const Source<bfloat16>& in;
  const Source<bfloat16>& grad;
  Lattice l, grad_lattice;  // of the taps, and of the gradient alone
  Blocks blocks;
  bool want_weight, want_bias, copy_in, copy_grad;
  bool lines;           // rows of dw are lines of taps, whose inputs lie side by side; else channels of a tap
  int64_t run, runs_w;  // rows of dw side by side, and how many such runs to a line of taps
  int64_t tile, tiles;  // height of register tiles, and how many to a run
  int64_t length;       // of a packed line
  int64_t shares, panels, panel_groups, tile_groups;
  float* sums;   // [shares][size]: weights [group][slot][c][o], then the bias
  int64_t size;  // of one copy

  int64_t rows() const { return geometry.taps() * geometry.c_per_group(); }  // of dw as a matrix, per group
  int64_t weight_size() const { return want_weight ? rows() * geometry.o : 0; }
  int64_t height() const { return round_up(tile, table().height_step); }
  // Input lines between the first and the last that `count` positions on an axis meet.
  int64_t span(int axis, int64_t count) const {
    const auto& offset = l.taps[axis].offset;
    return (count - 1) * l.in_step[axis] + offset.back() - offset.front() + 1;
  }
};

// The input lines of a block, as they are packed: those that meet a tap of the kernel at successive positions
// follow one another, so that an image is one piece of a sum.
class PackedLines {
 public:
  PackedLines(const WeightGradient& p, const Block& b) : p_(p), b_(b), planes_(p.span(0, b.d)) {
    const int64_t step = p.l.in_step[1];
    start_.assign(static_cast<size_t>(step), -1);
    for (const int64_t offset : p.l.taps[1].offset) {
      const int64_t h = offset - p.l.taps[1].offset[0];
      int64_t& start = start_[static_cast<size_t>(h % step)];
      if (start >= 0) continue;
      start = lines_;
      lines_ += ceil_div(p.span(1, b.h) - h % step, step);
    }
  }
  int64_t count() const { return b_.n * planes_ * lines_; }
  // Of input line (d, h), counted from the block's first; negative: no tap meets it.
  int64_t at(int64_t n, int64_t d, int64_t h) const {
    const int64_t step = p_.l.in_step[1], start = start_[static_cast<size_t>(h % step)];
    return start < 0 ? start : (n * planes_ + d) * lines_ + start + h / step;
  }
  // All lines are one piece.
  bool joined() const { return planes_ == b_.d && lines_ == b_.h; }

 private:
  const WeightGradient& p_;
  const Block& b_;
  int64_t planes_, lines_ = 0;
  std::vector<int64_t> start_;
};

template <class F>
void for_lines(const Block& b, F&& f) {
  for (int64_t n = 0; n < b.n; ++n) {
    for (int64_t d = b.d0; d < b.d0 + b.d; ++d) {
      for (int64_t h = b.h0; h < b.h0 + b.h; ++h) f(n, d, h);
    }
  }
}

// [panel][line][length * nr]
void pack_gradient(const WeightGradient& p, const Region<bfloat16>& grad, const Block& b, int64_t panel0,
                   int64_t panel1, bfloat16* to) {
  const auto& k = table();
  const int64_t per_group = p.panels / p.geometry.groups, o_group = p.geometry.o_per_group();
  for (int64_t panel = panel0; panel < panel1; ++panel) {
    const int64_t column = panel % per_group * k.nr;
    for_lines(b, [&](int64_t n, int64_t d, int64_t h) {
      k.pack_b(grad.at(n, d, h, 0) + panel / per_group * o_group + column, grad.step[2], 1, p.l.count[2],
               static_cast<int>(std::min<int64_t>(k.nr, o_group - column)), to);
      to += p.length * k.nr;
    });
  }
}

// A task's part of the register tiles of a run.
struct Tiles {
  int64_t begin, end;
};

// [run of a line of taps][register tile][input line][height * length], for one group of channels.
void pack_input(const WeightGradient& p, const PackedLines& lines, const Tiles& tiles,
                const Region<bfloat16>& in, const Block& b, int64_t group, bfloat16* to) {
  const auto& k = table();
  const int64_t size = p.height() * p.length, tile_size = lines.count() * size;
  for (int64_t n = 0; n < b.n; ++n) {
    for (int64_t d = 0; d < p.span(0, b.d); ++d) {
      for (int64_t h = 0; h < p.span(1, b.h); ++h) {
        const int64_t line = lines.at(n, d, h);
        if (line < 0) continue;
        bfloat16* tile = to + line * size;
        for (int64_t run = 0; run < p.runs_w; ++run) {
          const bfloat16* const from = in.at(n, b.d0 * p.l.in_step[0] + p.l.taps[0].offset[0] + d,
                                             b.h0 * p.l.in_step[1] + p.l.taps[1].offset[0] + h,
                                             p.l.taps[2].offset[static_cast<size_t>(run)]) +
                                       group * p.geometry.c_per_group();
          for (int64_t i = tiles.begin * p.tile; i < std::min(tiles.end * p.tile, p.run);
               i += p.tile, tile += tile_size) {
            k.pack_a(from + i - tiles.begin * p.tile, 1, p.l.in_step[2] * in.step[2], p.l.count[2],
                     static_cast<int>(std::min(p.tile, p.run - i)), static_cast<int>(p.height()), tile);
          }
        }
      }
    }
  }
}

void sum_tiles(const WeightGradient& p, const PackedLines& lines, const Tiles& tiles, const bfloat16* in,
               const bfloat16* grad, const Block& b, int64_t panel0, int64_t panel1, int64_t group,
               bool first, float* sums) {
  const auto& k = table();
  const Geometry& g = p.geometry;
  const int64_t o_group = g.o_per_group(), per_group = p.panels / g.groups;
  const int64_t size = p.height() * p.length, grad_line = p.length * k.nr, per_run = tiles.end - tiles.begin;
  const int64_t images = b.n * b.d, count = lines.joined() ? 1 : images;
  std::vector<Bf16Piece> pieces(static_cast<size_t>(count),
                                {nullptr, nullptr, images / count * b.h * p.length});
  Bf16Tile t{};
  t.pieces = pieces.data();
  t.count = count;
  t.a_row = k.k_step;
  t.a_step = p.height() * k.k_step;
  t.ld_sums = o_group;
  t.resume = !first;
  const int64_t begin = std::max(panel0, group * per_group), end = std::min(panel1, (group + 1) * per_group);
  for (int64_t panel = begin; panel < end; ++panel) {
    const int64_t column = panel % per_group * k.nr;
    const bfloat16* const grad_panel = grad + (panel - panel0) * b.n * b.d * b.h * grad_line;
    t.cols = static_cast<int>(std::min<int64_t>(k.nr, o_group - column));
    for (int64_t td = 0; td < g.kernel[0]; ++td) {
      for (int64_t th = 0; th < g.kernel[1]; ++th) {
        const int64_t from_d = p.l.taps[0].offset[static_cast<size_t>(td)] - p.l.taps[0].offset[0];
        const int64_t from_h = p.l.taps[1].offset[static_cast<size_t>(th)] - p.l.taps[1].offset[0];
        for (int64_t tile = 0; tile < p.runs_w * per_run; ++tile) {
          const bfloat16* const in_tile = in + tile * lines.count() * size;
          for (int64_t i = 0; i < t.count; ++i) {
            const int64_t line = lines.at(i / b.d, i % b.d * p.l.in_step[0] + from_d, from_h);
            Bf16Piece& piece = pieces[static_cast<size_t>(i)];
            piece.a = in_tile + line * size;
            piece.b = grad_panel + i * b.h * grad_line;
          }
          const int64_t within = (tiles.begin + tile % per_run) * p.tile;
          const int64_t row = ((td * g.kernel[1] + th) * p.runs_w + tile / per_run) * p.run + within;
          t.rows = static_cast<int>(std::min(p.tile, p.run - within));
          t.sums = sums + (group * p.rows() + row) * o_group + column;
          k.tile(t);
        }
      }
    }
  }
}

void add_bias(const WeightGradient& p, const Region<bfloat16>& grad, const Block& b, float* bias) {
  const int64_t o = p.geometry.o, count = p.l.count[2];
  Workspace scratch(p.context, static_cast<size_t>(count * o) * sizeof(float));
  for_lines(b, [&](int64_t n, int64_t d, int64_t h) {
    const bfloat16* const line = grad.at(n, d, h, 0);
    if (grad.step[2] == o) {
      kernels().convert->bf16.widen(count * o, line, 1, scratch.as<float>(), 1);
    } else {
      for (int64_t q = 0; q < count; ++q)
        kernels().convert->bf16.widen(o, line + q * grad.step[2], 1, scratch.as<float>() + q * o, 1);
    }
    kernels().conv->f32.add_rows(scratch.as<float>(), count, o, o, bias);
  });
}

void run_task(const WeightGradient& p, int64_t task) {
  const MatrixUnit unit(table());
  const Geometry& g = p.geometry;
  const int64_t parts = p.panel_groups * p.tile_groups, share = task / parts, part = task % parts;
  const int64_t panels = part % p.panel_groups, rows = part / p.panel_groups;
  const int64_t panel0 = p.panels * panels / p.panel_groups,
                panel1 = p.panels * (panels + 1) / p.panel_groups;
  const Tiles tiles{p.tiles * rows / p.tile_groups, p.tiles * (rows + 1) / p.tile_groups};
  Source<bfloat16> source = p.in;
  if (p.tile_groups > 1) {  // some of the channels
    source.x.data += tiles.begin * p.tile;
    source.saved.data += tiles.begin * p.tile;
    source.x.c = source.saved.c = std::min(tiles.end * p.tile, p.run) - tiles.begin * p.tile;
  }
  const Block most = p.blocks.largest();
  const int64_t in_elements = p.copy_in ? region_elements(p.l, p.blocks, source.x.c) : 0;
  const int64_t grad_elements = p.copy_grad ? region_elements(p.grad_lattice, p.blocks, p.grad.x.c) : 0;
  const int64_t in_packed =
      PackedLines(p, most).count() * p.runs_w * (tiles.end - tiles.begin) * p.height() * p.length;
  const int64_t grad_packed = most.n * most.d * most.h * (panel1 - panel0) * p.length * table().nr;
  Workspace scratch(
      p.context,
      static_cast<size_t>(in_elements + grad_elements + in_packed + grad_packed + 64) * sizeof(bfloat16));
  bfloat16* const packed_in = scratch.as<bfloat16>();
  bfloat16* const packed_grad = packed_in + in_packed;
  bfloat16* const in_copy = packed_grad + grad_packed;
  float* const sums = p.sums + share * p.size;
  float* const bias = sums + p.weight_size();
  if (part == 0) std::fill(bias, sums + p.size, 0.0f);
  const int64_t block0 = p.blocks.count() * share / p.shares;
  const int64_t block1 = p.blocks.count() * (share + 1) / p.shares;
  for (int64_t i = block0; i < block1; ++i) {
    const Block b = p.blocks[i];
    const Region<bfloat16> grad =
        p.copy_grad ? copy_region(p.context, p.grad, p.grad_lattice, b, {}, in_copy + in_elements)
                    : region_in_place(p.grad, b);
    if (p.want_bias && part == 0) add_bias(p, grad, b, bias);
    if (!p.want_weight) continue;
    const Region<bfloat16> in =
        p.copy_in ? copy_region(p.context, source, p.l, b, {}, in_copy) : region_in_place(source, b);
    pack_gradient(p, grad, b, panel0, panel1, packed_grad);
    const PackedLines lines(p, b);
    const int64_t per_group = p.panels / g.groups;
    for (int64_t group = panel0 / per_group; group * per_group < panel1; ++group) {
      pack_input(p, lines, tiles, in, b, group, packed_in);
      sum_tiles(p, lines, tiles, packed_in, packed_grad, b, panel0, panel1, group, i == block0, sums);
    }
  }
}

}  // namespace

void bf16_weight_gradient(Context* context, const Geometry& g, const Source<bfloat16>& in,
                          const Source<bfloat16>& grad, const View* grad_weight, const View* grad_bias) {
  if (g.o == 0) return;
  if (grad_weight && grad_weight->size() == 0) grad_weight = nullptr;
  if (!grad_weight && !grad_bias) return;
  if (grad_weight && (one_channel_weight_gradient(context, g, in, grad, *grad_weight, grad_bias) ||
                      winograd_weight_gradient(context, g, in, grad, *grad_weight, grad_bias))) {
    return;
  }
  const auto& k = table();
  WeightGradient p{context,
                   g,
                   in,
                   grad,
                   forward_lattice(g),
                   plain_lattice(g),
                   Blocks(g.n, g.out, kBlockRows),
                   grad_weight != nullptr,
                   grad_bias != nullptr,
                   !in.plain(),
                   !grad.plain(),
                   false,
                   0,
                   0,
                   0,
                   0,
                   0,
                   1,
                   1,
                   1,
                   1,
                   nullptr,
                   0};
  for (int axis = 0; axis < 3; ++axis) p.copy_in = p.copy_in || p.l.reaches_out(axis, in.x.size[axis]);
  p.lines = g.groups == 1 && p.l.taps[2].consecutive() && g.kernel[2] * g.c <= kTaskRows &&
            (p.copy_in || in.x.step[2] == g.c || in.x.size[2] == 1);
  p.run = (p.lines ? g.kernel[2] : 1) * g.c_per_group();
  p.runs_w = p.lines ? 1 : g.kernel[2];
  p.tiles = ceil_div(std::max<int64_t>(p.run, 1), k.mr);
  p.tile = ceil_div(std::max<int64_t>(p.run, 1), p.tiles);
  p.length = round_up(std::max<int64_t>(g.out[2], 1), k.k_step);
  p.panels = g.groups * ceil_div(g.o_per_group(), k.nr);
  p.size = p.weight_size() + (p.want_bias ? g.o : 0);
  const bool empty = g.n * g.out[0] * g.out[1] * g.out[2] == 0;
  if (!empty && p.want_weight) {
    if (g.groups == 1) p.tile_groups = std::min(p.tiles, ceil_div(p.runs_w * p.run, kTaskRows));
    const int64_t line_bytes = 2 * p.length * p.runs_w * ceil_div(p.tiles, p.tile_groups) * p.height();
    p.blocks =
        Blocks(g.n, g.out,
               std::min(kBlockRows, std::max<int64_t>(kPackedBytes / line_bytes, g.kernel[1]) * g.out[2]));
  }

  const double additions = static_cast<double>(g.n * g.out[0] * g.out[1] * g.out[2] * g.o);
  const double work = p.want_weight ? g.multiplications() + additions : additions;
  const int64_t few = std::clamp<int64_t>(static_cast<int64_t>(work / kLeastWork), 1, kFewTasks);
  const int64_t wanted = std::clamp<int64_t>(static_cast<int64_t>(work / kTaskWork), few, kMaxTasks);
  const int64_t blocks = std::max<int64_t>(p.blocks.count(), 1);
  const int64_t most = std::max<int64_t>(1, kCopiesBytes / (std::max<int64_t>(p.size, 1) * 4));
  if (p.want_weight) p.panel_groups = ceil_div(p.panels, kTaskPanels);
  p.shares = std::min({blocks, ceil_div(wanted, p.panel_groups * p.tile_groups), most});
  if (p.want_weight) {
    p.panel_groups = std::max(p.panel_groups, std::min(p.panels, ceil_div(wanted, p.shares * p.tile_groups)));
  }
  Workspace sums(context, static_cast<size_t>(p.size * p.shares) * sizeof(float));
  p.sums = sums.as<float>();
  const int64_t tasks = p.shares * p.panel_groups * p.tile_groups;
  if (empty) {
    std::fill(p.sums, p.sums + p.size * p.shares, 0.0f);
  } else {
    parallel_for(context, tasks, work / static_cast<double>(tasks * 2 * k.nr) + 500,
                 [&](int64_t task) { run_task(p, task); });
  }
  if (grad_weight) finish_weight<float, bfloat16>(context, g, false, p.sums, p.size, p.shares, *grad_weight);
  if (grad_bias) {
    float* const sum = p.sums + p.weight_size();
    if (p.shares > 1) kernels().conv->f32.add_rows(sum + p.size, p.shares - 1, p.size, g.o, sum);
    kernels().convert->bf16.narrow(g.o, sum, 1, grad_bias->as<bfloat16>(), grad_bias->strides[0]);
  }
}

void bf16_sum_pixels(Context* context, const Source<bfloat16>& g, const View& sum) {
  Geometry geometry{g.x.n, 0, g.x.c, 1, {}, {}, {1, 1, 1}, {1, 1, 1}, {1, 1, 1}, {0, 0, 0}};
  for (int i = 0; i < 3; ++i) geometry.in[i] = geometry.out[i] = g.x.size[i];
  bf16_weight_gradient(context, geometry, g, g, nullptr, &sum);
}

}  // namespace fastdl::cpu::conv
