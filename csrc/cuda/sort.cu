#include "cuda/sort.cuh"

#include <algorithm>

#include "cuda/device.cuh"
#include "cuda/launch.h"
#include "cuda/shared.cuh"

namespace fastdl::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kItems = 8;  // neighbours to a thread: order within a tile is thread, then item
constexpr int kTile = kThreads * kItems;
constexpr int kBits = 4, kDigits = 1 << kBits;  // 16 counters a thread: 16 KiB of shared memory to a block
constexpr int kScanThreads = 1024;

struct SortShared {
  SharedArray<int, kDigits * kThreads> counts;  // [digit][thread]
  SharedArray<int, kThreads> sums;
};
struct ScanShared {
  SharedArray<int64_t, kScanThreads> sums;
};

// Inclusive sums over the threads of a block, in `sums`.
template <int Threads, class Sums>
__device__ __forceinline__ void scan_threads(Sums& sums) {
  for (int step = 1; step < Threads; step *= 2) {
    const auto before =
        static_cast<int>(threadIdx.x) >= step ? sums[static_cast<int>(threadIdx.x) - step] : 0;
    __syncthreads();
    sums[static_cast<int>(threadIdx.x)] += before;
    __syncthreads();
  }
}

__device__ __forceinline__ int digit_of(int64_t row, int shift) {
  return static_cast<int>(row >> shift) & (kDigits - 1);
}

// Rows outside [0, limit) become limit, which sorts last; places count up.
__global__ void __launch_bounds__(kThreads)
    sort_begin(int64_t n, int64_t limit, const int64_t* rows, int64_t* keys, int64_t* places) {
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < n;
       i += static_cast<int64_t>(gridDim.x) * kThreads) {
    keys[i] = rows[i] < 0 || rows[i] >= limit ? limit : rows[i];
    places[i] = i;
  }
}

// How often each digit occurs among the items of each thread.
__device__ __forceinline__ void count_digits(SortShared& shared, const int64_t* keys, int64_t begin,
                                             int64_t n, int shift) {
  const int thread = static_cast<int>(threadIdx.x);
  for (int d = 0; d < kDigits; ++d) shared.counts[d * kThreads + thread] = 0;
  for (int k = 0; k < kItems; ++k) {
    if (begin + k < n) shared.counts[digit_of(keys[begin + k], shift) * kThreads + thread] += 1;
  }
}

// counts[digit][tile]
__global__ void __launch_bounds__(kThreads)
    sort_count(int64_t n, int64_t tiles, int shift, const int64_t* keys, int64_t* counts) {
  auto& shared = shared_memory<SortShared>();
  const int thread = static_cast<int>(threadIdx.x);
  for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    count_digits(shared, keys, tile * kTile + thread * kItems, n, shift);
    __syncthreads();
    if (thread < kDigits) {
      int64_t total = 0;
      for (int t = 0; t < kThreads; ++t) total += static_cast<int>(shared.counts[thread * kThreads + t]);
      counts[thread * tiles + tile] = total;
    }
    __syncthreads();
  }
}

// Exclusive sums in place, by one block.
__global__ void __launch_bounds__(kScanThreads) sort_scan(int64_t n, int64_t* counts) {
  auto& shared = shared_memory<ScanShared>();
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t each = (n + kScanThreads - 1) / kScanThreads;
  const int64_t begin = thread * each < n ? thread * each : n, end = begin + each < n ? begin + each : n;
  int64_t sum = 0;
  for (int64_t i = begin; i < end; ++i) sum += counts[i];
  shared.sums[thread] = sum;
  __syncthreads();
  scan_threads<kScanThreads>(shared.sums);
  int64_t before = thread ? static_cast<int64_t>(shared.sums[thread - 1]) : 0;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t count = counts[i];
    counts[i] = before;
    before += count;
  }
}

// firsts[digit][tile]: where the first item with that digit of that tile goes.
__global__ void __launch_bounds__(kThreads)
    sort_scatter(int64_t n, int64_t tiles, int shift, const int64_t* firsts, const int64_t* keys,
                 const int64_t* places, int64_t* keys_out, int64_t* places_out) {
  auto& shared = shared_memory<SortShared>();
  const int thread = static_cast<int>(threadIdx.x);
  for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const int64_t begin = tile * kTile + thread * kItems;
    count_digits(shared, keys, begin, n, shift);
    for (int d = 0; d < kDigits; ++d) {
      const int own = shared.counts[d * kThreads + thread];
      shared.sums[thread] = own;
      __syncthreads();
      scan_threads<kThreads>(shared.sums);
      shared.counts[d * kThreads + thread] = static_cast<int>(shared.sums[thread]) - own;
      __syncthreads();
    }
    for (int k = 0; k < kItems; ++k) {
      if (begin + k >= n) break;
      const int64_t key = keys[begin + k];
      const int d = digit_of(key, shift), rank = shared.counts[d * kThreads + thread];
      shared.counts[d * kThreads + thread] = rank + 1;
      const int64_t to = firsts[d * tiles + tile] + rank;
      keys_out[to] = key;
      places_out[to] = places[begin + k];
    }
    __syncthreads();
  }
}

// starts[r] = the first place whose key is not below r.
__global__ void __launch_bounds__(kThreads)
    sort_starts(int64_t n, int64_t limit, const int64_t* keys, int64_t* starts) {
  for (int64_t r = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; r <= limit;
       r += static_cast<int64_t>(gridDim.x) * kThreads) {
    int64_t low = 0, high = n;
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      if (keys[middle] < r) low = middle + 1;
      else high = middle;
    }
    starts[r] = low;
  }
}

int64_t tiles_of(int64_t n) { return (n + kTile - 1) / kTile; }

size_t words(int64_t n, int64_t limit) {
  return static_cast<size_t>(4 * n + limit + 1 + kDigits * tiles_of(n));
}

}  // namespace

PlacesByRow::PlacesByRow(Context* context, const int64_t* rows, int64_t n, int64_t limit)
    : workspace_(context, words(n, limit) * sizeof(int64_t)) {
  int64_t* const base = workspace_.as<int64_t>();
  int64_t *keys = base, *keys_next = base + n, *places_next = base + 3 * n;
  places_ = base + 2 * n;
  starts_ = base + 4 * n;
  int64_t* const counts = starts_ + limit + 1;
  const int64_t tiles = tiles_of(n);
  if (n > 0) {
    launch(context, FASTDL_KERNEL(sort_begin), {blocks_for(n, kThreads), kThreads}, n, limit, rows, keys,
           places_);
    for (int shift = 0; shift == 0 || (limit >> shift) != 0; shift += kBits) {
      const Launch tiled{blocks_for(tiles, 1), kThreads, sizeof(SortShared)};
      launch(context, FASTDL_KERNEL(sort_count), tiled, n, tiles, shift, keys, counts);
      launch(context, FASTDL_KERNEL(sort_scan), {1, kScanThreads, sizeof(ScanShared)}, kDigits * tiles,
             counts);
      launch(context, FASTDL_KERNEL(sort_scatter), tiled, n, tiles, shift, counts, keys, places_, keys_next,
             places_next);
      std::swap(keys, keys_next);
      std::swap(places_, places_next);
    }
  }
  launch(context, FASTDL_KERNEL(sort_starts), {blocks_for(limit + 1, kThreads), kThreads}, n, limit, keys,
         starts_);
}

}  // namespace fastdl::cuda
