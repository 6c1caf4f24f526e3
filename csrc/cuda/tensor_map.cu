#include "cuda/tensor_map.h"

#include <cuda_runtime.h>

#include <cstdlib>

#include "common/error.h"
#include "cuda/context.h"

namespace fastdl::cuda {
namespace {

using EncodeTiled = decltype(&cuTensorMapEncodeTiled);
using EncodeIm2col = decltype(&cuTensorMapEncodeIm2col);

#ifdef FASTDL_SIMT
EncodeTiled encode_tiled() {
  return std::getenv("FASTDL_SIMT_NO_TENSOR_MAPS") ? nullptr : &cuTensorMapEncodeTiled;
}
EncodeIm2col encode_im2col() { return &cuTensorMapEncodeIm2col; }
#else
// From the driver at run time, so that a machine without one can load the library. NULL where the driver has
// none.
void* of_driver(const char* name) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult result{};
  constexpr unsigned kVersion = 12000;  // the first that has them
  const cudaError_t error =
      cudaGetDriverEntryPointByVersion(name, &function, kVersion, cudaEnableDefault, &result);
  if (error != cudaSuccess) cudaGetLastError();  // no error of whoever asks next
  return error == cudaSuccess && result == cudaDriverEntryPointSuccess ? function : nullptr;
}
EncodeTiled encode_tiled() {
  static const auto found = reinterpret_cast<EncodeTiled>(of_driver("cuTensorMapEncodeTiled"));
  return found;
}
EncodeIm2col encode_im2col() {
  static const auto found = reinterpret_cast<EncodeIm2col>(of_driver("cuTensorMapEncodeIm2col"));
  return found;
}
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
  const EncodeTiled encode = encode_tiled();
  FASTDL_CHECK(encode != nullptr, FASTDL_ERROR_INTERNAL, "the CUDA driver has no cuTensorMapEncodeTiled");
  CUtensorMap map;
  const CUresult result = encode(&map, map_type(type), kMapDims, const_cast<void*>(data), dims, strides, box,
                                 steps, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle,
                                 CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
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

std::optional<CUtensorMap> try_im2col_map(DType type, const void* data, const Im2colShape& shape,
                                          CUtensorMapSwizzle swizzle) {
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
    const int to = shape.reversed ? shape.axes - 1 - i : i;
    lower[to] = static_cast<int>(shape.lower[i]), upper[to] = static_cast<int>(shape.upper[i]);
    steps[i + 1] = static_cast<cuuint32_t>(shape.step[i]);
  }
  const EncodeIm2col encode = encode_im2col();
  FASTDL_CHECK(encode != nullptr, FASTDL_ERROR_INTERNAL, "the CUDA driver has no cuTensorMapEncodeIm2col");
  CUtensorMap map;
  const CUresult result =
      encode(&map, map_type(type), static_cast<cuuint32_t>(rank), const_cast<void*>(data), dims, strides,
             lower, upper, static_cast<cuuint32_t>(shape.channels), static_cast<cuuint32_t>(shape.pixels),
             steps, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
             CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? std::optional<CUtensorMap>(map) : std::nullopt;
}
CUtensorMap im2col_map(DType type, const void* data, const Im2colShape& shape, CUtensorMapSwizzle swizzle) {
  const auto map = try_im2col_map(type, data, shape, swizzle);
  FASTDL_CHECK(map, FASTDL_ERROR_INTERNAL, "cuTensorMapEncodeIm2col has failed");
  return *map;
}

bool sm90::is_hopper() {
  int device = 0, major = 0, minor = 0;
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  check_cuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device),
             "cudaDeviceGetAttribute");
  check_cuda(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device),
             "cudaDeviceGetAttribute");
  return major == 9 && minor == 0 && encode_tiled() != nullptr;
}

}  // namespace fastdl::cuda
