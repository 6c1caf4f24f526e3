// How a convolution is described inside the library. Everything is channels-last with three spatial axes
// (missing ones have extent 1), and every kind of convolution is one of two sums:
//   gather       out[j] = sum over taps of in[step * j + offset(tap)] * w[tap]        (conv_gather.cpp)
//   weight       dw[tap] = sum over j of in[step * j + offset(tap)] * g[j]            (conv_weight.cpp)
// The forward pass is one gather; a data gradient (and a transposed convolution) with stride s is a gather
// per residue of the position modulo s, each with the taps that reach it.
#pragma once

#include <cstdint>
#include <vector>

#include "common/conv.h"
#include "cpu/stream.h"
#include "cpu/tensor.h"

namespace fastdl::cpu::conv {

// A tensor of shape (N, C, *S) addressed as [n][d][h][w][c].
template <class T>
struct Image {
  T* data = nullptr;
  int64_t n = 0, size[3] = {}, c = 0;
  int64_t n_step = 0, step[3] = {}, c_step = 0;

  T* at(int64_t i, int64_t d, int64_t h, int64_t w) const {
    return data + i * n_step + d * step[0] + h * step[1] + w * step[2];
  }
  bool channels_together() const { return c_step == 1 || c == 1; }
  bool line_dense() const { return channels_together() && (step[2] == c || size[2] == 1); }
};

// What is read: x itself, or x * f'(saved) for a gradient that still has to pass an activation.
template <class T>
struct Source {
  Image<const T> x;
  Image<const T> saved;
  fastdl_activation activation{FASTDL_ACT_NONE, 0, 0};
  bool from_output = false;

  bool masked() const { return activation.kind != FASTDL_ACT_NONE; }
  // Kernels can read it where it lies.
  bool plain() const { return !masked() && x.channels_together(); }
};

// Axis i of a tensor with nd spatial axes is axis 3 - nd + i here.
template <class T>
Image<T> image(const View& v) {
  Image<T> x;
  const int nd = v.ndim - 2;
  x.data = v.as<T>();
  x.n = v.shape[0];
  x.c = v.shape[1];
  x.n_step = v.strides[0];
  x.c_step = v.strides[1];
  for (int i = 0; i < 3; ++i) {
    x.size[i] = i < 3 - nd ? 1 : v.shape[i + nd - 1];
    x.step[i] = i < 3 - nd ? 0 : v.strides[i + nd - 1];
  }
  return x;
}

template <class T>
Source<T> source(const View& x) {
  Source<T> s;
  s.x = image<const T>(x);
  return s;
}

using Geometry = check::ConvGeometry;

// The taps of one axis: input offset, ascending, and place among the packed weights.
struct AxisTaps {
  std::vector<int64_t> offset, slot;
  int64_t count() const { return static_cast<int64_t>(offset.size()); }
  bool consecutive() const;  // offsets and slots both rise by one
};

// out[start + out_step * j] = sum over taps of in[in_step * j + offset] for 0 <= j < count, on each axis.
struct Lattice {
  int64_t count[3], in_step[3], out_start[3], out_step[3];
  AxisTaps taps[3];

  int64_t rows_per_image() const { return count[0] * count[1] * count[2]; }
  int64_t num_taps() const { return taps[0].count() * taps[1].count() * taps[2].count(); }
  // Some position reads outside [0, extent) on this axis.
  bool reaches_out(int axis, int64_t extent) const;
};

Lattice forward_lattice(const Geometry& g);
Lattice plain_lattice(const Geometry& g);  // the output's own positions, without any taps
std::vector<Lattice> data_lattices(const Geometry& g);
// Some position of the forward pass, or of the data gradient, reads outside: only then does it matter whether
// the weights are finite.
bool reaches_out(const Geometry& g, bool data_gradient);

// The distance between successive pixels where they follow each other without gaps, over lines, planes and
// images; else 0.
template <class T>
int64_t dense_row(const Image<T>& x, const Lattice& l) {
  int64_t row = 0, rows = 1;
  for (int axis = 2; axis >= -1; --axis) {
    const int64_t size = axis < 0 ? x.n : x.size[axis], step = axis < 0 ? x.n_step : x.step[axis];
    if (axis >= 0 && (l.out_step[axis] != 1 || l.count[axis] != size)) return 0;
    if (size == 1) continue;
    if (row == 0) row = step;
    if (step == 0 || step != row * rows) return 0;
    rows *= size;
  }
  return row ? row : x.c;
}

// Whether tiles of `width` channels should be written past the cache, and can be: whole lines, aligned.
template <class T>
bool streams(const Image<T>& out, int64_t channels_per_group, int64_t width) {
  const auto aligned = [](int64_t elements) { return elements * static_cast<int64_t>(sizeof(T)) % 64 == 0; };
  return channels_per_group % width == 0 && reinterpret_cast<uintptr_t>(out.data) % 64 == 0 &&
         out.channels_together() && aligned(out.n_step) && aligned(out.step[0]) && aligned(out.step[1]) &&
         aligned(out.step[2]) &&
         exceeds_cache(out.n * out.size[0] * out.size[1] * out.size[2] * out.c *
                       static_cast<int64_t>(sizeof(T)));
}

// A task's share of the output positions: whole images, or part of one.
struct Block {
  int64_t n0, n, d0, d, h0, h;
};
class Blocks {
 public:
  // About `rows` positions a block, in shares as even as possible.
  Blocks(int64_t n, const int64_t count[3], int64_t rows);
  int64_t count() const { return n_blocks_ * d_blocks_ * h_blocks_; }
  Block operator[](int64_t i) const;
  Block largest() const { return {0, n_, 0, d_, 0, h_}; }

 private:
  int64_t n_total_, d_total_, h_total_, n_, d_, h_, n_blocks_, d_blocks_, h_blocks_;
};

// The input a block needs: in place, or copied with zeros around it. at() takes input coordinates.
template <class T>
struct Region {
  const T* data = nullptr;
  int64_t n_step = 0, step[3] = {}, origin[3] = {};
  const T* at(int64_t i, int64_t d, int64_t h, int64_t w) const {
    return data + i * n_step + (d - origin[0]) * step[0] + (h - origin[1]) * step[1] +
           (w - origin[2]) * step[2];
  }
};

// How many elements a copied region has for the largest block, with `channels` per pixel.
int64_t region_elements(const Lattice& l, const Blocks& blocks, int64_t channels);

// How a region's pixels are laid out.
struct Spread {
  // 0: as they are. Else every pixel becomes `reduce` vectors of `columns * groups` channels, vector i
  // holding for each output channel the i-th input channel of its group: small groups become depthwise.
  int64_t groups = 0, reduce = 0, columns = 0;
  int64_t channels(int64_t c) const { return groups ? groups * reduce * columns : c; }
};

template <class T>
Region<T> region_in_place(const Source<T>& in, const Block& b);
// S is T, or bfloat16 that is widened to float.
template <class S, class T>
Region<T> copy_region(Context* context, const Source<S>& in, const Lattice& l, const Block& b,
                      const Spread& spread, T* to);

// Weights as the gather wants them. Slots count taps in the kernel's order, or backwards for a data gradient.
// Matrix path: [group][panel][slot][reduce][panel width]; depthwise path: [slot][reduce][groups * columns].
template <class T>
struct PackedWeights {
  const T* data;
  int64_t groups, reduce, columns;  // channels summed over and produced, per group
  int64_t kernel[3];
  bool depthwise;
  bool finite;  // no NaN or Inf among them, or nobody asks: see reaches_out
};

// Groups so narrow that a vector of output channels spans several of them.
bool use_depthwise(int64_t groups, int64_t reduce, int64_t columns, int width);
template <class T>
int64_t packed_size(const Geometry& g, bool data_gradient);  // in elements
// weight: C-contiguous.
template <class T>
PackedWeights<T> pack_weights(Context* context, const Geometry& g, const T* weight, bool data_gradient,
                              T* to);
// No NaN or Inf among n numbers.
template <class T>
bool all_finite(const T* x, int64_t n);

template <class T>
struct Epilogue {
  const T* bias = nullptr;
  Image<const T> residual;  // data may be NULL
  fastdl_activation activation{FASTDL_ACT_NONE, 0, 0};

  bool none() const { return !bias && !residual.data && activation.kind == FASTDL_ACT_NONE; }
};

// Zeros at the positions of a data gradient that no tap reaches, whose lattices need no gather then.
template <class T>
void clear_unreached(Context* context, const std::vector<Lattice>& lattices, const Image<T>& out);

// `zeros_count`: padding takes part in the sum, so that Inf * 0 is NaN (forward); else taps that fall outside
// do not exist (gradients).
template <class T>
void gather(Context* context, const Source<T>& in, const Lattice& l, const PackedWeights<T>& w,
            const Image<T>& out, const Epilogue<T>& end, bool zeros_count);

// The data gradient in another order: every gradient position adds its products to the inputs it came from.
// Takes no part of the border in vain, as the gather does, but loads and stores its sums once per tap.
bool scatter_is_cheaper(const Geometry& g, bool depthwise);
template <class T>
void scatter(Context* context, const Geometry& g, const Source<T>& grad, const PackedWeights<T>& w,
             const Image<T>& out);

// grad_weight (O, C / groups, *K) and grad_bias (O,), each may be absent (data NULL).
template <class T>
void weight_gradient(Context* context, const Geometry& g, const Source<T>& in, const Source<T>& grad,
                     const View* grad_weight, const View* grad_bias);

// Adds the shares of the sums [share][size], in order, and writes them as S to (O, C / groups, *K). A share
// begins with [group][slot][c][o], or if depthwise [slot][c][o].
template <class T, class S>
void finish_weight(Context* context, const Geometry& g, bool depthwise, T* sums, int64_t size, int64_t shares,
                   const View& out);

// sum[j * step] = sum of every pixel of g in channel j
template <class T>
void sum_pixels(Context* context, const Source<T>& g, const View& sum);

}  // namespace fastdl::cpu::conv
