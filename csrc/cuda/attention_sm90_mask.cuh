// What Hopper's attention does to scores besides scaling them: boolean masks and dropout, a bit for every
// score; masks that are added, in tiles that the copy engine brings. Rows g and g + 8 of a warp's 16 are a
// thread's, of every 8 columns it has 2t and 2t + 1, as wgmma leaves them.
#pragma once

#include "cuda/attention_sm90_tile.cuh"
#include "cuda/launch.h"

namespace fastdl::cuda {

// A boolean mask, worked out once per call: for every row and tile of columns four words, of which word t has
// the bits of a thread's columns, those of 8 columns after those of 8 columns.
struct Sm90Bits {
  const uint32_t* words = nullptr;  // NULL: no mask
  int64_t batch = 0, head = 0;      // from mask to mask, in words
  int32_t row = 0;                  // from row to row; 0: all are the same

  // The words of a tile for a row of a head, and for the one 8 below; behind the last row, its words. The
  // address is worked out anew each time: kept, it would take registers that the sums need.
  __device__ __forceinline__ void load(uint32_t (&two)[2], int64_t b, int64_t h, int first, int last,
                                       int tile) const {
    const uint32_t late = ptx::opaque(0u);
    const uint32_t* const of =
        words + b * batch + h * head + (static_cast<int64_t>(tile) + late) * 4 + lane() % 4;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int at = first + 8 * half;
      two[half] = of[static_cast<int64_t>(at < last ? at : last) * row];
    }
  }
};

// Scores or weights whose bit is 0 become `value`.
template <int Count>
__device__ __forceinline__ void apply_bits(float (&scores)[Count], const uint32_t (&two)[2], float value) {
#pragma unroll
  for (int i = 0; i < Count; ++i) {
    if (!(two[i / 2 % 2] >> (i / 4 * 2 + i % 2) & 1u)) scores[i] = value;
  }
}

constexpr int kBitsThreads = 256;

struct BitsShape {
  const uint8_t* mask;
  int64_t batch, head, row, column;  // strides
  int64_t heads, rows, columns;      // heads and rows that differ
  int64_t tiles, count;              // tiles of a row; of all
};

// A warp makes the four words of a row of a tile of Width columns, up to 128.
template <int Width>
__global__ void __launch_bounds__(kBitsThreads) attention_mask_bits(BitsShape n, uint32_t* words) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * (kBitsThreads / kWarp);
  const int near = lane() / 2 * 8 + lane() % 2;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * (kBitsThreads / kWarp) + warp(); i < n.count;
       i += step) {
    const int64_t tile = i % n.tiles, row = i / n.tiles % n.rows, h = i / n.tiles / n.rows % n.heads,
                  b = i / n.tiles / n.rows / n.heads;
    const uint8_t* const from = n.mask + b * n.batch + h * n.head + row * n.row;
    uint32_t mine = 0;
#pragma unroll
    for (int t = 0; t < 4; ++t) {
      const int64_t column = tile * Width + near + 2 * t;
      const bool seen = near < Width && column < n.columns && from[column * n.column];
      const uint32_t word = __ballot_sync(kAllLanes, seen);
      if (lane() == t) mine = word;
    }
    if (lane() < 4) words[i * 4 + lane()] = mine;
  }
}

// The bits of a call; none where the mask is not boolean.
template <int Width>
class Sm90BitsOf {
 public:
  // own_keys: rows are keys, columns queries.
  Sm90BitsOf(Context* context, const AttentionProblem& p, bool own_keys)
      : shape_(shape(p, own_keys)),
        space_(context, static_cast<size_t>(shape_.count) * 4 * sizeof(uint32_t)) {
    if (shape_.count == 0) return;
    launch(context, FASTDL_KERNEL(attention_mask_bits<Width>),
           {blocks_for(shape_.count, kBitsThreads / kWarp), kBitsThreads}, shape_,
           space_.template as<uint32_t>());
    bits_.words = space_.template as<const uint32_t>();
    const int64_t row = shape_.tiles * 4, head = row * shape_.rows;
    bits_.row = shape_.rows > 1 ? static_cast<int32_t>(row) : 0;
    bits_.head = shape_.head != 0 ? head : 0;
    bits_.batch = shape_.batch != 0 ? head * shape_.heads : 0;
  }
  const Sm90Bits& operator*() const { return bits_; }

 private:
  static BitsShape shape(const AttentionProblem& p, bool own_keys) {
    BitsShape s{};
    if (!p.mask.data || p.mask.dtype != DType::kBool) return s;
    const int rows = own_keys ? 3 : 2, columns = own_keys ? 2 : 3;
    const auto& stride = p.mask.strides;
    s.mask = p.mask.as<const uint8_t>();
    s.batch = stride[0], s.head = stride[1], s.row = stride[rows], s.column = stride[columns];
    s.heads = s.head == 0 ? 1 : p.heads;
    s.rows = s.row == 0 ? 1 : p.mask.shape[rows];
    s.columns = p.mask.shape[columns];
    s.tiles = (s.columns + Width - 1) / Width;
    s.count = (s.batch == 0 ? 1 : p.batch) * s.heads * s.rows * s.tiles;
    return s;
  }

  BitsShape shape_;
  Workspace space_;
  Sm90Bits bits_;
};

// Which of a thread's weights dropout keeps.
struct Sm90Dropout {
  DropoutMask mask;
  bool drops;
  float kept_scale;  // of what is kept; 1 without dropout

  Sm90Dropout() = default;
  explicit Sm90Dropout(const AttentionProblem& p)
      : mask(p.mask_of_weights),
        drops(p.dropout > 0),
        kept_scale(drops ? static_cast<float>(p.mask_of_weights.scale) : 1.0f) {}

  // Of `Columns` keys from `first` on, the first row's first element, whose rows have `keys`. Four elements
  // that lie beside one another share a block of random words: where those are four columns, two threads
  // share them, each making those of one row.
  template <int Columns>
  __device__ __forceinline__ void make(uint32_t (&two)[2], uint64_t first, uint64_t keys) const {
    const int t = lane() % 4;
    two[0] = two[1] = 0;
    if (keys % 4 == 0) {
      const bool odd = t % 2 != 0;
      const uint64_t own = (first + (odd ? 8 * keys : 0)) / 4 + t / 2;
#pragma unroll 1
      for (int j = 0; j < Columns / 8; ++j) {
        const uint32_t four = kept_of(own + 2 * j);
        const uint32_t other = __shfl_xor_sync(kAllLanes, four, 1);
        two[0] |= ((odd ? other : four) >> (odd ? 2 : 0) & 3u) << 2 * j;
        two[1] |= ((odd ? four : other) >> (odd ? 2 : 0) & 3u) << 2 * j;
      }
    } else {
#pragma unroll 1
      for (int j = 0; j < Columns / 8; ++j) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const uint64_t element = first + half * 8 * keys + 8 * j + 2 * t;
          const uint32_t in = static_cast<uint32_t>(element % 4);
          uint32_t some = kept_of(element / 4);
          if (in == 3) some |= kept_of(element / 4 + 1) << 4;
          two[half] |= (some >> in & 3u) << 2 * j;
        }
      }
    }
  }

 private:
  __device__ __forceinline__ uint32_t kept_of(uint64_t group) const {
    const PhiloxBlock block = dropout_words(mask, static_cast<int64_t>(group));
    uint32_t four = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) four |= (kept(mask, block.word[i]) ? 1u : 0u) << i;
    return four;
  }
};

// A mask that is added to scores, of float32 or of 16 bits, for the copy engine.
struct Sm90Terms {
  Sm90Rows rows;
  bool adds, narrow, repeats;  // repeats: all queries have the same
};

// 64 rows by Columns of a mask: boxes of 128 bytes a row.
template <int Columns>
struct Sm90TermsTile {
  using Wide = Sm90RowTile<2 * Columns, 64>;  // counted in 16 bits
  using Narrow = Sm90RowTile<Columns, 64>;
  static constexpr int kElements = Wide::kElements;
  static_assert(Columns % 64 == 0, "boxes of 64 elements");

  __device__ static __forceinline__ void load(uint32_t to, const Sm90Terms& from, uint32_t full, int row,
                                              int column, int head, int b) {
    const int each = from.narrow ? 64 : 32;
    const int box_bytes = from.repeats ? Wide::kRowBytes : Wide::kBoxBytes;
    ptx::mbarrier_arrive_expect(full, Columns / each * box_bytes);
#pragma unroll 1
    for (int box = 0; box < Columns / each; ++box) {
      ptx::tensor_load(to + box * Wide::kBoxBytes, &from.rows.map, full,
                       {column + box * each, from.repeats ? 0 : row, from.rows.by_head ? head : 0,
                        from.rows.by_batch ? b : 0, 0});
    }
  }
  // Products to scores to base 2, of rows `row` and row + 8 of the tile.
  template <class H, int Count>
  __device__ static __forceinline__ void add(float (&scores)[Count], uint16_t* tile, const Sm90Terms& of,
                                             int row, float scale2) {
    // Places are worked out anew each time: kept, they would take registers that the sums need.
    const int first = static_cast<int>(ptx::opaque(of.repeats ? 0u : static_cast<uint32_t>(row))),
              below = of.repeats ? 0 : 8 * Wide::kChunk, t = lane() % 4;
    if (of.narrow) {
      each(scores, scale2, [&](int j, int half) {
        const auto two = shared_load<Pack<H, 2>>(tile + Narrow::element(first, j) + 2 * t + half * below);
        return Pack<float, 2>{{widen(two.at[0]), widen(two.at[1])}};
      });
    } else {
      int places[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) places[j] = Wide::element(first, 2 * j + t / 2) + t % 2 * 4;
      each(scores, scale2, [&](int j, int half) {
        return shared_load<Pack<float, 2>>(tile + places[j % 4] + j / 4 * (Wide::kBoxBytes / 2) +
                                           half * below);
      });
    }
  }

 private:
  template <int Count, class F>
  __device__ static __forceinline__ void each(float (&scores)[Count], float scale2, F&& read) {
#pragma unroll
    for (int j = 0; j < Count / 4; ++j) {
      __syncwarp();  // so that not all are read at once, into as many registers
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const Pack<float, 2> two = read(j, half);
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& s = scores[4 * j + 2 * half + e];
          s = AttentionMask<float>::with_term(s * scale2, two.at[e] * static_cast<float>(kLog2e));
        }
      }
    }
  }
};

// The map of a call's mask, copied first where the copy engine cannot read it.
template <class M>
class Sm90TermsOf {
 public:
  Sm90TermsOf(Context* context, const AttentionProblem& p) : operand_(context, distinct(p.mask), p, nullptr) {
    const View v = distinct(p.mask);
    terms_.adds = true, terms_.narrow = sizeof(M) == 2, terms_.repeats = v.shape[2] == 1;
    terms_.rows = sm90_map(*operand_, v, 128 / static_cast<int>(sizeof(M)), terms_.repeats ? 1 : 64,
                           CU_TENSOR_MAP_SWIZZLE_128B);
  }
  const Sm90Terms& operator*() const { return terms_; }

 private:
  // Of queries that all have the same row, one.
  static View distinct(View v) {
    if (v.strides[2] == 0) v.shape[2] = 1;
    return v;
  }

  AttentionOperand<M, M, 1> operand_;
  Sm90Terms terms_{};
};

}  // namespace fastdl::cuda
