// Convolutions (conv.h) for matmul_sm90.cuh, whose producer copies pixels (im2col): from the position of the
// first one the copy engine goes on by itself, line after line and image after image; the tap is an offset
// that it adds.
#pragma once

#include "cuda/conv_gather.cuh"
#include "cuda/conv_weight.cuh"
#include "cuda/matmul_sm90_operands.cuh"

namespace fastdl::cuda {

// Starts the copy of pixels from position `at` of an image on. The map has the `axes` innermost axes of
// three.
__device__ __forceinline__ void load_pixels(uint32_t to, const CUtensorMap& map, uint32_t full, int axes,
                                            int channel, const int (&at)[3], int image,
                                            const uint16_t (&offset)[3], uint16_t blocks) {
  const auto with = [&](const auto& place, const auto& offsets) {
    if (blocks) ptx::tensor_load_im2col(to, &map, full, place, offsets, blocks);
    else ptx::tensor_load_im2col(to, &map, full, place, offsets);
  };
  if (axes == 2) {
    const int place[4] = {channel, at[2], at[1], image};
    const uint16_t offsets[2] = {offset[2], offset[1]};
    with(place, offsets);
  } else if (axes == 1) {
    const int place[3] = {channel, at[2], image};
    const uint16_t offsets[1] = {offset[2]};
    with(place, offsets);
  } else {
    const int place[5] = {channel, at[2], at[1], at[0], image};
    const uint16_t offsets[3] = {offset[2], offset[1], offset[0]};
    with(place, offsets);
  }
}

// Gathers: a row of A is an output position, a box 64 channels of one tap (float32: 32, of all planes, which
// follow each other like more images; Narrow: 32, and a step has two boxes); B has the weights.
template <class S, bool Narrow = false>
struct Sm90Gather {
  static constexpr bool kNarrow = Narrow, kMayBePlain = !Narrow && sizeof(S) == 2;
  CUtensorMap image, weights;
  bool plain;               // weights where they lie (conv_gather.cuh), so B comes transposed
  int axes;                 // of the images' map, the innermost ones
  int channel_blocks;       // of a box's channels, the last one filled with zeros
  int taps;                 // of a result
  bool dense;               // results are rows at one distance
  int64_t out0, residual0;  // of those, the first
  ConvGather<S> gather;     // of one group and one lattice
  // float32: which 128 pixels and which 128 columns have values that cannot be split.
  const uint32_t *odd_pixels, *odd_columns;

  __device__ __forceinline__ void prefetch() const {
    ptx::prefetch_map(&image);
    ptx::prefetch_map(&weights);
  }
  template <class With>
  __device__ __forceinline__ void with_layout(With&& with) const {
    if constexpr (kMayBePlain) {
      if (plain) return with(std::false_type{}, std::true_type{});
    }
    with(std::false_type{}, std::false_type{});
  }

  template <class T>
  struct Loads {
    const Sm90Gather& o;
    int column, cluster, rank;
    int image, at[3];         // of the first row's first tap
    int tap, taps[3], block;  // of the next box: all in all, along the axes; of channels

    __device__ __forceinline__ Loads(const Sm90Gather& operands, const Sm90Work& w, int cluster, int rank)
        : o(operands), column(w.column), cluster(cluster), rank(rank) {
      const ConvLattice& l = o.gather.lattice[0];
      auto index = static_cast<uint32_t>(w.row);
      const int box = w.k_begin / T::kBox;
      tap = box / o.channel_blocks, block = box % o.channel_blocks;
      int rest = tap;
#pragma unroll
      for (int i = 2; i >= 0; --i) {
        const ConvAxis& a = l.axis[i];
        at[i] = a.in_step * static_cast<int>(index % static_cast<uint32_t>(a.count)) + a.first;
        index /= static_cast<uint32_t>(a.count);
        taps[i] = rest % a.taps;
        rest /= a.taps;
      }
      image = static_cast<int>(index);
    }

    __device__ __forceinline__ void start(uint32_t tile, uint32_t full) {
#pragma unroll
      for (int box = 0; box < T::kBoxes; ++box) {
        start_box(tile + box * (T::kBytesA / T::kBoxes),
                  tile + T::kPlanes * T::kBytesA + box * (T::kBytesB / T::kBoxes), full);
      }
    }

   private:
    // Behind the last tap: channels that are not there, so zeros.
    __device__ __forceinline__ void start_box(uint32_t a, uint32_t b, uint32_t full) {
      const ConvAxis(&axis)[3] = o.gather.lattice[0].axis;
      const int channel = block * T::kBox;
      const auto offset = [&](int i) { return static_cast<uint16_t>(taps[i] * axis[i].tap_step); };
#pragma unroll
      for (int plane = 0; plane < T::kPlanes; ++plane) {
        load_pixels(a + plane * T::kBytesA, o.image, full, o.axes, channel, at,
                    image + plane * static_cast<int>(o.gather.images), {offset(0), offset(1), offset(2)}, 0);
        if constexpr (kMayBePlain) {
          if (o.plain) {
            start_plain(b, full, channel);
            continue;
          }
        }
        load_halves<T>(b + plane * T::kBytesB, column, cluster, rank,
                       [&](uint32_t to, int first, uint16_t blocks) {
                         const int from[5] = {channel, tap, first, plane, 0};
                         if (blocks) ptx::tensor_load(to, &o.weights, full, from, blocks);
                         else ptx::tensor_load(to, &o.weights, full, from);
                       });
      }
      if (++block < o.channel_blocks || (T::kBoxes > 1 && tap + 1 == o.taps)) return;
      block = 0, ++tap;
      if (++taps[2] < axis[2].taps) return;
      taps[2] = 0;
      if (++taps[1] < axis[1].taps) return;
      taps[1] = 0, ++taps[0];
    }

    // 64 columns by 32 channels at a time; of a cluster each block brings half of the channels for both.
    __device__ __forceinline__ void start_plain(uint32_t b, uint32_t full, int channel) const {
      const ConvAxis(&axis)[3] = o.gather.lattice[0].axis;
      const int32_t slot[3] = {axis[0].slot + taps[0] * axis[0].slot_step,
                               axis[1].slot + taps[1] * axis[1].slot_step,
                               axis[2].slot + taps[2] * axis[2].slot_step};
      const int where = o.gather.plain.tap(slot);
#pragma unroll 1
      for (int half = cluster == 2 ? rank : 0; half < T::kDepth / kPlainChannels; half += cluster) {
#pragma unroll 1
        for (int i = 0; i < T::kColumns / kPlainColumns; ++i) {
          const uint32_t to = b + (i * T::kDepth + half * kPlainChannels) * kPlainColumns * 2;
          const int from[5] = {column + i * kPlainColumns, where, channel + half * kPlainChannels, 0, 0};
          if (cluster == 2) ptx::tensor_load(to, &o.weights, full, from, uint16_t{3});
          else ptx::tensor_load(to, &o.weights, full, from);
        }
      }
    }
  };

  // What the host needs to know of the boxes of plain weights: columns and channels of one.
  static constexpr int kPlainColumns = 64, kPlainChannels = 32;

  template <class T>
  struct Results {
    const Sm90Gather& o;
    const Sm90Work& w;
    bool again = false, by_fma = false;

    // Zeros stand where nothing is, and zero times Inf is NaN: with holes, what is not finite is made again.
    __device__ __forceinline__ Results(const Sm90Gather& operands, const Sm90Problem&, const Sm90Work& work,
                                       Sm90Shared<T>& shared, int group, const float (&sums)[T::kSums])
        : o(operands), w(work) {
      if constexpr (T::kSplit) again = by_fma = odd();
      if (!o.gather.holes) return;
      bool odd = false;
#pragma unroll
      for (const float sum : sums) odd = odd || !is_finite(sum);
      constexpr int kWarps = kWarpgroup / kWarp;
      const uint32_t vote = __any_sync(kAllLanes, odd);
      if (lane() == 0) shared.votes[group * kWarps + static_cast<int>(threadIdx.x) / kWarp % kWarps] = vote;
      ptx::named_barrier(1 + group, kWarpgroup);
      for (int i = 0; i < kWarps; ++i) again = again || shared.votes[group * kWarps + i] != 0;
    }

    __device__ __forceinline__ GatherRow located(int64_t row) const {
      const uint32_t positions = o.gather.lattice[0].positions(), index = static_cast<uint32_t>(row);
      return locate(o.gather, o.gather.lattice[0], index / positions, index % positions);
    }
    __device__ __forceinline__ Sm90Place at(int64_t row) const {
      if (o.dense) return {o.out0, o.residual0, row};
      const GatherRow r = located(row);
      return {r.out, r.residual, 0};
    }
    __device__ __forceinline__ float remake(int64_t row, int64_t column, float sum) const {
      if (is_finite(sum) && !by_fma) return sum;
      const auto k = [&](int box) {
        return box >= o.taps * o.channel_blocks
                   ? o.taps * static_cast<int64_t>(o.gather.padded)
                   : static_cast<int64_t>(box / o.channel_blocks) * o.gather.padded +
                         box % o.channel_blocks * T::kBox;
      };
      const int begin = w.k_begin / T::kBox;
      const GatherTask<S> task(o.gather, k(begin), k(begin + w.steps * T::kBoxes));
      const GatherRow r = located(row);
      if constexpr (kMayBePlain) {
        if (o.plain) {
          return gather_sum(o.gather, task, r.at, r.in, [&](int64_t, const TapCursor& cursor) {
            const PlainWeights<S>& plain = o.gather.plain;
            int32_t slot[3];
#pragma unroll
            for (int i = 0; i < 3; ++i) {
              const ConvAxis& a = o.gather.lattice[0].axis[i];
              slot[i] = a.slot + cursor.at[i] / a.tap_step * a.slot_step;
            }
            return plain
                .data[cursor.channel * plain.channel_step + plain.tap(slot) * plain.tap_step + column];
          });
        }
      }
      return gather_sum(o.gather, task, r.at, r.in, column);
    }

   private:
    // Whether the images or the weights of this tile have values that cannot be split.
    __device__ __forceinline__ bool odd() const {
      const ConvGather<S>& p = o.gather;
      const int64_t positions = p.lattice[0].positions(), first = w.row / positions;
      int64_t behind = (w.row + T::kRows - 1) / positions + 1;
      if (behind > p.images) behind = p.images;
      if (first >= behind) return false;
      const int64_t pixels = static_cast<int64_t>(p.in_size[0]) * p.in_size[1] * p.in_size[2];
      bool found = o.odd_columns[w.column / 128] != 0;
      for (int64_t i = first * pixels / 128 + lane(); i <= (behind * pixels - 1) / 128; i += kWarp) {
        found = found || o.odd_pixels[i] != 0;
      }
      return __any_sync(kAllLanes, found);
    }
  };
};

// Weight gradients: k runs over the output positions of all images. A is the gradient, transposed; 64 columns
// of B (Narrow: 32) are so many channels of one tap, transposed too. float32: of all planes.
template <class S, bool Narrow = false>
struct Sm90WeightGradient {
  static constexpr bool kNarrow = Narrow;
  CUtensorMap grad, image;
  int axes, channel_blocks, taps;
  int images;  // of a plane
  ConvWeight<S> weight;
  const uint32_t *odd_rows, *odd_pixels;  // float32: which 128 have values that cannot be split

  __device__ __forceinline__ void prefetch() const {
    ptx::prefetch_map(&grad);
    ptx::prefetch_map(&image);
  }
  template <class With>
  __device__ __forceinline__ void with_layout(With&& with) const {
    with(std::true_type{}, std::true_type{});
  }

  template <class T>
  struct Loads {
    static constexpr int kBoxA = 64, kBoxesA = T::kRows / kBoxA, kBytesA = kBoxA * T::kDepth * 2;
    static constexpr int kBox = T::kBoxB, kBoxes = T::kColumns / kBox, kBoxBytes = kBox * T::kDepth * 2;
    const Sm90WeightGradient& o;
    int row, k, first_box, boxes;
    uint16_t blocks;
    int tap, taps[3], block;  // of the first box: all in all, along the axes; of channels

    // Of a cluster each block brings half of B for both.
    __device__ __forceinline__ Loads(const Sm90WeightGradient& operands, const Sm90Work& w, int cluster,
                                     int rank)
        : o(operands), row(w.row), k(w.k_begin), blocks(cluster == 2 ? 3 : 0) {
      boxes = kBoxes / cluster;
      first_box = rank * boxes;
      const int column = w.column / kBox + first_box;
      tap = column / o.channel_blocks, block = column % o.channel_blocks;
      int rest = tap;
#pragma unroll
      for (int axis = 2; axis >= 0; --axis) {
        const int count = o.weight.lattice.axis[axis].taps;
        taps[axis] = rest % count;
        rest /= count;
      }
    }

    __device__ __forceinline__ void start(uint32_t tile, uint32_t full) {
      const ConvWeight<S>& p = o.weight;
      const ConvAxis(&axis)[3] = p.lattice.axis;
      auto index = static_cast<uint32_t>(k);
      const int image = static_cast<int>(p.image.divide(index));
      int at[3] = {static_cast<int>(p.plane.divide(index)), static_cast<int>(p.line.divide(index)), 0};
      at[2] = static_cast<int>(index);
#pragma unroll
      for (int i = 0; i < 3; ++i) at[i] = at[i] * axis[i].in_step + axis[i].first;
#pragma unroll
      for (int plane = 0; plane < T::kPlanes; ++plane) {
        const uint32_t a = tile + plane * T::kBytesA;
        uint32_t b = tile + T::kPlanes * T::kBytesA + plane * T::kBytesB + first_box * kBoxBytes;
#pragma unroll
        for (int i = 0; i < kBoxesA; ++i) {
          ptx::tensor_load(a + i * kBytesA, &o.grad, full, {row + i * kBoxA, k, plane, 0, 0});
        }
        int channels = block, done = tap, t0 = taps[0], t1 = taps[1], t2 = taps[2];
#pragma unroll 1
        for (int i = 0; i < boxes; ++i, b += kBoxBytes) {
          // Behind the last tap: channels that are not there, so zeros.
          const bool there = done < o.taps;
          const auto offset = [&](int t, int along) {
            return static_cast<uint16_t>(there ? t * axis[along].tap_step : 0);
          };
          load_pixels(b, o.image, full, o.axes, (there ? channels : o.channel_blocks) * kBox, at,
                      image + plane * o.images, {offset(t0, 0), offset(t1, 1), offset(t2, 2)}, blocks);
          if (++channels < o.channel_blocks) continue;
          channels = 0, ++done;
          if (++t2 < axis[2].taps) continue;
          t2 = 0;
          if (++t1 < axis[1].taps) continue;
          t1 = 0, ++t0;
        }
      }
      k += T::kDepth;
    }
  };

  // All sums are parts, which are added up elsewhere.
  template <class T>
  struct Results {
    const Sm90WeightGradient& o;
    const Sm90Work& w;
    uint32_t length;  // of k
    bool again = false;

    __device__ __forceinline__ Results(const Sm90WeightGradient& operands, const Sm90Problem& p,
                                       const Sm90Work& work, Sm90Shared<T>&, int, const float (&)[T::kSums])
        : o(operands), w(work) {
      length = static_cast<uint32_t>(w.k_begin + p.k_each < p.k ? p.k_each : p.k - w.k_begin);
      if constexpr (T::kSplit) again = odd();
    }
    __device__ __forceinline__ Sm90Place at(int64_t row) const { return {0, 0, row}; }

    __device__ __forceinline__ float remake(int64_t row, int64_t column, float sum) const {
      const ConvWeight<S>& p = o.weight;
      const int places = o.channel_blocks * T::kBoxB;
      const int64_t tap = column / places, channel = column % places;
      if (tap >= o.taps || channel >= p.channels) return sum;
      const WeightColumn<S> x(p, 0, tap * p.padded + channel);
      const WeightTask<S> task(p, w.k_begin, length);
      sum = 0;
#pragma unroll 1
      for (uint32_t k = 0; k < length; ++k) {
        int64_t from;
        const bool inside = x.find(p, task, k, from);
        sum = fmaf(widen(p.grad.data[(task.k_begin + k) * p.grad.stride + row]),
                   inside ? widen(p.in.data[from]) : 0.0f, sum);
      }
      return sum;
    }

   private:
    // Whether this tile's rows or the images of this part have values that cannot be split. The last part's
    // last box reads on where the next plane begins (times zero).
    __device__ __forceinline__ bool odd() const {
      const ConvWeight<S>& p = o.weight;
      const int64_t pixels = static_cast<int64_t>(p.in_size[0]) * p.in_size[1] * p.in_size[2],
                    end = w.k_begin + length;
      bool found = w.row < p.rows && o.odd_rows[w.row / 128] != 0;
      const auto look = [&](int64_t first, int64_t last) {
        for (int64_t i = first * pixels / 128 + lane(); i <= ((last + 1) * pixels - 1) / 128; i += kWarp) {
          found = found || o.odd_pixels[i] != 0;
        }
      };
      look(w.k_begin / p.image.value, (end - 1) / p.image.value);
      if (end == p.positions) look(0, 0);
      return __any_sync(kAllLanes, found);
    }
  };
};

}  // namespace fastdl::cuda
