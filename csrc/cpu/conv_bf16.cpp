// out[j] = activation(bias + residual + sum over taps of in[step * j + offset] * w[tap]) of bfloat16 tensors,
// as conv_gather.cpp does it in float32: the tiles read the image where it lies, as pairs of channels, or a
// copy of a region with zeros around it. Weights are packed in panels of pairs
// of channels (conv_bf16_pack.cpp).
#include "cpu/conv_bf16.h"

#include <algorithm>

#include "cpu/gemm_bf16_end.h"
#include "cpu/kernels.h"
#include "cpu/matrix_unit.h"
#include "cpu/parallel.h"
#include "cpu/round.h"

namespace fastdl::cpu::conv {
namespace {

constexpr double kTaskWork = 4e6;          // multiplications of a task: some 10 us, worth handing out
constexpr int64_t kTasks = 16;             // wanted where there is work for them
constexpr int64_t kRegionBytes = 1 << 18;  // a copied region stays in L2 beside a weight panel
constexpr int64_t kShortLine = 7;          // output lines shorter than this are gathered into patches
constexpr int64_t kLeastChannels = 8;      // narrower groups leave most of a tile empty

const Bf16Kernels& table() { return *kernels().gemm_bf16; }

// All that tasks share.
struct Gather {
  Context* context;
  const Source<bfloat16>& in;
  const Lattice& l;
  const Bf16Panels& w;
  const Image<bfloat16>& out;
  const Epilogue<bfloat16>& end;
  Blocks blocks;
  int64_t panels, panel_groups;  // weight panels of all groups, and the shares they are cut into
  bool copied;                   // the region is a copy with zeros around it
  bool skip;                     // taps outside on the first two axes are left out
  bool exact;                    // taps outside on any axis are left out
  bool patches;                  // the runs of each output position are gathered side by side
  bool stream;                   // outputs are written past the cache

  bool inside(int axis, int64_t j, int64_t tap) const {
    const int64_t i = j * l.in_step[axis] + l.taps[axis].offset[static_cast<size_t>(tap)];
    return i >= 0 && i < in.x.size[axis];
  }
  int64_t run_of(int64_t td, int64_t th, int64_t tw) const {
    const auto at = [](const std::vector<int64_t>& v, int64_t i) { return v[static_cast<size_t>(i)]; };
    const int64_t line = at(l.taps[0].slot, td) * w.kernel[1] + at(l.taps[1].slot, th);
    return w.lines ? line : line * w.kernel[2] + at(l.taps[2].slot, tw);
  }
  bfloat16* out_at(int64_t n, int64_t d, int64_t h, int64_t q) const {
    return out.at(n, l.out_start[0] + d * l.out_step[0], l.out_start[1] + h * l.out_step[1],
                  l.out_start[2] + q * l.out_step[2]);
  }
  const bfloat16* residual_at(int64_t n, int64_t d, int64_t h, int64_t q) const {
    if (!end.residual.data) return nullptr;
    return end.residual.at(n, l.out_start[0] + d * l.out_step[0], l.out_start[1] + h * l.out_step[1],
                           l.out_start[2] + q * l.out_step[2]);
  }
};

// Calls f(run, a) for the runs that count at output position (d, h, q), with the first input each meets.
template <class F>
void for_runs(const Gather& g, const Region<bfloat16>& region, int64_t n, int64_t d, int64_t h, int64_t q,
              F&& f) {
  const AxisTaps& tw = g.l.taps[2];
  if (g.w.run == 0) return;
  for (int64_t td = 0; td < g.l.taps[0].count(); ++td) {
    if (g.skip && !g.inside(0, d, td)) continue;
    for (int64_t th = 0; th < g.l.taps[1].count(); ++th) {
      if (g.skip && !g.inside(1, h, th)) continue;
      const int64_t id = d * g.l.in_step[0] + g.l.taps[0].offset[static_cast<size_t>(td)];
      const int64_t ih = h * g.l.in_step[1] + g.l.taps[1].offset[static_cast<size_t>(th)];
      for (int64_t t = 0; t < (g.w.lines ? 1 : tw.count()); ++t) {
        if (g.exact && !g.inside(2, q, t)) continue;
        const int64_t iw = q * g.l.in_step[2] + tw.offset[static_cast<size_t>(t)];
        f(g.run_of(td, th, t), region.at(n, id, ih, iw));
      }
    }
  }
}

// What all tiles of a gather have in common.
Bf16Tile tile_of(const Gather& g) {
  Bf16Tile t{};
  t.a_step = table().k_step;
  t.alpha = 1;
  t.finish = true;
  t.relu = g.end.activation.kind == FASTDL_ACT_RELU;
  t.ldc = g.l.out_step[2] * g.out.step[2];
  t.ld_residual = g.end.residual.data ? g.l.out_step[2] * g.end.residual.step[2] : 0;
  t.stream = g.stream;
  return t;
}

void run_tile(const Gather& g, const Bf16Tile& t) {
  if (in_registers(g.end.activation)) return table().tile(t);
  Workspace scratch(g.context, static_cast<size_t>(t.rows * t.cols) * sizeof(float));
  run_end(g.end.activation, t, scratch.as<float>(), table().tile);
}

void run_lines(const Gather& g, const Region<bfloat16>& region, const Block& b, int64_t panel0,
               int64_t panel1) {
  const auto& k = table();
  const int64_t count = g.l.count[2], panel_size = g.w.runs() * g.w.size;
  // Equal tiles rather than full ones and a rest; alone where the taps differ from one position to the next.
  const int64_t tiles = g.exact ? count : (count + k.mr - 1) / k.mr, tile = (count + tiles - 1) / tiles;
  std::vector<Bf16Piece> pieces;
  Bf16Tile t = tile_of(g);
  t.a_row = g.l.in_step[2] * region.step[2];
  for (int64_t p = panel0; p < panel1; ++p) {
    const int64_t group = p / g.w.per_group, column = p % g.w.per_group * k.nr;
    const int64_t channel = group * g.w.columns + column;
    t.cols = static_cast<int>(std::min<int64_t>(k.nr, g.w.columns - column));
    t.bias = g.end.bias ? g.end.bias + channel : nullptr;
    for (int64_t n = 0; n < b.n; ++n) {
      for (int64_t d = b.d0; d < b.d0 + b.d; ++d) {
        for (int64_t h = b.h0; h < b.h0 + b.h; ++h) {
          for (int64_t q = 0; q < count; q += tile) {
            if (q == 0 || g.exact) {
              pieces.clear();
              for_runs(g, region, n, d, h, q, [&](int64_t run, const bfloat16* a) {
                pieces.push_back(
                    {a + group * g.w.reduce, g.w.data + p * panel_size + run * g.w.size, g.w.run});
              });
            } else {
              for (auto& piece : pieces) piece.a += tile * t.a_row;
            }
            t.pieces = pieces.data();
            t.count = static_cast<int64_t>(pieces.size());
            t.rows = static_cast<int>(std::min(tile, count - q));
            const bfloat16* const residual = g.residual_at(b.n0 + n, d, h, q);
            t.residual = residual ? residual + channel : nullptr;
            t.c = g.out_at(b.n0 + n, d, h, q) + channel;
            run_tile(g, t);
          }
        }
      }
    }
  }
}

// Lines too short to fill a tile: the inputs of every output position are copied side by side, after which
// the block is one plain matrix product.
void run_patches(const Gather& g, const Region<bfloat16>& region, const Block& b, int64_t panel0,
                 int64_t panel1) {
  const auto& k = table();
  const int64_t run = round_up(g.w.run, k.k_step), runs = g.l.num_taps() * g.w.reduce / g.w.run,
                patch = runs * run;
  const int64_t count = g.l.count[2], rows = b.n * b.d * b.h * count;
  Workspace scratch(g.context, static_cast<size_t>(rows * patch) * sizeof(bfloat16));
  bfloat16* to = scratch.as<bfloat16>();
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t q = i % count, h = b.h0 + i / count % b.h, d = b.d0 + i / count / b.h % b.d;
    for_runs(g, region, i / count / b.h / b.d, d, h, q, [&](int64_t, const bfloat16* a) {
      std::copy(a, a + g.w.run, to);
      std::fill(to + g.w.run, to + run, bfloat16{0});
      to += run;
    });
  }
  Bf16Piece piece{nullptr, nullptr, patch};
  Bf16Tile t = tile_of(g);
  t.pieces = &piece;
  t.count = 1;
  t.a_row = patch;
  for (int64_t p = panel0; p < panel1; ++p) {
    const int64_t column = p * k.nr;
    piece.b = g.w.data + p * g.w.runs() * g.w.size;
    t.cols = static_cast<int>(std::min<int64_t>(k.nr, g.w.columns - column));
    t.bias = g.end.bias ? g.end.bias + column : nullptr;
    for (int64_t r = 0; r < rows; r += k.mr) {
      t.rows = static_cast<int>(std::min<int64_t>(k.mr, rows - r));
      piece.a = scratch.as<bfloat16>() + r * patch;
      const bfloat16* const residual = g.residual_at(b.n0, b.d0, b.h0, 0);
      t.residual = residual ? residual + r * t.ld_residual + column : nullptr;
      t.c = g.out_at(b.n0, b.d0, b.h0, 0) + r * t.ldc + column;
      run_tile(g, t);
    }
  }
}

void run_task(const Gather& g, int64_t task) {
  const MatrixUnit unit(table());
  const Block b = g.blocks[task / g.panel_groups];
  const int64_t share = task % g.panel_groups;
  const int64_t panel0 = g.panels * share / g.panel_groups, panel1 = g.panels * (share + 1) / g.panel_groups;
  const int64_t elements = g.copied ? region_elements(g.l, g.blocks, g.in.x.c) : 0;
  Workspace scratch(g.context, static_cast<size_t>(elements) * sizeof(bfloat16));
  const Region<bfloat16> region = !g.copied ? region_in_place(g.in, b)
                                  : elements == 0
                                      ? Region<bfloat16>{}
                                      : copy_region(g.context, g.in, g.l, b, {}, scratch.as<bfloat16>());
  if (g.patches) run_patches(g, region, b, panel0, panel1);
  else run_lines(g, region, b, panel0, panel1);
  if (g.stream) end_stream();
}

void gather_lattice(Context* context, const Source<bfloat16>& in, const Lattice& l, const Bf16Panels& w,
                    const Image<bfloat16>& out, const Epilogue<bfloat16>& end, bool zeros_count) {
  const auto& k = table();
  const int64_t rows = out.n * l.rows_per_image();
  if (rows == 0 || out.c == 0) return;
  const double row_work = std::max(1.0, static_cast<double>(out.c * w.reduce * l.num_taps()));
  const int64_t pixel_bytes = std::max<int64_t>(1, in.x.c) * static_cast<int64_t>(sizeof(bfloat16));
  int64_t target = std::max<int64_t>(static_cast<int64_t>(kTaskWork / row_work), 8 * k.mr);
  target = std::max(target, rows / (4 * kTasks));
  target = std::min(target, std::max<int64_t>(kRegionBytes / pixel_bytes, 2 * k.mr));
  target = std::min(target, std::max<int64_t>(rows / kTasks, 4 * k.mr));

  Gather g{context, in,    l,     w,     out,   end,  Blocks(out.n, l.count, target), w.groups * w.per_group,
           1,       false, false, false, false, false};
  bool outside[3];
  for (int axis = 0; axis < 3; ++axis) outside[axis] = l.reaches_out(axis, in.x.size[axis]);
  const bool any_outside = outside[0] || outside[1] || outside[2];
  g.exact = any_outside && !w.finite && !zeros_count;
  g.skip = any_outside && (w.finite || !zeros_count);
  g.copied = !in.plain() || outside[2] || (any_outside && !g.skip) || l.num_taps() == 0 ||
             (w.lines && in.x.step[2] != in.x.c && in.x.size[2] > 1);
  // Every patch has all taps, in the order of the panels.
  g.patches = w.groups == 1 && w.run > 0 && l.count[2] < kShortLine &&
              l.num_taps() == w.runs() * w.run / w.reduce && l.num_taps() > 1 && dense_row(out, l) != 0 &&
              (!end.residual.data || dense_row(end.residual, l) != 0) && !g.exact;
  if (g.patches && any_outside) {
    g.skip = false;
    g.copied = true;
  }
  g.stream = end.activation.kind <= FASTDL_ACT_RELU && streams(out, w.columns, k.nr);
  const double work = row_work * static_cast<double>(rows);
  const int64_t wanted = std::min<int64_t>(kTasks, static_cast<int64_t>(work / kTaskWork) + 1);
  const int64_t blocks = g.blocks.count();
  g.panel_groups = std::min(g.panels, std::max<int64_t>(1, (wanted + blocks - 1) / blocks));
  const int64_t tasks = blocks * g.panel_groups;
  const double cost = row_work * static_cast<double>(rows) / (static_cast<double>(tasks) * 2 * k.nr) + 500;
  parallel_for(context, tasks, cost, [&](int64_t task) { run_task(g, task); });
}

}  // namespace

bool bf16_tiles(int64_t groups, int64_t c_per_group, int64_t o_per_group) {
  return kernels().gemm_bf16 &&
         (groups == 1 || (c_per_group >= kLeastChannels && o_per_group >= kLeastChannels));
}

void bf16_gather(Context* context, const Geometry& g, const Source<bfloat16>& in, const bfloat16* weight,
                 bool data_gradient, const Image<bfloat16>& out, const Epilogue<bfloat16>& end) {
  const std::vector<Lattice> lattices =
      data_gradient ? data_lattices(g) : std::vector<Lattice>{forward_lattice(g)};
  // A NaN among the weights may need single taps left out: see Gather::exact.
  const AxisTaps& line = lattices[0].taps[2];
  const bool finite =
      !reaches_out(g, data_gradient) || all_finite(context, weight, g.o * g.c_per_group() * g.taps());
  const bool lines =
      g.groups == 1 && g.kernel[2] > 1 && line.count() == g.kernel[2] && line.consecutive() && finite;
  Bf16Panels w(g, data_gradient, lines);
  w.finite = finite;
  Workspace space(context, w.bytes());
  pack_bf16_weights(context, g, weight, data_gradient, space.as<bfloat16>(), w);
  if (end.none()) clear_unreached(context, lattices, out);
  for (const Lattice& l : lattices) {
    if (l.num_taps() || !end.none()) gather_lattice(context, in, l, w, out, end, !data_gradient);
  }
}

}  // namespace fastdl::cpu::conv
