// Forward pass and data gradient by Winograd's algorithm (isa/conv_winograd.h): tiles of the input are
// transformed a block at a time into scratch that stays in the L2 cache, each of the points is one matrix
// product over the channels, and the inverse transform adds bias and residual and applies ReLU on its way to
// the output.
//
// Accuracy. A direct sum's error is proportional to sum |x||w| over the terms of that one output; Winograd's
// is proportional to the sums of |x| over the whole tile and of |w| over the whole filter. The two are as
// good as each other unless inputs or weights are very uneven, so that is looked for: a filter with few
// weights that matter turns the whole call over to the direct kernels, and so does a tile of the input for
// itself if few of its elements matter, if some output sees far less than its share of the tile, or if it
// holds NaN, Inf or magnitudes near either end of the range. These decisions depend on the data only, so the
// bits are the same for any number of threads.
#include "cpu/conv_winograd.h"

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "cpu/conv_winograd_block.h"
#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "cpu/round.h"

namespace fastdl::cpu::conv {

using namespace winograd;

namespace {

constexpr int64_t kBlockBytes =
    448 << 10;                  // transformed inputs of a block: with filters and results they fit L2
constexpr int64_t kTasks = 16;  // wanted, to balance a few threads
constexpr int64_t kFewTiles = 128,
                  kManyPanels = 4;  // see run_panels; as many products of a panel fit the L2 cache
constexpr int64_t kManyFilters =
    3 << 20;  // transformed, in floats: more than the L3 cache holds for a thread

template <class T>
Image<T> part_of(const Image<T>& x, int64_t n, int64_t d, int64_t h, int64_t w, int64_t rows, int64_t cols) {
  Image<T> part = x;
  part.data = x.at(n, d, h, w);
  part.n = part.size[0] = 1;
  part.size[1] = rows;
  part.size[2] = cols;
  return part;
}

// The tiles left out, by the direct kernels; runs of them in a line of tiles together.
void direct_tiles(Context* context, const PlanOf<float>& p, const PackedWeights<float>& w,
                  const Epilogue<float>& end, bool zeros_count) {
  const int64_t planes = p.out.size[0], lines = p.out.n * planes * p.tiles_h, mh = p.tile.mh, mw = p.tile.mw;
  parallel_for(context, lines, kSerialCost, [&](int64_t i) {
    const float* const shares = p.shares + i * p.tiles_w;
    const int64_t h = i % p.tiles_h * mh, d = i / p.tiles_h % planes, n = i / p.tiles_h / planes;
    for (int64_t begin = 0, q; begin < p.tiles_w; begin = q + 1) {
      for (q = begin; q < p.tiles_w && p.left_out(shares[q]); ++q) {
      }
      if (q == begin) continue;
      Lattice l = p.l;
      l.count[0] = 1;
      l.count[1] = std::min(mh, p.rows - h);
      l.count[2] = std::min(q * mw, p.cols) - begin * mw;
      l.taps[0].offset[0] += d;
      for (auto& offset : l.taps[1].offset) offset += h;
      for (auto& offset : l.taps[2].offset) offset += begin * mw;
      Source<float> in = p.in;
      in.x.n = 1;
      in.x.data += n * in.x.n_step;
      if (in.masked()) in.saved.data += n * in.saved.n_step;
      Epilogue<float> part = end;
      if (end.residual.data)
        part.residual = part_of(end.residual, n, d, h, begin * mw, l.count[1], l.count[2]);
      gather(context, in, l, w, part_of(p.out, n, d, h, begin * mw, l.count[1], l.count[2]), part,
             zeros_count);
    }
  });
}

// Activations other than ReLU, over what has been written.
void activate(Context* context, const Image<float>& y, const fastdl_activation& f) {
  const auto& activation = table_for<float>(*kernels().activation);
  parallel_for(context, y.n * y.size[0] * y.size[1], static_cast<double>(y.size[2] * y.c), [&](int64_t i) {
    float* line = y.at(i / y.size[1] / y.size[0], i / y.size[1] % y.size[0], i % y.size[1], 0);
    if (y.line_dense()) return activation.forward(f, y.size[2] * y.c, line, line);
    for (int64_t w = 0; w < y.size[2]; ++w, line += y.step[2]) activation.forward(f, y.c, line, line);
  });
}

// Many tiles: each task transforms a block of them, which stays in its L2 cache, and multiplies it with all
// filters. Returns the number of terms of the least even filter.
template <class S>
float run_blocks(Context* context, PlanOf<S> p, const Weights& weights) {
  const auto& k = gemm_table();
  const int64_t points = p.tile.points(), filter_step = winograd_step(p.reduce * k.nr);
  Workspace filters(context, static_cast<size_t>(p.panels * points * filter_step) * sizeof(float));
  Workspace terms(context, static_cast<size_t>(p.panels) * sizeof(float));
  parallel_for(context, p.panels, static_cast<double>(points * filter_step) / 4, [&](int64_t panel) {
    Filters f(p, weights, panel);
    f.transform(0, p.reduce, filters.as<float>() + panel * points * filter_step, filter_step);
    terms.as<float>()[panel] = f.terms();
  });
  const float least = *std::min_element(terms.as<float>(), terms.as<float>() + p.panels);
  if (least < p.least_terms()) return least;
  p.filter_terms = least;

  const int64_t counts[3] = {p.l.count[0], p.tiles_h, p.tiles_w};
  const int64_t fit = kBlockBytes / (points * p.row * static_cast<int64_t>(sizeof(float)));
  int64_t some = std::max<int64_t>(std::min(fit, p.tiles() / kTasks), 2 * k.mr);
  const int64_t parts = (p.tiles() + some - 1) / some;
  // Few blocks should be shared evenly by two threads.
  if (parts > 1 && parts < kTasks / 2 && parts % 2) some = (p.tiles() + parts - 2) / (parts - 1);
  const Blocks blocks(p.images, counts, some);
  const double work = static_cast<double>(points * p.reduce * p.columns) / k.width;  // of a tile
  parallel_for(context, blocks.count(), work * static_cast<double>(p.tiles() / blocks.count()),
               [&](int64_t i) {
                 const Block b = blocks[i];
                 const int64_t tiles = b.n * b.d * b.h * p.tiles_w, first = p.first_tile(b);
                 const int64_t v_step = winograd_step(tiles * p.row), m_step = winograd_step(tiles * k.nr);
                 Workspace scratch(context, static_cast<size_t>(points * (v_step + m_step)) * sizeof(float));
                 float *const v = scratch.as<float>(), *const m = v + points * v_step;
                 float* const shares = p.shares + first;
                 transform_block(p, b, v, v_step, shares);
                 if (std::all_of(shares, shares + tiles, [&](float share) { return p.left_out(share); }))
                   return;
                 for (int64_t panel = 0; panel < p.panels; ++panel) {
                   multiply(p, v, v_step, tiles, filters.as<float>() + panel * points * filter_step,
                            filter_step, 0, p.reduce, m, m_step);
                   finish(p, first, tiles, panel, m, m_step);
                 }
               });
  return least;
}

// Few tiles, many filters: the transformed inputs are shared, and each task transforms the filters of a
// panel, some channels at a time, so that they are used from its L2 cache.
template <class S>
float run_panels(Context* context, const PlanOf<S>& p, const Weights& weights) {
  const auto& k = gemm_table();
  const int64_t points = p.tile.points(), tiles = p.tiles(), v_step = winograd_step(tiles * p.row);
  Workspace v(context, static_cast<size_t>(points * v_step) * sizeof(float));
  Workspace terms(context, static_cast<size_t>(p.panels) * sizeof(float));
  const int64_t counts[3] = {p.l.count[0], p.tiles_h, p.tiles_w};
  const Blocks lines(p.images, counts, p.tiles_w);
  const double pixel = static_cast<double>(points * p.reduce * 4) / k.width;
  parallel_for(context, lines.count(), pixel * static_cast<double>(p.tiles_w), [&](int64_t i) {
    const Block b = lines[i];
    transform_block(p, b, v.as<float>() + p.first_tile(b) * p.row, v_step, p.shares + p.first_tile(b));
  });
  const double work = static_cast<double>(points * p.reduce * p.columns) / k.width;
  const int64_t most = std::max<int64_t>(kMostChannels / p.k_block, 1) * p.k_block;
  parallel_for(context, p.panels, work * static_cast<double>(tiles / p.panels + 1), [&](int64_t panel) {
    const int64_t filter_step = winograd_step(most * k.nr), m_step = winograd_step(tiles * k.nr);
    Workspace scratch(context, static_cast<size_t>(points * (filter_step + m_step)) * sizeof(float));
    float *const m = scratch.as<float>(), *const filters = m + points * m_step;
    Filters f(p, weights, panel);
    for (int64_t r = 0; r < p.reduce; r += most) {
      const int64_t end = std::min(r + most, p.reduce);
      f.transform(r, end, filters, filter_step);
      multiply(p, v.as<float>(), v_step, tiles, filters, filter_step, r, end, m, m_step);
    }
    finish(p, 0, tiles, panel, m, m_step);
    terms.as<float>()[panel] = f.terms();
  });
  return *std::min_element(terms.as<float>(), terms.as<float>() + p.panels);
}

// The same for any number of tiles, some images at a time.
template <class S>
float run_passes(Context* context, const PlanOf<S>& p, const Weights& weights) {
  const int64_t per_image = p.tiles() / p.images;
  const int64_t passes = ceil_div(p.images, std::max<int64_t>(kFewTiles / per_image, 1));
  float terms = INFINITY;
  for (int64_t pass = 0; pass < passes; ++pass) {
    const int64_t n0 = p.images * pass / passes;
    Plan part = p;
    part.images = p.images * (pass + 1) / passes - n0;
    part.shares += n0 * per_image;
    Source<S> in = p.in;
    in.x.data += n0 * in.x.n_step;
    if (in.masked()) in.saved.data += n0 * in.saved.n_step;
    Image<S> out = p.out;
    out.data += n0 * out.n_step;
    Epilogue<S> end = p.end;
    if (end.residual.data) end.residual.data += n0 * end.residual.n_step;
    terms = run_panels(context, PlanOf<S>{part, in, out, end, p.bias}, weights);
    if (!(terms >= p.least_terms())) break;
  }
  return terms;
}

// The direct kernels' work on what was left out.
void finish_directly(Context* context, const PlanOf<float>& p, const Geometry& g, const Lattice& l,
                     const Weights& weights, int64_t left_out) {
  Workspace packed(context,
                   static_cast<size_t>(packed_size<float>(g, weights.data_gradient)) * sizeof(float));
  const PackedWeights<float> w =
      pack_weights<float>(context, g, weights.data, weights.data_gradient, packed.as<float>());
  Epilogue<float> end = p.end;
  if (end.activation.kind != FASTDL_ACT_RELU) end.activation = {FASTDL_ACT_NONE, 0, 0};
  if (2 * left_out > p.tiles()) gather(context, p.in, l, w, p.out, end, !weights.data_gradient);
  else direct_tiles(context, p, w, end, !weights.data_gradient);
}

}  // namespace

template <class S>
bool winograd_gather(Context* context, const Geometry& g, const Source<S>& in, const Lattice& l,
                     const S* weight, bool data_gradient, const Image<S>& out, const Epilogue<S>& end) {
  constexpr bool coarse = std::is_same_v<S, bfloat16>;
  const auto& k = gemm_table();
  const int64_t reduce = data_gradient ? g.o : g.c, columns = data_gradient ? g.c : g.o;
  const bool later = end.activation.kind != FASTDL_ACT_NONE && end.activation.kind != FASTDL_ACT_RELU;
  const WinogradTile tile = choose_winograd_tile(context, g, l, in, weight, data_gradient);
  if (!tile || out.n * l.rows_per_image() == 0 || (coarse && later)) return false;
  Workspace wide(context, coarse ? static_cast<size_t>(g.o * g.c * 9 + columns) * sizeof(float) : 0);
  const Plan plan{context,
                  out.n,
                  coarse,
                  l,
                  tile,
                  l.count[1],
                  l.count[2],
                  ceil_div(l.count[1], tile.mh),
                  ceil_div(l.count[2], tile.mw),
                  reduce,
                  columns,
                  ceil_div(columns, k.nr),
                  block_channels(tile, reduce, coarse),
                  winograd_row(reduce),
                  nullptr,
                  0};
  PlanOf<S> p{plan, in, out, end, nullptr};
  p.l.count[1] = p.tiles_h * tile.mh;
  p.l.count[2] = p.tiles_w * tile.mw;
  Workspace shares(context, static_cast<size_t>(p.tiles()) * sizeof(float));
  p.shares = shares.as<float>();
  Weights weights{nullptr, data_gradient};
  if constexpr (coarse) {
    float* const w = wide.as<float>();
    const auto widen = kernels().convert->bf16.widen;
    parallel_ranges(context, g.o * g.c * 9, 1 << 15, 0.25, [&](int64_t begin, int64_t stop) {
      widen(stop - begin, weight + begin, 1, w + begin, 1);
    });
    weights.data = w;
    if (end.bias) widen(columns, end.bias, 1, w + g.o * g.c * 9, 1);
    p.bias = end.bias ? w + g.o * g.c * 9 : nullptr;
  } else {
    weights.data = weight;
    p.bias = end.bias;
  }
  const bool few = p.tiles() <= kFewTiles || tile.points() * reduce * columns > kManyFilters;
  p.filter_terms =
      few && p.panels >= kManyPanels ? run_passes(context, p, weights) : run_blocks(context, p, weights);
  // Uneven even if all inputs were equal.
  if (!(p.filter_terms >= p.least_terms())) return false;
  const int64_t left_out =
      std::count_if(p.shares, p.shares + p.tiles(), [&](float share) { return p.left_out(share); });
  if constexpr (coarse) {
    return left_out == 0;
  } else {
    if (left_out) finish_directly(context, p, g, l, weights, left_out);
    if (later) activate(context, out, end.activation);
    return true;
  }
}

#define FASTDL_INSTANTIATE(S)                                                                             \
  template bool winograd_gather<S>(Context*, const Geometry&, const Source<S>&, const Lattice&, const S*, \
                                   bool, const Image<S>&, const Epilogue<S>&);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(bfloat16)
#undef FASTDL_INSTANTIATE

}  // namespace fastdl::cpu::conv
