#include "fastdl/convert.h"

#include "cuda/map.cuh"
#include "cuda/tensor.h"
#include "fastdl/cuda.h"

namespace fastdl::cuda {
namespace {

struct Identity {
  static constexpr bool kUsesIndex = false;
  template <class T>
  __device__ T operator()(int64_t, T x) const {
    return x;
  }
};

}  // namespace

void copy(Context* context, const View& src, const View& dst) {
  if (src.size() == 0) return;
  if (same_dense_layout(src, dst)) {
    return check_cuda(cudaMemcpyAsync(dst.data, src.data, static_cast<size_t>(src.nbytes()),
                                      cudaMemcpyDeviceToDevice, stream_of(context)),
                      "copy");
  }
  switch (item_size(src.dtype)) {  // elements are moved, whatever they stand for
    case 8:
      return map<uint64_t, uint64_t>(context, Identity{}, dst, src);
    case 4:
      return map<uint32_t, uint32_t>(context, Identity{}, dst, src);
    case 2:
      return map<uint16_t, uint16_t>(context, Identity{}, dst, src);
    default:
      return map<uint8_t, uint8_t>(context, Identity{}, dst, src);
  }
}

void convert(Context* context, const View& src, const View& dst) {
  dispatch_storage(src.dtype, [&](auto from) {
    dispatch_storage(dst.dtype, [&](auto to) {
      using From = decltype(from);
      using To = decltype(to);
      if constexpr (std::is_same_v<compute_t<From>, compute_t<To>>)
        map<To, From>(context, Identity{}, dst, src);
    });
  });
}

}  // namespace fastdl::cuda

using namespace fastdl;
using namespace fastdl::cuda;

extern "C" fastdl_status fastdl_cuda_convert(fastdl_context* context, const fastdl_tensor* x_,
                                             const fastdl_tensor* out_) {
  return guarded([&] {
    const char* op = "convert";
    const View x = any_float_view(x_, op, "x"), out = any_float_view(out_, op, "out");
    check_out(out, op, "out");
    check_same_shape(x, "x", out, "out", op);
    FASTDL_CHECK(x.dtype != DType::kFloat64 && out.dtype != DType::kFloat64, FASTDL_ERROR_DTYPE,
                 "%s: expected float32, bfloat16 or float16, got %s to %s", op, name_of(x.dtype),
                 name_of(out.dtype));
    if (x.dtype == out.dtype) return copy(context, x, out);
    convert(context, x, out);
  });
}
