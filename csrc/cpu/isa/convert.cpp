#include "cpu/isa/convert.h"

#include "narrow.h"

namespace fastdl::cpu::FASTDL_ISA {
namespace {

template <class S>
void widen(int64_t n, const S* x, int64_t x_stride, float* y, int64_t y_stride) {
  constexpr int w = Vec<float>::width;
  if (x_stride != 1 || y_stride != 1) {
    for (int64_t i = 0; i < n; ++i) y[i * y_stride] = to_compute(x[i * x_stride]);
    return;
  }
  int64_t i = 0;
  for (; i + w <= n; i += w) load_as(x + i).store(y + i);
  if (i < n) load_as(x + i, static_cast<int>(n - i)).store(y + i, static_cast<int>(n - i));
}

template <class S>
void narrow(int64_t n, const float* x, int64_t x_stride, S* y, int64_t y_stride) {
  constexpr int w = Vec<float>::width;
  if (x_stride != 1 || y_stride != 1) {
    for (int64_t i = 0; i < n; ++i) y[i * y_stride] = to_storage<S>(x[i * x_stride]);
    return;
  }
  int64_t i = 0;
  for (; i + 2 * w <= n; i += 2 * w) {
    store_pair_as(Vec<float>::load(x + i), Vec<float>::load(x + i + w), y + i);
  }
  for (; i + w <= n; i += w) store_as(Vec<float>::load(x + i), y + i);
  if (i < n) store_as(Vec<float>::load(x + i, static_cast<int>(n - i)), y + i, static_cast<int>(n - i));
}

}  // namespace

extern const ConvertKernels convert_kernels;
const ConvertKernels convert_kernels = {{widen<bfloat16>, narrow<bfloat16>},
                                        {widen<float16>, narrow<float16>}};

}  // namespace fastdl::cpu::FASTDL_ISA
