// Whether Winograd's algorithm pays, and with which tiles.
#include <algorithm>
#include <cmath>
#include <type_traits>

#include "cpu/conv_bf16.h"
#include "cpu/conv_winograd.h"
#include "cpu/kernels.h"

namespace fastdl::cpu::conv {
namespace {

constexpr int64_t kLeastChannels = 16;  // tiles with fewer do not pay for their transforms
constexpr int64_t kSamples = 4;
constexpr float kMargin = 1.4f;           // what was not looked at may be less even
constexpr double kMostFilters = 1 << 26;  // transformed filters, in floats: 256 MiB

const WinogradKernels& table() { return *kernels().conv->winograd; }

bool three_taps(const AxisTaps& t) { return t.count() == 3 && t.consecutive() && t.slot[0] == 0; }

// The share of elements that matter (see conv_winograd.cpp) in some places of the image: its second least
// value.
float sampled_share(const Source<float>& in) {
  const Image<const float>& x = in.x;
  if (!x.channels_together()) return 1;
  float least = INFINITY, second = INFINITY;
  for (int64_t i = 0; i < kSamples; ++i) {
    const int64_t h0 = (2 * i + 1) * x.size[1] / (2 * kSamples), w0 = (4 * i + 3) % 11 * x.size[2] / 11;
    const int64_t h1 = std::min(h0 + 4, x.size[1]), cols = std::min<int64_t>(4, x.size[2] - w0);
    float total = 0, squared = 0, sum[4], squares[4];
    for (int64_t h = h0; h < h1; ++h) {
      table().pixel_sizes(x.at(i * x.n / kSamples, x.size[0] / 2, h, w0), x.step[2], cols, x.c, sum, squares);
      for (int64_t q = 0; q < cols; ++q) {
        total += sum[q];
        squared += squares[q];
      }
    }
    if (!(total > 0)) continue;
    const float share = total / squared * total / static_cast<float>((h1 - h0) * cols * x.c);
    second = std::min(second, std::max(share, least));
    least = std::min(least, share);
  }
  return in.masked() ? second / 2 : second;
}

// The weights that matter in the least even of some filters.
float sampled_terms(Context* context, const Geometry& g, const float* weight, bool data_gradient) {
  float least = INFINITY;
  const int64_t reduce = data_gradient ? g.o : g.c, columns = data_gradient ? g.c : g.o;
  Workspace scratch(context, static_cast<size_t>(2 * reduce) * sizeof(float));
  float *const sum = scratch.as<float>(), *const squares = sum + reduce;
  for (int64_t i = 0; i < kSamples; ++i) {
    const int64_t column = i * columns / kSamples;
    if (data_gradient) table().pixel_sizes(weight + column * 9, g.c * 9, reduce, 9, sum, squares);
    else table().pixel_sizes(weight + column * g.c * 9, 9, reduce, 9, sum, squares);
    float total = 0, squared = 0;
    for (int64_t r = 0; r < reduce; ++r) {
      total += sum[r];
      squared += squares[r];
    }
    if (total > 0) least = std::min(least, total / squared * total);
  }
  return least;
}

}  // namespace

// The cheapest tile, counting vector instructions: two multiply-adds a cycle, and about 3 cycles for every
// vector a transform loads or stores. Larger tiles round worse: their sums are cut into more pieces
// (block_channels in conv_winograd.cpp), which takes enough channels.
template <class S>
WinogradTile choose_winograd_tile(Context* context, const Geometry& g, const Lattice& l, const Source<S>& in,
                                  const S* weight, bool data_gradient) {
  const Image<const S>& x = in.x;
  const int64_t reduce = data_gradient ? g.o : g.c, columns = data_gradient ? g.c : g.o;
  constexpr bool coarse = std::is_same_v<S, bfloat16>;
  if (g.groups != 1 || l.taps[0].count() != 1 || !three_taps(l.taps[1]) || !three_taps(l.taps[2]) ||
      reduce < kLeastChannels || columns < kLeastChannels) {
    return {};
  }
  for (int i = 0; i < 3; ++i) {
    if (l.in_step[i] != 1 || l.out_step[i] != 1) return {};
  }
  const double r = static_cast<double>(reduce), c = static_cast<double>(columns);
  const double images = static_cast<double>(x.n * l.count[0]);
  const auto pixels = [&](int64_t mh, int64_t mw) {
    return static_cast<double>((l.count[1] + mh - 1) / mh * ((l.count[2] + mw - 1) / mw));
  };
  // A data gradient may leave out the border, which no gradient reaches.
  const double positions = std::min(pixels(1, 1), static_cast<double>(g.out[1] * g.out[2]));
  // Where two rows or columns of zeros surround the image, its edge is left to the direct kernels, in small
  // pieces.
  double edge = 0;
  for (int axis = 1; axis < 3; ++axis) {
    const int64_t last = l.count[axis] - 1 + l.taps[axis].offset.back();
    edge += static_cast<double>(((l.taps[axis].offset.front() < -1) + (last > x.size[axis])) * 2 *
                                l.count[3 - axis]);
  }
  double best = images * positions * 9 * r * c / 2 * 0.9 / (coarse ? bf16_products() : 1);
  edge *= images * 9 * r * c / 2 * 3;
  // Larger tiles want more even data: a look at some of it saves most of the work on tiles that would be left
  // out.
  float share = -1, terms = 0;
  WinogradTile tile;
  for (const int64_t mh : {2, 4}) {
    for (const int64_t mw : {2, 4}) {
      if (!coarse && reduce < (mh * mw == 4 ? 0 : mh * mw == 8 ? 32 : 256)) continue;
      const WinogradTile candidate{mh, mw};
      const double points = static_cast<double>(candidate.points());
      if (points * r * c > kMostFilters) continue;
      const double cost = points * (images * pixels(mh, mw) * (r * c / 2 + 3 * (r + c)) + 3 * r * c) + edge;
      if (!(cost < best)) continue;
      if constexpr (!coarse) {
        if (share < 0) {
          share = sampled_share(in);
          terms = sampled_terms(context, g, weight, data_gradient);
        }
        if (share < kMargin * candidate.least_share() || share * terms < kMargin * kWinogradTerms ||
            terms < kMargin * candidate.least_filter_share() * static_cast<float>(9 * reduce)) {
          continue;
        }
      }
      best = cost;
      tile = candidate;
    }
  }
  return tile;
}

double bf16_products() {
  // A dot-product instruction takes pairs, and few products are lost around it; a matrix unit has no need of
  // fewer multiplications.
  constexpr double kPairProducts = 2.6;
  if (const auto* tiles = kernels().gemm_bf16) return tiles->k_step == 2 ? kPairProducts : 64;
  return 1;
}

#define FASTDL_INSTANTIATE(S)                                                                                \
  template WinogradTile choose_winograd_tile<S>(Context*, const Geometry&, const Lattice&, const Source<S>&, \
                                                const S*, bool);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(bfloat16)
#undef FASTDL_INSTANTIATE

}  // namespace fastdl::cpu::conv
