// The cases of sm_90's wrappers, for wrappers.cu: problems of 128 threads, or of a cluster of two such
// blocks. A lane's 32 words are a row of 128 bytes, so that the input is a tensor of as many rows as there
// are lanes.
#pragma once

#include <cuda.h>

#include "cuda/ptx/bulk.cuh"
#include "cuda/ptx/cluster.cuh"
#include "cuda/ptx/mbarrier.cuh"
#include "cuda/ptx/stmatrix.cuh"
#include "cuda/ptx/tma.cuh"
#include "cuda/ptx/warpgroup.cuh"
#include "cuda/ptx/wgmma.cuh"

namespace hopper {

using namespace fastdl;
using namespace fastdl::cuda;

constexpr int kGroup = 128, kRowWords = 32, kRowBytes = 128;

struct alignas(1024) Shared {
  SharedArray<uint32_t, kGroup * kRowWords> left;
  SharedArray<uint32_t, 2 * kGroup * kRowWords> right;
  SharedArray<uint64_t, 2> full;
};

// Rows of `columns` 16-bit elements, 64 of memory; boxes of box_rows x box_columns.
inline CUtensorMap map_of(const uint32_t* rows, size_t count, int columns, int box_rows, int box_columns,
                          CUtensorMapSwizzle swizzle) {
  void* encode = nullptr;
#ifdef FASTDL_SIMT
  encode = reinterpret_cast<void*>(&cuTensorMapEncodeTiled);
#else
  cudaDriverEntryPointQueryResult found{};
  cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &encode, 12000, cudaEnableDefault, &found);
#endif
  const cuuint64_t dims[5] = {static_cast<cuuint64_t>(columns), count, 1, 1, 1},
                   strides[4] = {128, 16, 16, 16};
  const cuuint32_t box[5] = {static_cast<cuuint32_t>(box_columns), static_cast<cuuint32_t>(box_rows), 1, 1,
                             1},
                   steps[5] = {1, 1, 1, 1, 1};
  CUtensorMap map{};
  if (!encode || reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(encode)(
                     &map, CU_TENSOR_MAP_DATA_TYPE_UINT16, 5, const_cast<uint32_t*>(rows), dims, strides, box,
                     steps, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_NONE,
                     CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) != CUDA_SUCCESS) {
    std::fprintf(stderr, "no tensor map\n");
    std::exit(2);
  }
  return map;
}

__device__ __forceinline__ void start(Shared& shared, unsigned count) {
  const uint32_t full = ptx::shared_address(shared.full.data());
  if (threadIdx.x == 0) {
    ptx::mbarrier_init(full, count);
    ptx::mbarrier_init(full + 8, 2 * kGroup);
    ptx::mbarrier_fence_init();
  }
  __syncthreads();
}

// --- wgmma: rows 0 to 63 of a problem are A (or A transposed); 64 to 127, 0 to 63 and so on, as far as
// needed, B

template <class S, int N, bool TransposedA, bool TransposedB, int RowBytes>
struct Wgmma {
  static constexpr int kIn = kRowWords, kOut = N / 2;
  static constexpr int kStep = sizeof(S) == 2 ? 16 : 8;  // k of an instruction
  static constexpr auto kSwizzle = RowBytes == 128  ? CU_TENSOR_MAP_SWIZZLE_128B
                                   : RowBytes == 64 ? CU_TENSOR_MAP_SWIZZLE_64B
                                                    : CU_TENSOR_MAP_SWIZZLE_32B;
  static constexpr auto kMatrix = RowBytes == 128  ? ptx::MatrixSwizzle::bytes_128
                                  : RowBytes == 64 ? ptx::MatrixSwizzle::bytes_64
                                                   : ptx::MatrixSwizzle::bytes_32;
  static CUtensorMap map(const uint32_t* in, size_t lanes) {
    return map_of(in, lanes, 64, 64, RowBytes / 2, kSwizzle);
  }
  static __device__ __forceinline__ uint64_t matrix(uint32_t tile, bool transposed, int step) {
    return transposed
               ? ptx::matrix_descriptor(tile + step * 16 * RowBytes, 64 * RowBytes, 8 * RowBytes, kMatrix)
               : ptx::matrix_descriptor(tile + step * 32, 0, 8 * RowBytes, kMatrix);
  }
  static __device__ void run(Shared& shared, const CUtensorMap& in, uint32_t* out) {
    const uint32_t full = ptx::shared_address(shared.full.data()),
                   a = ptx::shared_address(shared.left.data()), b = ptx::shared_address(shared.right.data());
    constexpr int kColumns = TransposedB ? RowBytes / 2 : 64, kBoxes = N < kColumns ? 1 : N / kColumns;
    start(shared, 1);
    const int row = static_cast<int>(blockIdx.x) * kGroup;
    if (threadIdx.x == 0) {
      ptx::mbarrier_arrive_expect(full, (1 + kBoxes) * 64 * RowBytes);
      ptx::tensor_load(a, &in, full, {0, row, 0, 0, 0});
      for (int i = 0; i < kBoxes; ++i) {  // of 64 rows; transposed, of the columns of a row
        ptx::tensor_load(b + i * 64 * RowBytes, &in, full, {0, row + (i % 2 ? 0 : 64), 0, 0, 0});
      }
    }
    ptx::mbarrier_wait(full, 0);
    float d[N / 2];
    ptx::wgmma_fence();
#pragma unroll
    for (int step = 0; step < RowBytes / 32; ++step) {
      ptx::wgmma<TransposedA, TransposedB>(S{}, d, matrix(a, TransposedA, step), matrix(b, TransposedB, step),
                                           step > 0);
    }
    ptx::wgmma_commit();
    ptx::wgmma_wait<0>();
    ptx::wgmma_results(d);
#pragma unroll
    for (int i = 0; i < N / 2; ++i) out[i] = __float_as_uint(d[i]);
  }
};

// A in registers: rows 0 to 63 by all 64 elements; B: rows 64 to 127 are k, beside them rows 0 to 63. Fewer
// columns than a row has are its first ones.
template <class S, int N, int RowBytes>
struct WgmmaLeft {
  using Same = Wgmma<S, N, false, true, RowBytes>;
  static constexpr int kIn = kRowWords, kOut = N / 2, kBox = RowBytes / 2, kBoxBytes = 64 * RowBytes;
  static constexpr int kBoxes = N < kBox ? 1 : N / kBox;  // of B
  static CUtensorMap map(const uint32_t* in, size_t lanes) { return Same::map(in, lanes); }
  // The word of row and column of 64 x 64 elements.
  static __device__ __forceinline__ int word(int row, int column) {
    const int byte = column / kBox * kBoxBytes + row * RowBytes + column % kBox * 2;
    return (byte ^ (byte >> 7 & (RowBytes / 16 - 1)) << 4) / 4;
  }
  static __device__ void run(Shared& shared, const CUtensorMap& in, uint32_t* out) {
    const uint32_t full = ptx::shared_address(shared.full.data()),
                   a = ptx::shared_address(shared.left.data()), b = ptx::shared_address(shared.right.data());
    start(shared, 1);
    const int row = static_cast<int>(blockIdx.x) * kGroup, t = static_cast<int>(threadIdx.x), l = t % 32;
    if (t == 0) {
      ptx::mbarrier_arrive_expect(full, (64 / kBox + kBoxes) * kBoxBytes);
      for (int i = 0; i < 64 / kBox; ++i)
        ptx::tensor_load(a + i * kBoxBytes, &in, full, {i * kBox, row, 0, 0, 0});
      for (int i = 0; i < kBoxes; ++i) {
        ptx::tensor_load(b + i * kBoxBytes, &in, full,
                         {i * kBox % 64, row + (i * kBox / 64 % 2 ? 0 : 64), 0, 0, 0});
      }
    }
    ptx::mbarrier_wait(full, 0);
    uint32_t fragments[4][4];
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      fragments[i / 4][i % 4] =
          shared.left[word(t / 32 * 16 + l / 4 + i % 2 * 8, i / 4 * 16 + i % 4 / 2 * 8 + l % 4 * 2)];
    }
    float d[N / 2];
    ptx::wgmma_fence();
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      ptx::wgmma<true>(
          S{}, d, fragments[step],
          ptx::matrix_descriptor(b + step * 16 * RowBytes, kBoxBytes, 8 * RowBytes, Same::kMatrix), step > 0);
    }
    ptx::wgmma_commit();
    ptx::wgmma_wait<0>();
    ptx::wgmma_results(d);
#pragma unroll
    for (int i = 0; i < N / 2; ++i) out[i] = __float_as_uint(d[i]);
  }
};

// --- bulk copies: a box over the edges of the tensor as it lies in shared memory ---

template <int RowBytes, bool Swizzled>
struct TensorLoad {
  static constexpr int kIn = kRowWords, kOut = 8;
  static constexpr auto kSwizzle = !Swizzled         ? CU_TENSOR_MAP_SWIZZLE_NONE
                                   : RowBytes == 128 ? CU_TENSOR_MAP_SWIZZLE_128B
                                   : RowBytes == 64  ? CU_TENSOR_MAP_SWIZZLE_64B
                                                     : CU_TENSOR_MAP_SWIZZLE_32B;
  static CUtensorMap map(const uint32_t* in, size_t lanes) {
    return map_of(in, lanes - 3, 61, 32, RowBytes / 2, kSwizzle);
  }
  static __device__ void run(Shared& shared, const CUtensorMap& in, uint32_t* out) {
    const uint32_t full = ptx::shared_address(shared.full.data());
    for (int i = static_cast<int>(threadIdx.x); i < 1024; i += kGroup) shared.left[i] = 0;
    ptx::fence_proxy_async();
    start(shared, 1);
    if (threadIdx.x == 0) {
      ptx::prefetch_map(&in);
      ptx::mbarrier_arrive_expect(full, 32 * RowBytes);
      // The first problem's box begins above the tensor, the last one's ends below it.
      const int row = blockIdx.x == 0 ? -2 : static_cast<int>(blockIdx.x) * kGroup + kGroup - 32;
      ptx::tensor_load(ptx::shared_address(shared.left.data()), &in, full,
                       {64 - RowBytes / 2 + 8, row, 0, 0, 0});
    }
    ptx::mbarrier_wait(full, 0);
    for (int i = 0; i < kOut; ++i) out[i] = shared.left[static_cast<int>(threadIdx.x) * kOut + i];
  }
};

// --- im2col: the rows are pixels, in images of an odd shape; 32 pixels of 64 channels, three of them not
// there. Corners differ from axis to axis, so that their order shows ---

struct Im2colCase {
  int axes, size[3], lower[3], upper[3], step[3], offset[3];
};
constexpr Im2colCase kIm2col[3] = {
    {1, {11, 1, 1}, {-2, 0, 0}, {-1, 0, 0}, {2, 1, 1}, {3, 0, 0}},
    {2, {7, 5, 1}, {-1, -2, 0}, {-2, 1, 0}, {1, 2, 1}, {2, 1, 0}},
    {3, {3, 4, 5}, {-1, 0, -1}, {0, 1, -2}, {1, 3, 2}, {1, 0, 2}},
};

template <int Axes, bool Multicast = false>
struct TensorLoadIm2col {
  static constexpr int kIn = kRowWords, kOut = 8;
  static CUtensorMap map(const uint32_t* in, size_t lanes) {
    constexpr Im2colCase kCase = kIm2col[Axes - 1];
    void* encode = nullptr;
#ifdef FASTDL_SIMT
    encode = reinterpret_cast<void*>(&cuTensorMapEncodeIm2col);
#else
    cudaDriverEntryPointQueryResult found{};
    cudaGetDriverEntryPointByVersion("cuTensorMapEncodeIm2col", &encode, 12000, cudaEnableDefault, &found);
#endif
    cuuint64_t dims[5] = {61}, strides[4] = {128};
    cuuint32_t steps[5] = {1, 1, 1, 1, 1};
    for (int i = 0; i < Axes; ++i) {
      dims[i + 1] = static_cast<cuuint64_t>(kCase.size[i]), strides[i + 1] = strides[i] * dims[i + 1];
      steps[i + 1] = static_cast<cuuint32_t>(kCase.step[i]);
    }
    dims[Axes + 1] = lanes * 128 / strides[Axes];
    CUtensorMap map{};
    if (!encode || reinterpret_cast<decltype(&cuTensorMapEncodeIm2col)>(encode)(
                       &map, CU_TENSOR_MAP_DATA_TYPE_UINT16, Axes + 2, const_cast<uint32_t*>(in), dims,
                       strides, kCase.lower, kCase.upper, 64, 32, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                       CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_NONE,
                       CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) != CUDA_SUCCESS) {
      std::fprintf(stderr, "no tensor map of im2col\n");
      std::exit(2);
    }
    return map;
  }
  static __device__ void run(Shared& shared, const CUtensorMap& in, uint32_t* out) {
    const uint32_t full = ptx::shared_address(shared.full.data()),
                   left = ptx::shared_address(shared.left.data());
    start(shared, 1);
    if constexpr (Multicast) {
      ptx::cluster_arrive();
      ptx::cluster_wait();
    }
    if (threadIdx.x == 0) {
      ptx::mbarrier_arrive_expect(full, 32 * kRowBytes);
      constexpr Im2colCase kCase = kIm2col[Axes - 1];
      // Each problem starts in another image, one step into its last axis; the last one ends behind the
      // images.
      int at[Axes + 2];
      uint16_t offset[Axes];
      constexpr int kImages = 4 * kGroup / (kCase.size[0] * kCase.size[1] * kCase.size[2]);
      const int problem = static_cast<int>(blockIdx.x);
      at[0] = 0, at[Axes + 1] = problem == 3 ? kImages - 1 : problem;
      for (int i = 0; i < Axes; ++i) {
        at[i + 1] = kCase.lower[i] + (i == Axes - 1 ? kCase.step[i] : 0);
        offset[i] = static_cast<uint16_t>(kCase.offset[i]);
      }
      if constexpr (!Multicast) {
        ptx::tensor_load_im2col(left, &in, full, at, offset);
      } else if (ptx::cluster_rank() == 0) {  // for the other one, too
        ptx::tensor_load_im2col(left, &in, full, at, offset, uint16_t{3});
      }
    }
    ptx::mbarrier_wait(full, 0);
    for (int i = 0; i < kOut; ++i) out[i] = shared.left[static_cast<int>(threadIdx.x) * kOut + i];
    if constexpr (Multicast) {
      ptx::cluster_arrive();
      ptx::cluster_wait();
    }
  }
};

// --- clusters: each block brings one half of 64 rows for both; words go to the other block and come back ---

struct ClusterOfTwo {
  static constexpr int kIn = kRowWords, kOut = 10;
  static CUtensorMap map(const uint32_t* in, size_t lanes) {
    return map_of(in, lanes, 64, 16, 64, CU_TENSOR_MAP_SWIZZLE_NONE);
  }
  static __device__ void run(Shared& shared, const CUtensorMap& in, uint32_t* out) {
    const int t = static_cast<int>(threadIdx.x), rank = static_cast<int>(ptx::cluster_rank());
    const uint32_t full = ptx::shared_address(shared.full.data()),
                   left = ptx::shared_address(shared.left.data());
    start(shared, 1);
    ptx::cluster_arrive();
    ptx::cluster_wait();
    const unsigned other = static_cast<unsigned>(1 - rank);
    if (t == 0) {
      ptx::mbarrier_arrive_expect(full, 32 * kRowBytes);
      ptx::tensor_load(left + rank * 16 * kRowBytes, &in, full,
                       {0, static_cast<int>(blockIdx.x) * kGroup, 0, 0, 0}, uint16_t{3});
    }
    ptx::mbarrier_wait(full, 0);
    for (int i = 0; i < 8; ++i) out[i] = shared.left[t * 8 + i];
    const uint32_t place = ptx::shared_address(shared.right.at(t));
    ptx::store_cluster(ptx::map_shared(place, other), out[0] * 3 + static_cast<uint32_t>(t));
    ptx::mbarrier_arrive_cluster(ptx::map_shared(full + 8, other));
    ptx::mbarrier_arrive(full + 8);
    ptx::mbarrier_wait(full + 8, 0);
    out[8] = shared.right[t];
    out[9] = ptx::load_cluster(ptx::map_shared(left + 4 * static_cast<uint32_t>(t), other));
    ptx::cluster_arrive();
    ptx::cluster_wait();
  }
};

// 1, 2 and 4 words of each thread to the other block.
struct StoreAsync {
  static constexpr int kIn = kRowWords, kOut = 7;
  static CUtensorMap map(const uint32_t* in, size_t lanes) { return ClusterOfTwo::map(in, lanes); }
  static __device__ void run(Shared& shared, const CUtensorMap& in, uint32_t* out) {
    const int t = static_cast<int>(threadIdx.x);
    const unsigned other = 1 - ptx::cluster_rank();
    const uint32_t full = ptx::shared_address(shared.full.data()),
                   left = ptx::shared_address(shared.left.data());
    start(shared, 1);
    ptx::cluster_arrive();
    ptx::cluster_wait();
    if (t == 0) {
      ptx::mbarrier_arrive_expect(full, 16 * kRowBytes);
      ptx::tensor_load(left, &in, full, {0, static_cast<int>(blockIdx.x) * kGroup, 0, 0, 0});
    }
    ptx::mbarrier_arrive_expect(full + 8, 28);  // what this thread's counterpart sends
    ptx::mbarrier_wait(full, 0);
    const auto word = [&](int i) {
      return static_cast<uint32_t>(shared.left[(t * 5 + i) % (16 * kRowWords)]);
    };
    const uint32_t one[1] = {word(0)}, two[2] = {word(1), word(2)},
                   four[4] = {word(3), word(4), word(5), word(6)};
    const uint32_t barrier = ptx::map_shared(full + 8, other);
    ptx::store_async(ptx::map_shared(ptx::shared_address(shared.right.at(4 * t)), other), four, barrier);
    ptx::store_async(ptx::map_shared(ptx::shared_address(shared.right.at(512 + 2 * t)), other), two, barrier);
    ptx::store_async(ptx::map_shared(ptx::shared_address(shared.right.at(768 + t)), other), one, barrier);
    ptx::mbarrier_arrive_cluster(barrier);
    ptx::mbarrier_wait(full + 8, 0);
    for (int i = 0; i < 4; ++i) out[i] = shared.right[4 * t + i];
    for (int i = 0; i < 2; ++i) out[4 + i] = shared.right[512 + 2 * t + i];
    out[6] = shared.right[768 + t];
    ptx::cluster_arrive();
    ptx::cluster_wait();
  }
};

// --- stmatrix, and from there to global memory: rows of 61, stored by whole 16 bytes ---

template <bool Transposed>
struct Stmatrix {
  static constexpr int kIn = kRowWords, kOut = kRowWords;
  static __device__ void run(Shared& shared, const uint32_t* in, const CUtensorMap& to, uint32_t* out) {
    const int t = static_cast<int>(threadIdx.x), l = t % 32;
    ptx::fewer_registers<128>();
    ptx::more_registers<160>();
    for (int i = 0; i < kOut; ++i) out[i] = 0xABABABABu;  // of which the box covers half
    __threadfence();
    auto* const tile = reinterpret_cast<uint16_t*>(shared.left.data());
    // A warp's four matrices side by side fill 8 rows of 32 elements; twice, 64.
    for (int half = 0; half < 2; ++half) {
      const uint32_t r[4] = {in[4 * half], in[4 * half + 1], in[4 * half + 2], in[4 * half + 3]};
      ptx::stmatrix<Transposed>(tile + (t / 32 * 8 + l % 8) * 64 + half * 32 + l / 8 * 8, r);
    }
    ptx::fence_proxy_async();
    if (t < 64) ptx::named_barrier(1, kGroup);
    else ptx::named_barrier_arrive(1, kGroup);
    if (t == 0) {
      ptx::tensor_store(&to, ptx::shared_address(tile), {0, static_cast<int>(blockIdx.x) * kGroup, 0, 0, 0});
      ptx::bulk_commit();
      ptx::bulk_wait_read<0>();
    }
  }
};

// --- consecutive bytes to global memory: stored, then added to by each warp's half once more ---

struct BulkLines {
  static constexpr int kIn = kRowWords, kOut = kRowWords;
  static __device__ void run(Shared& shared, const uint32_t* in, const CUtensorMap&, uint32_t* out) {
    const int t = static_cast<int>(threadIdx.x), l = t % 32;
    for (int i = 0; i < kOut; ++i)
      shared.left[t * kOut + i] = __float_as_uint(static_cast<float>(in[i] % 4096) - 2048);
    ptx::fence_proxy_async();
    __syncthreads();
    if (l == 0) {
      const uint32_t from = ptx::shared_address(shared.left.at(t * kOut));
      constexpr unsigned kBytes = 32 * kOut * 4;
      ptx::bulk_store(out, from, kBytes);
      ptx::bulk_commit();
      ptx::bulk_wait_written();
      ptx::fence_proxy_async_global();
      // The second half of the warp's rows, beside the first one's.
      ptx::bulk_add(reinterpret_cast<float*>(out), from + kBytes / 2, kBytes / 2);
      ptx::bulk_commit();
      ptx::bulk_wait_written();
    }
  }
};

template <class Case>
__global__ void __launch_bounds__(kGroup) load_case(const __grid_constant__ CUtensorMap in, uint32_t* out) {
  Case::run(shared_memory<Shared>(), in,
            out + (static_cast<size_t>(blockIdx.x) * kGroup + threadIdx.x) * Case::kOut);
}
template <class Case>
__global__ void __launch_bounds__(kGroup, 1)
    store_case(const uint32_t* in, const __grid_constant__ CUtensorMap to, uint32_t* out) {
  const size_t lane = static_cast<size_t>(blockIdx.x) * kGroup + threadIdx.x;
  Case::run(shared_memory<Shared>(), in + lane * Case::kIn, to, out + lane * Case::kOut);
}

}  // namespace hopper
