// The gradient of the weights by Winograd's algorithm (isa/conv_winograd.h): a tile of the gradient is a
// filter whose 3 x 3 outputs over a tile of the input are wanted. The tiles are transformed a chunk at a
// time, then every point adds a matrix product whose sum runs over the chunk's tiles, and at the end the
// points are transformed back. All sums have an order given by shapes alone.
//
// As in conv_winograd.cpp the errors are proportional to the sums of |x| and |g| over whole tiles, which is
// as good as the direct kernels' unless few elements matter. Here each output sums over all positions of one
// input and one gradient channel, so that is looked for in whole channels.
#include <algorithm>
#include <cmath>
#include <type_traits>

#include "cpu/conv_winograd.h"
#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "cpu/round.h"

namespace fastdl::cpu::conv {

using namespace winograd;

namespace {

constexpr int64_t kChunkBytes = 8 << 20;  // transformed tiles at a time: they stay in the L3 cache
constexpr int64_t kSumTiles = 64;         // of a block of a sum: longer sums round worse
constexpr int64_t kBlockTiles = 28;       // transformed by one task
constexpr int64_t kLeastChannels = 16;    // with fewer the transforms do not pay
constexpr int64_t kPartChannels = 56;     // input channels of a task: its products stay in the L2 cache
constexpr int64_t kTasks = 8;             // wanted, to balance a few threads
constexpr int64_t kOwnBytes = 640 << 10, kShares = 8;  // see run_shares: sums that fit the L2 cache
constexpr double kMostSums = 1 << 26;                  // in floats: 256 MiB
constexpr float kLeastTerms = 16;                      // of a sum of products, see uneven()

struct Plan {
  Context* context;
  const Geometry& g;
  bool coarse;              // results are rounded to bfloat16
  Lattice l, grad_lattice;  // with counts rounded up to whole tiles
  WinogradTile tile;
  int64_t tiles_h, tiles_w;
  Blocks blocks;
  int64_t row_in, row_grad;             // of the transformed tiles
  int64_t panels, parts = 0, part = 0;  // of output channels, and of input channels
  float* sizes = nullptr;  // per block: sums of |x| and x^2, of |g| and g^2, and the sum of g, by channel
  float *v = nullptr, *w = nullptr;  // transformed tiles of a chunk, [point][tile][channel]
  int64_t v_step = 0, w_step = 0;    // of a point

  int64_t sizes_count() const { return 2 * g.c + 3 * g.o; }
  int64_t tiles_of(const Block& b) const { return b.n * b.d * b.h * tiles_w; }
  int64_t first_tile(const Block& b) const { return ((b.n0 * l.count[0] + b.d0) * tiles_h + b.h0) * tiles_w; }
  int64_t m_step() const { return winograd_step(part * gemm_table().nr); }
};

// As choose_tile in conv_winograd.cpp.
WinogradTile choose_tile(const Geometry& g, bool coarse) {
  if (g.groups != 1 || g.kernel[0] != 1 || g.kernel[1] != 3 || g.kernel[2] != 3 || g.c < kLeastChannels ||
      g.o < kLeastChannels) {
    return {};
  }
  for (int i = 0; i < 3; ++i) {
    if (g.stride[i] != 1 || g.dilation[i] != 1) return {};
  }
  const double c = static_cast<double>(g.c), o = static_cast<double>(g.o);
  const double images = static_cast<double>(g.n * g.out[0]);
  const auto tiles = [&](int64_t mh, int64_t mw) {
    return images * static_cast<double>(ceil_div(g.out[1], mh) * ceil_div(g.out[2], mw));
  };
  double best = tiles(1, 1) * 9 * c * o / 2 * 0.9 / (coarse ? bf16_products() : 1);
  WinogradTile tile;
  for (const int64_t mh : {2, 4}) {
    for (const int64_t mw : {2, 4}) {
      // Rounding errors of larger tiles need longer sums to average out.
      if (!coarse && tiles(1, 1) < (mh * mw == 4 ? 128 : mh * mw == 8 ? 600 : 1500)) continue;
      const WinogradTile candidate{mh, mw};
      if (static_cast<double>(candidate.points()) * c * o > kMostSums) continue;
      // Some 6 steps' worth of loads and stores for each sum.
      const double cost = static_cast<double>(candidate.points()) *
                          ((tiles(mh, mw) + 6) * c * o / 2 + 3 * tiles(mh, mw) * (c + o) + 3 * c * o);
      if (cost < best) best = cost, tile = candidate;
    }
  }
  return tile;
}

template <class F>
void for_tile_lines(const Block& b, F&& f) {
  for (int64_t n = 0; n < b.n; ++n) {
    for (int64_t d = b.d0; d < b.d0 + b.d; ++d) {
      for (int64_t h = b.h0; h < b.h0 + b.h; ++h) f(n, d, h);
    }
  }
}

// What a block needs of one operand: where it lies if the tiles reach nowhere outside, else a copy.
template <class S>
class Operand {
 public:
  Operand(Context* context, const Source<S>& from, const Lattice& l, const Block& pixels)
      : copied_(is_copied(from, l)),
        scratch_(context, copied_ ? elements(from, l, pixels) * sizeof(float) : 0),
        region(get(context, from, l, pixels)) {}

 private:
  static bool is_copied(const Source<S>& from, const Lattice& l) {
    bool copied = !from.plain() || !std::is_same_v<S, float>;
    for (int axis = 0; axis < 3; ++axis) copied = copied || l.reaches_out(axis, from.x.size[axis]);
    return copied;
  }
  static size_t elements(const Source<S>& from, const Lattice& l, const Block& b) {
    const auto reach = [&](int axis) { return l.taps[axis].offset.back() - l.taps[axis].offset.front(); };
    return static_cast<size_t>(b.n * (b.d + reach(0)) * (b.h + reach(1)) * (l.count[2] + reach(2)) *
                               from.x.c);
  }
  Region<float> get(Context* context, const Source<S>& from, const Lattice& l, const Block& pixels) {
    if constexpr (std::is_same_v<S, float>) {
      if (!copied_) return region_in_place(from, pixels);
    }
    return copy_region(context, from, l, pixels, {}, scratch_.template as<float>());
  }
  bool copied_;
  Workspace scratch_;

 public:
  const Region<float> region;
};

template <class S>
void transform_block(const Plan& p, const Source<S>& from_in, const Source<S>& from_grad, int64_t block,
                     int64_t chunk_first) {
  const Geometry& g = p.g;
  const int64_t mh = p.tile.mh, mw = p.tile.mw;
  const Block b = p.blocks[block], pixels{b.n0, b.n, b.d0, b.d, b.h0 * mh, b.h * mh};
  const Operand<S> x(p.context, from_in, p.l, pixels), y(p.context, from_grad, p.grad_lattice, pixels);
  const Region<float>&in = x.region, &grad = y.region;
  float* const sizes = p.sizes + block * p.sizes_count();
  std::fill(sizes, sizes + p.sizes_count(), 0.0f);
  float *const in_sum = sizes, *const in_squares = in_sum + g.c, *const grad_sum = in_squares + g.c;
  float *const grad_squares = grad_sum + g.o, *const bias = grad_squares + g.o;
  float* v = p.v + (p.first_tile(b) - chunk_first) * p.row_in;
  float* w = p.w + (p.first_tile(b) - chunk_first) * p.row_grad;
  const auto& t = table();
  const auto& sums = table_for<float>(*kernels().conv);
  for_tile_lines(b, [&](int64_t n, int64_t d, int64_t h) {
    const float* const xs =
        in.at(n, d + p.l.taps[0].offset[0], h * mh + p.l.taps[1].offset[0], p.l.taps[2].offset[0]);
    const float* const gs = grad.at(n, d, h * mh, 0);
    for (int64_t r = 0; r < mh; ++r) {
      t.channel_sizes(xs + r * in.step[1], in.step[2], p.tiles_w * mw + 2, g.c, in_sum, in_squares);
      t.channel_sizes(gs + r * grad.step[1], grad.step[2], p.tiles_w * mw, g.o, grad_sum, grad_squares);
      sums.add_rows(gs + r * grad.step[1], p.tiles_w * mw, grad.step[2], g.o, bias);
    }
    for (int64_t q = 0; q < p.tiles_w; ++q, v += p.row_in, w += p.row_grad) {
      t.input[index(mh)][index(mw)](xs + q * mw * in.step[2], in.step[1], in.step[2], g.c, v, p.v_step);
      t.gradient[index(mh)][index(mw)](gs + q * mw * grad.step[2], grad.step[1], grad.step[2], g.o, w,
                                       p.w_step);
    }
  });
}

// Adds the sizes of all blocks, in order, to the first one's.
void combine_sizes(const Plan& p) {
  const int64_t size = p.sizes_count();
  if (p.blocks.count() > 1)
    kernels().conv->f32.add_rows(p.sizes + size, p.blocks.count() - 1, size, size, p.sizes);
}

// The elements that matter in the least even channel; 0 if any is out of range.
float least_terms(const float* sum, const float* squares, int64_t channels) {
  float least = INFINITY;
  for (int64_t i = 0; i < channels; ++i) {
    if (!winograd_range(sum[i])) return 0;
    if (sum[i] > 0) least = std::min(least, sum[i] / squares[i] * sum[i]);
  }
  return least;
}

// A sum of |x||g| over positions has about as many terms that matter as the shares that matter in both leave
// over.
bool uneven(const Plan& p) {
  const Geometry& g = p.g;
  const float in = least_terms(p.sizes, p.sizes + g.c, g.c);
  const float grad = least_terms(p.sizes + 2 * g.c, p.sizes + 2 * g.c + g.o, g.o);
  const float positions = static_cast<float>(g.n * g.out[0] * g.out[1] * g.out[2]);
  const float share = in / positions * (grad / positions);
  if (p.coarse) return !(share * positions >= 1);
  // Zeros save the direct sums a rounding each, but not those of transformed tiles.
  const int64_t size = p.tile.mh * p.tile.mw;
  return !(share * positions >= kLeastTerms && share >= (size == 4 ? 0.002f : size == 8 ? 0.008f : 0.02f));
}

// m[point][input channel of the part][nr] = or += the products of the chunk's tiles.
void multiply(const Plan& p, int64_t panel, int64_t c0, int64_t channels, int64_t tiles, int64_t point0,
              int64_t point1, bool first, float* m) {
  const auto& k = gemm_table();
  const int64_t parts = ceil_div(channels, k.mr), part = ceil_div(channels, parts), column = panel * k.nr;
  GemmPiece<float> piece{};
  GemmTile<float> t{};
  t.pieces = &piece;
  t.count = 1;
  t.a_row = 1;
  t.a_k = p.row_in;
  t.b_k = p.row_grad;
  t.ldc = k.nr;
  t.cols = static_cast<int>(std::min<int64_t>(k.nr, p.g.o - column));
  t.alpha = 1;
  for (int64_t point = point0; point < point1; ++point) {
    for (int64_t q = 0; q < tiles; q += kSumTiles) {
      piece.k = std::min(kSumTiles, tiles - q);
      piece.b = p.w + point * p.w_step + q * p.row_grad + column;
      t.beta = first && q == 0 ? 0.0f : 1.0f;
      for (int64_t i = 0; i < channels; i += part) {
        t.rows = static_cast<int>(std::min(part, channels - i));
        piece.a = p.v + point * p.v_step + q * p.row_in + c0 + i;
        t.c = m + point * p.m_step() + i * k.nr;
        gemm_tile(k, t);
      }
    }
  }
}

// The inverse transform of one part, and its transposition into (O, C, 3, 3).
template <class S>
void finish(const Plan& p, int64_t panel, int64_t c0, int64_t channels, const float* m, const View& out) {
  const auto& k = gemm_table();
  const int64_t column = panel * k.nr, columns = std::min<int64_t>(k.nr, p.g.o - column), run = channels * 9;
  Workspace scratch(p.context, static_cast<size_t>(2 * run * k.nr) * sizeof(float));
  float *const rows = scratch.as<float>(), *const turned = rows + run * k.nr;
  for (int64_t c = 0; c < channels; ++c) {
    table().weight[index(p.tile.mh)][index(p.tile.mw)](m + c * k.nr, p.m_step(), columns, rows + c * 9 * k.nr,
                                                       k.nr);
  }
  k.pack(rows, 1, k.nr, columns, static_cast<int>(run), static_cast<int>(run), turned);
  const int nd = out.ndim;
  const bool dense = out.strides[nd - 1] == 1 && out.strides[nd - 2] == 3 && out.strides[1] == 9;
  Workspace narrow(p.context, static_cast<size_t>(run) * sizeof(S));
  for (int64_t j = 0; j < columns; ++j) {
    S* const to = out.as<S>() + (column + j) * out.strides[0] + c0 * out.strides[1];
    S* const line = dense ? to : narrow.as<S>();
    if constexpr (std::is_same_v<S, float>) std::copy(turned + j * run, turned + (j + 1) * run, line);
    else kernels().convert->bf16.narrow(run, turned + j * run, 1, line, 1);
    if (dense) continue;
    for (int64_t i = 0; i < run; ++i) {
      to[i / 9 * out.strides[1] + i % 9 / 3 * out.strides[nd - 2] + i % 3 * out.strides[nd - 1]] = line[i];
    }
  }
}

// Small sums: shares of the tiles, transformed and multiplied by one task each, so that its tiles stay in its
// own cache. m: [share][panel][as in multiply]
template <class S>
void run_shares(Context* context, const Plan& p, const Source<S>& in, const Source<S>& grad, int64_t shares,
                float* m) {
  const int64_t points = p.tile.points(), m_size = points * p.m_step(), blocks = p.blocks.count();
  const double work = static_cast<double>(points * p.first_tile(p.blocks[blocks - 1]) * p.g.c * p.panels);
  parallel_for(context, shares, work / static_cast<double>(shares), [&](int64_t share) {
    Plan own = p;
    const int64_t most = p.tiles_of(p.blocks.largest());
    own.v_step = winograd_step(most * p.row_in);
    own.w_step = winograd_step(most * p.row_grad);
    Workspace transformed(context, static_cast<size_t>(points * (own.v_step + own.w_step)) * sizeof(float));
    own.v = transformed.as<float>();
    own.w = own.v + points * own.v_step;
    const int64_t block0 = blocks * share / shares, block1 = blocks * (share + 1) / shares;
    for (int64_t i = block0; i < block1; ++i) {
      const Block b = p.blocks[i];
      transform_block(own, in, grad, i, p.first_tile(b));
      for (int64_t panel = 0; panel < p.panels; ++panel) {
        multiply(own, panel, 0, p.g.c, p.tiles_of(b), 0, points, i == block0,
                 m + (share * p.panels + panel) * m_size);
      }
    }
  });
}

}  // namespace

template <class S>
bool winograd_weight_gradient(Context* context, const Geometry& g, const Source<S>& in, const Source<S>& grad,
                              const View& grad_weight, const View* grad_bias) {
  constexpr bool coarse = std::is_same_v<S, bfloat16>;
  const WinogradTile tile = choose_tile(g, coarse);
  if (!tile || g.n * g.out[0] * g.out[1] * g.out[2] == 0) return false;
  const auto& k = gemm_table();
  const int64_t tiles_h = ceil_div(g.out[1], tile.mh), tiles_w = ceil_div(g.out[2], tile.mw);
  const int64_t counts[3] = {g.out[0], tiles_h, tiles_w};
  Plan p{context,
         g,
         coarse,
         forward_lattice(g),
         plain_lattice(g),
         tile,
         tiles_h,
         tiles_w,
         Blocks(g.n, counts, kBlockTiles),
         winograd_row(g.c),
         winograd_row(g.o),
         ceil_div(g.o, k.nr)};
  for (Lattice* l : {&p.l, &p.grad_lattice}) {
    l->count[1] = tiles_h * tile.mh;
    l->count[2] = tiles_w * tile.mw;
  }
  // Whole register tiles, as even as possible; the points are shared out where there are too few parts.
  const int64_t register_tiles = ceil_div(g.c, k.mr), rows = ceil_div(g.c, register_tiles);
  p.part = std::min(g.c, rows * std::max<int64_t>(kPartChannels / rows, 1));
  p.parts = ceil_div(g.c, p.part);
  const int64_t point_groups = p.panels * p.parts >= kTasks ? 1 : tile.mh + 2;
  const int64_t own_size = p.panels * tile.points() * winograd_step(g.c * k.nr);
  const bool by_shares =
      own_size * static_cast<int64_t>(sizeof(float)) <= kOwnBytes && p.blocks.count() >= 2 * kShares;
  if (by_shares) {
    p.part = g.c;
    p.parts = 1;
    const Blocks longer(g.n, counts, 2 * kBlockTiles);  // sums are loaded and stored once per block
    if (longer.count() >= 2 * kShares) p.blocks = longer;
  }

  const int64_t points = tile.points(), block_tiles = p.tiles_of(p.blocks.largest());
  const int64_t tile_bytes = points * (p.row_in + p.row_grad) * static_cast<int64_t>(sizeof(float));
  // Chunks of whole blocks, as even as possible.
  const int64_t fit = std::max<int64_t>(1, kChunkBytes / (tile_bytes * block_tiles));
  const int64_t chunks = ceil_div(p.blocks.count(), fit), chunk = ceil_div(p.blocks.count(), chunks);
  Workspace sizes(context, static_cast<size_t>(p.blocks.count() * p.sizes_count()) * sizeof(float));
  p.sizes = sizes.as<float>();
  const auto write_bias = [&] {
    if (!grad_bias) return;
    const float* const bias = p.sizes + 2 * g.c + 2 * g.o;
    S* const to = grad_bias->as<S>();
    if constexpr (coarse) kernels().convert->bf16.narrow(g.o, bias, 1, to, grad_bias->strides[0]);
    else
      for (int64_t o = 0; o < g.o; ++o) to[o * grad_bias->strides[0]] = bias[o];
  };
  if (by_shares) {
    const int64_t m_size = points * p.m_step();
    Workspace products(context, static_cast<size_t>(kShares * p.panels * m_size) * sizeof(float));
    run_shares(context, p, in, grad, kShares, products.as<float>());
    combine_sizes(p);
    if (uneven(p)) return false;
    parallel_for(context, p.panels, static_cast<double>(m_size * kShares) / k.width * 4, [&](int64_t panel) {
      float* const m = products.as<float>() + panel * m_size;
      kernels().conv->f32.add_rows(m + p.panels * m_size, kShares - 1, p.panels * m_size, m_size, m);
      finish<S>(p, panel, 0, g.c, m, grad_weight);
    });
    write_bias();
    return true;
  }
  p.v_step = winograd_step(chunk * block_tiles * p.row_in);
  p.w_step = winograd_step(chunk * block_tiles * p.row_grad);
  Workspace transformed(context, static_cast<size_t>(points * (p.v_step + p.w_step)) * sizeof(float));
  p.v = transformed.as<float>();
  p.w = p.v + points * p.v_step;

  const int64_t parts = p.panels * p.parts, m_size = points * p.m_step();
  const bool kept = chunks > 1 || point_groups > 1;  // products are needed beyond their task
  Workspace products(context, kept ? static_cast<size_t>(parts * m_size) * sizeof(float) : 0);
  const auto finish_part = [&](int64_t i, const float* m) {
    const int64_t c0 = i % p.parts * p.part;
    finish<S>(p, i / p.parts, c0, std::min(p.part, g.c - c0), m, grad_weight);
  };
  for (int64_t block0 = 0; block0 < p.blocks.count(); block0 += chunk) {
    const int64_t block1 = std::min(block0 + chunk, p.blocks.count());
    const int64_t first = p.first_tile(p.blocks[block0]);
    const Block last = p.blocks[block1 - 1];
    const int64_t tiles = p.first_tile(last) + p.tiles_of(last) - first;
    const double transforms = static_cast<double>(block_tiles * points * (g.c + g.o)) * 4 / k.width;
    parallel_for(context, block1 - block0, transforms,
                 [&](int64_t i) { transform_block(p, in, grad, block0 + i, first); });
    const bool end = block1 == p.blocks.count();
    if (end) {
      combine_sizes(p);
      if (uneven(p)) return false;
    }
    const double work = static_cast<double>(points * tiles * p.part) / static_cast<double>(point_groups);
    parallel_for(context, parts * point_groups, work, [&](int64_t task) {
      const int64_t i = task / point_groups, group = task % point_groups, c0 = i % p.parts * p.part;
      Workspace local(context, kept ? 0 : static_cast<size_t>(m_size) * sizeof(float));
      float* const m = kept ? products.as<float>() + i * m_size : local.as<float>();
      multiply(p, i / p.parts, c0, std::min(p.part, g.c - c0), tiles, points * group / point_groups,
               points * (group + 1) / point_groups, block0 == 0, m);
      if (end && point_groups == 1) finish_part(i, m);
    });
  }
  if (point_groups > 1) {
    parallel_for(context, parts, static_cast<double>(m_size) / k.width * 4,
                 [&](int64_t i) { finish_part(i, products.as<float>() + i * m_size); });
  }
  write_bias();
  return true;
}

#define FASTDL_INSTANTIATE(S)                                                                              \
  template bool winograd_weight_gradient<S>(Context*, const Geometry&, const Source<S>&, const Source<S>&, \
                                            const View&, const View*);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(bfloat16)
#undef FASTDL_INSTANTIATE

}  // namespace fastdl::cpu::conv
