// wgmma: D = A B + D by the 128 threads of a warpgroup, A 64 x 16 and B 16 x N of 16-bit elements (or 64 x 8
// and 8 x N of TF32), both in shared memory or A in registers, D float32 in registers: warp w of the
// warpgroup holds rows 16w to 16w + 15, its lane l (g = l / 4, t = l % 4)
//   d[4j], d[4j + 1]: row g, columns 8j + 2t, 8j + 2t + 1;   d[4j + 2], d[4j + 3]: row g + 8, the same
//   columns
// Products run beside the threads: fence before the first one, commit, wait; until then D may not be touched.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "common/narrow.h"
#ifdef FASTDL_SIMT
#include "simt/hopper.h"
#endif

namespace fastdl::cuda::ptx {

struct tfloat32 {};  // float32 in memory, of which the upper 19 bits count

// Rows of 128, 64 or 32 bytes whose 16-byte chunks are permuted within groups of eight rows.
enum class MatrixSwizzle : uint64_t { bytes_128 = 1, bytes_64 = 2, bytes_32 = 3 };

// A matrix in shared memory, in patterns of eight rows. Along k (K-major): `stride` bytes from eight rows to
// the next, `leading` unused. Transposed: a row has 64 (32, 16) elements along m or n; `leading` bytes to the
// next ones, `stride` bytes from eight k to the next. PTX ISA 9.7.15.5.1.2.2 (matrix descriptor)
__device__ __forceinline__ uint64_t matrix_descriptor(uint32_t address, uint32_t leading, uint32_t stride,
                                                      MatrixSwizzle swizzle) {
  const auto field = [](uint32_t bytes) { return static_cast<uint64_t>((bytes & 0x3FFFFu) >> 4); };
  return field(address) | field(leading) << 16 | field(stride) << 32 | static_cast<uint64_t>(swizzle) << 62;
}

#ifndef FASTDL_SIMT

// PTX ISA 9.7.15.7.1 (wgmma.fence), 9.7.15.7.2 (wgmma.commit_group), 9.7.15.7.3 (wgmma.wait_group)
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int Pending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
}

// The registers of an instruction's sums as operands of asm, and their names in it.
#define FASTDL_R4(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define FASTDL_R8(d, i) FASTDL_R4(d, i), FASTDL_R4(d, i + 4)
#define FASTDL_R16(d, i) FASTDL_R8(d, i), FASTDL_R8(d, i + 8)
#define FASTDL_R32(d, i) FASTDL_R16(d, i), FASTDL_R16(d, i + 16)
#define FASTDL_R40(d, i) FASTDL_R32(d, i), FASTDL_R8(d, i + 32)
#define FASTDL_R48(d, i) FASTDL_R32(d, i), FASTDL_R16(d, i + 32)
#define FASTDL_R56(d, i) FASTDL_R48(d, i), FASTDL_R8(d, i + 48)
#define FASTDL_R64(d, i) FASTDL_R32(d, i), FASTDL_R32(d, i + 32)
#define FASTDL_R96(d, i) FASTDL_R64(d, i), FASTDL_R32(d, i + 64)
#define FASTDL_R128(d, i) FASTDL_R64(d, i), FASTDL_R64(d, i + 64)

#define FASTDL_P4 "%0, %1, %2, %3"
#define FASTDL_P8 "%0, %1, %2, %3, %4, %5, %6, %7"
#define FASTDL_P16 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define FASTDL_P32                                                       \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15" \
  ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define FASTDL_P40 FASTDL_P32 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define FASTDL_P48 FASTDL_P40 ", %40, %41, %42, %43, %44, %45, %46, %47"
#define FASTDL_P56 FASTDL_P48 ", %48, %49, %50, %51, %52, %53, %54, %55"
#define FASTDL_P64 FASTDL_P56 ", %56, %57, %58, %59, %60, %61, %62, %63"
#define FASTDL_P96                                                                   \
  FASTDL_P64                                                                         \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79" \
  ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define FASTDL_P128                                                                              \
  FASTDL_P96                                                                                     \
  ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111" \
  ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"

// The flag begins from zero where it is false. PTX ISA 9.7.15.5.2 (wgmma.mma_async)
#define FASTDL_WGMMA(TYPE, SUFFIX, N, COUNT, A, B, P, TA, TB)                                               \
  template <bool TransposedA, bool TransposedB>                                                             \
  __device__ __forceinline__ void wgmma(TYPE, float (&d)[COUNT], uint64_t a, uint64_t b, bool accumulate) { \
    asm volatile("{.reg .pred p; setp.ne.b32 p, %" P                                                        \
                 ", 0;"                                                                                     \
                 "wgmma.mma_async.sync.aligned.m64n" N "k16.f32." SUFFIX " {" FASTDL_P##COUNT               \
                 "}, %" A ", %" B ", p, 1, 1, %" TA ", %" TB ";}"                                           \
                 : FASTDL_R##COUNT(d, 0)                                                                    \
                 : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)), "n"(TransposedA ? 1 : 0),             \
                   "n"(TransposedB ? 1 : 0));                                                               \
  }
FASTDL_WGMMA(bfloat16, "bf16.bf16", "8", 4, "4", "5", "6", "7", "8")
FASTDL_WGMMA(bfloat16, "bf16.bf16", "16", 8, "8", "9", "10", "11", "12")
FASTDL_WGMMA(bfloat16, "bf16.bf16", "32", 16, "16", "17", "18", "19", "20")
FASTDL_WGMMA(bfloat16, "bf16.bf16", "64", 32, "32", "33", "34", "35", "36")
FASTDL_WGMMA(bfloat16, "bf16.bf16", "80", 40, "40", "41", "42", "43", "44")
FASTDL_WGMMA(bfloat16, "bf16.bf16", "96", 48, "48", "49", "50", "51", "52")
FASTDL_WGMMA(bfloat16, "bf16.bf16", "112", 56, "56", "57", "58", "59", "60")
FASTDL_WGMMA(bfloat16, "bf16.bf16", "128", 64, "64", "65", "66", "67", "68")
FASTDL_WGMMA(bfloat16, "bf16.bf16", "256", 128, "128", "129", "130", "131", "132")
FASTDL_WGMMA(float16, "f16.f16", "8", 4, "4", "5", "6", "7", "8")
FASTDL_WGMMA(float16, "f16.f16", "16", 8, "8", "9", "10", "11", "12")
FASTDL_WGMMA(float16, "f16.f16", "32", 16, "16", "17", "18", "19", "20")
FASTDL_WGMMA(float16, "f16.f16", "64", 32, "32", "33", "34", "35", "36")
FASTDL_WGMMA(float16, "f16.f16", "80", 40, "40", "41", "42", "43", "44")
FASTDL_WGMMA(float16, "f16.f16", "96", 48, "48", "49", "50", "51", "52")
FASTDL_WGMMA(float16, "f16.f16", "112", 56, "56", "57", "58", "59", "60")
FASTDL_WGMMA(float16, "f16.f16", "128", 64, "64", "65", "66", "67", "68")
FASTDL_WGMMA(float16, "f16.f16", "256", 128, "128", "129", "130", "131", "132")
#undef FASTDL_WGMMA

// The same with A in registers, as fragments that two columns of sums leave when they are packed: lane l has
//   a[0]: row g, columns 2t, 2t + 1;   a[1]: row g + 8;   a[2], a[3]: the same rows, columns 2t + 8, 2t + 9
// They may not be written before the wait, either.
#define FASTDL_WGMMA(TYPE, SUFFIX, N, COUNT, A0, A1, A2, A3, B, P, TB)                                    \
  template <bool TransposedB>                                                                             \
  __device__ __forceinline__ void wgmma(TYPE, float (&d)[COUNT], const uint32_t (&a)[4], uint64_t b,      \
                                        bool accumulate) {                                                \
    asm volatile("{.reg .pred p; setp.ne.b32 p, %" P                                                      \
                 ", 0;"                                                                                   \
                 "wgmma.mma_async.sync.aligned.m64n" N "k16.f32." SUFFIX " {" FASTDL_P##COUNT             \
                 "}, {%" A0 ", %" A1 ", %" A2 ", %" A3 "}, %" B ", p, 1, 1, %" TB ";}"                    \
                 : FASTDL_R##COUNT(d, 0)                                                                  \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulate)), \
                   "n"(TransposedB ? 1 : 0));                                                             \
  }
FASTDL_WGMMA(bfloat16, "bf16.bf16", "8", 4, "4", "5", "6", "7", "8", "9", "10")
FASTDL_WGMMA(bfloat16, "bf16.bf16", "16", 8, "8", "9", "10", "11", "12", "13", "14")
FASTDL_WGMMA(bfloat16, "bf16.bf16", "32", 16, "16", "17", "18", "19", "20", "21", "22")
FASTDL_WGMMA(bfloat16, "bf16.bf16", "64", 32, "32", "33", "34", "35", "36", "37", "38")
FASTDL_WGMMA(bfloat16, "bf16.bf16", "96", 48, "48", "49", "50", "51", "52", "53", "54")
FASTDL_WGMMA(bfloat16, "bf16.bf16", "128", 64, "64", "65", "66", "67", "68", "69", "70")
FASTDL_WGMMA(bfloat16, "bf16.bf16", "192", 96, "96", "97", "98", "99", "100", "101", "102")
FASTDL_WGMMA(bfloat16, "bf16.bf16", "256", 128, "128", "129", "130", "131", "132", "133", "134")
FASTDL_WGMMA(float16, "f16.f16", "8", 4, "4", "5", "6", "7", "8", "9", "10")
FASTDL_WGMMA(float16, "f16.f16", "16", 8, "8", "9", "10", "11", "12", "13", "14")
FASTDL_WGMMA(float16, "f16.f16", "32", 16, "16", "17", "18", "19", "20", "21", "22")
FASTDL_WGMMA(float16, "f16.f16", "64", 32, "32", "33", "34", "35", "36", "37", "38")
FASTDL_WGMMA(float16, "f16.f16", "96", 48, "48", "49", "50", "51", "52", "53", "54")
FASTDL_WGMMA(float16, "f16.f16", "128", 64, "64", "65", "66", "67", "68", "69", "70")
FASTDL_WGMMA(float16, "f16.f16", "192", 96, "96", "97", "98", "99", "100", "101", "102")
FASTDL_WGMMA(float16, "f16.f16", "256", 128, "128", "129", "130", "131", "132", "133", "134")
#undef FASTDL_WGMMA

#define FASTDL_WGMMA(N, COUNT, A, B, P)                                                                      \
  template <bool TransposedA, bool TransposedB>                                                              \
  __device__ __forceinline__ void wgmma(tfloat32, float (&d)[COUNT], uint64_t a, uint64_t b,                 \
                                        bool accumulate) {                                                   \
    static_assert(!TransposedA && !TransposedB, "only 16-bit operands can be transposed");                   \
    asm volatile("{.reg .pred p; setp.ne.b32 p, %" P                                                         \
                 ", 0;"                                                                                      \
                 "wgmma.mma_async.sync.aligned.m64n" N "k8.f32.tf32.tf32 {" FASTDL_P##COUNT "}, %" A ", %" B \
                                                                                            ", p, 1, 1;}"    \
                 : FASTDL_R##COUNT(d, 0)                                                                     \
                 : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));                                       \
  }
FASTDL_WGMMA("64", 32, "32", "33", "34")
FASTDL_WGMMA("128", 64, "64", "65", "66")
#undef FASTDL_WGMMA

#else

inline void wgmma_fence() { simt::wgmma_fence(); }
inline void wgmma_commit() { simt::wgmma_commit(); }
template <int Pending>
void wgmma_wait() {
  simt::wgmma_wait(Pending);
}

template <bool TransposedA, bool TransposedB, class S, int Count>
void wgmma(S, float (&d)[Count], uint64_t a, uint64_t b, bool accumulate) {
  constexpr auto kType = std::is_same_v<S, bfloat16>  ? simt::WgmmaType::bfloat16
                         : std::is_same_v<S, float16> ? simt::WgmmaType::float16
                                                      : simt::WgmmaType::tfloat32;
  simt::wgmma(d, {kType, TransposedA, TransposedB, accumulate, 2 * Count, a, b, nullptr});
}
template <bool TransposedB, class S, int Count>
void wgmma(S, float (&d)[Count], const uint32_t (&a)[4], uint64_t b, bool accumulate) {
  constexpr auto kType = std::is_same_v<S, bfloat16> ? simt::WgmmaType::bfloat16 : simt::WgmmaType::float16;
  simt::wgmma(d, {kType, false, TransposedB, accumulate, 2 * Count, 0, b, a});
}

#endif

// After the wait, before the sums are read: no instruction, but the compiler, which does not know that the
// wait has to do with them, may not move a reading up to before it.
template <int Count>
__device__ __forceinline__ void wgmma_results([[maybe_unused]] float (&d)[Count]) {
#ifndef FASTDL_SIMT
#pragma unroll
  for (float& sum : d) asm volatile("" : "+f"(sum)::"memory");
#endif
}

}  // namespace fastdl::cuda::ptx
