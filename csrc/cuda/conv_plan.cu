// What convolutions compute on the host: which positions and taps meet, and whether operands can stay where
// they are.
#include <algorithm>
#include <numeric>

#include "cuda/activation.h"
#include "cuda/conv.h"
#include "cuda/tensor.h"

namespace fastdl::cuda {
namespace {

int32_t narrowed(int64_t x) { return static_cast<int32_t>(x); }
int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t floor_div(int64_t a, int64_t b) { return a >= 0 ? a / b : -ceil_div(-a, b); }

// The positions i = r + stride * j of an axis of the data gradient: dx[i] sums w[t] g[p] over p * stride -
// padding + t * dilation = i, so p = j + (r + padding - t * dilation) / stride for the taps t that leave no
// remainder, which are stride / gcd(stride, dilation) apart. Counted from the last one, p rises.
ConvAxis data_axis(const ConvGeometry& g, int i, int64_t r) {
  const int64_t s = g.stride[i], d = g.dilation[i], apart = s / std::gcd(s, d);
  int64_t last = g.kernel[i] - 1, taps = 0;
  const auto distance = [&](int64_t t) { return r + g.padding[i] - t * d; };
  for (int64_t tried = 0; tried < apart && last >= 0 && distance(last) % s != 0; ++tried) --last;
  if (last >= 0 && distance(last) % s == 0) taps = last / apart + 1;
  ConvAxis a{};
  a.count = narrowed(ceil_div(g.in[i] - r, s));
  a.in_step = 1;
  a.first = taps ? narrowed(floor_div(distance(last), s)) : 0;
  a.taps = narrowed(taps);
  a.tap_step = narrowed(apart * d / s);
  a.slot = narrowed(last), a.slot_step = -narrowed(apart);
  a.out_start = narrowed(r), a.out_step = narrowed(s);
  return a;
}

bool aligned_strides(const View& v, int64_t chunk) {
  if (reinterpret_cast<uintptr_t>(v.data) % 16 != 0 || (v.strides[1] != 1 && v.shape[1] != 1)) return false;
  for (int i = 0; i < v.ndim; ++i) {
    if (i != 1 && v.shape[i] != 1 && v.strides[i] % chunk != 0) return false;
  }
  return true;
}

// (N, C, *S) as (N, groups, C / groups, *S)
View by_group(const View& v, int64_t groups) {
  View y = v;
  y.ndim = v.ndim + 1;
  y.shape[1] = groups, y.strides[1] = v.shape[1] / groups * v.strides[1];
  y.shape[2] = v.shape[1] / groups, y.strides[2] = v.strides[1];
  for (int i = 2; i < v.ndim; ++i) y.shape[i + 1] = v.shape[i], y.strides[i + 1] = v.strides[i];
  return y;
}

}  // namespace

ConvLattice forward_lattice(const ConvGeometry& g) {
  ConvLattice l{};
  for (int i = 0; i < 3; ++i) {
    ConvAxis& a = l.axis[i];
    a.count = narrowed(g.out[i]);
    a.in_step = narrowed(g.stride[i]);
    a.first = -narrowed(g.padding[i]);
    a.taps = narrowed(g.kernel[i]);
    a.tap_step = narrowed(g.dilation[i]);
    a.slot_step = a.out_step = 1;
  }
  return l;
}

std::vector<ConvLattice> data_lattices(const ConvGeometry& g) {
  std::vector<ConvLattice> lattices;
  int64_t r[3], taps = 0;
  const auto residues = [&](int i) { return std::min(g.stride[i], g.in[i]); };
  for (r[0] = 0; r[0] < residues(0); ++r[0]) {
    for (r[1] = 0; r[1] < residues(1); ++r[1]) {
      for (r[2] = 0; r[2] < residues(2); ++r[2]) {
        ConvLattice l{{data_axis(g, 0, r[0]), data_axis(g, 1, r[1]), data_axis(g, 2, r[2])}, taps};
        taps += l.taps();
        lattices.push_back(l);
      }
    }
  }
  return lattices;
}

void check_extents(const ConvGeometry& g, const char* op) {
  double in = 1, out = 1;
  for (int i = 0; i < 3; ++i) {
    const auto d = [](int64_t x) { return static_cast<double>(x); };
    in *= d(g.in[i]), out *= d(g.out[i]);
    const double reach =
        d(g.in[i]) + d(g.out[i]) * d(g.stride[i]) + d(g.kernel[i]) * d(g.dilation[i]) + 2 * d(g.padding[i]);
    FASTDL_CHECK(reach < 0x1p31, FASTDL_ERROR_SHAPE,
                 "%s: positions beyond 2^31 on an axis, padding included, are not supported", op);
  }
  FASTDL_CHECK(in < 0x1p30 && out < 0x1p30, FASTDL_ERROR_SHAPE,
               "%s: images of 2^30 pixels and more are not supported", op);
}

std::optional<int64_t> pixel_pitch(const View& v) {
  int64_t pitch = 0, next = 0;
  for (int i = v.ndim - 1; i >= 0; --i) {
    if (i == 1 || v.shape[i] == 1) continue;
    if (pitch == 0) pitch = next = v.strides[i];
    if (v.strides[i] != next || pitch == 0) return std::nullopt;
    next *= v.shape[i];
  }
  return pitch ? pitch : v.shape[1];
}

GroupedImage::GroupedImage(Context* context, const View& v, int64_t groups, bool dense, const View* saved,
                           const fastdl_activation& f)
    : view_(v), groups_(groups) {
  for (int i = 0; i < v.ndim; ++i) {  // how kernels read depends on what is there alone
    if (i != 1 && v.shape[i] == 1) view_.strides[i] = 0;
  }
  const bool activated = f.kind != FASTDL_ACT_NONE, wide = v.dtype == DType::kFloat64;
  const int64_t chunk = wide ? 1 : 16 / item_size(v.dtype), channels = v.shape[1] / groups;
  padded_ = std::max<int64_t>(ceil_div(channels, chunk), 1) * chunk;
  group_step_ = channels * v.strides[1];
  const bool fits = wide || (aligned_strides(v, chunk) && (groups == 1 || channels == padded_));
  if ((fits && !activated && (!dense || pixel_pitch(v))) || v.size() == 0) return;
  View padded = v;
  padded.shape[1] = groups * padded_;
  check::channels_last(padded);
  space_.emplace(context, static_cast<size_t>(padded.nbytes()));
  padded.data = space_->as<void>();
  const View from = by_group(v, groups);
  View to = by_group(padded, groups);
  to.shape[2] = from.shape[2];
  if (activated) activation_backward(context, f, from, by_group(*saved, groups), to);
  else copy(context, from, to);
  view_ = padded;
  view_.shape[1] = v.shape[1];
  group_step_ = padded_;
}

bool is_depthwise(const ConvGeometry& g) { return g.groups == g.c && g.groups == g.o && g.groups > 1; }

}  // namespace fastdl::cuda
