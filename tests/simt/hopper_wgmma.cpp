// Kernels of wgmma that are right: their results have to be.
#include "hopper.h"

namespace {

// --- one product of a warpgroup from tiles that bulk copies bring ---

constexpr int kRows = 64, kDepth = 64;

template <int N>
struct alignas(1024) Tiles {
  SharedArray<uint16_t, kRows * kDepth> a;
  SharedArray<uint16_t, (N + 63) / 64 * 64 * kDepth> b;  // transposed it comes in boxes of 64 columns
  SharedArray<uint64_t, 2> full;
};

// D = A B for A (64, 64), B (64, N), each along k in memory or transposed, in swizzled tiles, or A in
// registers.
template <class S, int N, bool TransposedA, bool TransposedB, bool InRegisters = false>
void multiply(S (*narrow)(float)) {
  Aligned<S> a(kRows * kDepth), b(N * kDepth);
  std::vector<float> left(kRows * kDepth), right(N * kDepth), out(kRows * N, -1.0f);
  for (int i = 0; i < kRows; ++i) {
    for (int k = 0; k < kDepth; ++k) {
      const float x = static_cast<float>((i * 7 + k * 3) % 11 - 5);
      left[i * kDepth + k] = x;
      a[TransposedA ? k * kRows + i : i * kDepth + k] = narrow(x);
    }
  }
  for (int j = 0; j < N; ++j) {
    for (int k = 0; k < kDepth; ++k) {
      const float x = static_cast<float>((j * 5 + k * k) % 13 - 6);
      right[j * kDepth + k] = x;
      b[TransposedB ? k * N + j : j * kDepth + k] = narrow(x);
    }
  }
  constexpr auto kSwizzle = CU_TENSOR_MAP_SWIZZLE_128B;
  const CUtensorMap map_a = map_of(a.data, 64, 64, 64, 64, 64, kSwizzle);
  const CUtensorMap map_b = TransposedB ? map_of(b.data, kDepth, N, N, 64, 64, kSwizzle)
                                        : map_of(b.data, N, kDepth, kDepth, N, 64, kSwizzle);
  launch("multiply", config(1, 128, sizeof(Tiles<N>)), [&] {
    auto& s = shared_memory<Tiles<N>>();
    const uint32_t full = ptx::shared_address(s.full.data()), tile_a = ptx::shared_address(s.a.data()),
                   tile_b = ptx::shared_address(s.b.data());
    if (threadIdx.x == 0) {
      ptx::mbarrier_init(full, 1);
      ptx::mbarrier_fence_init();
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      ptx::mbarrier_arrive_expect(full, (kRows + (TransposedB ? (N + 63) / 64 * 64 : N)) * kDepth * 2);
      ptx::tensor_load(tile_a, &map_a, full, {0, 0});
      if (TransposedB) {
        for (int j = 0; j < N; j += 64) ptx::tensor_load(tile_b + j * kDepth * 2, &map_b, full, {j, 0});
      } else {
        ptx::tensor_load(tile_b, &map_b, full, {0, 0});
      }
    }
    ptx::mbarrier_wait(full, 0);
    const int warp = static_cast<int>(threadIdx.x) / 32, g = static_cast<int>(threadIdx.x) % 32 / 4,
              t = static_cast<int>(threadIdx.x) % 4;
    uint32_t fragments[kDepth / 16][4];
    for (int i = 0; i < kDepth / 4; ++i) {
      const S* const two = &a[(16 * warp + g + i % 2 * 8) * kDepth + i / 4 * 16 + i % 4 / 2 * 8 + 2 * t];
      fragments[i / 4][i % 4] = two[0].bits | static_cast<uint32_t>(two[1].bits) << 16;
    }
    float d[N / 2];
    ptx::wgmma_fence();
    for (int k = 0; k < kDepth; k += 16) {
      const auto at = [&](bool transposed, uint32_t tile) {
        return transposed ? ptx::matrix_descriptor(tile + k * 128, 64 * kDepth * 2, 1024,
                                                   ptx::MatrixSwizzle::bytes_128)
                          : ptx::matrix_descriptor(tile + k * 2, 0, 1024, ptx::MatrixSwizzle::bytes_128);
      };
      if constexpr (InRegisters) {
        ptx::wgmma<TransposedB>(S{}, d, fragments[k / 16], at(TransposedB, tile_b), k > 0);
      } else {
        ptx::wgmma<TransposedA, TransposedB>(S{}, d, at(TransposedA, tile_a), at(TransposedB, tile_b), k > 0);
      }
    }
    ptx::wgmma_commit();
    for (float x : d) CHECK(x != x);  // not there yet
    ptx::wgmma_wait<0>();
    for (int j = 0; j < N / 8; ++j) {
      for (int e = 0; e < 4; ++e) {
        out[(16 * warp + g + e / 2 * 8) * N + 8 * j + 2 * t + e % 2] = d[4 * j + e];
      }
    }
  });
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < N; ++j) {
      float sum = 0;
      for (int k = 0; k < kDepth; ++k) sum += left[i * kDepth + k] * right[j * kDepth + k];
      CHECK(out[i * N + j] == sum);
    }
  }
}

CASE(wgmma_bfloat16) {
  multiply<bfloat16, 64, false, false>(to_bfloat16);
  multiply<bfloat16, 128, true, false>(to_bfloat16);
  multiply<bfloat16, 256, false, true>(to_bfloat16);
  multiply<bfloat16, 128, true, true>(to_bfloat16);
}
CASE(wgmma_float16) {
  multiply<float16, 128, false, true>(to_float16);
  multiply<float16, 64, true, false>(to_float16);
}
CASE(wgmma_left_factor_in_registers) {
  multiply<bfloat16, 64, false, false, true>(to_bfloat16);
  multiply<bfloat16, 128, false, true, true>(to_bfloat16);
  multiply<bfloat16, 192, false, true, true>(to_bfloat16);
  multiply<float16, 96, false, false, true>(to_float16);
  multiply<float16, 256, false, true, true>(to_float16);
}
CASE(wgmma_of_every_width) {
  multiply<bfloat16, 8, false, false>(to_bfloat16);
  multiply<float16, 8, true, true>(to_float16);
  multiply<bfloat16, 16, true, true>(to_bfloat16);
  multiply<float16, 16, false, false>(to_float16);
  multiply<bfloat16, 8, false, true, true>(to_bfloat16);
  multiply<float16, 16, false, false, true>(to_float16);
  multiply<bfloat16, 32, false, true, true>(to_bfloat16);
  multiply<bfloat16, 32, false, false>(to_bfloat16);
  multiply<bfloat16, 80, false, false>(to_bfloat16);
  multiply<float16, 96, false, false>(to_float16);
  multiply<bfloat16, 112, false, false>(to_bfloat16);
}

// TF32 in rows of 64 and of 32 bytes.
template <int RowBytes>
void multiply_tfloat32() {
  constexpr int kFloats = RowBytes / 4;
  Aligned<float> a(kRows * kFloats), b(64 * kFloats);
  std::vector<float> out(kRows * 64);
  for (int i = 0; i < 64 * kFloats; ++i) {
    a[i] = static_cast<float>(i % 17 - 8);
    b[i] = static_cast<float>(i % 5) + 0x1p-20f;  // a bit that TF32 has no place for
  }
  constexpr auto kSwizzle = RowBytes == 64 ? CU_TENSOR_MAP_SWIZZLE_64B : CU_TENSOR_MAP_SWIZZLE_32B;
  constexpr auto kMatrix = RowBytes == 64 ? ptx::MatrixSwizzle::bytes_64 : ptx::MatrixSwizzle::bytes_32;
  const CUtensorMap map_a = map_of(a.data, 64, kFloats, kFloats, 64, kFloats, kSwizzle);
  const CUtensorMap map_b = map_of(b.data, 64, kFloats, kFloats, 64, kFloats, kSwizzle);
  launch("multiply_tfloat32", config(1, 128, sizeof(Tiles<64>)), [&] {
    auto& s = shared_memory<Tiles<64>>();
    const uint32_t full = ptx::shared_address(s.full.data()), tile_a = ptx::shared_address(s.a.data()),
                   tile_b = ptx::shared_address(s.b.data());
    if (threadIdx.x == 0) {
      ptx::mbarrier_init(full, 1);
      ptx::mbarrier_fence_init();
      ptx::mbarrier_arrive_expect(full, 2 * 64 * RowBytes);
      ptx::tensor_load(tile_a, &map_a, full, {0, 0});
      ptx::tensor_load(tile_b, &map_b, full, {0, 0});
    }
    __syncthreads();
    ptx::mbarrier_wait(full, 0);
    float d[32];
    ptx::wgmma_fence();
    for (int k = 0; k < kFloats; k += 8) {
      ptx::wgmma<false, false>(ptx::tfloat32{}, d,
                               ptx::matrix_descriptor(tile_a + k * 4, 0, 8 * RowBytes, kMatrix),
                               ptx::matrix_descriptor(tile_b + k * 4, 0, 8 * RowBytes, kMatrix), k > 0);
    }
    ptx::wgmma_commit();
    ptx::wgmma_wait<0>();
    for (int i = 0; i < 32; ++i) {
      const int t = static_cast<int>(threadIdx.x), lane = t % 32;
      out[(t / 32 * 16 + lane / 4 + i % 4 / 2 * 8) * 64 + i / 4 * 8 + lane % 4 * 2 + i % 2] = d[i];
    }
  });
  for (int i = 0; i < 64; ++i) {
    for (int j = 0; j < 64; ++j) {
      float sum = 0;
      for (int k = 0; k < kFloats; ++k) sum += a[i * kFloats + k] * static_cast<float>((j * kFloats + k) % 5);
      // A zero with the bit is 2^-20, which is a number of its own.
      CHECK(std::abs(out[i * 64 + j] - sum) < 1e-3f);
      CHECK(std::abs(out[i * 64 + j] - sum) < 1e-4f);
    }
  }
}
CASE(wgmma_tfloat32) {
  multiply_tfloat32<64>();
  multiply_tfloat32<32>();
}

}  // namespace

int main(int argc, char** argv) { return run_cases(argc, argv); }
