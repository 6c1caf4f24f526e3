// Kernels of sm_90's instructions that are right: their results have to be. Copies, barriers, clusters.
#include "hopper.h"

namespace {

// --- bulk copies ---

struct alignas(1024) Box {
  SharedArray<uint16_t, 8 * 64> data;
  SharedArray<uint64_t, 2> full;
};

// Boxes over all edges of a 13 x 70 matrix, there and back into another one.
CASE(bulk_copies) {
  constexpr int kTall = 13, kWide = 72, kColumns = 70;
  Aligned<bfloat16> from(kTall * kWide), to(kTall * kWide);
  for (int i = 0; i < kTall * kWide; ++i) from[i].bits = static_cast<uint16_t>(i);
  for (const auto swizzle : {CU_TENSOR_MAP_SWIZZLE_NONE, CU_TENSOR_MAP_SWIZZLE_32B, CU_TENSOR_MAP_SWIZZLE_64B,
                             CU_TENSOR_MAP_SWIZZLE_128B}) {
    const int columns = swizzle == CU_TENSOR_MAP_SWIZZLE_NONE ? 64 : 8 << swizzle;
    const CUtensorMap in =
        map_of(from.data, kTall, kColumns, kWide, 8, static_cast<uint32_t>(columns), swizzle);
    const CUtensorMap out =
        map_of(to.data, kTall, kColumns, kWide, 8, static_cast<uint32_t>(columns), swizzle);
    launch(
        "bulk_copies",
        config(dim3(2, static_cast<unsigned>((kColumns + columns - 1) / columns)), 32, sizeof(Box)), [&] {
          auto& s = shared_memory<Box>();
          const int row = static_cast<int>(blockIdx.x) * 8, column = static_cast<int>(blockIdx.y) * columns;
          const uint32_t full = ptx::shared_address(s.full.data()), box = ptx::shared_address(s.data.data());
          if (threadIdx.x == 0) {
            ptx::mbarrier_init(full, 1);
            ptx::mbarrier_fence_init();
            ptx::mbarrier_arrive_expect(full, static_cast<unsigned>(8 * columns * 2));
            ptx::tensor_load(box, &in, full, {column, row});
          }
          __syncwarp();
          ptx::mbarrier_wait(full, 0);
          for (int i = static_cast<int>(threadIdx.x); i < 8 * columns; i += 32) {
            const int r = i / columns, c = i % columns;
            const auto at = fastdl::simt::swizzled(static_cast<fastdl::simt::Swizzle>(swizzle),
                                                   static_cast<uint32_t>(i * 2)) /
                            2;
            const uint16_t x = s.data[at];
            CHECK(x == (row + r < kTall && column + c < kColumns ? (row + r) * kWide + column + c : 0));
            s.data[at] = static_cast<uint16_t>(x + 1000);
          }
          ptx::fence_proxy_async();
          __syncwarp();
          if (threadIdx.x == 0) {
            ptx::tensor_store(&out, box, {column, row});
            ptx::bulk_commit();
            ptx::bulk_wait_read<0>();
          }
        });
    // Stores are clipped by whole 16 bytes: the two elements behind a row get what the box has there, 0 +
    // 1000.
    for (int i = 0; i < kTall * kWide; ++i) CHECK(to[i].bits == (i % kWide < kColumns ? i + 1000 : 1000));
  }
}

// Numbers stored, then added to; what is written is not there before the wait for that.
CASE(bulk_lines) {
  struct Line {
    SharedArray<float, 64> data;
  };
  Aligned<float> to(64);
  std::vector<float> before(64);
  launch("bulk_lines", config(1, 32, sizeof(Line)), [&] {
    auto& s = shared_memory<Line>();
    const int t = static_cast<int>(threadIdx.x);
    for (int i = t; i < 64; i += 32) s.data[i] = static_cast<float>(i) + 0.5f;
    ptx::fence_proxy_async();
    __syncwarp();
    if (t == 7) {
      const uint32_t from = ptx::shared_address(s.data.data());
      ptx::bulk_store(to.data, from, 256);
      ptx::bulk_commit();
      ptx::bulk_wait_written();
      ptx::fence_proxy_async_global();
      ptx::bulk_add(to.data + 16, from, 64);
      ptx::bulk_commit();
      ptx::bulk_wait_read<0>();
      for (int i = 0; i < 64; ++i) before[static_cast<size_t>(i)] = to.data[i];
    }
    __syncwarp();
    s.data[t] = -1;  // has been read
    __syncwarp();
    if (t == 7) ptx::bulk_wait_written();
  });
  for (int i = 0; i < 64; ++i) {
    const float x = static_cast<float>(i) + 0.5f;
    CHECK(before[static_cast<size_t>(i)] == x);
    CHECK(to[i] == (i >= 16 && i < 32 ? x + x - 16 : x));
  }
}

// A ring of two stages: a producer warp, three consumer warps.
struct alignas(128) RingOfTwo {
  SharedArray<uint16_t, 64> data[2];
  SharedArray<uint64_t, 2> full, empty;
};
CASE(ring) {
  constexpr int kRounds = 9;
  Aligned<bfloat16> from(64 * kRounds);
  for (int i = 0; i < 64 * kRounds; ++i) from[i].bits = static_cast<uint16_t>(i);
  const CUtensorMap map = map_of(from.data, kRounds, 64, 64, 1, 64, CU_TENSOR_MAP_SWIZZLE_NONE);
  std::vector<int> sums(96);
  launch("ring", config(1, 128, sizeof(RingOfTwo)), [&] {
    auto& s = shared_memory<RingOfTwo>();
    const auto full = [&](int stage) { return ptx::shared_address(s.full.at(stage)); };
    const auto empty = [&](int stage) { return ptx::shared_address(s.empty.at(stage)); };
    const int t = static_cast<int>(threadIdx.x);
    if (t == 0) {
      for (int stage = 0; stage < 2; ++stage)
        ptx::mbarrier_init(full(stage), 1), ptx::mbarrier_init(empty(stage), 96);
      ptx::mbarrier_fence_init();
    }
    __syncthreads();
    if (t < 32) {
      if (t != 0) return;
      for (int round = 0; round < kRounds; ++round) {
        ptx::mbarrier_wait(empty(round % 2), static_cast<unsigned>(round / 2 % 2 ^ 1));
        ptx::mbarrier_arrive_expect(full(round % 2), 128);
        ptx::tensor_load(ptx::shared_address(s.data[round % 2].data()), &map, full(round % 2), {0, round});
      }
    } else {
      int sum = 0;
      for (int round = 0; round < kRounds; ++round) {
        ptx::mbarrier_wait(full(round % 2), static_cast<unsigned>(round / 2 % 2));
        sum += s.data[round % 2][(t + round) % 64];
        ptx::mbarrier_arrive(empty(round % 2));
      }
      sums[t - 32] = sum;
    }
  });
  for (int t = 32; t < 128; ++t) {
    int sum = 0;
    for (int round = 0; round < kRounds; ++round) sum += round * 64 + (t + round) % 64;
    CHECK(sums[t - 32] == sum);
  }
}

// --- clusters ---

// Each block brings one half for both; each tells the other when it has read.
struct alignas(128) Halves {
  SharedArray<uint16_t, 64> data[2];
  SharedArray<uint64_t, 2> full;
};
CASE(multicast) {
  Aligned<bfloat16> from(64 * 4);
  for (int i = 0; i < 64 * 4; ++i) from[i].bits = static_cast<uint16_t>(i);
  const cuuint64_t dims[5] = {64, 2, 2, 1, 1}, strides[4] = {128, 256, 16, 16};
  const cuuint32_t box[5] = {64, 1, 1, 1, 1}, steps[5] = {1, 1, 1, 1, 1};
  CUtensorMap map;
  CHECK(cuTensorMapEncodeTiled(&map, CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 5, from.data, dims, strides, box, steps,
                               CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_NONE,
                               CU_TENSOR_MAP_L2_PROMOTION_NONE,
                               CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS);
  std::vector<uint16_t> out(4 * 64);
  launch("multicast", config(4, 64, sizeof(Halves), 2), [&] {
    auto& s = shared_memory<Halves>();
    const int rank = static_cast<int>(ptx::cluster_rank()), t = static_cast<int>(threadIdx.x);
    CHECK(rank == static_cast<int>(blockIdx.x % 2));
    const uint32_t full = ptx::shared_address(s.full.data());
    if (t == 0) {
      ptx::mbarrier_init(full, 1);
      ptx::mbarrier_fence_init();
    }
    ptx::cluster_arrive();
    ptx::cluster_wait();
    if (t == 0) {
      ptx::mbarrier_arrive_expect(full, 256);
      ptx::tensor_load(ptx::shared_address(s.data[rank].data()), &map, full,
                       {0, rank, static_cast<int>(blockIdx.x / 2), 0, 0}, uint16_t{3});
    }
    ptx::mbarrier_wait(full, 0);
    out[blockIdx.x * 64 + static_cast<unsigned>(t)] = static_cast<uint16_t>(s.data[0][t] + s.data[1][63 - t]);
    ptx::cluster_arrive();
    ptx::cluster_wait();
  });
  for (int b = 0; b < 4; ++b) {
    for (int t = 0; t < 64; ++t) CHECK(out[b * 64 + t] == b / 2 * 256 + 64 + 63);
  }
}

struct Words {
  SharedArray<uint32_t, 32> mine, theirs;
  SharedArray<uint64_t, 1> done;
};
CASE(distributed_shared_memory) {
  std::vector<uint32_t> out(128), back(128);
  launch("distributed_shared_memory", config(4, 32, sizeof(Words), 4), [&] {
    auto& s = shared_memory<Words>();
    const unsigned t = threadIdx.x, rank = ptx::cluster_rank(), next = (rank + 1) % 4;
    const uint32_t done = ptx::shared_address(s.done.data());
    s.mine[t] = rank * 100 + t;
    if (t == 0) {
      ptx::mbarrier_init(done, 32);
      ptx::mbarrier_fence_init();
    }
    ptx::cluster_arrive();
    ptx::cluster_wait();
    out[rank * 32 + t] = ptx::load_cluster(ptx::map_shared(ptx::shared_address(s.mine.at(t)), next));
    ptx::store_cluster(ptx::map_shared(ptx::shared_address(s.theirs.at(t)), next), rank * 1000 + t);
    ptx::mbarrier_arrive_cluster(ptx::map_shared(done, next));
    ptx::mbarrier_wait(done, 0);
    back[rank * 32 + t] = s.theirs[t];
    ptx::cluster_arrive();
    ptx::cluster_wait();
  });
  for (unsigned rank = 0; rank < 4; ++rank) {
    for (unsigned t = 0; t < 32; ++t) {
      CHECK(out[rank * 32 + t] == (rank + 1) % 4 * 100 + t);
      CHECK(back[rank * 32 + t] == (rank + 3) % 4 * 1000 + t);
    }
  }
}

// Each block sends the next one words of its own, twice into the same place.
CASE(store_async) {
  struct Sent {
    SharedArray<uint32_t, 7 * 32> words;
    SharedArray<uint64_t, 1> full;
  };
  std::vector<uint32_t> out(2 * 4 * 7 * 32);
  launch("store_async", config(4, 32, sizeof(Sent), 4), [&] {
    auto& s = shared_memory<Sent>();
    const unsigned t = threadIdx.x, rank = ptx::cluster_rank(), next = (rank + 1) % 4;
    const uint32_t full = ptx::shared_address(s.full.data());
    if (t == 0) {
      ptx::mbarrier_init(full, 1);
      ptx::mbarrier_fence_init();
    }
    ptx::cluster_arrive();
    ptx::cluster_wait();
    for (unsigned round = 0; round < 2; ++round) {
      const uint32_t base = rank * 1000 + round * 10000 + 7 * t;
      const uint32_t one[1] = {base}, two[2] = {base + 1, base + 2},
                     four[4] = {base + 3, base + 4, base + 5, base + 6};
      const auto to = [&](unsigned at) { return ptx::map_shared(ptx::shared_address(s.words.at(at)), next); };
      const uint32_t barrier = ptx::map_shared(full, next);
      ptx::store_async(to(4 * t), four, barrier);
      ptx::store_async(to(128 + 2 * t), two, barrier);
      ptx::store_async(to(192 + t), one, barrier);
      if (t == 0) ptx::mbarrier_arrive_expect(full, 7 * 32 * 4);  // they may come before or after
      ptx::mbarrier_wait(full, round);
      for (unsigned i = t; i < 7 * 32; i += 32) out[(round * 4 + rank) * 7 * 32 + i] = s.words[i];
      ptx::cluster_arrive();
      ptx::cluster_wait();
    }
  });
  for (unsigned i = 0; i < 2 * 4 * 32; ++i) {
    const unsigned t = i % 32, rank = i / 32 % 4, round = i / 128;
    const uint32_t base = (rank + 3) % 4 * 1000 + round * 10000 + 7 * t;
    const uint32_t* const got = out.data() + (round * 4 + rank) * 7 * 32;
    CHECK(got[192 + t] == base && got[128 + 2 * t] == base + 1 && got[129 + 2 * t] == base + 2);
    for (unsigned j = 0; j < 4; ++j) CHECK(got[4 * t + j] == base + 3 + j);
  }
}

// --- the rest ---

struct Matrices {
  SharedArray<uint16_t, 4 * 64> x;
};
CASE(stmatrix) {
  for (const bool transposed : {false, true}) {
    std::vector<uint16_t> out(4 * 64);
    launch("stmatrix", config(1, 32, sizeof(Matrices)), [&] {
      auto& s = shared_memory<Matrices>();
      const int l = static_cast<int>(threadIdx.x), g = l / 4, t = l % 4;
      uint32_t r[4];
      for (int i = 0; i < 4; ++i) {
        const auto element = [&](int row, int column) {
          return static_cast<uint32_t>(i * 64 + (transposed ? column * 8 + row : row * 8 + column));
        };
        r[i] = element(g, 2 * t) | element(g, 2 * t + 1) << 16;
      }
      if (transposed) ptx::stmatrix<true>(s.x.at(l * 8), r);
      else ptx::stmatrix<false>(s.x.at(l * 8), r);
      __syncwarp();
      for (int i = l; i < 256; i += 32) out[static_cast<size_t>(i)] = s.x[i];
    });
    for (int i = 0; i < 256; ++i) CHECK(out[static_cast<size_t>(i)] == i);
  }
}

CASE(named_barriers_of_warpgroups) {
  std::vector<int> order(256);
  launch("named_barriers_of_warpgroups", config(1, 256, sizeof(Matrices)), [&] {
    auto& s = shared_memory<Matrices>();
    const int t = static_cast<int>(threadIdx.x);
    if (t < 128) {
      ptx::fewer_registers<40>();
      s.x[t] = static_cast<uint16_t>(t);
      ptx::named_barrier_arrive(1, 256);
    } else {
      ptx::more_registers<232>();
      ptx::named_barrier(1, 256);
      order[static_cast<size_t>(t)] = s.x[255 - t];
    }
  });
  for (int t = 128; t < 256; ++t) CHECK(order[static_cast<size_t>(t)] == 255 - t);
}

}  // namespace

int main(int argc, char** argv) { return run_cases(argc, argv); }
