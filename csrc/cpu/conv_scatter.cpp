// The data gradient as a sum over taps of whole matrix products, each added to the inputs it belongs to:
// dx[stride * j - padding + dilation * t] += g[j] * w[t]. Tasks are images, so that no two write to one
// place.
#include <algorithm>

#include "cpu/conv_plan.h"
#include "cpu/kernels.h"
#include "cpu/parallel.h"

namespace fastdl::cpu::conv {
namespace {

constexpr int64_t kBlockRows = 64;  // positions per task, in whole images
constexpr int64_t kMinTasks = 4;
constexpr int64_t kShortLine = 7;  // lines shorter than this share tiles, which are then taken apart

// Work of a gather along one axis: pairs of position and tap, only those inside if it leaves the others out.
int64_t gather_pairs(const Geometry& g, int axis, bool leaves_out) {
  int64_t pairs = 0;
  for (int64_t i = 0; i < g.in[axis]; ++i) {
    for (int64_t t = 0; t < g.kernel[axis]; ++t) {
      const int64_t distance = i + g.padding[axis] - t * g.dilation[axis];
      if (((distance % g.stride[axis]) + g.stride[axis]) % g.stride[axis] != 0) continue;
      const bool inside = distance >= 0 && distance / g.stride[axis] < g.out[axis];
      pairs += inside || !leaves_out;
    }
  }
  return pairs;
}

// Where each gradient position of a block adds its product for one tap, from the first image on; -1: nowhere.
template <class T>
void target_offsets(const Geometry& g, const Image<T>& out, const Block& b, const int64_t tap[3],
                    int64_t* offset) {
  int64_t first[3];
  for (int i = 0; i < 3; ++i) first[i] = tap[i] * g.dilation[i] - g.padding[i];
  for (int64_t n = 0; n < b.n; ++n) {
    for (int64_t d = 0; d < g.out[0]; ++d) {
      for (int64_t h = 0; h < g.out[1]; ++h) {
        const int64_t id = d * g.stride[0] + first[0], ih = h * g.stride[1] + first[1];
        const bool line = id >= 0 && id < g.in[0] && ih >= 0 && ih < g.in[1];
        const int64_t base = n * out.n_step + id * out.step[0] + ih * out.step[1];
        for (int64_t q = 0; q < g.out[2]; ++q) {
          const int64_t iw = q * g.stride[2] + first[2];
          *offset++ = line && iw >= 0 && iw < g.in[2] ? base + iw * out.step[2] : -1;
        }
      }
    }
  }
}

template <class T>
void clear(const Geometry& g, const Image<T>& out, const Block& b, int64_t channel, int64_t channels) {
  for (int64_t n = b.n0; n < b.n0 + b.n; ++n) {
    for (int64_t d = 0; d < g.in[0]; ++d) {
      for (int64_t h = 0; h < g.in[1]; ++h) {
        for (int64_t w = 0; w < g.in[2]; ++w) {
          T* const pixel = out.at(n, d, h, w) + channel;
          std::fill(pixel, pixel + channels, T(0));
        }
      }
    }
  }
}

// Lines of positions are tiles, added in place.
template <class T>
void add_lines(const Geometry& g, const Region<T>& grad, const Image<T>& out, const Block& b,
               const int64_t tap[3], const GemmPiece<T>& first, GemmTile<T> t) {
  const auto& k = gemm_kernels_of<T>(*kernels().gemm);
  int64_t start[3];
  for (int i = 0; i < 3; ++i) start[i] = tap[i] * g.dilation[i] - g.padding[i];
  // The positions of a line that land inside.
  const int64_t s = g.stride[2];
  const int64_t q0 = start[2] >= 0 ? 0 : (-start[2] + s - 1) / s;
  const int64_t q1 = std::min(g.out[2], (g.in[2] - start[2] + s - 1) / s), count = q1 - q0;
  if (count <= 0) return;
  const int64_t tiles = (count + k.mr - 1) / k.mr, tile = (count + tiles - 1) / tiles;
  GemmPiece<T> piece = first;
  t.pieces = &piece;
  for (int64_t n = 0; n < b.n; ++n) {
    for (int64_t d = 0; d < g.out[0]; ++d) {
      for (int64_t h = 0; h < g.out[1]; ++h) {
        const int64_t id = d * g.stride[0] + start[0], ih = h * g.stride[1] + start[1];
        if (id < 0 || id >= g.in[0] || ih < 0 || ih >= g.in[1]) continue;
        for (int64_t q = q0; q < q1; q += tile) {
          piece.a = first.a + (grad.at(n, d, h, q) - grad.data);
          t.c = out.at(b.n0 + n, id, ih, q * s + start[2]);
          t.rows = static_cast<int>(std::min(tile, q1 - q));
          gemm_tile(k, t);
        }
      }
    }
  }
}

template <class T>
void run_task(Context* context, const Geometry& g, const Source<T>& grad, const PackedWeights<T>& w,
              const Image<T>& out, const Block& b, int64_t panel0, int64_t panel1) {
  const auto& k = gemm_kernels_of<T>(*kernels().gemm);
  const auto& kernel = table_for<T>(*kernels().conv);
  const int64_t rows = b.n * g.out[0] * g.out[1] * g.out[2];
  const int64_t per_group = (w.columns + k.nr - 1) / k.nr, panel_size = g.taps() * w.reduce * k.nr;
  Workspace scratch(context, static_cast<size_t>(rows * g.o + k.mr * k.nr) * sizeof(T));
  Workspace offsets(context, static_cast<size_t>(rows) * sizeof(int64_t));
  T* const tile = scratch.as<T>() + rows * g.o;
  const Region<T> region = copy_region(context, grad, plain_lattice(g), b, {}, scratch.as<T>());

  const bool in_place = g.out[2] >= kShortLine;
  GemmPiece<T> piece{nullptr, nullptr, w.reduce};
  GemmTile<T> t{};
  t.pieces = &piece;
  t.count = 1;
  t.a_row = g.o;
  t.a_k = 1;
  t.b_k = k.nr;
  t.ldc = in_place ? g.stride[2] * out.step[2] : k.nr;
  t.c = tile;
  t.alpha = T(1);
  t.beta = in_place ? T(1) : T(0);
  for (int64_t panel = panel0; panel < panel1; ++panel) {
    const int64_t group = panel / per_group, column = panel % per_group * k.nr;
    t.cols = static_cast<int>(std::min<int64_t>(k.nr, w.columns - column));
    const int64_t channel = group * w.columns + column;
    clear(g, out, b, channel, t.cols);
    T* const images = out.at(b.n0, 0, 0, 0) + channel;
    int64_t tap[3], number = 0;
    for (tap[0] = 0; tap[0] < g.kernel[0]; ++tap[0]) {
      for (tap[1] = 0; tap[1] < g.kernel[1]; ++tap[1]) {
        for (tap[2] = 0; tap[2] < g.kernel[2]; ++tap[2], ++number) {
          piece.b = w.data + panel * panel_size + (g.taps() - 1 - number) * w.reduce * k.nr;
          if (in_place) {
            piece.a = region.data + group * w.reduce;
            Image<T> shifted = out;
            shifted.data += channel;
            add_lines(g, region, shifted, b, tap, piece, t);
            continue;
          }
          target_offsets(g, out, b, tap, offsets.as<int64_t>());
          for (int64_t r = 0; r < rows; r += k.mr) {
            t.rows = static_cast<int>(std::min<int64_t>(k.mr, rows - r));
            piece.a = region.data + r * g.o + group * w.reduce;
            gemm_tile(k, t);
            kernel.scatter_rows(tile, t.rows, k.nr, t.cols, images, offsets.as<int64_t>() + r);
          }
        }
      }
    }
  }
}

}  // namespace

bool scatter_is_cheaper(const Geometry& g, bool depthwise) {
  const double images_per_task =
      std::max(1.0, static_cast<double>(kBlockRows) / static_cast<double>(g.out[0] * g.out[1] * g.out[2]));
  if (depthwise || static_cast<double>(g.n) < kMinTasks * images_per_task) return false;
  // Some 6 multiplications' worth of loads and stores for every sum.
  const double o = static_cast<double>(g.o_per_group());
  const double overhead = (o + 6) / o;
  const double scattered = static_cast<double>(g.out[0] * g.out[1] * g.out[2] * g.taps()) * overhead;
  double gathered = 1;
  for (int axis = 0; axis < 3; ++axis) gathered *= static_cast<double>(gather_pairs(g, axis, axis < 2));
  return scattered < gathered;
}

template <class T>
void scatter(Context* context, const Geometry& g, const Source<T>& grad, const PackedWeights<T>& w,
             const Image<T>& out) {
  const auto& k = gemm_kernels_of<T>(*kernels().gemm);
  const int64_t positions = g.out[0] * g.out[1] * g.out[2];
  const int64_t panels = w.groups * ((w.columns + k.nr - 1) / k.nr);
  const int64_t images = std::clamp<int64_t>(kBlockRows / std::max<int64_t>(positions, 1), 1, g.n);
  const int64_t blocks = (g.n + images - 1) / images;
  const int64_t panel_groups = std::min(panels, std::max<int64_t>(1, 16 / blocks));
  const int64_t tasks = blocks * panel_groups;
  const double cost = g.multiplications() / static_cast<double>(tasks * k.width) + 500;
  parallel_for(context, tasks, cost, [&](int64_t task) {
    const int64_t share = task % panel_groups, n0 = task / panel_groups * images;
    const Block b{n0, std::min(images, g.n - n0), 0, g.out[0], 0, g.out[1]};
    run_task(context, g, grad, w, out, b, panels * share / panel_groups, panels * (share + 1) / panel_groups);
  });
}

#define FASTDL_INSTANTIATE(T)                                                                    \
  template void scatter<T>(Context*, const Geometry&, const Source<T>&, const PackedWeights<T>&, \
                           const Image<T>&);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(double)
#undef FASTDL_INSTANTIATE

}  // namespace fastdl::cpu::conv
