// The operands of gemm for matmul_sm90.cuh: matrices in memory, batches of them, or planes of split float32.
//
// What a kernel multiplies is a struct of this kind. Its Loads<T> belongs to the producer, with_layout and
// Results<T> to the consumers.
#pragma once

#include "cuda/matmul_sm90.cuh"

namespace fastdl::cuda {

struct Sm90Operand {
  CUtensorMap map;
  bool along_k;
  bool moves[kMapBatchDims];  // from one batch item to the next, along each dim
};

// Where a row of results goes: offsets into C and the residual, and how many of their rows from there on.
struct Sm90Place {
  int64_t c, residual, row;
};

// Half of B's tile (of one box along k) for both blocks of a cluster, or a block's whole B. load(place,
// first, blocks) starts the copy of the columns from `first` on of one half.
template <class T, class Load>
__device__ __forceinline__ void load_halves(uint32_t to, int column, int cluster, int rank, Load&& load) {
  constexpr int kHalf = T::kColumns / 2, kHalfBytes = T::kBytesB / T::kBoxes / 2;
  if (cluster == 2) {
    load(to + rank * kHalfBytes, column + rank * kHalf, uint16_t{3});
  } else {
    load(to, column, uint16_t{0});
    load(to + kHalfBytes, column + kHalf, uint16_t{0});
  }
}

template <class S>
struct Sm90Matrices {
  static constexpr bool kNarrow = false;
  Sm90Operand a, b;
  // float32: operands as they are, and which 128 rows of A and columns of B, per batch item, have values that
  // cannot be split.
  const float *plain_a, *plain_b;
  int64_t a_row, a_column, b_row, b_column;
  const uint32_t *odd_a, *odd_b;

  __device__ __forceinline__ void prefetch() const {
    ptx::prefetch_map(&a.map);
    ptx::prefetch_map(&b.map);
  }

  // Calls with(A is transposed, B is transposed).
  template <class With>
  __device__ __forceinline__ void with_layout(With&& with) const {
    if (a.along_k) {
      if (b.along_k) with(std::false_type{}, std::false_type{});
      else with(std::false_type{}, std::true_type{});
    } else {
      if (b.along_k) with(std::true_type{}, std::false_type{});
      else with(std::true_type{}, std::true_type{});
    }
  }

  // The copies of one piece of work.
  template <class T>
  struct Loads {
    const Sm90Matrices& o;
    const Sm90Work& w;
    int cluster, rank, k;

    __device__ __forceinline__ Loads(const Sm90Matrices& operands, const Sm90Work& work, int cluster,
                                     int rank)
        : o(operands), w(work), cluster(cluster), rank(rank), k(work.k_begin) {}

    // Those of the next step into a stage.
    __device__ __forceinline__ void start(uint32_t tile, uint32_t full) {
#pragma unroll
      for (int plane = 0; plane < T::kPlanes; ++plane) {
        load<T::kRows>(o.a, tile + plane * T::kBytesA, full, w.row, plane, 0);
        load_halves<T>(tile + T::kPlanes * T::kBytesA + plane * T::kBytesB, w.column, cluster, rank,
                       [&](uint32_t to, int first, uint16_t blocks) {
                         load<T::kColumns / 2>(o.b, to, full, first, plane, blocks);
                       });
      }
      k += T::kDepth;
    }

   private:
    // Length positions from `first` on: along k one box, else boxes of 64 positions. blocks: 0 for this one
    // alone.
    template <int Length>
    __device__ __forceinline__ void load(const Sm90Operand& operand, uint32_t to, uint32_t full, int first,
                                         int plane, uint16_t blocks) const {
      const int b0 = operand.moves[0] ? w.batch[0] : 0, b1 = operand.moves[1] ? w.batch[1] : 0;
      const auto box = [&](uint32_t place, const int (&at)[5]) {
        if (blocks) ptx::tensor_load(place, &operand.map, full, at, blocks);
        else ptx::tensor_load(place, &operand.map, full, at);
      };
      if (operand.along_k) {
        box(to, {k, first, b0, b1, plane});
      } else {
#pragma unroll
        for (int i = 0; i < Length; i += 64) box(to + i * T::kDepth * 2, {first + i, k, b0, b1, plane});
      }
    }
  };

  // What becomes of the sums of one piece of work.
  template <class T>
  struct Results {
    const Sm90Matrices& o;
    const Sm90Problem& p;
    const Sm90Work& w;
    BatchOffsets batch;
    bool again = false;  // some results have to be made again, by remake

    __device__ __forceinline__ Results(const Sm90Matrices& operands, const Sm90Problem& problem,
                                       const Sm90Work& work, Sm90Shared<T>&, int, const float (&)[T::kSums])
        : o(operands), p(problem), w(work), batch(offsets_of(problem.batch, work.item)) {
      if constexpr (T::kSplit) {
        again = (w.row < p.m && odd(o.a, o.odd_a, p.m, w.row)) || odd(o.b, o.odd_b, p.n, w.column);
      }
    }
    __device__ __forceinline__ Sm90Place at(int64_t row) const { return {batch.c, batch.residual, row}; }

    __device__ __forceinline__ float remake(int64_t row, int64_t column, float sum) const {
      if constexpr (T::kSplit) {
        const int k_end = w.k_begin + p.k_each < p.k ? w.k_begin + p.k_each : p.k;
        sum = 0;
#pragma unroll 1
        for (int64_t k = w.k_begin; k < k_end; ++k) {
          sum = fmaf(o.plain_a[batch.a + row * o.a_row + k * o.a_column],
                     o.plain_b[batch.b + k * o.b_row + column * o.b_column], sum);
        }
      }
      return sum;
    }

   private:
    __device__ __forceinline__ bool odd(const Sm90Operand& operand, const uint32_t* flags, int64_t length,
                                        int first) const {
      int64_t item = 0, size = 1;
#pragma unroll
      for (int i = 0; i < kMapBatchDims; ++i) {
        if (!operand.moves[i]) continue;
        item += w.batch[i] * size;
        size *= p.batch.shape[i];
      }
      return flags[item * ((length + 127) / 128) + first / 128] != 0;
    }
  };
};

}  // namespace fastdl::cuda
