// Operands made ready for the tensor cores: 16-bit ones as they are where cp.async can read them, else copied
// with padded rows; float32 ones split into planes of bfloat16, once, rather than by every block that reads
// them.
#pragma once

#include <optional>

#include "cuda/attention.h"
#include "cuda/attention_tile.cuh"
#include "cuda/launch.h"

namespace fastdl::cuda {

constexpr int kPrepareThreads = 256;

struct PrepareExtents {
  int64_t batch, heads, rows, features;  // a dim along which the operand repeats itself has extent 1
  int64_t chunks;                        // of 8 features, per row
};
// Which (sample, group of heads) hold a value that has no split; the multiply-adds take those over.
struct UnfitGroups {
  uint32_t* word;
  int64_t batch, groups, heads_per_group;  // heads of this operand that one group has

  __device__ __forceinline__ void note(const PrepareExtents& n, int64_t b, int64_t h) const {
    const int64_t group = h / heads_per_group;
    for (int64_t i = n.batch == 1 ? 0 : b; i < (n.batch == 1 ? batch : b + 1); ++i) {
      for (int64_t j = n.heads == 1 ? 0 : group; j < (n.heads == 1 ? groups : group + 1); ++j)
        word[i * groups + j] = 1;
    }
  }
};

// S to H: either the same 16-bit type, or float to bfloat16 planes.
template <class S, class H, int Planes>
__global__ void __launch_bounds__(kPrepareThreads)
    attention_prepare(PrepareExtents n, AttentionRows<const S> from, H* to, int64_t plane,
                      UnfitGroups unfit) {
  const int64_t count = n.batch * n.heads * n.rows * n.chunks;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kPrepareThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kPrepareThreads + threadIdx.x; i < count; i += step) {
    const int64_t c = i % n.chunks * 8, row = i / n.chunks % n.rows, h = i / n.chunks / n.rows % n.heads,
                  b = i / n.chunks / n.rows / n.heads;
    const S* const x = from.at(b, h, row);
    S values[8];
#pragma unroll
    for (int e = 0; e < 8; ++e) values[e] = c + e < n.features ? x[(c + e) * from.column] : S{};
    if constexpr (std::is_same_v<S, H>) {
      Pack<H, 8> pack;
#pragma unroll
      for (int e = 0; e < 8; ++e) pack.at[e] = values[e];
      *reinterpret_cast<Pack<H, 8>*>(to + i * 8) = pack;
    } else {
      Pack<uint32_t, 4> packs[Planes];
      bool fits = true;
#pragma unroll
      for (int e = 0; e < 8; e += 2) {
        fits = fits && splits(values[e]) && splits(values[e + 1]);
        uint32_t pieces[Planes];
        split(values[e], values[e + 1], pieces);
#pragma unroll
        for (int p = 0; p < Planes; ++p) packs[p].at[e / 2] = pieces[p];
      }
#pragma unroll
      for (int p = 0; p < Planes; ++p)
        *reinterpret_cast<Pack<uint32_t, 4>*>(to + p * plane + i * 8) = packs[p];
      if (!fits) unfit.note(n, b, h);
    }
  }
}

// `word`: one per (sample, group), or NULL for 16-bit operands.
template <class S, class H, int Planes>
class AttentionOperand {
 public:
  AttentionOperand(Context* context, const View& v, const AttentionProblem& p, uint32_t* word) {
    planes_ = {v.as<const H>(), 0, v.strides[0], v.strides[1], v.strides[2]};
    if (std::is_same_v<S, H> && readable(v)) return;
    const auto extent = [&](int dim) {
      return v.strides[dim] == 0 ? std::min<int64_t>(1, v.shape[dim]) : v.shape[dim];
    };
    const PrepareExtents n{extent(0), extent(1), v.shape[2], v.shape[3],
                           std::max<int64_t>(1, (v.shape[3] + 7) / 8)};
    const int64_t row = n.chunks * 8, head = n.rows * row, sample = n.heads * head, plane = n.batch * sample;
    planes_ = {nullptr, plane, v.strides[0] == 0 ? 0 : sample, v.strides[1] == 0 ? 0 : head, row};
    space_.emplace(context, static_cast<size_t>(plane * Planes) * sizeof(H));
    planes_.data = space_->as<H>();
    if (plane == 0) return;
    const int64_t heads_per_group = v.shape[1] == p.groups ? 1 : p.group_size();
    launch(context, FASTDL_KERNEL(attention_prepare<S, H, Planes>),
           {blocks_for(plane / 8, kPrepareThreads), kPrepareThreads}, n, AttentionRows<const S>(v),
           space_->as<H>(), plane, UnfitGroups{word, p.batch, p.groups, heads_per_group});
  }
  const AttentionPlanes<H>& operator*() const { return planes_; }

 private:
  static bool readable(const View& v) {
    bool fits = (v.strides[3] == 1 || v.shape[3] <= 1) && reinterpret_cast<uintptr_t>(v.data) % 16 == 0;
    for (int dim = 0; dim < 3; ++dim) fits = fits && (v.shape[dim] <= 1 || v.strides[dim] % 8 == 0);
    return fits;
  }

  AttentionPlanes<H> planes_;
  std::optional<Workspace> space_;
};

}  // namespace fastdl::cuda
