// cuTensorMapEncodeTiled and cuTensorMapEncodeIm2col, with the limits of the driver's.
#include <cstdlib>
#include <cstring>

#include "hopper.h"
#include "include/cuda.h"

namespace fastdl::simt {
namespace {

// What tiles and im2col have in common; row: elements of a row in shared memory.
bool describe(TensorMap& made, CUtensorMapDataType type, cuuint32_t rank, const void* data,
              const cuuint64_t* dims, const cuuint64_t* strides, cuuint32_t row, CUtensorMapSwizzle swizzle) {
  const unsigned item = type == CU_TENSOR_MAP_DATA_TYPE_UINT8     ? 1
                        : type == CU_TENSOR_MAP_DATA_TYPE_FLOAT32 ? 4
                                                                  : 2;
  if (rank < 1 || rank > kMaxTensorDims || !data || reinterpret_cast<uintptr_t>(data) % 16) return false;
  const unsigned row_bytes = row * item;
  const unsigned span = swizzle == CU_TENSOR_MAP_SWIZZLE_NONE ? 0 : 16u << swizzle;
  if (row_bytes % 16 || row == 0 || row > 256 || (span && row_bytes > span)) return false;
  made.magic = TensorMap::kMagic;
  made.rank = static_cast<uint8_t>(rank);
  made.item_bytes = static_cast<uint8_t>(item);
  made.swizzle = static_cast<Swizzle>(swizzle);
  made.data = static_cast<const unsigned char*>(data);
  for (cuuint32_t i = 0; i < rank; ++i) {
    if (dims[i] == 0 || dims[i] > uint64_t{1} << 32) return false;
    made.dims[i] = static_cast<uint32_t>(dims[i] < 0xFFFFFFFFu ? dims[i] : 0xFFFFFFFFu);
    made.box[i] = 1;
    if (i == 0) continue;
    const uint64_t stride = strides[i - 1];
    if (stride == 0 || stride % 16 || stride >= uint64_t{1} << 40) return false;
    made.strides[i] = stride;
  }
  made.box[0] = static_cast<uint16_t>(row);
  return true;
}

CUresult store(CUtensorMap* map, const TensorMap& made) {
  std::memset(map, 0, sizeof *map);
  std::memcpy(map, &made, sizeof made);
  return CUDA_SUCCESS;
}

}  // namespace
}  // namespace fastdl::simt

CUresult cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* data,
                                const cuuint64_t* dims, const cuuint64_t* strides, const cuuint32_t* box,
                                const cuuint32_t* steps, CUtensorMapInterleave, CUtensorMapSwizzle swizzle,
                                CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
  using namespace fastdl::simt;
  TensorMap made{};
  if (!describe(made, type, rank, data, dims, strides, box[0], swizzle)) return CUDA_ERROR_INVALID_VALUE;
  for (cuuint32_t i = 0; i < rank; ++i) {
    if (box[i] == 0 || box[i] > 256 || steps[i] != 1) return CUDA_ERROR_INVALID_VALUE;
    made.box[i] = static_cast<uint16_t>(box[i]);
  }
  return store(map, made);
}

CUresult cuTensorMapEncodeIm2col(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* data,
                                 const cuuint64_t* dims, const cuuint64_t* strides, const int* lower,
                                 const int* upper, cuuint32_t channels, cuuint32_t pixels,
                                 const cuuint32_t* steps, CUtensorMapInterleave, CUtensorMapSwizzle swizzle,
                                 CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
  using namespace fastdl::simt;
  TensorMap made{};
  // What a driver might do otherwise: take the corners from the outermost axis on, refuse pixels that
  // overlap.
  const char* const text = std::getenv("FASTDL_SIMT_IM2COL");
  const bool reversed = text && std::strcmp(text, "reversed") == 0,
             separate = text && std::strcmp(text, "separate") == 0;
  if (rank < 3 || pixels == 0 || pixels > 1024 ||
      !describe(made, type, rank, data, dims, strides, channels, swizzle)) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  made.im2col = true;
  made.box[1] = static_cast<uint16_t>(pixels);
  if (separate && strides[0] < dims[0] * made.item_bytes) return CUDA_ERROR_INVALID_VALUE;
  // Corners in the order of all other arrays, W first. (cuda.h writes {D, H, W}: convolutions ask the device,
  // cuda/im2col_sm90_probe.cu.)
  const int most = rank == 3 ? 0x7FFF : rank == 4 ? 0x7F : 0xF;
  for (cuuint32_t i = 0; i < rank - 2; ++i) {
    const cuuint32_t corner = reversed ? rank - 3 - i : i;
    const int low = lower[corner], high = upper[corner];
    const cuuint32_t step = steps[i + 1];
    if (low < -most - 1 || low > most || high < -most - 1 || high > most || step == 0 || step > 8 ||
        static_cast<int64_t>(dims[i + 1]) + high <= low) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    made.lower[i] = static_cast<int16_t>(low), made.upper[i] = static_cast<int16_t>(high);
    made.steps[i] = static_cast<uint8_t>(step);
  }
  return steps[rank - 1] == 1 ? store(map, made) : CUDA_ERROR_INVALID_VALUE;
}
