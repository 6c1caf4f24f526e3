// Tiles of rows (queries, keys, values, gradients) in shared memory as the copy engine brings them and wgmma
// reads them, and the softmax of what wgmma leaves. H: bfloat16 or float16.
#pragma once

#include <cuda.h>

#include <cstdint>
#include <cstring>

#include "cuda/attention_config.h"
#include "cuda/attention_operands.cuh"
#include "cuda/attention_seen.cuh"
#include "cuda/attention_softmax.cuh"
#include "cuda/ptx/exponential.cuh"
#include "cuda/ptx/mbarrier.cuh"
#include "cuda/ptx/stmatrix.cuh"
#include "cuda/ptx/tma.cuh"
#include "cuda/ptx/wgmma.cuh"
#include "cuda/ring.cuh"
#include "cuda/shared.cuh"
#include "cuda/tensor_map.h"

namespace fastdl::cuda {

// A tensor (batch, head, row, feature) for the copy engine. Along a dim that it repeats itself along, or of
// one element, there is one coordinate.
struct Sm90Rows {
  CUtensorMap map;
  bool by_head, by_batch;
};

// Rows x D elements: side by side, boxes of 64 features in rows of 128 bytes (32 in 64, where 64 do not
// divide D).
template <int D, int Rows>
struct Sm90RowTile {
  static constexpr int kChunk = D % 64 == 0 ? 64 : 32, kRowBytes = 2 * kChunk, kBoxBytes = Rows * kRowBytes;
  static constexpr int kElements = Rows * D, kBytes = 2 * kElements;
  static constexpr auto kSwizzle =
      kChunk == 64 ? ptx::MatrixSwizzle::bytes_128 : ptx::MatrixSwizzle::bytes_64;

  // Starts the copies of rows from `first` on; rows and features that do not exist are zeros.
  __device__ static __forceinline__ void load(uint32_t to, const Sm90Rows& from, uint32_t full, int first,
                                              int head, int b) {
#pragma unroll
    for (int c = 0; c < D; c += kChunk) {
      ptx::tensor_load(to + c / kChunk * kBoxBytes, &from.map, full,
                       {c, first, from.by_head ? head : 0, from.by_batch ? b : 0, 0});
    }
  }
  // A factor whose rows (of the left one; columns of the right one) are the tile's from `first` on (a
  // multiple of 8), for 16 features from k on.
  __device__ static __forceinline__ uint64_t along(uint32_t tile, int first, int k) {
    return ptx::matrix_descriptor(tile + k / kChunk * kBoxBytes + first * kRowBytes + k % kChunk * 2, 0,
                                  8 * kRowBytes, kSwizzle);
  }
  // Which element 8 features of a row begin with, counted in eights.
  __device__ static __forceinline__ int element(int row, int eight) {
    constexpr int kEights = kChunk / 8;
    const int turn = row * kRowBytes / 128 % kEights;
    return eight / kEights * (kBoxBytes / 2) + row * kChunk + (eight % kEights ^ turn) * 8;
  }
  // A right factor whose columns are the features, for 16 rows from k on.
  __device__ static __forceinline__ uint64_t across(uint32_t tile, int k) {
    return ptx::matrix_descriptor(tile + k * kRowBytes, kBoxBytes, 8 * kRowBytes, kSwizzle);
  }
};

// Calls f(D) with the class of features.
template <class F>
void with_sm90_features(const AttentionProblem& p, F&& f) {
  switch (sm90_features(p.e, p.ev)) {
    case 64:
      return f(std::integral_constant<int, 64>{});
    case 96:
      return f(std::integral_constant<int, 96>{});
    case 128:
      return f(std::integral_constant<int, 128>{});
    case 192:
      return f(std::integral_constant<int, 192>{});
    default:
      return f(std::integral_constant<int, 256>{});
  }
}

// The map by which boxes of a tensor's rows are brought; x is v made ready (AttentionOperand).
template <class H>
Sm90Rows sm90_map(const AttentionPlanes<H>& x, const View& v, int box_columns, int box_rows,
                  CUtensorMapSwizzle swizzle) {
  Sm90Rows rows{};
  rows.by_head = x.head != 0 && v.shape[1] > 1, rows.by_batch = x.batch != 0 && v.shape[0] > 1;
  MapShape shape;
  shape.dims[0] = v.shape[3], shape.dims[1] = v.shape[2];
  shape.strides[1] = x.row;
  if (rows.by_head) shape.dims[2] = v.shape[1], shape.strides[2] = x.head;
  if (rows.by_batch) shape.dims[3] = v.shape[0], shape.strides[3] = x.batch;
  shape.box[0] = box_columns, shape.box[1] = box_rows;
  rows.map = tensor_map(DTypeOf<H>::value, x.data, shape, swizzle);
  return rows;
}
// Of tiles of `box_rows` rows of D features.
template <class H, int D>
Sm90Rows sm90_rows(const AttentionPlanes<H>& x, const View& v, int box_rows) {
  constexpr int kChunk = Sm90RowTile<D, 64>::kChunk;
  return sm90_map(x, v, kChunk, box_rows,
                  kChunk == 64 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B);
}

// A boolean mask (true: may attend).
struct Sm90Mask {
  const uint8_t* data = nullptr;  // NULL: none
  int64_t batch, head, query, key;

  Sm90Mask() = default;
  explicit Sm90Mask(const View& v)
      : data(v.as<const uint8_t>()),
        batch(data ? v.strides[0] : 0),
        head(data ? v.strides[1] : 0),
        query(data ? v.strides[2] : 0),
        key(data ? v.strides[3] : 0) {}
};

// What a mask says of a thread's scores, a bit for each, so that they can be read before the products that
// they belong to are waited for. Rows g and g + 8 of a warp's 16 are queries or, OwnKeys, keys.
template <int Count>
struct SeenBits {
  static constexpr int kWords = (Count + 31) / 32;
  uint32_t words[kWords] = {};

  // row: the thread's first one; column: the tile's first one. Those outside the problem get what its last
  // ones get: other rules tell them apart.
  template <bool OwnKeys>
  __device__ __forceinline__ void load(const Sm90Mask& mask, const AttentionExtents& n, int b, int head,
                                       int row, int column) {
    const uint8_t* const of = mask.data + b * mask.batch + head * mask.head;
    const int64_t row_step = OwnKeys ? mask.key : mask.query, column_step = OwnKeys ? mask.query : mask.key;
    const int last_row = static_cast<int>(OwnKeys ? n.keys : n.queries) - 1,
              last_column = static_cast<int>(OwnKeys ? n.queries : n.keys) - 1;
    const uint8_t* const rows[2] = {of + (row < last_row ? row : last_row) * row_step,
                                    of + (row + 8 < last_row ? row + 8 : last_row) * row_step};
    load(rows, column_step, column, last_column);
  }
  // Of rows g and g + 8, wherever they lie.
  __device__ __forceinline__ void load(const uint8_t* const (&rows)[2], int64_t column_step, int column,
                                       int last_column) {
    const int first = column + lane() % 4 * 2;
#pragma unroll
    for (int w = 0; w < kWords; ++w) {
#pragma unroll
      for (int i = 32 * w; i < 32 * (w + 1) && i < Count; ++i) {
        const int at = first + i / 4 * 8 + i % 2;
        const uint8_t seen = rows[i / 2 % 2][(at < last_column ? at : last_column) * column_step];
        words[w] |= (seen ? 1u : 0u) << i % 32;
      }
    }
  }
  // Scores or weights that are not seen become `value`.
  __device__ __forceinline__ void apply(float (&scores)[Count], float value) const {
#pragma unroll
    for (int i = 0; i < Count; ++i) {
      if (!(words[i / 32] >> i % 32 & 1u)) scores[i] = value;
    }
  }
};

// Scores of columns that rows g and g + 8 do not see: those from ends[0] and ends[1] on, counted in the tile.
template <int Count>
__device__ __forceinline__ void mask_scores(float (&scores)[Count], const int (&ends)[2]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int end = ends[half] - lane() % 4 * 2;
#pragma unroll
    for (int j = 0; j < Count / 4; ++j) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        if (8 * j + e >= end) scores[4 * j + 2 * half + e] = -INFINITY;
      }
    }
  }
}

// Which tile of which head a block has: as many heads (of all samples) at a time as the L2 cache holds, and
// of those the first tiles of all, then the second.
struct Sm90Order {
  int tiles, heads, batch;
  int at_once;  // heads_at_once()

  struct Place {
    int tile, head, b;
  };
  __device__ __forceinline__ Place place(int block) const {
    const int section = block / (at_once * tiles), inside = block % (at_once * tiles);
    const int left = heads * batch - section * at_once, width = left < at_once ? left : at_once;
    const int pair = section * at_once + inside % width;
    return {inside / width, pair % heads, pair / heads};
  }
  // For loops over places: what is worked out of it is worked out anew each time.
  __device__ __forceinline__ Sm90Order late() const {
    const auto anew = [](int x) { return static_cast<int>(ptx::opaque(static_cast<uint32_t>(x))); };
    return {anew(tiles), anew(heads), anew(batch), anew(at_once)};
  }
  __host__ __device__ __forceinline__ unsigned blocks() const {
    return static_cast<unsigned>(tiles) * static_cast<unsigned>(heads * batch);
  }
};

// Sums of a thread, as wgmma leaves them, to left factors of 16 columns each.
template <class H, int Count>
__device__ __forceinline__ void pack_factors(const float (&sums)[Count], uint32_t (&factors)[Count / 8][4]) {
#pragma unroll
  for (int k = 0; k < Count / 8; ++k) {
#pragma unroll
    for (int i = 0; i < 4; ++i) factors[k][i] = ptx::pack(H{}, sums[8 * k + 2 * i], sums[8 * k + 2 * i + 1]);
  }
}

// SoftmaxRows for the sums of a wgmma, before they are scaled (by more than 0): rows g and g + 8 of a warp's
// 16.
struct Sm90SoftmaxRows {
  float top[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};

  // Products become weights; decay is by what earlier sums have to shrink.
  template <int Count>
  __device__ __forceinline__ void update(float (&scores)[Count], float scale2, float (&decay)[2]) {
    float shift[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      // A NaN need not win here: it shows in the weight, and so in the sum.
      float high = top[half];
#pragma unroll
      for (int j = 0; j < Count / 4; ++j) {
        const float* const two = scores + 4 * j + 2 * half;
        high = fmaxf(high, fmaxf(two[0], two[1]));
      }
      high = row_reduce(high, [](float a, float b) { return fmaxf(a, b); });
      // The earlier maximum is rounded as this one: as one multiply-add, sums would shrink or grow with
      // every tile.
      shift[half] = softmax_shift(__fmul_rn(high, scale2));
      decay[half] = top[half], top[half] = high;
    }
    if (__any_sync(kAllLanes, large(shift[0]) || large(shift[1]))) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float from = large(shift[half]) ? top[half] : 0.0f;
        if (large(shift[half])) shift[half] = 0;
        decay[half] -= from;
#pragma unroll
        for (int j = 0; j < Count / 4; ++j) {
          float* const two = scores + 4 * j + 2 * half;
          two[0] -= from, two[1] -= from;
        }
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      decay[half] = ptx::fast_exp2(__fmul_rn(decay[half], scale2) - shift[half]);
      float tile = 0;
#pragma unroll
      for (int j = 0; j < Count / 4; ++j) {
        float* const two = scores + 4 * j + 2 * half;
#pragma unroll
        for (int e = 0; e < 2; ++e) two[e] = ptx::fast_exp2(fmaf(two[e], scale2, -shift[half]));
        tile += two[0] + two[1];
      }
      sum[half] = fmaf(sum[half], decay[half], tile);
    }
  }
  __device__ __forceinline__ float total(int half) const { return row_reduce(sum[half], Sum{}); }

 private:
  // Beyond, the rounding of a shift shows in results, and from 2^31 on is more than float32's range of
  // exponents: there the maximum is subtracted before the scores are scaled.
  __device__ static __forceinline__ bool large(float shift) { return fabsf(shift) > 4096; }
};

// Where results go.
struct Sm90Results {
  AttentionOut out;
  bool packs;  // 16 bytes at a time
  int rows, features;

  explicit Sm90Results(const View& v)
      : out(v),
        packs(in_packs(v) && v.shape[3] % 8 == 0),
        rows(static_cast<int>(v.shape[2])),
        features(static_cast<int>(v.shape[3])) {}
  Sm90Results() = default;
};

// A warp's 16 rows of sums, those of `tile` from warp_row on, times factor: by way of these rows of the tile,
// from where threads write neighbours. The tile's first row is row `first` of the result.
template <class H, class Tile, int Count>
__device__ __forceinline__ void store_results(uint16_t* tile, int warp_row, const Sm90Results& to, int b,
                                              int head, int first, const float (&sums)[Count],
                                              const float (&factor)[2]) {
  constexpr int kEights = Count / 4;
  const int l = lane();
#pragma unroll
  for (int eight = 0; eight < kEights; eight += 2) {
    uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float* const two = sums + 4 * (eight + i / 2) + i % 2 * 2;
      words[i] = ptx::pack(H{}, two[0] * factor[i % 2], two[1] * factor[i % 2]);
    }
    ptx::stmatrix<false>(tile + Tile::element(warp_row + l % 16, eight + l / 16), words);
  }
  __syncwarp();
#pragma unroll 1
  for (int i = l; i < 16 * kEights; i += kWarp) {
    const int row = warp_row + i / kEights, eight = i % kEights;
    if (first + row >= to.rows || eight * 8 >= to.features) continue;
    const auto pack = shared_load<Pack<H, 8>>(tile + Tile::element(row, eight));
    H* const at = static_cast<H*>(to.out.data) + to.out.at(b, head, first + row);
    if (to.packs) {
      *reinterpret_cast<Pack<H, 8>*>(at + eight * 8) = pack;
    } else {
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        if (eight * 8 + e < to.features) at[(eight * 8 + e) * to.out.column] = pack.at[e];
      }
    }
  }
}

// The same without memory in between, a thread's rows g and g + 8 beginning with row `row` of the result: of
// 32 columns, in which its four words lie apart, a thread gets 16 bytes from its neighbours.
template <class H, int Count>
__device__ __forceinline__ void store_results(const Sm90Results& to, int b, int head, int row,
                                              const float (&sums)[Count], const float (&factor)[2]) {
  const int t = lane() % 4;
  const auto exchange = [](uint32_t& low, uint32_t& high, int other, bool upper) {
    const uint32_t got = __shfl_xor_sync(kAllLanes, upper ? low : high, other);
    (upper ? low : high) = got;
  };
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int i = row + 8 * half;
    H* const at = static_cast<H*>(to.out.data) + to.out.at(b, head, i);
#pragma unroll
    for (int c = 0; c < Count / 16; ++c) {
      Pack<uint32_t, 4> words;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float* const two = sums + 16 * c + 4 * j + 2 * half;
        words.at[j] = ptx::pack(H{}, two[0] * factor[half], two[1] * factor[half]);
      }
      exchange(words.at[0], words.at[1], 1, t % 2 != 0);
      exchange(words.at[2], words.at[3], 1, t % 2 != 0);
      exchange(words.at[0], words.at[2], 2, t / 2 != 0);
      exchange(words.at[1], words.at[3], 2, t / 2 != 0);
      const int column = 32 * c + 8 * t;
      if (i >= to.rows || column >= to.features) continue;
      if (to.packs) {
        *reinterpret_cast<Pack<uint32_t, 4>*>(at + column) = words;
      } else {
        Pack<H, 8> eight;
        memcpy(&eight, &words, sizeof eight);
#pragma unroll
        for (int e = 0; e < 8; ++e) {
          if (column + e < to.features) at[(column + e) * to.out.column] = eight.at[e];
        }
      }
    }
  }
}

}  // namespace fastdl::cuda
