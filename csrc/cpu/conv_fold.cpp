// Sliding blocks of an image as columns, and their sums back into an image.
#include <algorithm>
#include <cstring>

#include "cpu/parallel.h"
#include "cpu/tensor.h"
#include "cpu/widen.h"
#include "fastdl/conv.h"

namespace fastdl::cpu::conv {
namespace {

struct Windows {
  int64_t kernel[2], stride[2], padding[2], dilation[2], size[2], count[2];

  // The positions j for which stride * j + dilation * tap - padding lies within the image.
  void range(int axis, int64_t tap, int64_t* begin, int64_t* end) const {
    const int64_t offset = tap * dilation[axis] - padding[axis], s = stride[axis];
    *begin = offset >= 0 ? 0 : (-offset + s - 1) / s;
    *end = offset >= size[axis] ? 0 : (size[axis] - 1 - offset) / s + 1;
    *end = std::clamp<int64_t>(*end, 0, count[axis]);
    *begin = std::min(*begin, *end);
  }
};

Windows check(const View& image, const View& columns, const int64_t* kernel,
              const fastdl_conv_options* options, const char* op) {
  const auto o = read_options(options, fastdl_conv_options FASTDL_CONV_OPTIONS_INIT, op);
  check_ndim(image, 4, op, "the image");
  check_ndim(columns, 3, op, "the columns");
  FASTDL_CHECK(kernel != nullptr, FASTDL_ERROR_VALUE, "%s: kernel is required, got NULL", op);
  Windows w;
  for (int i = 0; i < 2; ++i) {
    FASTDL_CHECK(kernel[i] >= 1 && o.stride[i] >= 1 && o.dilation[i] >= 1 && o.padding[i] >= 0 &&
                     o.padding_end[i] >= 0,
                 FASTDL_ERROR_VALUE,
                 "%s: expected kernel, stride and dilation of at least 1 and padding of at least 0", op);
    FASTDL_CHECK(kernel[i] <= INT32_MAX && o.stride[i] <= INT32_MAX && o.dilation[i] <= INT32_MAX &&
                     o.padding[i] <= INT32_MAX && o.padding_end[i] <= INT32_MAX,
                 FASTDL_ERROR_VALUE, "%s: kernel, stride, dilation and padding must be below 2^31", op);
    w.kernel[i] = kernel[i];
    w.stride[i] = o.stride[i];
    w.padding[i] = o.padding[i];
    w.dilation[i] = o.dilation[i];
    w.size[i] = image.shape[2 + i];
    const int64_t room = w.size[i] + o.padding[i] + o.padding_end[i] - w.dilation[i] * (w.kernel[i] - 1) - 1;
    FASTDL_CHECK(room >= 0, FASTDL_ERROR_SHAPE, "%s: the kernel is larger than the padded image %s", op,
                 shape_string(image).c_str());
    w.count[i] = room / w.stride[i] + 1;
  }
  FASTDL_CHECK(static_cast<double>(image.shape[1]) * static_cast<double>(w.kernel[0]) *
                       static_cast<double>(w.kernel[1]) * static_cast<double>(w.count[0]) *
                       static_cast<double>(w.count[1]) <
                   1e18,
               FASTDL_ERROR_SHAPE, "%s: the columns of an image of shape %s would be too big", op,
               shape_string(image).c_str());
  const int64_t rows = image.shape[1] * w.kernel[0] * w.kernel[1], length = w.count[0] * w.count[1];
  FASTDL_CHECK(columns.shape[0] == image.shape[0] && columns.shape[1] == rows && columns.shape[2] == length,
               FASTDL_ERROR_SHAPE, "%s: expected columns of shape (%lld, %lld, %lld), got %s", op,
               static_cast<long long>(image.shape[0]), static_cast<long long>(rows),
               static_cast<long long>(length), shape_string(columns).c_str());
  return w;
}

// Both walk one channel of one image; the columns of a channel are one dense block.
template <class T>
void unfold_channel(const Windows& w, const T* image, const int64_t* step, T* columns) {
  for (int64_t kh = 0; kh < w.kernel[0]; ++kh) {
    for (int64_t kw = 0; kw < w.kernel[1]; ++kw, columns += w.count[0] * w.count[1]) {
      int64_t h0, h1, w0, w1;
      w.range(0, kh, &h0, &h1);
      w.range(1, kw, &w0, &w1);
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
void fold_channel(const Windows& w, const T* columns, T* image) {
  std::fill(image, image + w.size[0] * w.size[1], T(0));
  for (int64_t kh = 0; kh < w.kernel[0]; ++kh) {
    for (int64_t kw = 0; kw < w.kernel[1]; ++kw, columns += w.count[0] * w.count[1]) {
      int64_t h0, h1, w0, w1;
      w.range(0, kh, &h0, &h1);
      w.range(1, kw, &w0, &w1);
      for (int64_t h = h0; h < h1; ++h) {
        const T* from = columns + h * w.count[1];
        T* to = image + (h * w.stride[0] + kh * w.dilation[0] - w.padding[0]) * w.size[1] +
                kw * w.dilation[1] - w.padding[1];
        for (int64_t q = w0; q < w1; ++q) to[q * w.stride[1]] += from[q];
      }
    }
  }
}

void unfold(Context* context, const View& image, const View& columns, const Windows& w) {
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

void fold(Context* context, const View& columns, const View& image, const Windows& w) {
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
  return guarded([&] {
    const View image = float_view(image_, "unfold", "the image");
    const View columns = out_view(columns_, image.dtype, "unfold", "the columns");
    conv::unfold(context, image, columns, conv::check(image, columns, kernel, options, "unfold"));
  });
}

fastdl_status fastdl_fold(fastdl_context* context, const fastdl_tensor* columns_, const int64_t kernel[2],
                          const fastdl_tensor* image_, const fastdl_conv_options* options) {
  if (is_narrow(columns_)) {
    return in_float32("fold", fastdl_fold, context, reads(columns_, "the columns"), kernel,
                      writes(image_, "the image"), options);
  }
  return guarded([&] {
    const View image = float_view(image_, "fold", "the image");
    const View columns = view_like(columns_, image.dtype, "fold", "the columns");
    check_out(image, "fold", "the image");
    conv::fold(context, columns, image, conv::check(image, columns, kernel, options, "fold"));
  });
}
}
