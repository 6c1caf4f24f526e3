// Tiles that a boolean mask leaves something of. One that it masks whole adds zeros to every sum, which
// change no bit of it, so blocks go by lists of the others: made once per call, in a pass over the mask.
#pragma once

#include "cuda/attention.h"
#include "cuda/launch.h"
#include "cuda/shared.cuh"

namespace fastdl::cuda {

constexpr int kSeenThreads = 256, kSeenWarps = kSeenThreads / kWarp;

// A list for each tile of the side that a block owns: how many entries, then the entries, ascending. Entry:
// tile of the other side, plus, where a block goes over several heads, their number times the tiles of one.
struct SeenTiles {
  const int32_t* data = nullptr;  // NULL: all tiles count
  int64_t batch = 0, head = 0;    // from list to list
  int32_t others = 0, most = 0;   // tiles of the other side; entries

  // How many entries the list of a tile has, and which is the n-th.
  __device__ __forceinline__ int32_t count(int64_t b, int64_t h, int64_t tile) const {
    return data[b * batch + h * head + tile * (1 + most)];
  }
  // The address is worked out anew each time: kept, it would take registers that the sums need.
  __device__ __forceinline__ int32_t entry(int32_t n, int64_t b, int64_t h, int64_t tile) const {
    const auto late = [](int64_t x) { return static_cast<int64_t>(ptx::opaque(static_cast<uint32_t>(x))); };
    return data[late(b) * batch + late(h) * head + late(tile) * (1 + most) + 1 + n];
  }
};

// How queries and keys are cut into tiles, and how many lists there are.
struct SeenShape {
  int64_t query_rows, key_rows;
  int64_t lists, heads, heads_each, tiles;  // heads_each: of one list; tiles: of the side that is owned
};
struct SeenShared {
  SharedArray<int, kSeenWarps> found;
};

// Whether any pair of the tiles' queries and keys counts; a warp looks. The last query first: causality
// leaves it most keys, and where all queries share one row of the mask, it speaks for all.
template <class T>
__device__ __forceinline__ bool seen(const AttentionMask<T>& mask, const SeenShape& n, int64_t b, int64_t h,
                                     int64_t query_tile, int64_t key_tile) {
  const auto* const data = static_cast<const uint8_t*>(mask.data) + b * mask.stride[0] + h * mask.stride[1];
  const int64_t i0 = query_tile * n.query_rows, j0 = key_tile * n.key_rows;
  const int64_t i1 = i0 + n.query_rows < mask.queries ? i0 + n.query_rows : mask.queries;
  for (int64_t i = i1 - 1; i >= i0; --i) {
    bool any = false;
    for (int64_t j = j0 + lane(); j < j0 + n.key_rows; j += kWarp)
      any = any || (mask.visible(i, j) && data[i * mask.stride[2] + j * mask.stride[3]]);
    if (__any_sync(kAllLanes, any)) return true;
    if (mask.stride[2] == 0) break;
  }
  return false;
}

template <class T, bool OwnKeys>
__global__ void __launch_bounds__(kSeenThreads)
    attention_seen(AttentionMask<T> mask, SeenShape n, int32_t others, int32_t* lists) {
  auto& shared = shared_memory<SeenShared>();
  const int32_t most = static_cast<int32_t>(n.heads_each) * others;
  for (int64_t list = blockIdx.x; list < n.lists; list += gridDim.x) {
    const int64_t tile = list % n.tiles, head = list / n.tiles % n.heads, b = list / n.tiles / n.heads;
    int32_t* const to = lists + list * (1 + most);
    int32_t count = 0;
    for (int32_t entry = 0; entry < most; entry += kSeenWarps) {
      const int32_t mine = entry + warp(), other = mine % others;
      const bool found = mine < most && seen(mask, n, b, head * n.heads_each + mine / others,
                                             OwnKeys ? other : tile, OwnKeys ? tile : other);
      if (lane() == 0) shared.found[warp()] = found;
      __syncthreads();
      if (threadIdx.x == 0) {
        for (int w = 0; w < kSeenWarps; ++w) {
          if (shared.found[w]) to[1 + count++] = entry + w;
        }
      }
      __syncthreads();
    }
    if (threadIdx.x == 0) to[0] = count;
  }
}

// The lists of a call; none where the mask is not boolean, and where they would be larger than what they
// save.
template <class T>
class SeenLists {
 public:
  // own_rows, other_rows: of a tile of the side a block owns (keys or queries), and of the other.
  SeenLists(Context* context, const AttentionExtents& n, const AttentionMask<T>& mask, bool own_keys,
            int64_t own_rows, int64_t other_rows)
      : shape_(shape(n, mask, own_keys, own_rows, other_rows)),
        tiles_(tiles(n, mask, own_keys, other_rows)),
        space_(context, tiles_.most ? bytes() : 0) {
    if (tiles_.most == 0) return;
    const Launch grid{blocks_for(shape_.lists, 1), kSeenThreads, sizeof(SeenShared)};
    const auto kernel =
        own_keys ? FASTDL_KERNEL(attention_seen<T, true>) : FASTDL_KERNEL(attention_seen<T, false>);
    launch(context, kernel, grid, mask, shape_, tiles_.others, space_.template as<int32_t>());
    const int64_t list = 1 + tiles_.most;
    tiles_.data = space_.template as<const int32_t>();
    if (mask.stride[1] != 0) tiles_.head = shape_.tiles * list;
    if (mask.stride[0] != 0) tiles_.batch = shape_.heads * shape_.tiles * list;
  }
  const SeenTiles& operator*() const { return tiles_; }

 private:
  static int64_t tiles_of(int64_t rows, int64_t each) { return (rows + each - 1) / each; }
  static SeenShape shape(const AttentionExtents& n, const AttentionMask<T>& mask, bool own_keys,
                         int64_t own_rows, int64_t other_rows) {
    SeenShape s{};
    s.query_rows = own_keys ? other_rows : own_rows, s.key_rows = own_keys ? own_rows : other_rows;
    s.heads_each = own_keys ? n.heads / n.groups : 1;
    s.heads = mask.stride[1] == 0 ? 1 : n.heads / s.heads_each;
    s.tiles = tiles_of(own_keys ? n.keys : n.queries, own_rows);
    s.lists = s.tiles * s.heads * (mask.stride[0] == 0 ? 1 : n.batch);
    return s;
  }
  static SeenTiles tiles(const AttentionExtents& n, const AttentionMask<T>& mask, bool own_keys,
                         int64_t other_rows) {
    SeenTiles t;
    if (!mask.data || mask.dtype != DType::kBool) return t;
    const int64_t others = tiles_of(own_keys ? n.queries : n.keys, other_rows);
    const int64_t most = others * (own_keys ? n.heads / n.groups : 1);
    if (most > INT32_MAX / 2) return t;
    t.others = static_cast<int32_t>(others), t.most = static_cast<int32_t>(most);
    return t;
  }
  size_t bytes() const { return static_cast<size_t>(shape_.lists * (1 + tiles_.most)) * sizeof(int32_t); }

  SeenShape shape_;
  SeenTiles tiles_;
  Workspace space_;
};

}  // namespace fastdl::cuda
