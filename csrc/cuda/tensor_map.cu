#include "cuda/tensor_map.h"

#include <cuda_runtime.h>

#include <cstdlib>

#include "common/error.h"
#include "cuda/context.h"

namespace fastdl::cuda {
namespace {

using Encode = decltype(&cuTensorMapEncodeTiled);

// From the driver at run time, so that a machine without one can load the library. NULL where the driver has
// none.
Encode encoder() {
#ifdef FASTDL_SIMT
  return std::getenv("FASTDL_SIMT_NO_TENSOR_MAPS") ? nullptr : &cuTensorMapEncodeTiled;
#else
  static const Encode found = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult result{};
    constexpr unsigned kVersion = 12000;  // the first that has it
    const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, kVersion,
                                                               cudaEnableDefault, &result);
    if (error != cudaSuccess) cudaGetLastError();  // no error of whoever asks next
    return error == cudaSuccess && result == cudaDriverEntryPointSuccess ? reinterpret_cast<Encode>(function)
                                                                         : nullptr;
  }();
  return found;
#endif
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
  const int64_t item = type == DType::kFloat32 ? 4 : 2;
  cuuint64_t dims[kMapDims], strides[kMapDims - 1];
  cuuint32_t box[kMapDims], steps[kMapDims];
  for (int i = 0; i < kMapDims; ++i) {
    dims[i] = static_cast<cuuint64_t>(shape.dims[i]);
    box[i] = static_cast<cuuint32_t>(shape.box[i]);
    steps[i] = 1;
    // Where a dim has one element its stride is never used, yet has to be one.
    if (i > 0) strides[i - 1] = static_cast<cuuint64_t>(shape.dims[i] > 1 ? shape.strides[i] * item : 16);
  }
  const Encode encode = encoder();
  FASTDL_CHECK(encode != nullptr, FASTDL_ERROR_INTERNAL, "the CUDA driver has no cuTensorMapEncodeTiled");
  CUtensorMap map;
  const CUresult result = encode(&map, map_type(type), kMapDims, const_cast<void*>(data), dims, strides, box,
                                 steps, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle,
                                 CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  FASTDL_CHECK(result == CUDA_SUCCESS, FASTDL_ERROR_INTERNAL, "cuTensorMapEncodeTiled: error %d",
               static_cast<int>(result));
  return map;
}

bool sm90::is_hopper() {
  int device = 0, major = 0, minor = 0;
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  check_cuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device),
             "cudaDeviceGetAttribute");
  check_cuda(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device),
             "cudaDeviceGetAttribute");
  return major == 9 && minor == 0 && encoder() != nullptr;
}

}  // namespace fastdl::cuda
