// Matrix products by Hopper's warpgroup instructions, fed by the copy engine: docs/kernels-cuda/matmul.md has
// the picture.
//
// A block is three warpgroups. One thread of the first (the producer) starts the copies of tiles into a ring
// of stages; the other two (the consumers) own 64 rows each of a tile of 128 x Columns and multiply stage by
// stage. A stage's `full` barrier ends a phase when its bytes are there, its `empty` one when all warps that
// read it have done so. Two blocks of a cluster make tiles above each other: each brings half of B for both.
// Blocks stay for all their tiles, so that the copies of the next one run during the end of the last.
//
// float32: each factor is the sum of Planes bfloat16, made beforehand; a stage has all planes of 32 k. Its
// products go from the smallest to the largest into sums begun at zero, which are then added to the result by
// an ordinary addition: the tensor cores cut off what does not fit a sum, so those sums are kept short.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "cuda/gemm.h"
#include "cuda/gemm_end.cuh"
#include "cuda/gemm_sm90_config.h"
#include "cuda/ptx/cluster.cuh"
#include "cuda/ptx/mbarrier.cuh"
#include "cuda/ptx/stmatrix.cuh"
#include "cuda/ptx/tma.cuh"
#include "cuda/ptx/warpgroup.cuh"
#include "cuda/ptx/wgmma.cuh"
#include "cuda/ring.cuh"
#include "cuda/shared.cuh"

namespace fastdl::cuda {

constexpr int kConsumers = 2, kSm90Threads = (1 + kConsumers) * kWarpgroup;
constexpr int kMapBatchDims = 2;

// A tile's shape in shared memory. E: the elements multiplied. Narrow: operands come in boxes half as wide,
// rows of 64 bytes, of which a stage has twice as many.
template <class S, int Columns, int Planes, bool Narrow = false>
struct Sm90Tile {
  using E = std::conditional_t<sizeof(S) == 4, bfloat16, S>;
  static constexpr bool kSplit = sizeof(S) == 4;
  static constexpr int kRows = static_cast<int>(kSm90Rows), kColumns = Columns, kPlanes = Planes;
  static constexpr int kDepth = kSplit ? 32 : 64;
  static constexpr int kBox = Narrow ? 32 : kDepth;  // of k in a row of shared memory
  static constexpr int kBoxes = kDepth / kBox;
  static constexpr int kBoxB = Narrow ? 32 : 64;  // of columns in a row, where B is transposed
  static constexpr int kBytesA = kRows * kDepth * 2, kBytesB = kColumns * kDepth * 2;  // of one plane
  static constexpr int kStageBytes = Planes * (kBytesA + kBytesB);
  static constexpr int kStages = 192 * 1024 / kStageBytes;  // the rest is for the results
  static constexpr int kSums = Columns / 2;                 // of a thread
};

// How a product is cut up, and where its results go.
struct Sm90Problem {
  CUtensorMap c;
  bool store_by_map;  // results go by way of the copy engine
  GemmBatch batch;
  int m, n, k, k_each;
  float* partial;  // [part, batch, m, n], or NULL
  int cluster;
  // Pieces of work: (part, batch item, tile); tall x wide tiles, in rows of a cluster's height.
  unsigned work, tiles, tall, wide, items;
  int inner_items;  // of the innermost batch dim
};

template <class T>
struct alignas(1024) Sm90Shared {
  SharedArray<uint16_t, T::kStages * T::kStageBytes / 2> stages;
  SharedArray<uint16_t, kConsumers * 2 * 64 * 64> results;  // of each consumer two boxes of 64 x 64
  SharedArray<uint64_t, T::kStages> full, empty;
  SharedArray<uint32_t, kConsumers * kWarpgroup / kWarp> votes;
};

// One tile: which rows, columns, batch item and part of k.
struct Sm90Work {
  int row, column;
  int item, part;
  int batch[kMapBatchDims];
  int k_begin, steps;
  bool first;  // of this block
};

// The tiles of a block, in an order in which blocks that run at the same time share rows of A and columns of
// B: down eight cluster-rows, then on to the next column.
template <class T>
class Sm90Schedule {
 public:
  __device__ __forceinline__ explicit Sm90Schedule(const Sm90Problem& p) : p_(p), next_(begin()) {}

  __device__ __forceinline__ bool next(Sm90Work& w, int rank) {
    constexpr unsigned kGroup = 8;
    if (next_ >= p_.work) return false;
    w.first = next_ == begin();
    const unsigned tile = next_ % p_.tiles, rest = next_ / p_.tiles, group = kGroup * p_.wide;
    next_ += gridDim.x / static_cast<unsigned>(p_.cluster);
    const unsigned first = tile / group * kGroup, inside = tile % group;
    const unsigned height = p_.tall - first < kGroup ? p_.tall - first : kGroup;
    w.row = static_cast<int>((first + inside % height) * static_cast<unsigned>(p_.cluster)) * T::kRows +
            rank * T::kRows;
    w.column = static_cast<int>(inside / height) * T::kColumns;
    w.item = static_cast<int>(rest % p_.items);
    w.part = static_cast<int>(rest / p_.items);
    w.batch[0] = w.item % p_.inner_items;
    w.batch[1] = w.item / p_.inner_items;
    w.k_begin = w.part * p_.k_each;
    const int end = w.k_begin + p_.k_each < p_.k ? w.k_begin + p_.k_each : p_.k;
    w.steps = (end - w.k_begin + T::kDepth - 1) / T::kDepth;
    return true;
  }

 private:
  __device__ __forceinline__ unsigned begin() const { return blockIdx.x / static_cast<unsigned>(p_.cluster); }

  const Sm90Problem& p_;
  unsigned next_;
};

// `operands` says what is multiplied (matmul_sm90_operands.cuh, conv_sm90.cuh): its Loads<T> starts the
// copies of a piece of work step by step.
template <class T, class Operands>
__device__ __forceinline__ void produce(Sm90Shared<T>& shared, const Sm90Problem& p, const Operands& operands,
                                        int rank) {
  const uint32_t stages = ptx::shared_address(shared.stages.data()),
                 full0 = ptx::shared_address(shared.full.data()),
                 empty0 = ptx::shared_address(shared.empty.data());
  Sm90Schedule<T> schedule(p);
  Sm90Work w;
  Ring<T> ring;
  while (schedule.next(w, rank)) {
    typename Operands::template Loads<T> loads(operands, w, p.cluster, rank);
    for (int step = 0; step < w.steps; ++step) {
      const uint32_t full = full0 + 8 * ring.stage;
      ptx::mbarrier_wait(empty0 + 8 * ring.stage, ring.parity ^ 1);
      ptx::mbarrier_arrive_expect(full, T::kStageBytes);
      loads.start(stages + ring.stage * T::kStageBytes, full);
      ring.advance();
    }
  }
}

// The descriptor of 16 k from `k` on, of the tile's positions from `first` (a multiple of 64) on.
template <class T, bool Transposed>
__device__ __forceinline__ uint64_t descriptor(uint32_t tile, int first, int k) {
  if constexpr (Transposed) {
    return ptx::matrix_descriptor(tile + first * T::kDepth * 2 + k * 128, 64 * T::kDepth * 2, 1024,
                                  ptx::MatrixSwizzle::bytes_128);
  } else {
    constexpr int kRow = T::kDepth * 2;
    return ptx::matrix_descriptor(tile + first * kRow + k * 2, 0, 8 * kRow,
                                  kRow == 128 ? ptx::MatrixSwizzle::bytes_128 : ptx::MatrixSwizzle::bytes_64);
  }
}
// Of a narrow box, of `rows` rows.
template <class T>
__device__ __forceinline__ uint64_t descriptor_of_box(uint32_t tile, int rows, int k) {
  constexpr int kRow = T::kBox * 2;
  return ptx::matrix_descriptor(tile + k / T::kBox * rows * kRow + k % T::kBox * 2, 0, 8 * kRow,
                                ptx::MatrixSwizzle::bytes_64);
}
// Of the rows of a consumer in A, and of B, where boxes may be narrow.
template <class T, bool Transposed>
__device__ __forceinline__ uint64_t descriptor_a(uint32_t tile, int group, int k) {
  if constexpr (T::kBoxes == 1 || Transposed) return descriptor<T, Transposed>(tile, group * 64, k);
  else return descriptor_of_box<T>(tile + group * 64 * T::kBox * 2, T::kRows, k);
}
template <class T, bool Transposed>
__device__ __forceinline__ uint64_t descriptor_b(uint32_t tile, int k) {
  if constexpr (T::kBoxes == 1) return descriptor<T, Transposed>(tile, 0, k);
  else if constexpr (!Transposed) return descriptor_of_box<T>(tile, T::kColumns, k);
  else {
    constexpr int kRow = T::kBoxB * 2;
    return ptx::matrix_descriptor(tile + k * kRow, T::kDepth * kRow, 8 * kRow, ptx::MatrixSwizzle::bytes_64);
  }
}

// Tells all blocks that copy into a stage that this warp has read it.
__device__ __forceinline__ void release(uint32_t empty, int cluster) {
  if (lane() >= cluster) return;
  if (cluster == 1) ptx::mbarrier_arrive(empty);
  else ptx::mbarrier_arrive_cluster(ptx::map_shared(empty, static_cast<unsigned>(lane())));
}

// How far the first consumer is ahead of the second, which begins so much later: one's products run during
// the other's end. Further ahead, too few stages would be left for copies under way.
constexpr int kAhead = 2;
constexpr int kBehind = 1 + kConsumers;  // the barrier for it; those before are the consumers' own

// The sums of this warpgroup's 64 rows, 16-bit factors. The products of one stage run while those of the one
// before are waited for.
template <class T, bool TransposedA, bool TransposedB>
__device__ __forceinline__ void multiply_sm90(Sm90Shared<T>& shared, const Sm90Work& w, int group,
                                              int cluster, Ring<T>& ring, float (&sums)[T::kSums]) {
  const uint32_t stages = ptx::shared_address(shared.stages.data()),
                 full0 = ptx::shared_address(shared.full.data()),
                 empty0 = ptx::shared_address(shared.empty.data());
  uint32_t before = 0;
  const int told = !w.first ? -1 : w.steps < kAhead ? w.steps - 1 : kAhead - 1;
  if (w.first && group == 1) ptx::named_barrier(kBehind, kConsumers * kWarpgroup);
  for (int step = 0; step < w.steps; ++step) {
    const uint32_t a = stages + ring.stage * T::kStageBytes, b = a + T::kBytesA;
    ptx::mbarrier_wait(full0 + 8 * ring.stage, ring.parity);
    ptx::wgmma_fence();
#pragma unroll
    for (int k = 0; k < T::kDepth; k += 16) {
      ptx::wgmma<TransposedA, TransposedB>(typename T::E{}, sums, descriptor_a<T, TransposedA>(a, group, k),
                                           descriptor_b<T, TransposedB>(b, k), step > 0 || k > 0);
    }
    ptx::wgmma_commit();
    ptx::wgmma_wait<1>();
    if (group == 0 && step == told) ptx::named_barrier_arrive(kBehind, kConsumers * kWarpgroup);
    if (step > 0) release(before, cluster);
    before = empty0 + 8 * ring.stage;
    ring.advance();
  }
  ptx::wgmma_wait<0>();
  ptx::wgmma_results(sums);
  release(before, cluster);
}

// The same of split float32.
template <class T, bool TransposedA, bool TransposedB>
__device__ __forceinline__ void multiply_planes(Sm90Shared<T>& shared, const Sm90Work& w, int group,
                                                int cluster, Ring<T>& ring, float (&sums)[T::kSums]) {
  const uint32_t stages = ptx::shared_address(shared.stages.data()),
                 full0 = ptx::shared_address(shared.full.data()),
                 empty0 = ptx::shared_address(shared.empty.data());
#pragma unroll
  for (float& sum : sums) sum = 0;
  for (int step = 0; step < w.steps; ++step) {
    const uint32_t a = stages + ring.stage * T::kStageBytes, b = a + T::kPlanes * T::kBytesA;
    float some[T::kSums];
    ptx::mbarrier_wait(full0 + 8 * ring.stage, ring.parity);
    ptx::wgmma_fence();
#pragma unroll
    for (int order = T::kPlanes - 1; order >= 0; --order) {  // pieces i of A and order - i of B
#pragma unroll
      for (int i = 0; i <= order; ++i) {
#pragma unroll
        for (int k = 0; k < T::kDepth; k += 16) {
          ptx::wgmma<TransposedA, TransposedB>(typename T::E{}, some,
                                               descriptor_a<T, TransposedA>(a + i * T::kBytesA, group, k),
                                               descriptor_b<T, TransposedB>(b + (order - i) * T::kBytesB, k),
                                               !(order == T::kPlanes - 1 && i == 0 && k == 0));
        }
      }
    }
    ptx::wgmma_commit();
    ptx::wgmma_wait<0>();
    ptx::wgmma_results(some);
    release(empty0 + 8 * ring.stage, cluster);
#pragma unroll
    for (int i = 0; i < T::kSums; ++i) sums[i] += some[i];
    ring.advance();
  }
}

template <class T, class Operands>
__device__ __forceinline__ void multiply(Sm90Shared<T>& shared, const Sm90Problem& p,
                                         const Operands& operands, const Sm90Work& w, int group,
                                         Ring<T>& ring, float (&sums)[T::kSums]) {
  operands.with_layout([&](auto transposed_a, auto transposed_b) {
    constexpr bool kA = decltype(transposed_a)::value, kB = decltype(transposed_b)::value;
    if constexpr (T::kSplit) multiply_planes<T, kA, kB>(shared, w, group, p.cluster, ring, sums);
    else multiply_sm90<T, kA, kB>(shared, w, group, p.cluster, ring, sums);
  });
}

}  // namespace fastdl::cuda
