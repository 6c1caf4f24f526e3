// The kernel of matmul_sm90_few.cuh.
#pragma once

#include "cuda/matmul_sm90_few_split.cuh"

namespace fastdl::cuda {

// All sums of a tile are there; later: nobody reads them any more.
template <class T>
__device__ __forceinline__ void few_meet(int cluster) {
  __syncwarp();  // the producer's thread comes later than its warp
  if (cluster > 1) {
    ptx::cluster_arrive();
    ptx::cluster_wait();
  } else {
    ptx::named_barrier(2, T::kThreads);
  }
}

// float32: the consumers take more registers than there are for all threads. The producer goes its own way to
// the end, for code that both run would have to do with the fewer ones.
template <class S, int Few>
__global__ void __launch_bounds__(FewTile<S, Few>::kThreads, FewTile<S, Few>::kBlocks)
    gemm_few_sm90(const __grid_constant__ FewProblem p, const __grid_constant__ GemmEnd<S> end) {
  using T = FewTile<S, Few>;
  auto& shared = shared_memory<FewShared<T>>();
  const int rank = p.cluster == 1 ? 0 : static_cast<int>(ptx::cluster_rank());
  const int group = static_cast<int>(threadIdx.x) / kWarpgroup;  // kConsumers: the producer
  if (threadIdx.x == 0) {
#pragma unroll 1
    for (int stage = 0; stage < T::kStages; ++stage) {
      ptx::mbarrier_init(ptx::shared_address(shared.full.at(stage)), p.loose ? 1 + kWarpgroup : 1);
      ptx::mbarrier_init(ptx::shared_address(shared.empty.at(stage)), kConsumers * kWarpgroup / kWarp);
    }
    ptx::mbarrier_fence_init();
  }
  if (threadIdx.x == kConsumers * kWarpgroup) {
    if (!p.loose) ptx::prefetch_map(&p.large.map);
    ptx::prefetch_map(&p.few.map);
  }
  __syncthreads();
  const FewWork w = few_work<T>(p, rank);
  float* const place = reinterpret_cast<float*>(shared.stages.data());
  if (group == kConsumers) {
    if constexpr (T::kSplit) ptx::fewer_registers<72>();
    if (p.loose) few_produce_loose<T>(shared, p, w);
    else if (threadIdx.x == kConsumers * kWarpgroup) few_produce<T>(shared, p, w);
    few_meet<T>(p.cluster);
    if (p.cluster > 1) few_meet<T>(p.cluster);
  } else {
    if constexpr (T::kSplit) ptx::more_registers<216>();
    float sums[T::kTall][T::kFew / 2];
#pragma unroll
    for (auto& tall : sums) {
#pragma unroll
      for (float& sum : tall) sum = 0;
    }
    bool fit = true;
    const auto multiply = [&](auto large, auto few) {
      constexpr bool kLarge = decltype(large)::value, kFew = decltype(few)::value;
      if constexpr (T::kSplit) fit = few_multiply_split<T, kLarge, kFew>(shared, w, group, sums[0]);
      else few_multiply<T, kLarge, kFew>(shared, w, group, sums);
    };
    if (p.large.along_k) {
      if (p.few.along_k) multiply(std::false_type{}, std::false_type{});
      else multiply(std::false_type{}, std::true_type{});
    } else {
      if (p.few.along_k) multiply(std::true_type{}, std::false_type{});
      else multiply(std::true_type{}, std::true_type{});
    }
    if constexpr (T::kSplit) {
      const bool odd = __any_sync(kAllLanes, !fit) != 0;
      if (lane() == 0) shared.votes[warp()] = odd;
    }
    ptx::named_barrier(1, kConsumers * kWarpgroup);  // the sums go where the other's factors were
    bool again = false;
    if constexpr (T::kSplit) {
      again = few_odd(p, w);
      for (int i = 0; i < shared.votes.size(); ++i) again = again || shared.votes[i] != 0;
      if (again) few_remake<T>(p, w, place);
    }
    if (!again) few_stage<T>(place, p.swapped, group, sums);
    few_meet<T>(p.cluster);
    const uint32_t at = ptx::shared_address(place);
    const int rows = p.rows - w.row < T::kRows ? p.rows - w.row : T::kRows;
    if (p.swapped) {
      few_finish<S, T::kRows, T::kPitchSwapped>(p, end, w, at, rank, 0, p.count, w.row, rows);
    } else {
      few_finish<S, T::kFew, T::kPitch>(p, end, w, at, rank, w.row, rows, 0, p.count);
    }
    if (p.cluster > 1) few_meet<T>(p.cluster);
  }
}

}  // namespace fastdl::cuda
