// conv_gather<S> and conv_weight<S>: choose and launch. Each element type is instantiated in a file of its
// own (conv_<type>.cu), so that they compile side by side.
#pragma once

#include <algorithm>

#include "cuda/conv_config.h"
#include "cuda/conv_gather.cuh"
#include "cuda/conv_sm90.h"
#include "cuda/conv_weight.cuh"
#include "cuda/split.cuh"
#include "cuda/tensor.h"

namespace fastdl::cuda {

constexpr int64_t kMostItems = 65535;  // what the second and third dims of a grid count

using TallBlock = BlockShape<128, 64, 64, 32>;

inline int64_t tiles(int64_t extent, int side) { return (extent + side - 1) / side; }

template <class S, int Planes, class Block>
void launch_gather_mma(Context* context, const ConvGather<S>& p, const GemmEnd<S>& end, int64_t parts) {
  const dim3 grid(static_cast<unsigned>(tiles(p.most_rows, Block::kRows) * tiles(p.columns, Block::kColumns)),
                  static_cast<unsigned>(p.items() * parts));
  launch(context, FASTDL_KERNEL(conv_gather_mma<S, Planes, Block>),
         {grid, Block::kThreads, sizeof(ConvGatherShared<S, Block>)}, p, end);
}

template <class S>
void combine_gather_parts(Context* context, int64_t parts, const ConvGather<S>& p, const GemmEnd<S>& end) {
  launch(context, FASTDL_KERNEL(conv_gather_combine<S>),
         {blocks_for(p.items() * p.most_rows * p.columns, 256), 256}, parts, p, end);
}

template <class S>
void launch_gather(Context* context, ConvGather<S> p, const GemmEnd<S>& end) {
  using T = compute_t<S>;
  if constexpr (sizeof(S) < 8) conv_gather_sm90(context, p, end);
  if (p.lattices == 0) return;
  int64_t most_taps = 0;
  p.most_rows = 0;
  for (int i = 0; i < p.lattices; ++i) {
    p.most_rows = std::max(p.most_rows, p.images * p.lattice[i].positions());
    most_taps = std::max(most_taps, p.lattice[i].taps());
  }
  const int64_t items = p.items();
  const GatherPlan plan = gather_plan(p.most_rows, p.columns, most_taps * p.padded, items, multiprocessors());
  p.k_each = plan.parts > 1 ? plan.k_each : std::max<int64_t>(most_taps * p.padded, 1);
  std::optional<Workspace> partial;
  p.partial = nullptr;
  if (plan.parts > 1) {
    partial.emplace(context, static_cast<size_t>(plan.parts * items * p.most_rows * p.columns) * sizeof(T));
    p.partial = partial->template as<T>();
  }
  if constexpr (sizeof(S) == 8) {
    const dim3 grid(static_cast<unsigned>(tiles(p.most_rows, kFmaTile) * tiles(p.columns, kFmaTile)),
                    static_cast<unsigned>(items * plan.parts));
    launch(context, FASTDL_KERNEL(conv_gather_fma<S>), {grid, kFmaThreads, sizeof(ConvGatherFmaShared<S>)}, p,
           end);
  } else {
    with_planes<S>(context, [&](auto planes) {
      constexpr int kPlanes = decltype(planes)::value;
      if (plan.large) launch_gather_mma<S, kPlanes, LargeBlock>(context, p, end, plan.parts);
      else if (plan.tall) launch_gather_mma<S, kPlanes, TallBlock>(context, p, end, plan.parts);
      else launch_gather_mma<S, kPlanes, SmallBlock>(context, p, end, plan.parts);
    });
  }
  if (plan.parts > 1) combine_gather_parts(context, plan.parts, p, end);
}

// Whether the weights lie as gathers read them: no copy is needed.
template <class S>
bool in_gather_order(const ConvGather<S>& p, const ConvPack<S>& w, int64_t taps) {
  if (p.lattices != 1 || p.padded != p.channels || reinterpret_cast<uintptr_t>(w.from) % 16 != 0)
    return false;
  const auto steps = [](int64_t extent, int64_t step, int64_t wanted) {
    return extent == 1 || step == wanted;
  };
  int64_t step = p.padded;
  bool same = steps(p.channels, w.channel_step, 1);
  for (int i = 2; i >= 0; --i) {
    const ConvAxis& a = p.lattice[0].axis[i];
    same = same && steps(a.taps, w.tap_step[i], step) && (a.taps <= 1 || a.slot_step == 1) && a.slot <= 0;
    step *= a.taps;
  }
  return same && step == taps * p.padded && steps(p.columns, w.column_step, step) &&
         steps(p.groups, w.group_step, p.columns * step);
}

// The weights where they lie, if the copy engine can read them there: columns side by side, taps at one
// distance.
template <class S>
PlainWeights<S> plain_weights(const ConvPack<S>& w, const View& weight) {
  PlainWeights<S> plain{w.from, w.channel_step, 0, {1, 1, 1}};
  bool can = w.column_step == 1 && w.channel_step > 0 && reinterpret_cast<uintptr_t>(w.from) % 16 == 0;
  for (int i = 2; i < weight.ndim; ++i) {
    plain.kernel[i + 3 - weight.ndim] = static_cast<int32_t>(weight.shape[i]);
  }
  int64_t next = 0;
  for (int i = 2; i >= 0; --i) {
    if (plain.kernel[i] == 1) continue;
    if (next == 0) plain.tap_step = next = w.tap_step[i];
    can = can && w.tap_step[i] == next && next > 0;
    next *= plain.kernel[i];
  }
  can = can && w.channel_step % 8 == 0 && plain.tap_step % 8 == 0;
  if (!can) plain.data = nullptr;
  return plain;
}

// Whether pixels lie so that four channels can be moved at once.
template <class S>
bool packs(const ConvImage<S>& x) {
  return (x.n_step | x.step[0] | x.step[1] | x.step[2]) % 4 == 0;
}

template <class S>
void conv_gather(Context* context, const ConvGeometry& g, const GroupedImage& in, const View& weight,
                 const ConvEnd<S>& end, bool data_gradient, const MergedTaps* merged) {
  std::vector<ConvLattice> lattices;
  if (data_gradient) lattices = data_lattices(g);
  else lattices.push_back(forward_lattice(g));
  ConvGather<S> p{};
  p.in = in.image<S>();
  p.out_n_step = end.out.n_step, p.residual_n_step = end.residual.n_step;
  for (int i = 0; i < 3; ++i) {
    p.out_step[i] = end.out.step[i], p.residual_step[i] = end.residual.step[i];
    p.in_size[i] = static_cast<int32_t>(data_gradient ? g.out[i] : g.in[i]);
  }
  p.channels = static_cast<int32_t>(data_gradient ? g.o_per_group() : g.c_per_group());
  p.padded = static_cast<int32_t>(in.padded());
  p.images = g.n;
  p.columns = data_gradient ? g.c_per_group() : g.o_per_group();
  p.merged = merged != nullptr;
  p.holes = data_gradient;
  const ConvImage<const S> w(weight);  // its axes are O, C and the taps
  ConvPack<S> pack{w.data,
                   g.o_per_group() * w.n_step,
                   data_gradient ? w.c_step : w.n_step,
                   data_gradient ? w.n_step : w.c_step,
                   {w.step[0], w.step[1], w.step[2]},
                   merged ? *merged : MergedTaps{p.channels, p.padded},
                   nullptr};
  const int64_t taps = lattices.back().first_tap + lattices.back().taps();
  p.weights_row = taps * p.padded;

  Gemm<S> out{};  // what the end of a product needs
  out.n = p.columns;
  out.c = end.out.data, out.c_column = end.out.c_step;
  out.bias = end.bias, out.bias_stride = end.bias_stride;
  out.residual = end.residual.data, out.residual_column = end.residual.c_step;
  out.alpha = 1, out.activation = end.activation;

  // Groups in shares that the grid can count, with as many parts as a plan may ask for.
  const int64_t most = kMostItems / 32 / kMostLattices;
  for (int64_t first = 0; first < g.groups; first += most) {
    p.groups = std::min(most, g.groups - first);
    std::optional<Workspace> space;
    p.lattices = static_cast<int32_t>(std::min<size_t>(lattices.size(), kMostLattices));
    std::copy_n(lattices.begin(), p.lattices, p.lattice);
    const bool packed = merged || lattices.size() != 1 || !in_gather_order(p, pack, taps);
    GemmEnd<S> finish(out);
    finish.packs = finish.packs && packs(end.out) && (!end.residual.data || packs(end.residual));
    for (size_t done = 0; done < lattices.size(); done += kMostLattices) {
      p.lattices = static_cast<int32_t>(std::min<size_t>(lattices.size() - done, kMostLattices));
      std::copy_n(lattices.begin() + static_cast<int64_t>(done), p.lattices, p.lattice);
      if constexpr (sizeof(S) == 2) {
        p.plain = plain_weights(pack, weight);
        p.weights = nullptr;
        if (packed && p.groups == 1 && !merged && p.plain.data) conv_gather_sm90(context, p, finish);
      }
      p.weights = pack.from;
      int64_t chunks = 0;
      for (int i = 0; i < p.lattices; ++i) chunks += p.lattice[i].taps() * p.padded;
      if (packed && chunks > 0) {
        if (!space) {
          space.emplace(context, static_cast<size_t>(p.groups * p.columns * p.weights_row) * sizeof(S));
        }
        p.weights = pack.to = space->template as<S>();
        launch(context, FASTDL_KERNEL(conv_pack_weights<S>),
               {blocks_for(p.groups * p.columns * chunks, 256), 256}, p, pack);
      }
      if (p.lattices > 0) launch_gather(context, p, finish);
    }
    p.in.data += p.groups * p.in.group_step;
    pack.from += p.groups * pack.group_step;
    const int64_t columns = p.groups * p.columns;
    out.c = static_cast<S*>(out.c) + columns * out.c_column;
    if (out.bias) out.bias += columns * out.bias_stride;
    if (out.residual) out.residual += columns * out.residual_column;
  }
}

template <class S, int Planes, class Block>
void launch_weight_mma(Context* context, const ConvWeight<S>& p, int64_t parts) {
  const dim3 grid(static_cast<unsigned>(tiles(p.columns, Block::kColumns)),
                  static_cast<unsigned>(tiles(p.rows, Block::kRows)),
                  static_cast<unsigned>(p.groups * parts));
  launch(context, FASTDL_KERNEL(conv_weight_mma<S, Planes, Block>),
         {grid, Block::kThreads, sizeof(MmaShared<S, Block>)}, p);
}

template <class S>
void launch_weight(Context* context, const ConvWeight<S>& p, const GemmPlan& plan) {
  if constexpr (sizeof(S) == 8) {
    const dim3 grid(static_cast<unsigned>(tiles(p.columns, kFmaTile)),
                    static_cast<unsigned>(tiles(p.rows, kFmaTile)),
                    static_cast<unsigned>(p.groups * plan.parts));
    launch(context, FASTDL_KERNEL(conv_weight_fma<S>), {grid, kFmaThreads, sizeof(FmaShared<S>)}, p);
  } else {
    with_planes<S>(context, [&](auto planes) {
      constexpr int kPlanes = decltype(planes)::value;
      if (plan.large) launch_weight_mma<S, kPlanes, LargeBlock>(context, p, plan.parts);
      else launch_weight_mma<S, kPlanes, SmallBlock>(context, p, plan.parts);
    });
  }
}

template <class S>
void conv_weight(Context* context, const ConvGeometry& g, const GroupedImage& in, const GroupedImage& grad,
                 const View& grad_weight, const MergedTaps* merged) {
  using T = compute_t<S>;
  ConvWeight<S> p{};
  const ConvImage<const S> dy = grad.image<S>();
  p.in = in.image<S>();
  p.lattice = forward_lattice(g);
  for (int i = 0; i < 3; ++i) p.in_size[i] = static_cast<int32_t>(g.in[i]);
  p.channels = static_cast<int32_t>(g.c_per_group()), p.padded = static_cast<int32_t>(in.padded());
  p.merged = merged ? *merged : MergedTaps{p.channels, p.padded};
  p.image = Divisor(g.out[0] * g.out[1] * g.out[2]);
  p.plane = Divisor(g.out[1] * g.out[2]), p.line = Divisor(g.out[2]);
  p.rows = g.o_per_group(), p.columns = g.taps() * p.padded;
  p.positions = g.n * p.image.value;
  p.grad = {dy.data, grad.pitch(), p.rows, p.positions};
  p.grad_group_step = dy.group_step, p.grad_c_step = dy.c_step;
  if constexpr (sizeof(S) < 8) {
    p.groups = g.groups;
    if (conv_weight_sm90(context, g, p, grad_weight)) return;
  }
  // As many groups at a time as the grid can count and scratch memory should hold.
  const GemmPlan plan = weight_plan(p.rows, p.columns, p.positions, g.groups, multiprocessors());
  p.k_each = plan.k_each;
  const int64_t most = std::max<int64_t>(kMostItems / plan.parts, 1);
  ConvGeometry share = g;
  View out = grad_weight;
  for (int64_t first = 0; first < g.groups; first += most) {
    p.groups = share.groups = std::min(most, g.groups - first);
    share.c = share.groups * g.c_per_group(), share.o = share.groups * g.o_per_group();
    const int64_t group = p.rows * p.columns, size = p.groups * group;
    const Workspace partial(context, static_cast<size_t>(plan.parts * size) * sizeof(T));
    p.partial = partial.as<T>();
    launch_weight(context, p, plan);
    finish_weight<S>(context, share, p.merged, {p.partial, plan.parts, size, group, p.columns, p.padded, 1},
                     out);
    p.grad.data += p.groups * p.grad_group_step;
    p.in.data += p.groups * p.in.group_step;
    out.data = out.as<S>() + share.o * out.strides[0];
  }
}

}  // namespace fastdl::cuda
