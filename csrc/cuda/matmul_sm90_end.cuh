// The end of matmul_sm90.cuh: what becomes of a warpgroup's sums.
#pragma once

#include "cuda/matmul_sm90_operands.cuh"

namespace fastdl::cuda {

// 16-bit results of a simple end (GemmEnd::packs) by the copy engine: 64 columns at a time through shared
// memory in the order of a 128-byte swizzle, one box being filled while the one before is copied.
template <class S, class T, class Results>
__device__ __forceinline__ void store_boxes(Sm90Shared<T>& shared, const Sm90Problem& p,
                                            const GemmEnd<S>& end, const Results& results, const Sm90Work& w,
                                            int group, int& turn, const float (&sums)[T::kSums]) {
  constexpr int kBox = 64;
  const int t = static_cast<int>(threadIdx.x) % kWarpgroup, l = t % kWarp, warp_row = t / kWarp * 16;
  const int row0 = w.row + group * 64, row = row0 + warp_row + l / 4;
  const int64_t residual_at = results.at(0).residual;
#pragma unroll
  for (int box = 0; box < T::kColumns / kBox; ++box) {
    if (w.column + box * kBox >= p.n) break;
    uint16_t* const place = shared.results.at((group * 2 + turn) * kBox * kBox);
    turn ^= 1;  // not the box's number: a tile at the edge may have stored an odd number of them
    if (t == 0) ptx::bulk_wait_read<1>();
    ptx::named_barrier(1 + group, kWarpgroup);
#pragma unroll
    for (int pair = 0; pair < kBox / 8; pair += 2) {  // 16 columns, as two fragments of 8
      uint32_t words[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int j = box * (kBox / 8) + pair + i / 2, r = row + i % 2 * 8;
        const int column = w.column + j * 8 + l % 4 * 2;
        float y[2] = {end.alpha * sums[4 * j + i % 2 * 2], end.alpha * sums[4 * j + i % 2 * 2 + 1]};
        if (column < p.n) {
          if (end.bias) {
            y[0] += widen(end.bias[column * end.bias_stride]);
            y[1] += widen(end.bias[(column + 1) * end.bias_stride]);
          }
          if (end.residual && r < p.m) {
            const auto two = *reinterpret_cast<const Pack<S, 2>*>(end.residual + residual_at +
                                                                  r * end.residual_row + column);
            y[0] += widen(two.at[0]);
            y[1] += widen(two.at[1]);
          }
        }
        if (end.activation.kind == FASTDL_ACT_RELU) y[0] = at_least(0.f, y[0]), y[1] = at_least(0.f, y[1]);
        words[i] = ptx::pack(S{}, y[0], y[1]);
      }
      const int store_row = warp_row + l % 16, chunk = pair + l / 16;
      ptx::stmatrix<false>(place + store_row * kBox + (chunk ^ store_row % 8) * 8, words);
    }
    ptx::fence_proxy_async();
    ptx::named_barrier(1 + group, kWarpgroup);
    if (t == 0) {
      if (row0 < p.m) {
        ptx::tensor_store(&p.c, ptx::shared_address(place),
                          {w.column + box * kBox, row0, w.batch[0], w.batch[1], 0});
      }
      ptx::bulk_commit();
    }
  }
}

// Any other end: 32 columns at a time through shared memory as float32, from where every thread takes
// neighbours.
template <class S, class T, class Results>
__device__ __forceinline__ void store_elements(Sm90Shared<T>& shared, const Sm90Problem& p,
                                               const GemmEnd<S>& end, const Results& results,
                                               const Sm90Work& w, int group, const float (&sums)[T::kSums]) {
  constexpr int kPart = 32;
  const int t = static_cast<int>(threadIdx.x) % kWarpgroup, l = t % kWarp, row0 = w.row + group * 64;
  float* const block = reinterpret_cast<float*>(shared.results.at(group * 2 * 64 * 64));
  const auto place = [](int row, int column) { return row * kPart + (column ^ (row % 4 * 8)); };
  const auto finish = [&](int64_t row, int64_t column, auto sum) {
    if constexpr (sizeof(sum) == sizeof(float)) {
      if (results.again) sum.at[0] = results.remake(row, column, sum.at[0]);
    }
    if (p.partial) {
      *reinterpret_cast<decltype(sum)*>(
          p.partial + ((static_cast<int64_t>(w.part) * p.items + w.item) * p.m + row) * p.n + column) = sum;
    } else {
      const Sm90Place place = results.at(row);
      end.store(place.c, place.residual, place.row, column, sum);
    }
  };
#pragma unroll 1
  for (int part = 0; part < T::kColumns / kPart; ++part) {
    const int column0 = w.column + part * kPart;
    if (column0 >= p.n) break;
    ptx::named_barrier(1 + group, kWarpgroup);
    // Registers have no addresses: every part's are named, one part's are stored.
#pragma unroll
    for (int named = 0; named < T::kColumns / kPart; ++named) {
      if (named != part) continue;
#pragma unroll
      for (int j = 0; j < kPart / 8; ++j) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const float* const d = sums + (named * (kPart / 8) + j) * 4 + half * 2;
          shared_store(block + place(t / kWarp * 16 + l / 4 + half * 8, 8 * j + l % 4 * 2),
                       Pack<float, 2>{{d[0], d[1]}});
        }
      }
    }
    ptx::named_barrier(1 + group, kWarpgroup);
    const auto each = [&](auto width) {
      constexpr int kWidth = decltype(width)::value;
#pragma unroll 1
      for (int i = t * kWidth; i < 64 * kPart; i += kWarpgroup * kWidth) {
        const int row = i / kPart, column = i % kPart;
        if (row0 + row < p.m && column0 + column < p.n) {
          finish(row0 + row, column0 + column, shared_load<Pack<float, kWidth>>(block + place(row, column)));
        }
      }
    };
    if (end.packs && !results.again) each(std::integral_constant<int, 4>{});
    else each(std::integral_constant<int, 1>{});
  }
}

// Registers: 168 per thread at the start; the producer's warpgroup gives back what lets the consumers have
// 232.
template <class S, int Columns, int Planes, class Operands>
__global__ void __launch_bounds__(kSm90Threads, 1)
    gemm_sm90(const __grid_constant__ Sm90Problem p, const __grid_constant__ Operands operands,
              const __grid_constant__ GemmEnd<S> end) {
  using T = Sm90Tile<S, Columns, Planes, Operands::kNarrow>;
  auto& shared = shared_memory<Sm90Shared<T>>();
  const int rank = p.cluster == 1 ? 0 : static_cast<int>(ptx::cluster_rank());
  if (threadIdx.x == 0) {
#pragma unroll 1
    for (int stage = 0; stage < T::kStages; ++stage) {
      ptx::mbarrier_init(ptx::shared_address(shared.full.at(stage)), 1);
      ptx::mbarrier_init(ptx::shared_address(shared.empty.at(stage)),
                         static_cast<unsigned>(p.cluster) * kConsumers * kWarpgroup / kWarp);
    }
    ptx::mbarrier_fence_init();
    operands.prefetch();
  }
  __syncthreads();
  if (p.cluster > 1) {
    ptx::cluster_arrive();
    ptx::cluster_wait();
  }
  const int role = static_cast<int>(threadIdx.x) / kWarpgroup;
  if (role == 0) {
    ptx::fewer_registers<40>();
    if (threadIdx.x == 0) produce<T>(shared, p, operands, rank);
    __syncwarp();
  } else {
    ptx::more_registers<232>();
    const int group = role - 1;
    Sm90Schedule<T> schedule(p);
    Sm90Work w;
    Ring<T> ring;
    float sums[T::kSums];
    int turn = 0;  // which of its two boxes a consumer fills next
    while (schedule.next(w, rank)) {
      multiply<T>(shared, p, operands, w, group, ring, sums);
      const typename Operands::template Results<T> results(operands, p, w, shared, group, sums);
      if constexpr (!T::kSplit) {
        if (p.store_by_map && !results.again) {
          store_boxes<S, T>(shared, p, end, results, w, group, turn, sums);
          continue;
        }
      }
      // The copy engine may still read the last tile's boxes, which are written over.
      if (p.store_by_map && threadIdx.x % kWarpgroup == 0) ptx::bulk_wait_read<0>();
      store_elements<S, T>(shared, p, end, results, w, group, sums);
    }
    if (p.store_by_map && threadIdx.x % kWarpgroup == 0) ptx::bulk_wait_read<0>();
    __syncwarp();
  }
  // The other block may still copy into this one's memory, and say that it has read it.
  if (p.cluster > 1) {
    ptx::cluster_arrive();
    ptx::cluster_wait();
  }
}

}  // namespace fastdl::cuda
