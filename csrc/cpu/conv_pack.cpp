// Weights in the order in which the gather reads them.
#include <algorithm>
#include <atomic>

#include "cpu/conv_plan.h"
#include "cpu/isa/conv_pooled.h"
#include "cpu/kernels.h"
#include "cpu/parallel.h"

namespace fastdl::cpu::conv {
namespace {

// Channels transposed at a time: 16 channels x 9 taps x 32 columns of float32 are 18 KiB of scratch.
constexpr int64_t kChannels = 16;

// One panel, from weight (O, C / groups, taps): columns are output channels, the sum runs over input
// channels. Returns whether all are finite, if `look`: while they are in the cache.
template <class T>
bool pack_forward_panel(Context* context, const Geometry& g, const T* w, int64_t group, int64_t column,
                        int lanes, bool look, T* to) {
  const auto& k = gemm_kernels_of<T>(*kernels().gemm);
  const int64_t reduce = g.c_per_group(), taps = g.taps();
  const T* from = w + (group * g.o_per_group() + column) * reduce * taps;
  if (taps == 1) {
    k.pack(from, 1, reduce, reduce, lanes, k.nr, to);
    return !look || all_finite(to, reduce * k.nr);
  }
  const int64_t together = std::min(kChannels, reduce);
  Workspace scratch(context, static_cast<size_t>(together * taps * k.nr) * sizeof(T));
  bool good = true;
  for (int64_t r = 0; r < reduce; r += together) {
    const int64_t n = std::min(together, reduce - r);
    k.pack(from + r * taps, 1, reduce * taps, n * taps, lanes, k.nr, scratch.as<T>());
    if (look) good = all_finite(scratch.as<T>(), n * taps * k.nr) && good;
    const T* s = scratch.as<T>();
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t t = 0; t < taps; ++t, s += k.nr) std::copy(s, s + k.nr, to + (t * reduce + r + i) * k.nr);
    }
  }
  return good;
}

// Columns are input channels, the sum runs over output channels, taps backwards.
template <class T>
bool pack_data_panel(Context* context, const Geometry& g, const T* w, int64_t group, int64_t column,
                     int lanes, bool look, T* to) {
  const auto& k = gemm_kernels_of<T>(*kernels().gemm);
  const int64_t reduce = g.o_per_group(), columns = g.c_per_group(), taps = g.taps();
  const T* from = w + (group * reduce * columns + column) * taps;
  if (taps == 1) {
    k.pack(from, columns, 1, reduce, lanes, k.nr, to);
    return !look || all_finite(to, reduce * k.nr);
  }
  Workspace scratch(context, static_cast<size_t>(taps * k.nr) * sizeof(T));
  bool good = true;
  for (int64_t r = 0; r < reduce; ++r) {
    k.pack(from + r * columns * taps, 1, taps, taps, lanes, k.nr, scratch.as<T>());
    if (look) good = all_finite(scratch.as<T>(), taps * k.nr) && good;
    const T* s = scratch.as<T>();
    for (int64_t t = taps - 1; t >= 0; --t, s += k.nr) std::copy(s, s + k.nr, to + (t * reduce + r) * k.nr);
  }
  return good;
}

// [slot][reduce][groups * columns]
template <class T>
void pack_depthwise(const Geometry& g, const T* w, bool data_gradient, T* to) {
  const int64_t taps = g.taps(), o_group = g.o_per_group(), c_group = g.c_per_group();
  const int64_t reduce = data_gradient ? o_group : c_group, columns = data_gradient ? c_group : o_group;
  for (int64_t o = 0; o < g.o; ++o) {
    const int64_t group = o / o_group;
    for (int64_t c = 0; c < c_group; ++c) {
      const int64_t r = data_gradient ? o % o_group : c, column = data_gradient ? c : o % o_group;
      for (int64_t t = 0; t < taps; ++t) {
        const int64_t slot = data_gradient ? taps - 1 - t : t;
        to[(slot * reduce + r) * g.groups * columns + group * columns + column] = *w++;
      }
    }
  }
}

}  // namespace

template <class T>
bool all_finite(const T* x, int64_t n) {
  return pooled_table<T>(*kernels().conv->pooled).finite(x, n);
}

bool use_depthwise(int64_t groups, int64_t reduce, int64_t columns, int width) {
  // Spreading the channels costs about as much as half empty vectors do, unless each sum takes but one.
  return groups > 1 && (reduce == 1 ? 2 : 4) * columns <= width && reduce <= 32;
}

template <class T>
int64_t packed_size(const Geometry& g, bool data_gradient) {
  const auto& k = gemm_kernels_of<T>(*kernels().gemm);
  const int64_t reduce = data_gradient ? g.o_per_group() : g.c_per_group();
  const int64_t columns = data_gradient ? g.c_per_group() : g.o_per_group();
  return g.groups * ((columns + k.nr - 1) / k.nr * k.nr) * reduce * g.taps();
}

template <class T>
PackedWeights<T> pack_weights(Context* context, const Geometry& g, const T* weight, bool data_gradient,
                              T* to) {
  const auto& k = gemm_kernels_of<T>(*kernels().gemm);
  PackedWeights<T> p;
  p.data = to;
  p.groups = g.groups;
  p.reduce = data_gradient ? g.o_per_group() : g.c_per_group();
  p.columns = data_gradient ? g.c_per_group() : g.o_per_group();
  for (int i = 0; i < 3; ++i) p.kernel[i] = g.kernel[i];
  p.depthwise = use_depthwise(p.groups, p.reduce, p.columns, k.width);
  const bool look = reaches_out(g, data_gradient);
  if (p.depthwise) {
    pack_depthwise(g, weight, data_gradient, to);
    p.finite = !look || all_finite(weight, g.o * g.c_per_group() * g.taps());
    return p;
  }
  std::atomic<bool> good{true};
  const int64_t panels = (p.columns + k.nr - 1) / k.nr, panel_size = p.reduce * g.taps() * k.nr;
  parallel_for(context, p.groups * panels, static_cast<double>(panel_size) * 0.5, [&](int64_t task) {
    const int64_t group = task / panels, column = task % panels * k.nr;
    const int lanes = static_cast<int>(std::min<int64_t>(k.nr, p.columns - column));
    const auto pack = data_gradient ? pack_data_panel<T> : pack_forward_panel<T>;
    if (!pack(context, g, weight, group, column, lanes, look, to + task * panel_size))
      good.store(false, std::memory_order_relaxed);
  });
  p.finite = good.load();
  return p;
}

#define FASTDL_INSTANTIATE(T)                             \
  template bool all_finite<T>(const T*, int64_t);         \
  template int64_t packed_size<T>(const Geometry&, bool); \
  template PackedWeights<T> pack_weights<T>(Context*, const Geometry&, const T*, bool, T*);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(double)
#undef FASTDL_INSTANTIATE

}  // namespace fastdl::cpu::conv
