// conv_gather_sm90<S> and conv_weight_sm90<S>: check, make tensor maps, launch.
#pragma once

#include <limits>
#include <optional>

#include "cuda/conv_config.h"
#include "cuda/conv_sm90.h"
#include "cuda/conv_sm90_operands.cuh"
#include "cuda/launch_sm90.cuh"

namespace fastdl::cuda {
namespace sm90 {

constexpr int64_t kMostSm90 = std::numeric_limits<int32_t>::max() - 512;  // coordinates have 32 bits

// The images that a lattice meets as boxes of so many positions, if a map can describe them. P: ConvGather or
// ConvWeight.
template <class P>
std::optional<Im2colShape> pixels_of(const P& p, int64_t images, const ConvLattice& l, int positions,
                                     bool always) {
  const auto trivial = [&](int i) {
    const ConvAxis& a = l.axis[i];
    return p.in_size[i] == 1 && a.count == 1 && a.taps == 1 && a.first == 0;
  };
  Im2colShape shape{};
  shape.axes = !trivial(0) ? 3 : !trivial(1) ? 2 : 1;
  shape.dims[0] = p.channels, shape.strides[0] = 1;
  int64_t most[3] = {};
  for (int i = 0; i < shape.axes; ++i) {
    const ConvAxis& a = l.axis[2 - i];
    const int64_t size = p.in_size[2 - i], last = a.first + int64_t{a.count - 1} * a.in_step;
    shape.dims[i + 1] = size, shape.strides[i + 1] = p.in.step[2 - i];
    shape.step[i] = a.in_step;
    most[i] = int64_t{a.taps - 1} * a.tap_step;
    shape.lower[i] = a.first;
    // Any corner behind the last position and before the next step will do: that which does not depend on the
    // size, if it does.
    shape.upper[i] = -a.first - most[i];
    const int64_t behind = size + shape.upper[i] - last;
    if (behind < 1 || behind > a.in_step) shape.upper[i] = last + 1 - size;
  }
  shape.dims[shape.axes + 1] = images, shape.strides[shape.axes + 1] = p.in.n_step;
  shape.channels = 64, shape.pixels = positions;
  bool can = im2col_fits(shape, most) && p.in.c_step == 1;
  for (int i = 1; i <= shape.axes + 1; ++i) {
    const int64_t stride = shape.strides[i];
    can = can && shape.dims[i] < kMostSm90 &&
          (shape.dims[i] == 1 || (stride > 0 && stride % 8 == 0 && stride < int64_t{1} << 39));
  }
  // cuda.h has the corners' axes the other way round than all the rest. Until a GPU has said which
  // (tests/golden), only maps that mean the same either way are chosen.
  for (int i = 1; i < shape.axes && !always; ++i) {
    can = can && shape.lower[i] == shape.lower[0] && shape.upper[i] == shape.upper[0];
  }
  if (!can || reinterpret_cast<uintptr_t>(p.in.data) % 16 != 0) return std::nullopt;
  return shape;
}

// Coordinates and pieces of work are counted in 32 bits (256: the most parts).
inline bool can_count(int64_t rows, int64_t columns, int64_t k) {
  return rows < kMostSm90 && columns < kMostSm90 && k < kMostSm90 &&
         (rows + 127) / 128 * ((columns + 63) / 64) < kMostSm90 / 256;
}

// The distance between the rows of one tensor of results, if there is one.
inline std::optional<int64_t> row_pitch(const ConvLattice& l, int64_t images, int64_t n_step,
                                        const int64_t (&step)[3]) {
  int64_t pitch = 0, next = 0;
  for (int i = 3; i >= 0; --i) {
    const int64_t extent = i > 0 ? l.axis[i - 1].count : images;
    if (extent == 1) continue;
    const int64_t distance = i > 0 ? step[i - 1] * l.axis[i - 1].out_step : n_step;
    if (pitch == 0) pitch = next = distance;
    if (distance != next || pitch <= 0) return std::nullopt;
    next *= extent;
  }
  return pitch;
}

inline int64_t row_begin(const ConvLattice& l, const int64_t (&step)[3]) {
  int64_t at = 0;
  for (int i = 0; i < 3; ++i) at += l.axis[i].out_start * step[i];
  return at;
}

template <class S, int Columns>
void run_gather(Context* context, Sm90Gather<S> operands, GemmEnd<S> end, const Im2colShape& pixels,
                const Sm90Plan& plan) {
  using T = Sm90Tile<S, Columns, 1>;
  ConvGather<S>& p = operands.gather;
  const ConvLattice& l = p.lattice[0];
  operands.image = im2col_map(DTypeOf<S>::value, p.in.data, pixels, CU_TENSOR_MAP_SWIZZLE_128B);
  MapShape weights;
  weights.dims[0] = p.padded, weights.dims[1] = l.taps(), weights.dims[2] = p.columns;
  weights.strides[1] = p.padded, weights.strides[2] = p.weights_row;
  weights.box[0] = T::kDepth, weights.box[2] = T::kColumns / 2;
  operands.weights =
      tensor_map(DTypeOf<S>::value, p.weights + l.first_tap * p.padded, weights, CU_TENSOR_MAP_SWIZZLE_128B);
  Sm90Problem problem =
      cut<T>(p.most_rows, p.columns, l.taps() * operands.channel_blocks * T::kDepth, GemmBatch{}, plan);
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
  launch_sm90<S, Columns, 1>(context, problem, operands, end);
  if (plan.parts > 1) {
    combine_gather_parts(context, plan.parts, p, end);
  }
}

// Whether the lattice is computed here; if so, does it.
template <class S>
bool gather_lattice(Context* context, const ConvGather<S>& p, const ConvLattice& l, const GemmEnd<S>& end,
                    bool always) {
  const int64_t rows = p.images * l.positions(), taps = l.taps(), blocks = (p.channels + 63) / 64;
  if (rows <= 0 || taps <= 0 || !can_count(rows, p.columns, taps * blocks * 64)) return false;
  const Sm90Plan plan = conv_sm90_plan(rows, p.columns, p.channels, taps, multiprocessors(), always);
  if (!plan.fits) return false;
  const std::optional<Im2colShape> pixels = pixels_of(p, p.images, l, static_cast<int>(kSm90Rows), always);
  if (!pixels) return false;
  Sm90Gather<S> operands{};
  operands.axes = pixels->axes;
  operands.channel_blocks = static_cast<int>(blocks);
  operands.gather = p;
  operands.gather.lattice[0] = l, operands.gather.lattices = 1;
  operands.gather.most_rows = rows;
  if (plan.columns == 256) run_gather<S, 256>(context, operands, end, *pixels, plan);
  else if (plan.columns == 128) run_gather<S, 128>(context, operands, end, *pixels, plan);
  else run_gather<S, 64>(context, operands, end, *pixels, plan);
  return true;
}

template <class S, int Columns>
void run_weight(Context* context, Sm90WeightGradient<S> operands, const ConvGeometry& g,
                const ConvWeight<S>& p, const View& grad_weight, const Im2colShape& pixels,
                const Sm90Plan& plan) {
  using T = Sm90Tile<S, Columns, 1>;
  operands.image = im2col_map(DTypeOf<S>::value, p.in.data, pixels, CU_TENSOR_MAP_SWIZZLE_128B);
  MapShape grad;
  grad.dims[0] = p.rows, grad.dims[1] = p.positions, grad.strides[1] = p.grad.stride;
  grad.box[0] = 64, grad.box[1] = T::kDepth;
  operands.grad = tensor_map(DTypeOf<S>::value, p.grad.data, grad, CU_TENSOR_MAP_SWIZZLE_128B);
  const int64_t padded = operands.channel_blocks * int64_t{64}, columns = operands.taps * padded,
                size = p.rows * columns;
  Sm90Problem problem = cut<T>(p.rows, columns, p.positions, GemmBatch{}, plan);
  const Workspace partial(context, static_cast<size_t>(plan.parts * size) * sizeof(float));
  problem.partial = partial.as<float>();
  Gemm<S> out{};  // what matters: whole chunks of columns
  out.n = columns, out.c_column = 1;
  launch_sm90<S, Columns, 1>(context, problem, operands, GemmEnd<S>(out));
  finish_weight<S>(context, g, {problem.partial, plan.parts, size, size, columns, padded, 1}, grad_weight);
}

}  // namespace sm90

template <class S>
bool conv_weight_sm90(Context* context, const ConvGeometry& g, const ConvWeight<S>& p,
                      const View& grad_weight) {
  using namespace sm90;
  const Wanted wanted = sm90::wanted("FASTDL_CUDA_CONV");
  const bool always = wanted == Wanted::always;
  if (wanted == Wanted::portable || g.groups != 1 || !is_hopper()) return false;
  const int64_t taps = p.lattice.taps(), blocks = (p.channels + 63) / 64;
  if (p.rows <= 0 || taps <= 0 || p.positions <= 0 || p.grad_c_step != 1 || p.grad.stride % 8 != 0 ||
      p.grad.stride <= 0 || reinterpret_cast<uintptr_t>(p.grad.data) % 16 != 0 ||
      !can_count(p.rows, taps * blocks * 64, p.positions)) {
    return false;
  }
  const Sm90Plan plan =
      conv_sm90_weight_plan(p.rows, p.channels, taps, p.positions, multiprocessors(), always);
  const auto pixels = plan.fits ? pixels_of(p, g.n, p.lattice, 64, always) : std::nullopt;
  if (!pixels) return false;
  Sm90WeightGradient<S> operands{};
  operands.axes = pixels->axes, operands.channel_blocks = static_cast<int>(blocks);
  operands.taps = static_cast<int>(taps), operands.lattice = p.lattice;
  operands.positions = p.image, operands.plane = p.plane, operands.line = p.line;
  if (plan.columns == 256) run_weight<S, 256>(context, operands, g, p, grad_weight, *pixels, plan);
  else run_weight<S, 128>(context, operands, g, p, grad_weight, *pixels, plan);
  return true;
}

template <class S>
void conv_gather_sm90(Context* context, ConvGather<S>& p, const GemmEnd<S>& end) {
  const sm90::Wanted wanted = sm90::wanted("FASTDL_CUDA_CONV");
  if (wanted == sm90::Wanted::portable || p.groups != 1 || !sm90::is_hopper()) return;
  int32_t left = 0;
  for (int32_t i = 0; i < p.lattices; ++i) {
    const ConvLattice l = p.lattice[i];
    if (!sm90::gather_lattice(context, p, l, end, wanted == sm90::Wanted::always)) p.lattice[left++] = l;
  }
  p.lattices = left;
}

}  // namespace fastdl::cuda
