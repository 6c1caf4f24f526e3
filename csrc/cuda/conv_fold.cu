// Sliding blocks of an image as columns, and their sums back into an image: memory-bound, one thread per
// element written. What reaches an element of the image is added in the order of the taps.
#include "cuda/conv.h"

#include "cuda/device.cuh"
#include "cuda/launch.h"
#include "cuda/tensor.h"
#include "fastdl/cuda.h"

namespace fastdl::cuda {
namespace {

using check::ConvWindows;

constexpr int kThreads = 256;

// columns: C-contiguous (N, C, kernel[0], kernel[1], count[0], count[1]); image: (N, C, H, W), any strides.
template <class S>
__global__ void __launch_bounds__(kThreads)
    conv_unfold(ConvWindows w, int64_t size, int64_t channels, ConvImage<const S> image, S* columns) {
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < size;
       i += static_cast<int64_t>(gridDim.x) * kThreads) {
    int64_t rest = i;
    const auto next = [&](int64_t extent) {
      const int64_t index = rest % extent;
      rest /= extent;
      return index;
    };
    const int64_t q = next(w.count[1]), p = next(w.count[0]), tw = next(w.kernel[1]), th = next(w.kernel[0]);
    const int64_t c = next(channels);
    const int64_t x = q * w.stride[1] + tw * w.dilation[1] - w.padding[1],
                  y = p * w.stride[0] + th * w.dilation[0] - w.padding[0];
    const bool inside = x >= 0 && x < w.size[1] && y >= 0 && y < w.size[0];
    columns[i] =
        inside ? image.data[rest * image.n_step + c * image.c_step + y * image.step[1] + x * image.step[2]]
               : narrow<S>(0);
  }
}

template <class S>
__global__ void __launch_bounds__(kThreads)
    conv_fold(ConvWindows w, int64_t size, int64_t channels, const S* columns, ConvImage<S> image) {
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < size;
       i += static_cast<int64_t>(gridDim.x) * kThreads) {
    const int64_t x = i % w.size[1], y = i / w.size[1] % w.size[0], plane = i / w.size[1] / w.size[0];
    compute_t<S> sum = 0;
    for (int64_t th = 0; th < w.kernel[0]; ++th) {
      const int64_t v = y + w.padding[0] - th * w.dilation[0], p = v / w.stride[0];
      if (v < 0 || v % w.stride[0] != 0 || p >= w.count[0]) continue;
      for (int64_t tw = 0; tw < w.kernel[1]; ++tw) {
        const int64_t u = x + w.padding[1] - tw * w.dilation[1], q = u / w.stride[1];
        if (u < 0 || u % w.stride[1] != 0 || q >= w.count[1]) continue;
        const int64_t row = (plane * w.kernel[0] + th) * w.kernel[1] + tw;
        sum += widen(columns[(row * w.count[0] + p) * w.count[1] + q]);
      }
    }
    image.data[plane / channels * image.n_step + plane % channels * image.c_step + y * image.step[1] +
               x * image.step[2]] = narrow<S>(sum);
  }
}

}  // namespace
}  // namespace fastdl::cuda

using namespace fastdl;
using namespace fastdl::cuda;

extern "C" {

fastdl_status fastdl_cuda_unfold(fastdl_context* context, const fastdl_tensor* image, const int64_t kernel[2],
                                 const fastdl_tensor* columns, const fastdl_conv_options* options) {
  return guarded([&] {
    const check::Fold f = check::unfold(image, kernel, columns, options);
    const int64_t size = f.columns.size();
    if (size == 0) return;
    ContiguousOut to(context, f.columns);
    dispatch_storage(f.image.dtype, [&](auto zero) {
      using S = decltype(zero);
      launch(context, FASTDL_KERNEL(conv_unfold<S>), {blocks_for(size, kThreads), kThreads}, f.windows, size,
             f.image.shape[1], ConvImage<const S>(f.image), to->as<S>());
    });
    to.write_back();
  });
}

fastdl_status fastdl_cuda_fold(fastdl_context* context, const fastdl_tensor* columns, const int64_t kernel[2],
                               const fastdl_tensor* image, const fastdl_conv_options* options) {
  return guarded([&] {
    const check::Fold f = check::fold(columns, kernel, image, options);
    const int64_t size = f.image.size();
    if (size == 0) return;
    const Contiguous from(context, f.columns);
    dispatch_storage(f.image.dtype, [&](auto zero) {
      using S = decltype(zero);
      launch(context, FASTDL_KERNEL(conv_fold<S>), {blocks_for(size, kThreads), kThreads}, f.windows, size,
             f.image.shape[1], from->as<const S>(), ConvImage<S>(f.image));
    });
  });
}
}
