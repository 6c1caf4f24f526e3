// conv_gather_sm90<S> and conv_weight_sm90<S>: check, make tensor maps, launch.
#pragma once

#include <optional>
#include <vector>

#include "cuda/conv_config.h"
#include "cuda/conv_sm90.h"
#include "cuda/conv_sm90_boxes.h"
#include "cuda/conv_sm90_operands.cuh"
#include "cuda/launch_sm90.cuh"
#include "cuda/split_operand.cuh"

namespace fastdl::cuda {
namespace sm90 {

// Of a gather: its operands for the copy engine (the weights' first lattice), and what is to be done with
// them.
struct GatherSource {
  const void *image, *weights;
  int64_t weights_plane;
  bool plain;  // weights as ConvGather::plain has them
};
struct GatherPiece {
  ConvLattice lattice;
  Im2colShape pixels;
  ConvSm90Plan plan;
};

template <class S, int Columns, int Planes, bool Narrow>
void run_gather(Context* context, Sm90Gather<S, Narrow> operands, GemmEnd<S> end, const GatherSource& from,
                const Im2colShape& pixels, const Sm90Plan& plan) {
  using T = Sm90Tile<S, Columns, Planes, Narrow>;
  using E = typename T::E;
  ConvGather<S>& p = operands.gather;
  const ConvLattice& l = p.lattice[0];
  constexpr auto kSwizzle = T::kBox == 32 ? CU_TENSOR_MAP_SWIZZLE_64B : CU_TENSOR_MAP_SWIZZLE_128B;
  operands.image = im2col_map(DTypeOf<E>::value, from.image, pixels, kSwizzle);
  operands.plain = from.plain;
  MapShape weights;
  if (from.plain) {
    const PlainWeights<S>& plain = p.plain;
    weights.dims[0] = p.columns;
    weights.dims[1] = int64_t{plain.kernel[0]} * plain.kernel[1] * plain.kernel[2];
    weights.dims[2] = p.channels;
    weights.strides[1] = plain.tap_step, weights.strides[2] = plain.channel_step;
    weights.box[0] = operands.kPlainColumns, weights.box[2] = operands.kPlainChannels;
    operands.weights = tensor_map(DTypeOf<S>::value, plain.data, weights, CU_TENSOR_MAP_SWIZZLE_128B);
  } else {
    weights.dims[0] = p.padded, weights.dims[1] = l.taps(), weights.dims[2] = p.columns;
    weights.dims[3] = Planes;
    weights.strides[1] = p.padded, weights.strides[2] = p.weights_row,
    weights.strides[3] = from.weights_plane;
    weights.box[0] = T::kBox, weights.box[2] = T::kColumns / 2;
    operands.weights = tensor_map(
        DTypeOf<E>::value, static_cast<const E*>(from.weights) + l.first_tap * p.padded, weights, kSwizzle);
  }
  Sm90Problem problem =
      cut<T>(p.most_rows, p.columns, l.taps() * operands.channel_blocks * T::kBox, GemmBatch{}, plan);
  const auto out = row_pitch(l, p.images, p.out_n_step, p.out_step),
             residual = row_pitch(l, p.images, p.residual_n_step, p.residual_step);
  operands.dense = out && (!end.residual || residual);
  operands.out0 = row_begin(l, p.out_step), operands.residual0 = row_begin(l, p.residual_step);
  if (operands.dense) end.row = *out, end.residual_row = residual.value_or(0);
  std::optional<Workspace> partial;
  if (plan.parts > 1) {
    partial.emplace(context, static_cast<size_t>(plan.parts * p.most_rows * p.columns) * sizeof(float));
    problem.partial = p.partial = partial->as<float>();
  } else if (operands.dense) {
    problem.store_by_map = map_results(end, static_cast<S*>(end.c) + operands.out0, problem, &problem.c);
  }
  launch_sm90<S, Columns, Planes>(context, problem, operands, end);
  if (plan.parts > 1) combine_gather_parts(context, plan.parts, p, end);
}

template <class S>
int channels_of_box(const ConvSm90Plan& plan) {
  return sizeof(S) == 4 || plan.narrow ? 32 : 64;
}

// How the lattice is computed here, if it is.
template <class S, int Planes>
std::optional<GatherPiece> gather_piece(const ConvGather<S>& p, const PixelSource& source,
                                        const ConvLattice& l, bool always) {
  const int64_t rows = p.images * l.positions(), taps = l.taps();
  if (rows <= 0 || taps <= 0 || !can_count(rows, p.columns, taps * rounded_up(p.channels, 64))) {
    return std::nullopt;
  }
  const ConvSm90Plan plan = conv_sm90_plan(rows, p.columns, p.channels, taps, multiprocessors(),
                                           sizeof(S) == 4 ? Planes : 0, always || p.merged);
  if (!plan.fits || (!p.weights && plan.narrow)) return std::nullopt;
  const auto pixels = boxes_of(source, l, static_cast<int>(kSm90Rows), channels_of_box<S>(plan));
  return pixels ? std::optional<GatherPiece>({l, *pixels, plan}) : std::nullopt;
}

template <class S, int Planes>
void run_pieces(Context* context, const ConvGather<S>& p, const GemmEnd<S>& end,
                const std::vector<GatherPiece>& pieces, const GatherSource& from, const uint32_t* odd_pixels,
                const uint32_t* odd_columns) {
  for (const GatherPiece& piece : pieces) {
    const auto with = [&](auto columns, auto narrow) {
      constexpr bool kNarrow = decltype(narrow)::value;
      const int box = channels_of_box<S>(piece.plan);
      Sm90Gather<S, kNarrow> operands{};
      operands.axes = piece.pixels.axes;
      operands.channel_blocks = (p.channels + box - 1) / box;
      operands.taps = static_cast<int>(piece.lattice.taps());
      operands.gather = p;
      operands.gather.lattice[0] = piece.lattice, operands.gather.lattices = 1;
      operands.gather.most_rows = p.images * piece.lattice.positions();
      operands.odd_pixels = odd_pixels, operands.odd_columns = odd_columns;
      run_gather<S, decltype(columns)::value, Planes, kNarrow>(context, operands, end, from, piece.pixels,
                                                               piece.plan);
    };
    if constexpr (sizeof(S) == 4) {
      if (piece.plan.columns == 128) with(std::integral_constant<int, 128>{}, std::false_type{});
      else with(std::integral_constant<int, 64>{}, std::false_type{});
    } else {
      if (piece.plan.narrow) with(std::integral_constant<int, 64>{}, std::true_type{});
      else if (piece.plan.columns == 256) with(std::integral_constant<int, 256>{}, std::false_type{});
      else if (piece.plan.columns == 128) with(std::integral_constant<int, 128>{}, std::false_type{});
      else with(std::integral_constant<int, 64>{}, std::false_type{});
    }
  }
}

template <class S, int Planes>
void gather_lattices(Context* context, ConvGather<S>& p, const GemmEnd<S>& end, bool always) {
  if (p.in.c_step != 1 || !aligned(p.in.data)) return;
  constexpr bool kSplit = sizeof(S) == 4;
  const PixelSource source = kSplit ? in_planes(p, p.images, Planes) : in_place(p, p.images);
  const auto pitch = image_pitch(p, p.images);
  if (kSplit && (!pitch || p.padded % 8 != 0)) return;  // planes are made of rows at one distance
  std::vector<GatherPiece> pieces;
  ConvGather<S> rest = p;
  rest.lattices = 0;
  for (int32_t i = 0; i < p.lattices; ++i) {
    const auto piece = gather_piece<S, Planes>(p, source, p.lattice[i], always);
    if (piece) pieces.push_back(*piece);
    else rest.lattice[rest.lattices++] = p.lattice[i];
  }
  if (pieces.empty()) return;
  if constexpr (kSplit) {
    const SplitOperand<Planes> image(context, p.in.data, pixels_of(p, p.images), p.channels, *pitch, 1,
                                     GemmBatch{}, nullptr);
    const SplitOperand<Planes> weights(context, p.weights, p.columns, p.weights_row, p.weights_row, 1,
                                       GemmBatch{}, nullptr);
    run_pieces<S, Planes>(context, p, end, pieces,
                          {image.layout.data, weights.layout.data, weights.layout.plane, false}, image.odd(),
                          weights.odd());
  } else {
    run_pieces<S, Planes>(context, p, end, pieces, {p.in.data, p.weights, 0, p.weights == nullptr}, nullptr,
                          nullptr);
  }
  p = rest;
}

// Of a weight gradient, for the copy engine: rows of the gradient, which are `grad_stride` apart.
struct WeightSource {
  const void *grad, *image;
  int64_t grad_stride, grad_plane;
};

template <class S, int Columns, int Planes, bool Narrow>
void run_weight(Context* context, Sm90WeightGradient<S, Narrow> operands, const ConvGeometry& g,
                const View& grad_weight, const WeightSource& from, const Im2colShape& pixels,
                const Sm90Plan& plan) {
  using T = Sm90Tile<S, Columns, Planes, Narrow>;
  using E = typename T::E;
  const ConvWeight<S>& p = operands.weight;
  operands.image = im2col_map(DTypeOf<E>::value, from.image, pixels,
                              Narrow ? CU_TENSOR_MAP_SWIZZLE_64B : CU_TENSOR_MAP_SWIZZLE_128B);
  MapShape grad;
  grad.dims[0] = p.rows, grad.dims[1] = p.positions, grad.dims[2] = Planes;
  grad.strides[1] = from.grad_stride, grad.strides[2] = from.grad_plane;
  grad.box[0] = 64, grad.box[1] = T::kDepth;
  operands.grad = tensor_map(DTypeOf<E>::value, from.grad, grad, CU_TENSOR_MAP_SWIZZLE_128B);
  const int64_t padded = operands.channel_blocks * int64_t{T::kBoxB}, columns = operands.taps * padded,
                size = p.rows * columns;
  Sm90Problem problem = cut<T>(p.rows, columns, p.positions, GemmBatch{}, plan);
  const Workspace partial(context, static_cast<size_t>(plan.parts * size) * sizeof(float));
  problem.partial = partial.as<float>();
  Gemm<S> out{};  // what matters: whole chunks of columns
  out.n = columns, out.c_column = 1;
  launch_sm90<S, Columns, Planes>(context, problem, operands, GemmEnd<S>(out));
  finish_weight<S>(context, g, p.merged, {problem.partial, plan.parts, size, size, columns, padded, 1},
                   grad_weight);
}

template <class S, int Planes>
bool weight_gradient(Context* context, const ConvGeometry& g, const ConvWeight<S>& p, const View& grad_weight,
                     bool always) {
  constexpr bool kSplit = sizeof(S) == 4;
  constexpr int kDepth = Sm90Tile<S, 128, Planes>::kDepth;
  const int64_t taps = p.lattice.taps();
  const auto pitch = image_pitch(p, g.n);
  bool can = p.rows > 0 && taps > 0 && p.positions > 0 && p.grad_c_step == 1 && p.in.c_step == 1 &&
             aligned(p.grad.data) && aligned(p.in.data) &&
             can_count(p.rows, taps * rounded_up(p.channels, 64), p.positions);
  can = can && (kSplit ? pitch && p.grad.stride > 1 : p.grad.stride > 0 && p.grad.stride % 8 == 0);
  if (!can) return false;
  const ConvSm90Plan plan = conv_sm90_weight_plan(p.rows, p.channels, taps, p.positions, multiprocessors(),
                                                  kSplit ? Planes : 0, always || p.merged.count() > 1);
  const int box = plan.narrow ? 32 : 64;
  const PixelSource source = kSplit ? in_planes(p, g.n, Planes) : in_place(p, g.n);
  const auto pixels = plan.fits ? boxes_of(source, p.lattice, kDepth, box) : std::nullopt;
  if (!pixels) return false;
  const auto with = [&](auto columns, auto narrow, const WeightSource& from, const uint32_t* odd_rows,
                        const uint32_t* odd_pixels) {
    constexpr bool kNarrow = decltype(narrow)::value;
    Sm90WeightGradient<S, kNarrow> operands{};
    operands.axes = pixels->axes, operands.channel_blocks = (p.channels + box - 1) / box;
    operands.taps = static_cast<int>(taps), operands.images = static_cast<int>(g.n);
    operands.weight = p;
    operands.odd_rows = odd_rows, operands.odd_pixels = odd_pixels;
    run_weight<S, decltype(columns)::value, Planes, kNarrow>(context, operands, g, grad_weight, from, *pixels,
                                                             plan);
  };
  if constexpr (kSplit) {
    const SplitOperand<Planes> image(context, p.in.data, pixels_of(p, g.n), p.channels, *pitch, 1,
                                     GemmBatch{}, nullptr);
    const SplitOperand<Planes> grad(context, p.grad.data, p.rows, p.positions, 1, p.grad.stride, GemmBatch{},
                                    nullptr);
    with(std::integral_constant<int, 128>{}, std::false_type{},
         {grad.layout.data, image.layout.data, grad.layout.stride, grad.layout.plane}, grad.odd(),
         image.odd());
  } else {
    const WeightSource from{p.grad.data, p.in.data, p.grad.stride, 0};
    if (plan.narrow) with(std::integral_constant<int, 256>{}, std::true_type{}, from, nullptr, nullptr);
    else if (plan.columns == 256)
      with(std::integral_constant<int, 256>{}, std::false_type{}, from, nullptr, nullptr);
    else with(std::integral_constant<int, 128>{}, std::false_type{}, from, nullptr, nullptr);
  }
  return true;
}

// A launch for each of several groups pays where each has tiles for half of the device at least.
inline bool fills(const ConvSm90Plan& plan, int64_t rows, int64_t columns) {
  return plan.fits && (rows + kSm90Rows - 1) / kSm90Rows * ((columns + plan.columns - 1) / plan.columns) *
                              plan.parts * 2 >=
                          multiprocessors();
}

// The end of the columns from `count` on.
template <class S>
void move_columns(GemmEnd<S>& end, int64_t count) {
  end.c = static_cast<S*>(end.c) + count * end.column;
  if (end.bias) end.bias += count * end.bias_stride;
  if (end.residual) end.residual += count * end.residual_column;
}

}  // namespace sm90

template <class S>
bool conv_weight_sm90(Context* context, const ConvGeometry& g, const ConvWeight<S>& p,
                      const View& grad_weight) {
  const sm90::Wanted kernel = sm90::wanted("FASTDL_CUDA_CONV");
  if (kernel == sm90::Wanted::portable || !sm90::is_hopper()) return false;
  const bool always = kernel == sm90::Wanted::always;
  bool done = false;
  with_planes<S>(context, [&](auto planes) {
    constexpr int kPlanes = decltype(planes)::value;
    if constexpr (sizeof(S) == 2 || kPlanes > 1) {
      if (g.groups > 1 && !always) {
        const ConvSm90Plan plan =
            conv_sm90_weight_plan(p.rows, p.channels, p.lattice.taps(), p.positions, multiprocessors(),
                                  sizeof(S) == 4 ? kPlanes : 0, false);
        if (!sm90::fills(plan, p.rows, p.lattice.taps() * rounded_up(p.channels, plan.narrow ? 32 : 64)))
          return;
      }
      ConvGeometry one = g;
      one.groups = 1, one.c = g.c_per_group(), one.o = g.o_per_group();
      ConvWeight<S> q = p;
      q.groups = 1;
      View out = grad_weight;
      for (int64_t i = 0; i < g.groups; ++i) {
        done = sm90::weight_gradient<S, kPlanes>(context, one, q, out, always);
        if (!done) return;
        q.grad.data += p.grad_group_step, q.in.data += p.in.group_step;
        out.data = out.as<S>() + one.o * out.strides[0];
      }
    }
  });
  return done;
}

template <class S>
void conv_gather_sm90(Context* context, ConvGather<S>& p, const GemmEnd<S>& end) {
  const sm90::Wanted kernel = sm90::wanted("FASTDL_CUDA_CONV");
  if (kernel == sm90::Wanted::portable || !sm90::is_hopper()) return;
  const bool always = kernel == sm90::Wanted::always;
  with_planes<S>(context, [&](auto planes) {
    constexpr int kPlanes = decltype(planes)::value;
    if constexpr (sizeof(S) == 2 || kPlanes > 1) {
      if (p.groups > 1 && !always) {
        const int64_t rows = p.images * p.lattice[0].positions();
        const ConvSm90Plan plan = conv_sm90_plan(rows, p.columns, p.channels, p.lattice[0].taps(),
                                                 multiprocessors(), sizeof(S) == 4 ? kPlanes : 0, false);
        if (!sm90::fills(plan, rows, p.columns)) return;
      }
      ConvGather<S> rest = p;
      GemmEnd<S> to = end;
      for (int64_t i = 0; i < p.groups; ++i) {
        rest = p;
        rest.groups = 1;
        rest.in.data += i * p.in.group_step;
        if (p.weights) rest.weights += i * p.columns * p.weights_row;
        sm90::gather_lattices<S, kPlanes>(context, rest, to, always);
        sm90::move_columns(to, p.columns);
      }
      p.lattices = rest.lattices;  // which do not depend on the group
      std::copy_n(rest.lattice, rest.lattices, p.lattice);
    }
  });
}

}  // namespace fastdl::cuda
