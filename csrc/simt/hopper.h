// What the PTX wrappers of sm_90 need: mbarriers, bulk copies of tensors, clusters, products of a warpgroup.
// Addresses of shared memory are 32 bits as on the device: offsets in the block's memory, or, from
// map_shared, in that of another block of the cluster.
#pragma once

#include "simt.h"

namespace fastdl::simt {

uint32_t shared_address(const void* pointer);

// --- mbarrier ---

void mbarrier_init(uint32_t barrier, unsigned count);
// fence.mbarrier_init: without it neither bulk copies nor other blocks may see the barrier.
void mbarrier_fence_init();
// Expects `bytes` more and counts `count` arrivals; of a block of the cluster too.
void mbarrier_arrive(const char* operation, uint32_t barrier, unsigned count, unsigned bytes);
// Waits for the end of the phase of this parity: a new barrier is in phase 0, the one before it has parity 1.
void mbarrier_wait(uint32_t barrier, unsigned parity);

// fence.proxy.async: what this thread wrote by ordinary stores can be read by bulk copies and wgmma.
void fence_proxy_async();

// --- bulk copies ---

enum class Swizzle : uint8_t { none, bytes_32, bytes_64, bytes_128 };

// The address with bits 4 to 6 turned by bits 7 to 9 (fewer in the narrower patterns).
inline uint32_t swizzled(Swizzle swizzle, uint32_t address) {
  const uint32_t mask = (1u << static_cast<unsigned>(swizzle)) - 1;
  return address ^ (address >> 7 & mask) << 4;
}

constexpr int kMaxTensorDims = 5, kMaxPixelDims = kMaxTensorDims - 2;

// What a CUtensorMap holds here. Of images (im2col; dims C, W, H, D, N) a box is channels x pixels, whose
// positions go from `lower` to dims - 1 + `upper` in steps, along W, H, D, then on to the next image.
struct TensorMap {
  static constexpr uint32_t kMagic = 0x7E45A3B1u;
  uint32_t magic;
  uint8_t rank, item_bytes;
  Swizzle swizzle;
  bool im2col;
  const unsigned char* data;
  uint64_t strides[kMaxTensorDims];  // bytes
  uint32_t dims[kMaxTensorDims];
  uint16_t box[kMaxTensorDims];
  int16_t lower[kMaxPixelDims], upper[kMaxPixelDims];
  uint8_t steps[kMaxPixelDims];
};
static_assert(sizeof(TensorMap) <= 128, "the size of a CUtensorMap");

// cp.async.bulk.tensor to this block, or to the same place in every block of `blocks` (a mask of ranks).
void tensor_load(uint32_t to, const void* map, int rank, const int32_t* at, uint32_t barrier,
                 uint32_t blocks = 0);
// The same of im2col: at[1], ... are the first position, to which the offsets are added in every pixel.
void tensor_load_im2col(uint32_t to, const void* map, int rank, const int32_t* at, const uint16_t* offsets,
                        uint32_t barrier, uint32_t blocks = 0);
void tensor_store(const void* map, int rank, const int32_t* at, uint32_t from);
void bulk_commit();
void bulk_wait(int pending);  // until at most `pending` groups of stores may still read shared memory

// --- clusters ---

unsigned cluster_rank();
unsigned cluster_size();
uint32_t map_shared(uint32_t address, unsigned rank);
unsigned char* cluster_memory(const char* operation, uint32_t address, size_t bytes);
void cluster_arrive();
void cluster_wait();
// st.async: `count` words that are there when the mbarrier, of the same block, has counted their bytes.
void store_async(uint32_t address, const uint32_t* words, int count, uint32_t barrier);

// --- wgmma ---

enum class WgmmaType : uint8_t { bfloat16, float16, tfloat32 };

struct Wgmma {
  WgmmaType type;
  bool transposed_a, transposed_b, accumulate;
  int columns;
  uint64_t a, b;         // descriptors
  const uint32_t* left;  // A in registers, four of a lane; NULL: in shared memory
};

void wgmma_fence();
void wgmma(float* sums, const Wgmma& what);
void wgmma_commit();
void wgmma_wait(int pending);

}  // namespace fastdl::simt
