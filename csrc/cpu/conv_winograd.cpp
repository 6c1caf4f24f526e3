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
#include <cstring>
#include <type_traits>

#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "cpu/round.h"

namespace fastdl::cpu::conv {
namespace {

constexpr int64_t kBlockBytes =
    448 << 10;                  // transformed inputs of a block: with filters and results they fit L2
constexpr int64_t kTasks = 16;  // wanted, to balance a few threads
constexpr int64_t kFewTiles = 128,
                  kManyPanels = 4;  // see run_panels; as many products of a panel fit the L2 cache
constexpr int64_t kManyFilters =
    3 << 20;                             // transformed, in floats: more than the L3 cache holds for a thread
constexpr int64_t kMostChannels = 128;   // of a block of the sum: its filters fit the L1 or L2 cache
constexpr int64_t kFilterChannels = 16;  // filters packed and transformed at a time, in the L1 cache

struct Weights {
  const float* data;  // (O, C, 3, 3)
  bool data_gradient;
};

struct Plan {
  int64_t images;
  bool coarse;  // results are rounded to bfloat16
  Lattice l;    // with counts rounded up to whole tiles
  WinogradTile tile;
  int64_t rows, cols;  // outputs that exist
  int64_t tiles_h, tiles_w;
  int64_t reduce, columns, panels, k_block;
  int64_t row;         // of transformed inputs
  float* shares;       // per tile: the share of its elements that matter
  float filter_terms;  // the number of weights that matter in the least even filter

  int64_t tiles() const { return images * l.count[0] * tiles_h * tiles_w; }
  int64_t first_tile(const Block& b) const { return ((b.n0 * l.count[0] + b.d0) * tiles_h + b.h0) * tiles_w; }
  // By how much a tile's sum of |x| may exceed the part that an output sees: little more than at a corner of
  // a padded image. Errors below bfloat16's own do not matter.
  float unevenness() const { return coarse ? 64.0f : tile.mh * tile.mw == 16 ? 7.0f : 4.5f; }
  float least_terms() const {
    const float share = tile.least_filter_share() * static_cast<float>(9 * reduce);
    return coarse ? 1.0f : std::max(kWinogradTerms, share);
  }
  bool left_out(float share) const {
    if (coarse) return !(share * filter_terms >= 1.0f);
    return !(share >= tile.least_share() && share * filter_terms >= kWinogradTerms);
  }
};

// With what is read and written.
template <class S>
struct PlanOf : Plan {
  const Source<S>& in;
  const Image<S>& out;
  const Epilogue<S>& end;
  const float* bias;
};

const WinogradKernels& table() { return *kernels().conv->winograd; }
const GemmKernelsOf<float>& gemm_table() { return gemm_kernels_of<float>(*kernels().gemm); }
int index(int64_t m) { return m == 4; }

// Channels of a block of the sum. Errors of larger tiles grow more, and shorter sums make up for it; sums
// twice as short make up for products that are rounded before they are added.
int64_t block_channels(const WinogradTile& tile, int64_t reduce, bool coarse) {
  if (coarse) return std::min(reduce, kMostChannels);
  const int64_t shorter = std::strcmp(kernels().isa, "generic") == 0 ? 2 : 1;
  const int64_t blocks = tile.mh * tile.mw == 4 ? 1 : shorter * (tile.mh * tile.mw == 8 ? 2 : 8);
  return std::min(std::max<int64_t>((reduce + blocks - 1) / blocks, 16 / shorter), kMostChannels);
}

// The filters of one panel, transformed some channels at a time.
class Filters {
 public:
  Filters(const Plan& p, const Weights& w, int64_t panel)
      : p_(p),
        w_(w),
        column_(panel * gemm_table().nr),
        lanes_(static_cast<int>(std::min<int64_t>(gemm_table().nr, p.columns - column_))),
        scratch_(nullptr, static_cast<size_t>((kFilterChannels * 9 + 2) * gemm_table().nr) * sizeof(float)) {
    std::fill(sum(), sum() + 2 * gemm_table().nr, 0.0f);
  }

  // Channels [r0, r1) into to[point * point_step + (r - r0) * nr + column].
  void transform(int64_t r0, int64_t r1, float* to, int64_t point_step) {
    const auto& k = gemm_table();
    float* const taps = sum() + 2 * k.nr;
    WinogradFilter f{taps, 0, k.nr, w_.data_gradient, to, point_step, sum(), sum() + k.nr};
    for (int64_t r = r0; r < r1; r += kFilterChannels, f.u += kFilterChannels * k.nr) {
      f.reduce = std::min(kFilterChannels, r1 - r);
      if (w_.data_gradient) {
        table().pack_taps(w_.data + (r * p_.columns + column_) * 9, p_.columns * 9, f.reduce, lanes_, k.nr,
                          taps);
      } else {
        k.pack(w_.data + (column_ * p_.reduce + r) * 9, 1, p_.reduce * 9, f.reduce * 9, lanes_, k.nr, taps);
      }
      table().filter[index(p_.tile.mh)][index(p_.tile.mw)](f);
    }
  }

  // How many of the weights seen so far matter in the least even filter; 0 if any is out of range.
  float terms() const {
    const float* const squares = sum() + gemm_table().nr;
    float terms = INFINITY;
    for (int j = 0; j < lanes_; ++j) {
      if (!winograd_range(sum()[j])) return 0;
      if (sum()[j] > 0) terms = std::min(terms, sum()[j] / squares[j] * sum()[j]);
    }
    return terms;
  }

 private:
  float* sum() const { return scratch_.as<float>(); }  // and the squares, and the packed taps
  const Plan& p_;
  const Weights& w_;
  int64_t column_;
  int lanes_;
  Workspace scratch_;
};

// The share of a tile's elements that matter, from the sums and the squares of |x| of its pixels; 0 if it is
// not fit for Winograd, infinity if all are zero.
float share_of(const Plan& p, const float* sum, const float* squares, int64_t line, int64_t rows,
               int64_t cols) {
  const int64_t th = p.tile.mh + 2, tw = p.tile.mw + 2;
  float across[6][4], squared = 0, total = 0;  // sums of three pixels side by side
  for (int64_t r = 0; r < th; ++r) {
    const float* const s = sum + r * line;
    for (int64_t q = 0; q < tw; ++q) {
      total += s[q];
      squared += squares[r * line + q];
    }
    for (int64_t q = 0; q < p.tile.mw; ++q) across[r][q] = s[q] + s[q + 1] + s[q + 2];
  }
  float least = INFINITY;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t q = 0; q < cols; ++q)
      least = std::min(least, across[r][q] + across[r + 1][q] + across[r + 2][q]);
  }
  if (!winograd_range(total) || !(least * p.unevenness() >= total)) return 0;
  return total > 0 ? total / squared * total / static_cast<float>(p.reduce * p.tile.points()) : INFINITY;
}

// Transformed inputs of a block of tiles, tile t of it at v + t * row, and the shares of what matters in
// them.
template <class S>
void transform_block(const PlanOf<S>& p, const Block& b, float* v, int64_t point_step, float* shares) {
  const int64_t mh = p.tile.mh, mw = p.tile.mw;
  const Block pixels{b.n0, b.n, b.d0, b.d, b.h0 * mh, b.h * mh};
  bool copied = !p.in.plain() || !std::is_same_v<S, float>;
  for (int axis = 0; axis < 3; ++axis) copied = copied || p.l.reaches_out(axis, p.in.x.size[axis]);
  const int64_t lines = b.h * mh + 2, line = p.tiles_w * mw + 2;
  Workspace copy(nullptr,
                 copied ? static_cast<size_t>(b.n * b.d * lines * line * p.reduce) * sizeof(float) : 0);
  Region<float> region;
  if (copied) region = copy_region(p.in, p.l, pixels, {}, copy.as<float>());
  else if constexpr (std::is_same_v<S, float>) region = region_in_place(p.in, pixels);
  Workspace sizes(nullptr, static_cast<size_t>(2 * lines * line) * sizeof(float));
  float *const sum = sizes.as<float>(), *const squares = sum + lines * line;
  const auto transform = table().input[index(mh)][index(mw)];
  for (int64_t n = 0; n < b.n; ++n) {
    for (int64_t d = b.d0; d < b.d0 + b.d; ++d) {
      const float* const first =
          region.at(n, d + p.l.taps[0].offset[0], b.h0 * mh + p.l.taps[1].offset[0], p.l.taps[2].offset[0]);
      for (int64_t h = 0; h < lines; ++h)
        table().pixel_sizes(first + h * region.step[1], region.step[2], line, p.reduce, sum + h * line,
                            squares + h * line);
      for (int64_t h = 0; h < b.h; ++h) {
        for (int64_t w = 0; w < p.tiles_w; ++w, v += p.row) {
          transform(first + h * mh * region.step[1] + w * mw * region.step[2], region.step[1], region.step[2],
                    p.reduce, v, point_step);
          const int64_t at = h * mh * line + w * mw;
          *shares++ = share_of(p, sum + at, squares + at, line, std::min(mh, p.rows - (b.h0 + h) * mh),
                               std::min(mw, p.cols - w * mw));
        }
      }
    }
  }
}

// m[point][tile][nr] = or += (r0 > 0) the products over channels [r0, r1); filters begin at channel r0.
void multiply(const Plan& p, const float* v, int64_t v_step, int64_t tiles, const float* filters,
              int64_t filter_step, int64_t r0, int64_t r1, float* m, int64_t m_step) {
  const auto& k = gemm_table();
  const int64_t parts = (tiles + k.mr - 1) / k.mr, part = (tiles + parts - 1) / parts;  // even register tiles
  GemmPiece<float> piece{};
  GemmTile<float> t{};
  t.pieces = &piece;
  t.count = 1;
  t.a_row = p.row;
  t.a_k = 1;
  t.b_k = t.ldc = k.nr;
  t.cols = k.nr;
  t.alpha = 1;
  for (int64_t point = 0; point < p.tile.points(); ++point) {
    for (int64_t r = r0; r < r1; r += p.k_block) {
      piece.k = std::min(p.k_block, r1 - r);
      piece.b = filters + point * filter_step + (r - r0) * k.nr;
      t.beta = r ? 1.0f : 0.0f;
      for (int64_t i = 0; i < tiles; i += part) {
        t.rows = static_cast<int>(std::min(part, tiles - i));
        piece.a = v + point * v_step + i * p.row + r;
        t.c = m + point * m_step + i * k.nr;
        gemm_tile(k, t);
      }
    }
  }
}

// The inverse transforms of `tiles` tiles from `first` on, for one panel of outputs.
template <class S>
void finish(const PlanOf<S>& p, int64_t first, int64_t tiles, int64_t panel, const float* m, int64_t m_step) {
  const int64_t nr = gemm_table().nr, column = panel * nr, mh = p.tile.mh, mw = p.tile.mw;
  WinogradOutput<S> o{};
  o.point_step = m_step;
  o.h_step = p.out.step[1];
  o.w_step = p.out.step[2];
  o.residual_h = p.end.residual.step[1];
  o.residual_w = p.end.residual.step[2];
  o.relu = p.end.activation.kind == FASTDL_ACT_RELU;
  o.lanes = static_cast<int>(std::min<int64_t>(nr, p.columns - column));
  o.bias = p.bias ? p.bias + column : nullptr;
  void (*inverse)(const WinogradOutput<S>&);
  if constexpr (std::is_same_v<S, float>) inverse = table().output[index(mh)][index(mw)];
  else inverse = table().output_bf16[index(mh)][index(mw)];
  for (int64_t i = first; i < first + tiles; ++i) {
    const int64_t w = i % p.tiles_w * mw, line = i / p.tiles_w, h = line % p.tiles_h * mh;
    const int64_t plane = line / p.tiles_h, d = plane % p.l.count[0], n = plane / p.l.count[0];
    o.m = m + (i - first) * nr;
    o.rows = static_cast<int>(std::min(mh, p.rows - h));
    o.cols = static_cast<int>(std::min(mw, p.cols - w));
    o.y = p.out.at(n, d, h, w) + column;
    if (p.end.residual.data) o.residual = p.end.residual.at(n, d, h, w) + column;
    inverse(o);
  }
}

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
                 Workspace scratch(nullptr, static_cast<size_t>(points * (v_step + m_step)) * sizeof(float));
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
    Workspace scratch(nullptr, static_cast<size_t>(points * (filter_step + m_step)) * sizeof(float));
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
  const WinogradTile tile = choose_winograd_tile(g, l, in, weight, data_gradient);
  if (!tile || out.n * l.rows_per_image() == 0 || (coarse && later)) return false;
  Workspace wide(context, coarse ? static_cast<size_t>(g.o * g.c * 9 + columns) * sizeof(float) : 0);
  const Plan plan{out.n,
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
