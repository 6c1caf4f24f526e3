// A block of tiles of the forward pass or data gradient by Winograd's algorithm (conv_winograd.cpp): how well
// its data suits the algorithm, its transforms, and its products.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "cpu/conv_winograd.h"
#include "cpu/parallel.h"

namespace fastdl::cpu::conv::winograd {

constexpr int64_t kMostChannels = 128;   // of a block of the sum: its filters fit the L1 or L2 cache
constexpr int64_t kFilterChannels = 16;  // filters packed and transformed at a time, in the L1 cache

struct Weights {
  const float* data;  // (O, C, 3, 3)
  bool data_gradient;
};

struct Plan {
  Context* context;
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

// Channels of a block of the sum. Errors of larger tiles grow more, and shorter sums make up for it; sums
// twice as short make up for products that are rounded before they are added.
inline int64_t block_channels(const WinogradTile& tile, int64_t reduce, bool coarse) {
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
        scratch_(p.context,
                 static_cast<size_t>((kFilterChannels * 9 + 2) * gemm_table().nr) * sizeof(float)) {
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
inline float share_of(const Plan& p, const float* sum, const float* squares, int64_t line, int64_t rows,
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
  Workspace copy(p.context,
                 copied ? static_cast<size_t>(b.n * b.d * lines * line * p.reduce) * sizeof(float) : 0);
  Region<float> region;
  if (copied) region = copy_region(p.context, p.in, p.l, pixels, {}, copy.as<float>());
  else if constexpr (std::is_same_v<S, float>) region = region_in_place(p.in, pixels);
  Workspace sizes(p.context, static_cast<size_t>(2 * lines * line) * sizeof(float));
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
inline void multiply(const Plan& p, const float* v, int64_t v_step, int64_t tiles, const float* filters,
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

}  // namespace fastdl::cpu::conv::winograd
