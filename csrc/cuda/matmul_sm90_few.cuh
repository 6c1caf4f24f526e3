// Products with few rows or columns by Hopper's warpgroup instructions: docs/kernels-cuda/matmul.md has the
// picture.
//
// One operand is large, the other has at most 128 rows (of A) or columns (of B), so that the time is that of
// reading the large one once. Its rows are the instruction's 64, however the product is written; the few are
// its N. A block is two consumer warpgroups and a producer, and makes one tile of kRows x Few for one part of
// k; the blocks of a cluster share a tile, have successive parts of k, and add their sums up through each
// other's shared memory, in the order of the parts.
#pragma once

#include "cuda/matmul_sm90_operands.cuh"

namespace fastdl::cuda {

template <class S_, int Few>
struct FewTile {
  using S = S_;
  static constexpr bool kSplit = false;
  static constexpr int kPlanes = 1;  // of the few
  static constexpr int kBox = 64;    // positions, where an operand is contiguous along them
  // As tall as makes reading the few rows again for every tile no more than half of the traffic.
  static constexpr int kRows = Few > 64 ? 256 : 128, kFew = Few, kDepth = 64;
  static constexpr int kBytesLarge = kRows * kDepth * 2, kBytesFew = Few * kDepth * 2;
  static constexpr int kStageBytes = kBytesLarge + kBytesFew;
  static constexpr int kBlocks = Few > 64 ? 1 : 2;  // on a multiprocessor
  static constexpr int kStages = (Few > 64 ? 192 : 108) * 1024 / kStageBytes;
  static constexpr int kTall = kRows / 64 / kConsumers;  // instructions above each other, of a consumer
  static constexpr int kThreads = (kConsumers + 1) * kWarpgroup;
  // Of the sums in shared memory, in elements: rows of the tile, or, where they are columns of C, of the few.
  // 8 (4) more than a multiple of 32, or half of it, keep a warp's stores in different banks.
  static constexpr int kPitch = Few + 8, kPitchSwapped = kRows + 4;
};

// What only float32 needs: operands as they are (element strides along rows or few, and k), and for each
// batch item whether the few have values that cannot be split.
struct FewSplit {
  const float *large, *few;
  int64_t large_row, large_k, few_row, few_k;
  const uint32_t* odd_few;
};

struct FewProblem {
  Sm90Operand large, few;
  GemmBatch batch;
  int rows, count, k, k_each;  // of the large operand, of the other one
  bool swapped;                // the large one is B
  float* partial;              // [part, batch, m, n], or NULL
  int cluster;
  unsigned tiles, items;
  int inner_items;  // of the innermost batch dim
  FewSplit split;
  // The large operand, in rows so far apart, where they are no multiple of 16 bytes; or NULL.
  const void* loose;
  int64_t loose_row;
};

template <class T>
struct alignas(1024) FewShared {
  // After the products: the sums, in float32.
  SharedArray<uint16_t, T::kStages * T::kStageBytes / 2> stages;
  SharedArray<uint64_t, T::kStages> full, empty;
  SharedArray<uint32_t, kConsumers * kWarpgroup / kWarp> votes;
  static_assert(T::kRows * T::kPitch * 4 <= T::kStages * T::kStageBytes);
  static_assert(T::kFew * T::kPitchSwapped * 4 <= T::kStages * T::kStageBytes);
};

struct FewWork {
  int row, item, part;  // part: of those that another kernel adds up
  int batch[kMapBatchDims];
  int k_begin, steps;
};

template <class T>
__device__ __forceinline__ FewWork few_work(const FewProblem& p, int rank) {
  FewWork w;
  const unsigned block = blockIdx.x / static_cast<unsigned>(p.cluster), rest = block / p.tiles;
  w.row = static_cast<int>(block % p.tiles) * T::kRows;
  w.item = static_cast<int>(rest % p.items);
  w.part = static_cast<int>(rest / p.items);
  w.batch[0] = w.item % p.inner_items;
  w.batch[1] = w.item / p.inner_items;
  const int64_t begin = (static_cast<int64_t>(w.part) * p.cluster + rank) * p.k_each;
  const int64_t left = p.k - begin, length = left < p.k_each ? left : p.k_each;
  w.k_begin = static_cast<int>(begin);
  w.steps = length > 0 ? static_cast<int>((length + T::kDepth - 1) / T::kDepth) : 0;
  return w;
}

// Length positions from `first` on by kDepth of k, elements of so many bytes: along k one box, else boxes of
// up to Box positions.
template <class T, int Length, int Box, int Bytes>
__device__ __forceinline__ void few_load(const Sm90Operand& operand, const FewWork& w, uint32_t to,
                                         uint32_t full, int first, int k, int plane) {
  constexpr int kBox = Length < Box ? Length : Box;
  const int b0 = operand.moves[0] ? w.batch[0] : 0, b1 = operand.moves[1] ? w.batch[1] : 0;
  if (operand.along_k) {
    ptx::tensor_load(to, &operand.map, full, {k, first, b0, b1, plane});
  } else {
#pragma unroll
    for (int i = 0; i < Length; i += kBox) {
      ptx::tensor_load(to + i * T::kDepth * Bytes, &operand.map, full, {first + i, k, b0, b1, plane});
    }
  }
}

// The few rows of one step, into their part of a stage.
template <class T>
__device__ __forceinline__ void few_load_few(const FewProblem& p, const FewWork& w, uint32_t tile,
                                             uint32_t full, int k) {
#pragma unroll
  for (int plane = 0; plane < T::kPlanes; ++plane) {
    few_load<T, T::kFew, 64, 2>(p.few, w, tile + T::kBytesLarge + plane * T::kBytesFew, full, 0, k, plane);
  }
}

template <class T>
__device__ __forceinline__ void few_produce(FewShared<T>& shared, const FewProblem& p, const FewWork& w) {
  const uint32_t stages = ptx::shared_address(shared.stages.data()),
                 full0 = ptx::shared_address(shared.full.data()),
                 empty0 = ptx::shared_address(shared.empty.data());
  Ring<T> ring;
  for (int step = 0; step < w.steps; ++step) {
    const uint32_t full = full0 + 8 * ring.stage, tile = stages + ring.stage * T::kStageBytes;
    const int k = w.k_begin + step * T::kDepth;
    ptx::mbarrier_wait(empty0 + 8 * ring.stage, ring.parity ^ 1);
    ptx::mbarrier_arrive_expect(full, T::kStageBytes);
    few_load<T, T::kRows, T::kBox, sizeof(typename T::S)>(p.large, w, tile, full, w.row, k, 0);
    few_load_few<T>(p, w, tile, full, k);
    ring.advance();
  }
}

// Where the copy engine cannot read the large operand, all threads of the producer's warpgroup do: a warp
// copies 128 bytes of a row, 4 to a thread, to where the engine would have brought them; sixteen such copies
// at a time.
template <class T>
__device__ __forceinline__ void few_produce_loose(FewShared<T>& shared, const FewProblem& p,
                                                  const FewWork& w) {
  using S = typename T::S;
  constexpr int kEach = 4 / sizeof(S), kSegment = kWarp * kEach, kAtOnce = 16;
  constexpr int kSegments = T::kBytesLarge / 128, kWarps = kWarpgroup / kWarp;
  const uint32_t stages = ptx::shared_address(shared.stages.data()),
                 full0 = ptx::shared_address(shared.full.data()),
                 empty0 = ptx::shared_address(shared.empty.data());
  const int t = static_cast<int>(threadIdx.x) % kWarpgroup, l = t % kWarp;
  const BatchOffsets batch = offsets_of(p.batch, w.item);
  const S* const from = static_cast<const S*>(p.loose) + (p.swapped ? batch.b : batch.a);
  const bool along_k = p.large.along_k;
  const int rows = along_k ? p.rows : p.k, columns = along_k ? p.k : p.rows;
  Ring<T> ring;
  for (int step = 0; step < w.steps; ++step) {
    const uint32_t full = full0 + 8 * ring.stage;
    char* const tile = reinterpret_cast<char*>(shared.stages.data()) + ring.stage * T::kStageBytes;
    const int k = w.k_begin + step * T::kDepth;
    ptx::mbarrier_wait(empty0 + 8 * ring.stage, ring.parity ^ 1);
    if (t == 0) {
      ptx::mbarrier_arrive_expect(full, T::kStageBytes - T::kBytesLarge);
      few_load_few<T>(p, w, stages + ring.stage * T::kStageBytes, full, k);
    }
    __syncwarp();
#pragma unroll 1
    for (int first = 0; first < kSegments; first += kAtOnce * kWarps) {
      S values[kAtOnce][kEach];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const int s = first + i * kWarps + t / kWarp;  // a segment: along k a row's, else of a box's row of k
        const int row = along_k ? w.row + s : k + s % T::kDepth,
                  column = (along_k ? k : w.row + s / T::kDepth * kSegment) + l * kEach;
        const S* const at = from + row * p.loose_row + column;
#pragma unroll
        for (int e = 0; e < kEach; ++e) values[i][e] = row < rows && column + e < columns ? at[e] : S{};
      }
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const int s = first + i * kWarps + t / kWarp;
        Pack<S, kEach> word;
#pragma unroll
        for (int e = 0; e < kEach; ++e) word.at[e] = values[i][e];
        shared_store(tile + s * 128 + (l * 4 ^ s % 8 * 16), word);
      }
    }
    ptx::fence_proxy_async();
    ptx::mbarrier_arrive(full);
    ring.advance();
  }
}

// The descriptor of 16 k from `k` on of the few rows. Transposed, a row in shared memory has as many of them
// as there are, up to 64.
template <class T, bool Transposed>
__device__ __forceinline__ uint64_t few_descriptor(uint32_t tile, int k) {
  if constexpr (Transposed && T::kFew < 64) {
    constexpr int kRow = T::kFew * 2;
    return ptx::matrix_descriptor(tile + k * kRow, 0, 8 * kRow,
                                  kRow == 64 ? ptx::MatrixSwizzle::bytes_64 : ptx::MatrixSwizzle::bytes_32);
  } else {
    return descriptor<T, Transposed>(tile, 0, k);
  }
}

template <class T, bool TransposedLarge, bool TransposedFew>
__device__ __forceinline__ void few_multiply(FewShared<T>& shared, const FewWork& w, int group,
                                             float (&sums)[T::kTall][T::kFew / 2]) {
  const uint32_t stages = ptx::shared_address(shared.stages.data()),
                 full0 = ptx::shared_address(shared.full.data()),
                 empty0 = ptx::shared_address(shared.empty.data());
  uint32_t before = 0;
  Ring<T> ring;
  for (int step = 0; step < w.steps; ++step) {
    const uint32_t large = stages + ring.stage * T::kStageBytes, few = large + T::kBytesLarge;
    ptx::mbarrier_wait(full0 + 8 * ring.stage, ring.parity);
    ptx::wgmma_fence();
#pragma unroll
    for (int i = 0; i < T::kTall; ++i) {
#pragma unroll
      for (int k = 0; k < T::kDepth; k += 16) {
        ptx::wgmma<TransposedLarge, TransposedFew>(
            typename T::S{}, sums[i], descriptor<T, TransposedLarge>(large, (group * T::kTall + i) * 64, k),
            few_descriptor<T, TransposedFew>(few, k), step > 0 || k > 0);
      }
    }
    ptx::wgmma_commit();
    ptx::wgmma_wait<1>();
    if (step > 0) release(before, 1);
    before = empty0 + 8 * ring.stage;
    ring.advance();
  }
  ptx::wgmma_wait<0>();
#pragma unroll
  for (int i = 0; i < T::kTall; ++i) ptx::wgmma_results(sums[i]);
}

// This warpgroup's sums into shared memory, in rows of C.
template <class T>
__device__ __forceinline__ void few_stage(float* place, bool swapped, int group,
                                          const float (&sums)[T::kTall][T::kFew / 2]) {
  const int t = static_cast<int>(threadIdx.x) % kWarpgroup, l = t % kWarp;
#pragma unroll
  for (int i = 0; i < T::kTall; ++i) {
#pragma unroll
    for (int j = 0; j < T::kFew / 4; ++j) {  // two neighbouring columns of one row
      const int row = (group * T::kTall + i) * 64 + t / kWarp * 16 + l / 4 + j % 2 * 8,
                column = j / 2 * 8 + l % 4 * 2;
      if (swapped) {
        shared_store(place + column * T::kPitchSwapped + row, sums[i][2 * j]);
        shared_store(place + (column + 1) * T::kPitchSwapped + row, sums[i][2 * j + 1]);
      } else {
        shared_store(place + row * T::kPitch + column, Pack<float, 2>{{sums[i][2 * j], sums[i][2 * j + 1]}});
      }
    }
  }
}

// This block's share of the tile's rows of C (Columns wide in shared memory, Pitch apart): the cluster's sums
// added up, and what the end makes of them.
template <class S, int Columns, int Pitch>
__device__ __forceinline__ void few_finish(const FewProblem& p, const GemmEnd<S>& end, const FewWork& w,
                                           uint32_t place, int rank, int row0, int rows, int column0,
                                           int columns) {
  const int m = p.swapped ? p.count : p.rows, n = p.swapped ? p.rows : p.count;
  const int each = (rows + p.cluster - 1) / p.cluster, first = rank * each,
            last = first + each < rows ? first + each : rows;
  const BatchOffsets batch = offsets_of(p.batch, w.item);
  const auto all = [&](auto width) {
    constexpr int kWidth = decltype(width)::value;
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x) * kWidth + first * Columns; i < last * Columns;
         i += kConsumers * kWarpgroup * kWidth) {
      const int row = i / Columns, column = i % Columns;
      if (column >= columns) continue;
      Pack<float, kWidth> sum{};
      const uint32_t at = place + static_cast<uint32_t>(row * Pitch + column) * 4;
      for (int other = 0; other < p.cluster; ++other) {
        const uint32_t from = p.cluster > 1 ? ptx::map_shared(at, static_cast<unsigned>(other)) : at;
#pragma unroll
        for (int e = 0; e < kWidth; ++e) sum.at[e] += __uint_as_float(ptx::load_cluster(from + 4 * e));
      }
      if (p.partial) {
        float* const to = p.partial +
                          ((static_cast<int64_t>(w.part) * p.items + w.item) * m + row0 + row) * n + column0 +
                          column;
        *reinterpret_cast<Pack<float, kWidth>*>(to) = sum;
      } else {
        end.store(batch.c, batch.residual, row0 + row, column0 + column, sum);
      }
    }
  };
  if (end.packs) all(std::integral_constant<int, 4>{});
  else all(std::integral_constant<int, 1>{});
}

}  // namespace fastdl::cuda
