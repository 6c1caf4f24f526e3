// Convolution as two kinds of matrix product, whose operands are gathered from images as they are read:
//   gather   out[j] = sum over taps of in[step * j + first + tap_step * tap] * w[tap]
//            rows: positions j of all images; columns: output channels; k: (tap, channel)
//   weight   dw[tap] = sum over j of g[j] * in[step * j + first + tap_step * tap]
//            rows: output channels; columns: (tap, channel); k: positions j of all images
// The forward pass is one gather. A data gradient (and a transposed convolution) with stride s is a gather
// per residue of the position modulo s, a lattice, each with the taps that reach it.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "common/conv.h"
#include "cuda/context.h"
#include "cuda/gemm.h"

namespace fastdl::cuda {

using check::ConvGeometry;

// A tensor (N, C, D, H, W); fewer spatial axes are the last ones, the others have extent 1 and step 0.
template <class S>
struct ConvImage {
  S* data = nullptr;
  int64_t n_step = 0, c_step = 0, step[3] = {};
  int64_t group_step = 0;  // from the first channel of a group to that of the next

  ConvImage() = default;
  explicit ConvImage(const View& v, int64_t groups = 1) : data(v.as<S>()) {
    n_step = v.strides[0], c_step = v.strides[1];
    group_step = v.shape[1] / groups * c_step;
    for (int i = 2; i < v.ndim; ++i) step[i + 3 - v.ndim] = v.strides[i];
  }
};

constexpr int32_t kNowhere = INT32_MIN;  // a coordinate: outside, whatever it is moved on by

// One axis: position j (of `count`) and tap t (of `taps`) meet in[in_step * j + first + tap_step * t] with
// weight slot + slot_step * t; the result is out[out_start + out_step * j].
struct ConvAxis {
  int32_t count, in_step, first, taps, tap_step;
  int32_t slot, slot_step, out_start, out_step;
};
struct ConvLattice {
  ConvAxis axis[3];
  int64_t first_tap;  // among those of all lattices

  __host__ __device__ uint32_t positions() const {
    return static_cast<uint32_t>(axis[0].count) * static_cast<uint32_t>(axis[1].count) *
           static_cast<uint32_t>(axis[2].count);
  }
  __host__ __device__ int64_t taps() const {
    return static_cast<int64_t>(axis[0].taps) * axis[1].taps * axis[2].taps;
  }
};
ConvLattice forward_lattice(const ConvGeometry& g);
std::vector<ConvLattice> data_lattices(const ConvGeometry& g);

// Fails where positions within an image do not fit 32 bits.
void check_extents(const ConvGeometry& g, const char* op);

// The distance between successive pixels if all of them, over axes and images, are equally far apart.
std::optional<int64_t> pixel_pitch(const View& v);

// The image as cp.async can read it: the channels of a group side by side and aligned to 16 bytes. Others are
// copied, and so is what is multiplied by the derivative of an activation on the way. double: any strides do.
class GroupedImage {
 public:
  // saved: NULL, or what the derivative of f is computed from. dense: pixels at one distance.
  GroupedImage(Context* context, const View& v, int64_t groups, bool dense, const View* saved = nullptr,
               const fastdl_activation& f = {FASTDL_ACT_NONE, 0, 0});
  template <class S>
  ConvImage<const S> image() const {
    ConvImage<const S> x(view_, groups_);
    x.group_step = group_step_;
    return x;
  }
  int64_t pitch() const { return pixel_pitch(view_).value_or(0); }  // of a dense one
  int64_t padded() const { return padded_; }  // channels of a group, rounded up to 16 bytes

 private:
  View view_;
  int64_t groups_, padded_, group_step_;
  std::optional<Workspace> space_;
};

// Taps of some axes as channels (conv_merge.h): channel l is channel l % places of tap l / places, and
// there is none where that is not below `channels`.
struct MergedTaps {
  int32_t channels, places;
  int32_t kernel[3] = {1, 1, 1};  // of the axes that are merged
  __host__ __device__ int64_t count() const {
    return static_cast<int64_t>(kernel[0]) * kernel[1] * kernel[2];
  }
};

// The end of a gather: out = activation(sum + bias + residual).
template <class S>
struct ConvEnd {
  ConvImage<S> out;
  ConvImage<const S> residual;  // data may be NULL
  const S* bias = nullptr;
  int64_t bias_stride = 1;
  fastdl_activation activation{FASTDL_ACT_NONE, 0, 0};
};

// The forward pass, or (data_gradient) its adjoint: then channels in are g.o and channels out g.c. `in` holds
// the channels of a group in padded() places. weight: (O, C / groups, *K). merged: NULL, or the taps that are
// channels in g and `in`, though not in weights.
template <class S>
void conv_gather(Context* context, const ConvGeometry& g, const GroupedImage& in, const View& weight,
                 const ConvEnd<S>& end, bool data_gradient, const MergedTaps* merged = nullptr);
template <class S>
void conv_weight(Context* context, const ConvGeometry& g, const GroupedImage& in, const GroupedImage& grad,
                 const View& grad_weight, const MergedTaps* merged = nullptr);

// One channel in and out per group, and more than one group.
bool is_depthwise(const ConvGeometry& g);
template <class S>
void depthwise_gather(Context* context, const ConvGeometry& g, const GroupedImage& in, const View& weight,
                      const ConvEnd<S>& end, bool data_gradient);
template <class S>
void depthwise_weight(Context* context, const ConvGeometry& g, const GroupedImage& in,
                      const GroupedImage& grad, const View& grad_weight);

// The gradients, of checked arguments.
void conv_backward_data(Context* context, const check::ConvBackwardData& b, bool transposed);
void conv_backward_weight(Context* context, const check::ConvBackwardWeight& b, bool transposed);

// Adds parts of a weight gradient [part][size], in their order; element (o, c, tap) of it, in the terms of g,
// is at o * o_step + tap * tap_step + c * c_step within its group's.
template <class T>
struct WeightParts {
  const T* data;
  int64_t parts, size, group_step, o_step, tap_step, c_step;
};
template <class S>
void finish_weight(Context* context, const ConvGeometry& g, const MergedTaps& merged,
                   const WeightParts<compute_t<S>>& parts, const View& grad_weight);

}  // namespace fastdl::cuda
