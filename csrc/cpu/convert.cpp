#include "cpu/convert.h"

#include <algorithm>
#include <cstdlib>

#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "fastdl/convert.h"

namespace fastdl::cpu {
namespace {

constexpr int64_t kGrain = 1 << 15;  // elements of a task: 192 KiB in and out, within L2

// Elements at stride steps, converted by the kernel that the two dtypes ask for.
void convert_row(int64_t n, const View& src, int64_t src_at, int64_t src_stride, const View& dst,
                 int64_t dst_at, int64_t dst_stride) {
  const ConvertKernels& k = *kernels().convert;
  dispatch_storage(is_narrow(src.dtype) ? src.dtype : dst.dtype, [&](auto zero) {
    using S = decltype(zero);
    if constexpr (sizeof(S) == 2) {
      const ConvertTable<S>& table = convert_table(k, zero);
      if (is_narrow(src.dtype)) {
        table.widen(n, src.as<const S>() + src_at, src_stride, dst.as<float>() + dst_at, dst_stride);
      } else {
        table.narrow(n, src.as<const float>() + src_at, src_stride, dst.as<S>() + dst_at, dst_stride);
      }
    }
  });
}

// The dim along which both are densest: dst decides, since writes cost more.
int inner_dim(const View& src, const View& dst) {
  int inner = src.ndim - 1;
  for (int i = 0; i < src.ndim; ++i) {
    if (dst.shape[i] > 1 && std::abs(dst.strides[i]) < std::abs(dst.strides[inner])) inner = i;
  }
  return inner;
}

}  // namespace

void convert(Context* context, const View& src, const View& dst) {
  const int64_t size = src.size();
  if (size == 0) return;
  if (same_dense_layout(src, dst)) {
    parallel_ranges(context, size, kGrain, 0.5, [&](int64_t begin, int64_t end) {
      convert_row(end - begin, src, begin, 1, dst, begin, 1);
    });
    return;
  }
  const int inner = inner_dim(src, dst);
  const int64_t n = src.shape[inner], rows = size / n;
  parallel_ranges(context, rows, std::max<int64_t>(1, kGrain / n), static_cast<double>(n),
                  [&](int64_t begin, int64_t end) {
                    for (int64_t row = begin; row < end; ++row) {
                      int64_t rest = row, from = 0, to = 0;
                      for (int i = src.ndim - 1; i >= 0; --i) {
                        if (i == inner) continue;
                        const int64_t index = rest % src.shape[i];
                        rest /= src.shape[i];
                        from += index * src.strides[i];
                        to += index * dst.strides[i];
                      }
                      convert_row(n, src, from, src.strides[inner], dst, to, dst.strides[inner]);
                    }
                  });
}

Float32Copy::Float32Copy(Context* context, const View& v)
    : workspace_(context, static_cast<size_t>(v.size()) * sizeof(float)),
      view_(contiguous_at(v, workspace_.as<void>(), true)) {
  convert(context, v, view_);
}

}  // namespace fastdl::cpu

using namespace fastdl;
using namespace fastdl::cpu;

extern "C" {

fastdl_status fastdl_convert(fastdl_context* context, const fastdl_tensor* x_, const fastdl_tensor* out_) {
  return guarded([&] {
    const char* op = "convert";
    const View x = any_float_view(x_, op, "x"), out = any_float_view(out_, op, "out");
    check_out(out, op, "out");
    check_same_shape(x, "x", out, "out", op);
    FASTDL_CHECK(x.dtype != DType::kFloat64 && out.dtype != DType::kFloat64, FASTDL_ERROR_DTYPE,
                 "%s: expected float32, bfloat16 or float16, got %s to %s", op, name_of(x.dtype),
                 name_of(out.dtype));
    if (x.dtype == out.dtype) return copy(context, x, out);
    if (!is_narrow(x.dtype) || !is_narrow(out.dtype)) return convert(context, x, out);
    // From one 16-bit type to the other: widening is exact, so the result is rounded once.
    const Float32Copy wide(context, x);
    convert(context, *wide, out);
  });
}
}
