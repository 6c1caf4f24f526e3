// The products of matmul_sm90_few.cuh for float32: the large operand comes as it is, and its warps split it
// into bfloat16 planes as they read it, which are wgmma's left factors in registers; the few rows are planes
// made beforehand. A block that meets a value that cannot be split makes its sums again by multiply-adds.
#pragma once

#include "cuda/matmul_sm90_few.cuh"
#include "cuda/split.cuh"

namespace fastdl::cuda {

template <int Few>
struct FewTile<float, Few> {
  using S = float;
  using E = bfloat16;
  static constexpr bool kSplit = true;
  static constexpr int kPlanes = 3, kRows = 128, kFew = Few, kDepth = 32;
  static constexpr int kBox = 32;  // of the large operand, which has rows of 128 bytes either way
  static constexpr int kBytesLarge = kRows * kDepth * 4, kBytesFew = Few * kDepth * 2;
  static constexpr int kStageBytes = kBytesLarge + kPlanes * kBytesFew;
  static constexpr int kBlocks = 1, kStages = 192 * 1024 / kStageBytes;
  static constexpr int kTall = 1, kThreads = (kConsumers + 1) * kWarpgroup;
  static constexpr int kPitch = Few + 8, kPitchSwapped = kRows + 4;
};

// Two neighbours along k of a row of the large operand.
template <class T, bool Transposed>
__device__ __forceinline__ Pack<float, 2> few_pair(const char* tile, int row, int k) {
  const auto at = [&](int box, int line, int column) {
    const int byte = box * T::kBox * T::kDepth * 4 + line * 128 + column * 4;
    return tile + (byte ^ (byte >> 7 & 7) << 4);
  };
  if constexpr (Transposed) {
    return {{shared_load<float>(at(row / T::kBox, k, row % T::kBox)),
             shared_load<float>(at(row / T::kBox, k + 1, row % T::kBox))}};
  } else {
    return shared_load<Pack<float, 2>>(at(0, row, k));
  }
}

// True if all values could be split.
template <class T, bool TransposedLarge, bool TransposedFew>
__device__ __forceinline__ bool few_multiply_split(FewShared<T>& shared, const FewWork& w, int group,
                                                   float (&sums)[T::kFew / 2]) {
  const char* const memory = reinterpret_cast<const char*>(shared.stages.data());
  const uint32_t stages = ptx::shared_address(shared.stages.data()),
                 full0 = ptx::shared_address(shared.full.data()),
                 empty0 = ptx::shared_address(shared.empty.data());
  const int t = static_cast<int>(threadIdx.x) % kWarpgroup, l = t % kWarp;
  bool fit = true;
  Ring<T> ring;
  for (int step = 0; step < w.steps; ++step) {
    const char* const large = memory + ring.stage * T::kStageBytes;
    const uint32_t few = stages + ring.stage * T::kStageBytes + T::kBytesLarge;
    ptx::mbarrier_wait(full0 + 8 * ring.stage, ring.parity);
    uint32_t left[T::kDepth / 16][T::kPlanes][4];
#pragma unroll
    for (int half = 0; half < T::kDepth / 16; ++half) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const auto two = few_pair<T, TransposedLarge>(large, group * 64 + t / kWarp * 16 + l / 4 + i % 2 * 8,
                                                      half * 16 + i / 2 * 8 + l % 4 * 2);
        fit = fit && splits(two.at[0]) && splits(two.at[1]);
        uint32_t planes[T::kPlanes];
        split(two.at[0], two.at[1], planes);
#pragma unroll
        for (int plane = 0; plane < T::kPlanes; ++plane) left[half][plane][i] = planes[plane];
      }
    }
    float some[T::kFew / 2];
    ptx::wgmma_fence();
#pragma unroll
    for (int order = T::kPlanes - 1; order >= 0; --order) {  // planes i of the large, order - i of the few
#pragma unroll
      for (int i = 0; i <= order; ++i) {
#pragma unroll
        for (int half = 0; half < T::kDepth / 16; ++half) {
          ptx::wgmma<TransposedFew>(
              bfloat16{}, some, left[half][i],
              descriptor<T, TransposedFew>(few + (order - i) * T::kBytesFew, 0, half * 16),
              !(order == T::kPlanes - 1 && i == 0 && half == 0));
        }
      }
    }
    ptx::wgmma_commit();
    ptx::wgmma_wait<0>();
    ptx::wgmma_results(some);
    release(empty0 + 8 * ring.stage, 1);
#pragma unroll
    for (int i = 0; i < T::kFew / 2; ++i) sums[i] += some[i];
    ring.advance();
  }
  return fit;
}

// Whether the few of this batch item have values that cannot be split.
__device__ __forceinline__ bool few_odd(const FewProblem& p, const FewWork& w) {
  int64_t item = 0, size = 1;
#pragma unroll
  for (int i = 0; i < kMapBatchDims; ++i) {
    if (!p.few.moves[i]) continue;
    item += w.batch[i] * size;
    size *= p.batch.shape[i];
  }
  return p.split.odd_few[item] != 0;
}

// The sums of this block's part of k by multiply-adds.
template <class T>
__device__ __forceinline__ void few_remake(const FewProblem& p, const FewWork& w, float* place) {
  const FewSplit& s = p.split;
  const BatchOffsets batch = offsets_of(p.batch, w.item);
  const float* const large = s.large + (p.swapped ? batch.b : batch.a);
  const float* const few = s.few + (p.swapped ? batch.a : batch.b);
  const int64_t end = w.k_begin + static_cast<int64_t>(p.k_each) < p.k ? w.k_begin + p.k_each : p.k;
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < T::kRows * p.count; i += kConsumers * kWarpgroup) {
    const int row = i % T::kRows, column = i / T::kRows;
    if (w.row + row >= p.rows) continue;
    float sum = 0;
#pragma unroll 1
    for (int64_t k = w.k_begin; k < end; ++k) {
      sum = fmaf(large[(w.row + static_cast<int64_t>(row)) * s.large_row + k * s.large_k],
                 few[column * s.few_row + k * s.few_k], sum);
    }
    shared_store(place + (p.swapped ? column * T::kPitchSwapped + row : row * T::kPitch + column), sum);
  }
}

}  // namespace fastdl::cuda
