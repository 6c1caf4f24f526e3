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

// Gathers: a row of A is an output position, a step 64 channels of one tap; B has the weights.

template <class S>
struct Sm90Gather {
  CUtensorMap image, weights;
  int axes;                 // of the images' map, the innermost ones
  int channel_blocks;       // of 64 channels, the last one filled with zeros
  bool dense;               // results are rows at one distance
  int64_t out0, residual0;  // of those, the first
  ConvGather<S> gather;     // of one group and one lattice

  __device__ __forceinline__ void prefetch() const {
    ptx::prefetch_map(&image);
    ptx::prefetch_map(&weights);
  }
  template <class With>
  __device__ __forceinline__ void with_layout(With&& with) const {
    with(std::false_type{}, std::false_type{});
  }

  template <class T>
  struct Loads {
    const Sm90Gather& o;
    int column, cluster, rank;
    int image, at[3];         // of the first row's first tap
    int tap, taps[3], block;  // of the step: all in all, along the axes; of channels

    __device__ __forceinline__ Loads(const Sm90Gather& operands, const Sm90Work& w, int cluster, int rank)
        : o(operands), column(w.column), cluster(cluster), rank(rank) {
      const ConvLattice& l = o.gather.lattice[0];
      auto index = static_cast<uint32_t>(w.row);
      const int step = w.k_begin / T::kDepth;
      tap = step / o.channel_blocks, block = step % o.channel_blocks;
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
      const ConvAxis(&axis)[3] = o.gather.lattice[0].axis;
      const int channel = block * T::kDepth;
      const auto offset = [&](int i) { return static_cast<uint16_t>(taps[i] * axis[i].tap_step); };
      load_pixels(tile, o.image, full, o.axes, channel, at, image, {offset(0), offset(1), offset(2)}, 0);
      load_halves<T>(tile + T::kBytesA, column, cluster, rank, [&](uint32_t to, int first, uint16_t blocks) {
        const int from[5] = {channel, tap, first, 0, 0};
        if (blocks) ptx::tensor_load(to, &o.weights, full, from, blocks);
        else ptx::tensor_load(to, &o.weights, full, from);
      });
      if (++block < o.channel_blocks) return;
      block = 0, ++tap;
      if (++taps[2] < axis[2].taps) return;
      taps[2] = 0;
      if (++taps[1] < axis[1].taps) return;
      taps[1] = 0, ++taps[0];
    }
  };

  template <class T>
  struct Results {
    const Sm90Gather& o;
    const Sm90Work& w;
    bool again = false;

    // Zeros stand where nothing is, and zero times Inf is NaN: with holes, what is not finite is made again.
    __device__ __forceinline__ Results(const Sm90Gather& operands, const Sm90Problem&, const Sm90Work& work,
                                       Sm90Shared<T>& shared, int group, const float (&sums)[T::kSums])
        : o(operands), w(work) {
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
      if (is_finite(sum)) return sum;
      const auto k = [&](int step) {
        return static_cast<int64_t>(step / o.channel_blocks) * o.gather.padded +
               step % o.channel_blocks * T::kDepth;
      };
      const int begin = w.k_begin / T::kDepth;
      const GatherTask<S> task(o.gather, k(begin), k(begin + w.steps));
      const GatherRow r = located(row);
      return gather_sum(o.gather, task, r.at, r.in, column);
    }
  };
};

// Weight gradients: k runs over the output positions of all images. A is the gradient, transposed; 64 columns
// of B are 64 channels of one tap, transposed too.
template <class S>
struct Sm90WeightGradient {
  CUtensorMap grad, image;
  int axes, channel_blocks, taps;
  ConvLattice lattice;
  Divisor positions, plane, line;  // in an image, a plane, a line

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
    static constexpr int kBox = 64, kBoxes = T::kColumns / kBox, kBoxBytes = kBox * T::kDepth * 2;
    const Sm90WeightGradient& o;
    int row, k, first_box, boxes;
    uint16_t blocks;
    int channel[kBoxes];
    uint16_t offset[kBoxes][3];

    // Of a cluster each block brings half of B for both.
    __device__ __forceinline__ Loads(const Sm90WeightGradient& operands, const Sm90Work& w, int cluster,
                                     int rank)
        : o(operands), row(w.row), k(w.k_begin), blocks(cluster == 2 ? 3 : 0) {
      boxes = kBoxes / cluster;
      first_box = rank * boxes;
#pragma unroll
      for (int i = 0; i < kBoxes; ++i) {
        const int column = w.column / kBox + first_box + i, tap = column / o.channel_blocks;
        // Behind the last tap: channels that are not there, so zeros.
        channel[i] = (tap < o.taps ? column % o.channel_blocks : o.channel_blocks) * kBox;
        int rest = tap < o.taps ? tap : 0;
#pragma unroll
        for (int axis = 2; axis >= 0; --axis) {
          const ConvAxis& a = o.lattice.axis[axis];
          offset[i][axis] = static_cast<uint16_t>(rest % a.taps * a.tap_step);
          rest /= a.taps;
        }
      }
    }

    __device__ __forceinline__ void start(uint32_t tile, uint32_t full) {
      auto index = static_cast<uint32_t>(k);
      const int image = static_cast<int>(o.positions.divide(index));
      int at[3] = {static_cast<int>(o.plane.divide(index)), static_cast<int>(o.line.divide(index)), 0};
      at[2] = static_cast<int>(index);
#pragma unroll
      for (int i = 0; i < 3; ++i) at[i] = at[i] * o.lattice.axis[i].in_step + o.lattice.axis[i].first;
#pragma unroll
      for (int i = 0; i < T::kRows / kBox; ++i) {
        ptx::tensor_load(tile + i * kBoxBytes, &o.grad, full, {row + i * kBox, k, 0, 0, 0});
      }
#pragma unroll
      for (int i = 0; i < kBoxes; ++i) {
        if (i >= boxes) continue;
        load_pixels(tile + T::kBytesA + (first_box + i) * kBoxBytes, o.image, full, o.axes, channel[i], at,
                    image, offset[i], blocks);
      }
      k += T::kDepth;
    }
  };

  // All sums are parts, which are added up elsewhere.
  template <class T>
  struct Results {
    static constexpr bool again = false;
    __device__ __forceinline__ Results(const Sm90WeightGradient&, const Sm90Problem&, const Sm90Work&,
                                       Sm90Shared<T>&, int, const float (&)[T::kSums]) {}
    __device__ __forceinline__ Sm90Place at(int64_t row) const { return {0, 0, row}; }
    __device__ __forceinline__ float remake(int64_t, int64_t, float sum) const { return sum; }
  };
};

}  // namespace fastdl::cuda
