// Weights in panels of pairs, as bfloat16 tiles read them.
#include <algorithm>
#include <atomic>

#include "cpu/conv_bf16.h"
#include "cpu/parallel.h"
#include "cpu/round.h"

namespace fastdl::cpu::conv {
namespace {

// Elements of the sum packed at a time, and as many again for the way there: 16 KiB of scratch.
constexpr int64_t kChunk = 256;

const Bf16Kernels& table() { return *kernels().gemm_bf16; }

// Element k of the sum, of the columns of a panel; k is even.
bfloat16* place(const Bf16Panels& w, bfloat16* panel, int64_t slot, int64_t channel) {
  const int64_t run = w.lines ? slot / w.kernel[2] : slot;
  const int64_t k = (w.lines ? slot % w.kernel[2] * w.reduce : 0) + channel;
  return panel + run * w.size + k * table().nr;
}

// Channels [c0, c1) of the sum, from weight (O, C / groups, taps): a lane's taps and channels follow each
// other. Packed as they lie, pairs are of neighbouring taps; what is wanted are pairs of neighbouring
// channels.
void pack_forward(Context* context, const Geometry& g, const Bf16Panels& w, const bfloat16* from, int cols,
                  int64_t c0, int64_t c1, bfloat16* panel) {
  const auto& k = table();
  const int64_t taps = g.taps(), row = w.reduce * taps;
  Workspace scratch(context,
                    static_cast<size_t>(round_up((c1 - c0) * taps, k.k_step) * k.nr) * sizeof(bfloat16));
  const bfloat16* const packed = scratch.as<bfloat16>();
  k.pack_b(from + c0 * taps, 1, row, (c1 - c0) * taps, cols, scratch.as<bfloat16>());
  for (int64_t c = c0; c < c1; c += 2) {
    for (int64_t t = 0; t < taps; ++t) {
      const int64_t first = (c - c0) * taps + t;
      kernels().conv->pair_rows(packed, first, packed, first + taps, k.nr, place(w, panel, t, c));
    }
  }
}

// The same where the sum runs over output channels: a lane's taps follow each other, backwards.
void pack_data(Context* context, const Geometry& g, const Bf16Panels& w, const bfloat16* from, int cols,
               int64_t o0, int64_t o1, bfloat16* panel) {
  const auto& k = table();
  const int64_t taps = g.taps(), row = w.columns * taps;
  Workspace scratch(context, static_cast<size_t>(2 * round_up(taps, k.k_step) * k.nr) * sizeof(bfloat16));
  bfloat16 *const one = scratch.as<bfloat16>(), *const two = one + round_up(taps, k.k_step) * k.nr;
  for (int64_t o = o0; o < o1; o += 2) {
    k.pack_b(from + o * row, 1, taps, taps, cols, one);
    k.pack_b(from + (o + 1) * row, 1, taps, taps, cols, two);
    for (int64_t t = 0; t < taps; ++t)
      kernels().conv->pair_rows(one, t, two, t, k.nr, place(w, panel, taps - 1 - t, o));
  }
}

// One output channel's weights (C, taps) -> (taps, C), or for a data gradient (taps backwards, O, C).
void turn_weights(const Geometry& g, const bfloat16* from, int64_t o, bool data_gradient, bfloat16* to) {
  const int64_t channels = g.c_per_group(), taps = g.taps();
  const int64_t step = data_gradient ? -g.o * channels : channels;
  bfloat16* const first = data_gradient ? to + ((taps - 1) * g.o + o) * channels : to + o * taps * channels;
  from += o * channels * taps;
  for (int64_t c = 0; c < channels; ++c) {
    bfloat16* at = first + c;
    for (int64_t t = 0; t < taps; ++t, at += step) *at = *from++;
  }
}

// Any number of channels, by a copy of the weights in another order.
void pack_turned(Context* context, const Geometry& g, const bfloat16* weight, bool data_gradient,
                 bfloat16* to, const Bf16Panels& w) {
  const auto& k = table();
  const bool turn = g.taps() > 1;
  Workspace space(context,
                  turn ? static_cast<size_t>(g.o * g.c_per_group() * g.taps()) * sizeof(bfloat16) : 0);
  const bfloat16* turned = turn ? space.as<bfloat16>() : weight;
  if (turn) {
    parallel_for(context, g.o, static_cast<double>(g.c_per_group() * g.taps()),
                 [&](int64_t o) { turn_weights(g, weight, o, data_gradient, space.as<bfloat16>()); });
  }
  parallel_for(
      context, w.groups * w.per_group, static_cast<double>(w.runs() * w.size) * 0.05, [&](int64_t i) {
        const int64_t group = i / w.per_group, column = i % w.per_group * k.nr;
        const int cols = static_cast<int>(std::min<int64_t>(k.nr, w.columns - column));
        for (int64_t run = 0; run < w.runs(); ++run) {
          bfloat16* const panel = to + (i * w.runs() + run) * w.size;
          const int64_t slot = run * w.run / w.reduce, c = g.c_per_group();
          if (data_gradient) {
            k.pack_b(turned + (slot * g.o + group * w.reduce) * c + column, c, 1, w.run, cols, panel);
          } else {
            k.pack_b(turned + ((group * w.columns + column) * g.taps() + slot) * c, 1, g.taps() * c, w.run,
                     cols, panel);
          }
        }
      });
}

}  // namespace

Bf16Panels::Bf16Panels(const Geometry& g, bool data_gradient, bool whole_lines)
    : groups(g.groups),
      reduce(data_gradient ? g.o_per_group() : g.c_per_group()),
      columns(data_gradient ? g.c_per_group() : g.o_per_group()),
      per_group(ceil_div(columns, table().nr)),
      kernel{g.kernel[0], g.kernel[1], g.kernel[2]},
      lines(whole_lines),
      run(whole_lines ? g.kernel[2] * reduce : reduce),
      size(round_up(run, table().k_step) * table().nr) {}

bool all_finite(Context* context, const bfloat16* x, int64_t n) {
  std::atomic<bool> finite{true};
  parallel_ranges(context, n, 1 << 17, 0.1, [&](int64_t begin, int64_t end) {
    if (!kernels().conv->finite_bf16(x + begin, end - begin)) finite.store(false, std::memory_order_relaxed);
  });
  return finite.load();
}

void pack_bf16_weights(Context* context, const Geometry& g, const bfloat16* weight, bool data_gradient,
                       bfloat16* to, Bf16Panels& w) {
  const auto& k = table();
  w.data = to;
  if (w.run == 0) return;
  if (g.taps() == 1 || w.reduce % 2) return pack_turned(context, g, weight, data_gradient, to, w);
  const int64_t chunk = std::max<int64_t>(kChunk / g.taps() / 2 * 2, 2), chunks = ceil_div(w.reduce, chunk);
  const double cost = static_cast<double>(chunk * g.taps() * k.nr) * 0.1;
  parallel_for(context, w.groups * w.per_group * chunks, cost, [&](int64_t task) {
    const int64_t i = task / chunks, begin = task % chunks * chunk, end = std::min(begin + chunk, w.reduce);
    const int64_t group = i / w.per_group, column = i % w.per_group * k.nr;
    const int cols = static_cast<int>(std::min<int64_t>(k.nr, w.columns - column));
    bfloat16* const panel = to + i * w.runs() * w.size;
    if (data_gradient) {
      pack_data(context, g, w, weight + (group * w.reduce * w.columns + column) * g.taps(), cols, begin, end,
                panel);
    } else {
      pack_forward(context, g, w, weight + (group * w.columns + column) * w.reduce * g.taps(), cols, begin,
                   end, panel);
    }
    if (end < w.reduce) return;
    for (int64_t run = 0; run < w.runs(); ++run)
      std::fill(panel + run * w.size + w.run * k.nr, panel + (run + 1) * w.size, bfloat16{0});
  });
}

}  // namespace fastdl::cpu::conv
