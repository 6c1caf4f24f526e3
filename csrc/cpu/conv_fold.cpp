// Sliding blocks of an image as columns, and their sums back into an image.
#include <algorithm>
#include <cstring>

#include "common/conv.h"
#include "cpu/parallel.h"
#include "cpu/tensor.h"
#include "cpu/widen.h"

namespace fastdl::cpu::conv {
namespace {

using check::ConvWindows;

// The positions j for which stride * j + dilation * tap - padding lies within the image.
void range(const ConvWindows& w, int axis, int64_t tap, int64_t* begin, int64_t* end) {
  const int64_t offset = tap * w.dilation[axis] - w.padding[axis], s = w.stride[axis];
  *begin = offset >= 0 ? 0 : (-offset + s - 1) / s;
  *end = offset >= w.size[axis] ? 0 : (w.size[axis] - 1 - offset) / s + 1;
  *end = std::clamp<int64_t>(*end, 0, w.count[axis]);
  *begin = std::min(*begin, *end);
}

// Both walk one channel of one image; the columns of a channel are one dense block.
template <class T>
void unfold_channel(const ConvWindows& w, const T* image, const int64_t* step, T* columns) {
  for (int64_t kh = 0; kh < w.kernel[0]; ++kh) {
    for (int64_t kw = 0; kw < w.kernel[1]; ++kw, columns += w.count[0] * w.count[1]) {
      int64_t h0, h1, w0, w1;
      range(w, 0, kh, &h0, &h1);
      range(w, 1, kw, &w0, &w1);
      std::fill(columns, columns + w.count[0] * w.count[1], T(0));
      for (int64_t h = h0; h < h1; ++h) {
        const T* from = image + (h * w.stride[0] + kh * w.dilation[0] - w.padding[0]) * step[0] +
                        (kw * w.dilation[1] - w.padding[1]) * step[1];
        T* to = columns + h * w.count[1];
        for (int64_t q = w0; q < w1; ++q) to[q] = from[q * w.stride[1] * step[1]];
      }
    }
  }
}

template <class T>
void fold_channel(const ConvWindows& w, const T* columns, T* image) {
  std::fill(image, image + w.size[0] * w.size[1], T(0));
  for (int64_t kh = 0; kh < w.kernel[0]; ++kh) {
    for (int64_t kw = 0; kw < w.kernel[1]; ++kw, columns += w.count[0] * w.count[1]) {
      int64_t h0, h1, w0, w1;
      range(w, 0, kh, &h0, &h1);
      range(w, 1, kw, &w0, &w1);
      for (int64_t h = h0; h < h1; ++h) {
        const T* from = columns + h * w.count[1];
        T* to = image + (h * w.stride[0] + kh * w.dilation[0] - w.padding[0]) * w.size[1] +
                kw * w.dilation[1] - w.padding[1];
        for (int64_t q = w0; q < w1; ++q) to[q * w.stride[1]] += from[q];
      }
    }
  }
}

void unfold(Context* context, const check::Fold& f) {
  const View &image = f.image, &columns = f.columns;
  const ConvWindows& w = f.windows;
  ContiguousOut to(context, columns);
  const int64_t channels = image.shape[1];
  const int64_t size = w.kernel[0] * w.kernel[1] * w.count[0] * w.count[1];
  dispatch_float(image.dtype, [&](auto zero) {
    using T = decltype(zero);
    parallel_for(context, image.shape[0] * channels, static_cast<double>(size), [&](int64_t task) {
      unfold_channel(
          w, image.as<const T>() + task / channels * image.strides[0] + task % channels * image.strides[1],
          image.strides + 2, to->as<T>() + task * size);
    });
  });
  to.write_back();
}

void fold(Context* context, const check::Fold& f) {
  const View &image = f.image, &columns = f.columns;
  const ConvWindows& w = f.windows;
  const Contiguous from(context, columns);
  ContiguousOut to(context, image);
  const int64_t size = w.kernel[0] * w.kernel[1] * w.count[0] * w.count[1];
  dispatch_float(image.dtype, [&](auto zero) {
    using T = decltype(zero);
    parallel_for(context, image.shape[0] * image.shape[1], static_cast<double>(size), [&](int64_t task) {
      fold_channel(w, from->as<const T>() + task * size, to->as<T>() + task * w.size[0] * w.size[1]);
    });
  });
  to.write_back();
}

}  // namespace
}  // namespace fastdl::cpu::conv

using namespace fastdl::cpu;

extern "C" {

fastdl_status fastdl_unfold(fastdl_context* context, const fastdl_tensor* image_, const int64_t kernel[2],
                            const fastdl_tensor* columns_, const fastdl_conv_options* options) {
  if (is_narrow(image_)) {
    return in_float32("unfold", fastdl_unfold, context, reads(image_, "the image"), kernel,
                      writes(columns_, "the columns"), options);
  }
  return guarded([&] { conv::unfold(context, check::unfold(image_, kernel, columns_, options)); });
}

fastdl_status fastdl_fold(fastdl_context* context, const fastdl_tensor* columns_, const int64_t kernel[2],
                          const fastdl_tensor* image_, const fastdl_conv_options* options) {
  if (is_narrow(columns_)) {
    return in_float32("fold", fastdl_fold, context, reads(columns_, "the columns"), kernel,
                      writes(image_, "the image"), options);
  }
  return guarded([&] { conv::fold(context, check::fold(columns_, kernel, image_, options)); });
}
}
