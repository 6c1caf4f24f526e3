// Kernels of sm_90's instructions with one mistake each, which the executor has to report.
#include "hopper.h"

namespace {

struct alignas(1024) Box {
  SharedArray<uint16_t, 64 * 64> data;
  SharedArray<uint64_t, 2> bar;
};

Aligned<bfloat16>& source() {
  static Aligned<bfloat16> s(64 * 64);
  return s;
}
CUtensorMap box_map() { return map_of(source().data, 64, 64, 64, 64, 64, CU_TENSOR_MAP_SWIZZLE_128B); }
constexpr unsigned kBoxBytes = 64 * 64 * 2;

enum class Skip { nothing, wait, expect, init_fence, arrive, swizzle_alignment };

// A box is brought by thread 0 and read by all.
void bring(const char* name, Skip skip, unsigned bytes = kBoxBytes, unsigned count = 1, unsigned parity = 0) {
  const CUtensorMap map = box_map();
  launch(name, config(2, 64, sizeof(Box)), [&, skip] {
    auto& s = shared_memory<Box>();
    const uint32_t bar = ptx::shared_address(s.bar.data()), data = ptx::shared_address(s.data.data());
    if (threadIdx.x == 0) {
      ptx::mbarrier_init(bar, count);
      if (skip != Skip::init_fence) ptx::mbarrier_fence_init();
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      if (skip == Skip::expect) ptx::mbarrier_arrive(bar);
      else if (skip != Skip::arrive) ptx::mbarrier_arrive_expect(bar, bytes);
      ptx::tensor_load(data + (skip == Skip::swizzle_alignment ? 128 : 0), &map, bar, {0, 0});
    }
    if (skip != Skip::wait) ptx::mbarrier_wait(bar, parity);
    const uint16_t x = s.data[threadIdx.x];
    (void)x;
  });
}
CASE(bulk_missing_wait) { bring("bulk_missing_wait", Skip::wait); }
CASE(bulk_missing_expect) { bring("bulk_missing_expect", Skip::expect); }
CASE(bulk_missing_init_fence) { bring("bulk_missing_init_fence", Skip::init_fence); }
CASE(bulk_missing_arrival) { bring("bulk_missing_arrival", Skip::arrive); }
CASE(bulk_wrong_alignment) { bring("bulk_wrong_alignment", Skip::swizzle_alignment); }
CASE(bulk_too_many_bytes) { bring("bulk_too_many_bytes", Skip::nothing, kBoxBytes + 16); }
CASE(bulk_too_few_bytes) { bring("bulk_too_few_bytes", Skip::nothing, kBoxBytes - 16); }
CASE(mbarrier_wrong_count) { bring("mbarrier_wrong_count", Skip::nothing, kBoxBytes, 2); }
CASE(mbarrier_wrong_parity) { bring("mbarrier_wrong_parity", Skip::nothing, kBoxBytes, 1, 1); }

// Images of 8 x 8 pixels, of which a 3 x 3 filter without padding sees positions up to 5.
void bring_pixels(const char* name, int w, uint16_t offset) {
  const cuuint64_t dims[4] = {64, 8, 8, 1}, strides[3] = {128, 1024, 8192};
  const cuuint32_t steps[4] = {1, 1, 1, 1};
  const int lower[2] = {0, 0}, upper[2] = {-2, -2};
  CUtensorMap map;
  CHECK(cuTensorMapEncodeIm2col(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, source().data, dims, strides,
                                lower, upper, 64, 64, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                                CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_NONE,
                                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS);
  launch(name, config(1, 32, sizeof(Box)), [&] {
    auto& s = shared_memory<Box>();
    const uint32_t bar = ptx::shared_address(s.bar.data()), data = ptx::shared_address(s.data.data());
    if (threadIdx.x != 0) return;
    ptx::mbarrier_init(bar, 1);
    ptx::mbarrier_fence_init();
    ptx::mbarrier_arrive_expect(bar, kBoxBytes);
    ptx::tensor_load_im2col(data, &map, bar, {0, w, 0, 0}, {offset, 0});
    ptx::mbarrier_wait(bar, 0);
  });
}
CASE(im2col_outside_the_box) { bring_pixels("im2col_outside_the_box", 6, 0); }
CASE(im2col_offset) { bring_pixels("im2col_offset", 5, 256); }
CASE(im2col_of_tiles) {
  const cuuint64_t dims[3] = {64, 64, 1}, strides[2] = {128, 8192};
  const cuuint32_t box[3] = {64, 64, 1}, steps[3] = {1, 1, 1};
  CUtensorMap map;
  CHECK(cuTensorMapEncodeTiled(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, source().data, dims, strides, box,
                               steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                               CU_TENSOR_MAP_L2_PROMOTION_NONE,
                               CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS);
  launch("im2col_of_tiles", config(1, 32, sizeof(Box)), [&] {
    if (threadIdx.x == 0) ptx::tensor_load_im2col(0, &map, 0, {0, 0, 0}, {0});
  });
}

CASE(mbarrier_missing_init) {
  launch("mbarrier_missing_init", config(1, 32, sizeof(Box)),
         [] { ptx::mbarrier_wait(ptx::shared_address(shared_memory<Box>().bar.data()), 0); });
}

// Only the warp that waited may read.
CASE(bulk_waited_for_by_another) {
  const CUtensorMap map = box_map();
  launch("bulk_waited_for_by_another", config(1, 64, sizeof(Box)), [&] {
    auto& s = shared_memory<Box>();
    const uint32_t bar = ptx::shared_address(s.bar.data());
    if (threadIdx.x == 0) {
      ptx::mbarrier_init(bar, 1);
      ptx::mbarrier_fence_init();
      ptx::mbarrier_arrive_expect(bar, kBoxBytes);
      ptx::tensor_load(ptx::shared_address(s.data.data()), &map, bar, {0, 0});
      ptx::mbarrier_wait(bar, 0);
    }
    if (threadIdx.x < 32) return;
    for (int i = 0; i < 3; ++i) fastdl::simt::spin();
    const uint16_t x = s.data[threadIdx.x];
    (void)x;
  });
}

// The next box comes while the first one is still read: nobody said that it was free.
CASE(bulk_missing_empty) {
  const CUtensorMap map = box_map();
  launch("bulk_missing_empty", config(1, 64, sizeof(Box)), [&] {
    auto& s = shared_memory<Box>();
    const uint32_t bar = ptx::shared_address(s.bar.data());
    if (threadIdx.x == 0) {
      ptx::mbarrier_init(bar, 1);
      ptx::mbarrier_fence_init();
    }
    __syncthreads();
    for (unsigned round = 0; round < 2; ++round) {
      if (threadIdx.x == 0) {
        ptx::mbarrier_arrive_expect(bar, kBoxBytes);
        ptx::tensor_load(ptx::shared_address(s.data.data()), &map, bar, {0, 0});
      }
      ptx::mbarrier_wait(bar, round % 2);
      const uint16_t x = s.data[threadIdx.x];
      (void)x;
    }
  });
}

void store(const char* name, bool fence, bool wait) {
  const CUtensorMap map = box_map();
  launch(name, config(1, 64, sizeof(Box)), [&, fence, wait] {
    auto& s = shared_memory<Box>();
    for (int i = static_cast<int>(threadIdx.x); i < 64 * 64; i += 64) s.data[i] = 1;
    if (fence) ptx::fence_proxy_async();
    __syncthreads();
    if (threadIdx.x == 5) {
      ptx::tensor_store(&map, ptx::shared_address(s.data.data()), {0, 0});
      ptx::bulk_commit();
      if (wait) ptx::bulk_wait_read<0>();
    }
  });
}
void add_line(const char* name, bool fence, bool early, uint32_t offset) {
  alignas(16) static float to[64];
  launch(name, config(1, 64, sizeof(Box)), [=] {
    auto& s = shared_memory<Box>();
    for (int i = static_cast<int>(threadIdx.x); i < 64 * 64; i += 64) s.data[i] = 0;
    if (fence) ptx::fence_proxy_async();
    __syncthreads();
    if (threadIdx.x == 5) {
      ptx::bulk_add(to, ptx::shared_address(s.data.data()) + offset, 128);
      ptx::bulk_commit();
      if (!early) ptx::bulk_wait_read<0>();
    }
    __syncthreads();
    s.data[static_cast<int>(threadIdx.x)] = 1;
    __syncthreads();
    if (threadIdx.x == 5) ptx::bulk_wait_written();
  });
}
CASE(line_missing_proxy_fence) { add_line("line_missing_proxy_fence", false, false, 0); }
CASE(line_written_over_early) { add_line("line_written_over_early", true, true, 0); }
CASE(line_unaligned) { add_line("line_unaligned", true, false, 8); }
CASE(store_missing_proxy_fence) { store("store_missing_proxy_fence", false, true); }
CASE(store_missing_wait) { store("store_missing_wait", true, false); }

// --- wgmma ---

enum class Wrong { no_fence, no_wait, touched, no_proxy_fence, one_warp_other };

void multiply(const char* name, Wrong wrong) {
  launch(name, config(1, 128, sizeof(Box)), [wrong] {
    auto& s = shared_memory<Box>();
    const int t = static_cast<int>(threadIdx.x);
    for (int i = t; i < 64 * 64; i += 128) s.data[i] = 0;
    if (wrong != Wrong::no_proxy_fence) ptx::fence_proxy_async();
    __syncthreads();
    float d[32];
    const uint64_t m =
        ptx::matrix_descriptor(ptx::shared_address(s.data.data()), 0, 1024, ptx::MatrixSwizzle::bytes_128);
    if (wrong != Wrong::no_fence) ptx::wgmma_fence();
    ptx::wgmma<false, false>(bfloat16{}, d, m, wrong == Wrong::one_warp_other && t % 32 == 7 ? m + 2 : m,
                             false);
    ptx::wgmma_commit();
    if (wrong == Wrong::touched) d[3] += 1, d[3] = 0;
    if (wrong != Wrong::no_wait) ptx::wgmma_wait<0>();
  });
}
CASE(wgmma_missing_fence) { multiply("wgmma_missing_fence", Wrong::no_fence); }
CASE(wgmma_missing_wait) { multiply("wgmma_missing_wait", Wrong::no_wait); }
CASE(wgmma_touched_sums) { multiply("wgmma_touched_sums", Wrong::touched); }
CASE(wgmma_missing_proxy_fence) { multiply("wgmma_missing_proxy_fence", Wrong::no_proxy_fence); }
CASE(wgmma_lanes_disagree) { multiply("wgmma_lanes_disagree", Wrong::one_warp_other); }

// The left factor's registers are written while the product runs.
CASE(wgmma_touched_left) {
  launch("wgmma_touched_left", config(1, 128, sizeof(Box)), [] {
    auto& s = shared_memory<Box>();
    for (int i = static_cast<int>(threadIdx.x); i < 64 * 64; i += 128) s.data[i] = 0;
    ptx::fence_proxy_async();
    __syncthreads();
    float d[32];
    volatile uint32_t left[4] = {1, 2, 3, threadIdx.x};
    const uint64_t m =
        ptx::matrix_descriptor(ptx::shared_address(s.data.data()), 0, 1024, ptx::MatrixSwizzle::bytes_128);
    ptx::wgmma_fence();
    ptx::wgmma<false>(bfloat16{}, d, const_cast<uint32_t (&)[4]>(left), m, false);
    ptx::wgmma_commit();
    left[1] = 5;
    ptx::wgmma_wait<0>();
  });
}

// The tile is given back before the product that reads it was waited for.
CASE(wgmma_early_release) {
  const CUtensorMap map = box_map();
  launch("wgmma_early_release", config(1, 160, sizeof(Box)), [&] {
    auto& s = shared_memory<Box>();
    const uint32_t full = ptx::shared_address(s.bar.at(0)), empty = ptx::shared_address(s.bar.at(1));
    const uint32_t data = ptx::shared_address(s.data.data());
    if (threadIdx.x == 0) {
      ptx::mbarrier_init(full, 1);
      ptx::mbarrier_init(empty, 128);
      ptx::mbarrier_fence_init();
    }
    __syncthreads();
    if (threadIdx.x == 128) {
      for (unsigned round = 0; round < 2; ++round) {
        ptx::mbarrier_wait(empty, round ^ 1);
        ptx::mbarrier_arrive_expect(full, kBoxBytes);
        ptx::tensor_load(data, &map, full, {0, 0});
      }
    } else if (threadIdx.x < 128) {
      float d[32];
      for (unsigned round = 0; round < 2; ++round) {
        ptx::mbarrier_wait(full, round);
        ptx::wgmma_fence();
        const uint64_t m = ptx::matrix_descriptor(data, 0, 1024, ptx::MatrixSwizzle::bytes_128);
        ptx::wgmma<false, false>(bfloat16{}, d, m, m, round > 0);
        ptx::wgmma_commit();
        ptx::mbarrier_arrive(empty);
        ptx::wgmma_wait<0>();
      }
    }
  });
}

// --- clusters ---

CASE(cluster_block_has_ended) {
  launch("cluster_block_has_ended", config(2, 32, sizeof(Box), 2), [] {
    auto& s = shared_memory<Box>();
    ptx::cluster_arrive();
    ptx::cluster_wait();
    if (ptx::cluster_rank() == 1) return;
    for (int i = 0; i < 5; ++i) fastdl::simt::spin();
    ptx::load_cluster(ptx::map_shared(ptx::shared_address(s.data.data()), 1));
  });
}
CASE(store_async_not_expected) {
  launch("store_async_not_expected", config(2, 32, sizeof(Box), 2), [] {
    auto& s = shared_memory<Box>();
    const uint32_t full = ptx::shared_address(s.bar.data());
    if (threadIdx.x == 0) {
      ptx::mbarrier_init(full, 1);
      ptx::mbarrier_fence_init();
    }
    ptx::cluster_arrive();
    ptx::cluster_wait();
    const uint32_t word[1] = {7};
    if (threadIdx.x == 0)
      ptx::store_async(ptx::map_shared(ptx::shared_address(s.data.data()), 1), word,
                       ptx::map_shared(full, 1));
    if (ptx::cluster_rank() == 1) ptx::mbarrier_wait(full, 0);
    ptx::cluster_arrive();
    ptx::cluster_wait();
  });
}
CASE(store_async_to_two_blocks) {
  launch("store_async_to_two_blocks", config(2, 32, sizeof(Box), 2), [] {
    auto& s = shared_memory<Box>();
    const uint32_t word[1] = {7}, full = ptx::shared_address(s.bar.data());
    ptx::store_async(ptx::map_shared(ptx::shared_address(s.data.data()), 1), word, ptx::map_shared(full, 0));
  });
}
CASE(cluster_missing_wait) {
  launch("cluster_missing_wait", config(2, 32, sizeof(Box), 2), [] {
    ptx::cluster_arrive();
    ptx::cluster_arrive();
  });
}
CASE(cluster_one_does_not_come) {
  launch("cluster_one_does_not_come", config(2, 64, sizeof(Box), 2), [] {
    if (ptx::cluster_rank() == 1 && threadIdx.x == 3) {
      __syncthreads();
      return;
    }
    ptx::cluster_arrive();
    ptx::cluster_wait();
  });
}

}  // namespace

int main(int argc, char** argv) { return run_cases(argc, argv); }
