// cuTensorMapEncodeTiled, with the limits of the driver's.
#include <cstring>

#include "hopper.h"
#include "include/cuda.h"

CUresult cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* data,
                                const cuuint64_t* dims, const cuuint64_t* strides, const cuuint32_t* box,
                                const cuuint32_t* steps, CUtensorMapInterleave, CUtensorMapSwizzle swizzle,
                                CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
  using namespace fastdl::simt;
  const unsigned item = type == CU_TENSOR_MAP_DATA_TYPE_UINT8     ? 1
                        : type == CU_TENSOR_MAP_DATA_TYPE_FLOAT32 ? 4
                                                                  : 2;
  if (rank < 1 || rank > kMaxTensorDims || !data || reinterpret_cast<uintptr_t>(data) % 16) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  const unsigned row_bytes = box[0] * item;
  const unsigned span = swizzle == CU_TENSOR_MAP_SWIZZLE_NONE ? 0 : 16u << swizzle;
  if (row_bytes % 16 || (span && row_bytes > span)) return CUDA_ERROR_INVALID_VALUE;
  TensorMap made{};
  made.magic = TensorMap::kMagic;
  made.rank = static_cast<uint8_t>(rank);
  made.item_bytes = static_cast<uint8_t>(item);
  made.swizzle = static_cast<Swizzle>(swizzle);
  made.data = static_cast<const unsigned char*>(data);
  for (cuuint32_t i = 0; i < rank; ++i) {
    if (dims[i] == 0 || dims[i] > uint64_t{1} << 32 || box[i] == 0 || box[i] > 256 || steps[i] != 1) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    made.dims[i] = static_cast<uint32_t>(dims[i] < 0xFFFFFFFFu ? dims[i] : 0xFFFFFFFFu);
    made.box[i] = static_cast<uint16_t>(box[i]);
    if (i == 0) continue;
    const uint64_t stride = strides[i - 1];
    if (stride == 0 || stride % 16 || stride >= uint64_t{1} << 40) return CUDA_ERROR_INVALID_VALUE;
    made.strides[i] = stride;
  }
  std::memset(map, 0, sizeof *map);
  std::memcpy(map, &made, sizeof made);
  return CUDA_SUCCESS;
}
