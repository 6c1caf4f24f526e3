#include "cuda/tensor_map.h"

#include <cuda_runtime.h>

#include <atomic>

#include "common/error.h"
#include "cuda/context.h"

namespace fastdl::cuda {
namespace {

#ifdef FASTDL_SIMT
#define FASTDL_DRIVER(function) (&function)
#else
// A function of the driver, at run time, so that a machine without one can load the library.
template <class Function>
Function of_driver(const char* name, std::atomic<Function>& found) {
  if (Function known = found.load(std::memory_order_relaxed)) return known;
  void* pointer = nullptr;
  cudaDriverEntryPointQueryResult result{};
  constexpr unsigned kVersion = 12000;  // the first that has them
  check_cuda(cudaGetDriverEntryPointByVersion(name, &pointer, kVersion, cudaEnableDefault, &result), name);
  FASTDL_CHECK(pointer != nullptr && result == cudaDriverEntryPointSuccess, FASTDL_ERROR_NO_CUDA,
               "the CUDA driver has no %s", name);
  const auto function = reinterpret_cast<Function>(pointer);
  found.store(function, std::memory_order_relaxed);
  return function;
}
std::atomic<decltype(&cuTensorMapEncodeTiled)> found_cuTensorMapEncodeTiled{nullptr};
std::atomic<decltype(&cuTensorMapEncodeIm2col)> found_cuTensorMapEncodeIm2col{nullptr};
#define FASTDL_DRIVER(function) of_driver(#function, found_##function)
#endif

int64_t item_bytes(DType type) { return type == DType::kFloat32 ? 4 : 2; }

// Where a dim has one element its stride is never used, yet has to be one.
cuuint64_t stride_bytes(int64_t dim, int64_t stride, DType type) {
  return static_cast<cuuint64_t>(dim > 1 ? stride * item_bytes(type) : 16);
}

CUtensorMapDataType map_type(DType type) {
  switch (type) {
    case DType::kBFloat16:
      return CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
    case DType::kFloat16:
      return CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
    default:
      return CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
  }
}

}  // namespace

CUtensorMap tensor_map(DType type, const void* data, const MapShape& shape, CUtensorMapSwizzle swizzle) {
  cuuint64_t dims[kMapDims], strides[kMapDims - 1];
  cuuint32_t box[kMapDims], steps[kMapDims];
  for (int i = 0; i < kMapDims; ++i) {
    dims[i] = static_cast<cuuint64_t>(shape.dims[i]);
    box[i] = static_cast<cuuint32_t>(shape.box[i]);
    steps[i] = 1;
    if (i > 0) strides[i - 1] = stride_bytes(shape.dims[i], shape.strides[i], type);
  }
  CUtensorMap map;
  const CUresult result = FASTDL_DRIVER(cuTensorMapEncodeTiled)(
      &map, map_type(type), kMapDims, const_cast<void*>(data), dims, strides, box, steps,
      CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  FASTDL_CHECK(result == CUDA_SUCCESS, FASTDL_ERROR_INTERNAL, "cuTensorMapEncodeTiled: error %d",
               static_cast<int>(result));
  return map;
}

bool im2col_fits(const Im2colShape& shape, const int64_t (&most)[kMapDims - 2]) {
  const int bits = shape.axes == 1 ? 16 : shape.axes == 2 ? 8 : 5;
  const int64_t half = int64_t{1} << (bits - 1);
  bool fits = shape.axes >= 1 && shape.axes <= 3;
  for (int i = 0; fits && i < shape.axes; ++i) {
    const auto corner = [&](int64_t x) { return x >= -half && x < half; };
    fits = corner(shape.lower[i]) && corner(shape.upper[i]) && shape.step[i] >= 1 && shape.step[i] <= 8 &&
           most[i] < 2 * half && shape.dims[i + 1] + shape.upper[i] > shape.lower[i];
  }
  return fits;
}

CUtensorMap im2col_map(DType type, const void* data, const Im2colShape& shape, CUtensorMapSwizzle swizzle) {
  const int rank = shape.axes + 2;
  cuuint64_t dims[kMapDims], strides[kMapDims - 1];
  cuuint32_t steps[kMapDims];
  int lower[kMapDims - 2] = {}, upper[kMapDims - 2] = {};
  for (int i = 0; i < rank; ++i) {
    dims[i] = static_cast<cuuint64_t>(shape.dims[i]);
    steps[i] = 1;
    if (i > 0) strides[i - 1] = stride_bytes(shape.dims[i], shape.strides[i], type);
  }
  for (int i = 0; i < shape.axes; ++i) {
    lower[i] = static_cast<int>(shape.lower[i]), upper[i] = static_cast<int>(shape.upper[i]);
    steps[i + 1] = static_cast<cuuint32_t>(shape.step[i]);
  }
  CUtensorMap map;
  const CUresult result = FASTDL_DRIVER(cuTensorMapEncodeIm2col)(
      &map, map_type(type), static_cast<cuuint32_t>(rank), const_cast<void*>(data), dims, strides, lower,
      upper, static_cast<cuuint32_t>(shape.channels), static_cast<cuuint32_t>(shape.pixels), steps,
      CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  FASTDL_CHECK(result == CUDA_SUCCESS, FASTDL_ERROR_INTERNAL, "cuTensorMapEncodeIm2col: error %d",
               static_cast<int>(result));
  return map;
}

}  // namespace fastdl::cuda
