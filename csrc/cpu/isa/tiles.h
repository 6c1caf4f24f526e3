// The matrix unit's eight tile registers, 16 rows of 64 bytes each: Intel's AMX, or, with
// FASTDL_TILES_EMULATED, the same in software, so that the AMX kernels run, and can be tested and debugged,
// on any machine with AVX-512. Semantics: Intel 64 and IA-32 Architectures Software Developer's Manual,
// volume 2, LDTILECFG, TILELOADD, TDPBF16PS.
//
//   tile_enter(), tile_leave()   configure this thread's tiles (all of them 16 x 64 bytes), release them
//   TILE_ZERO(t)  TILE_LOAD(t, pointer, row stride in bytes)  TILE_STORE(t, pointer, row stride in bytes)
//   TILE_DOT(c, a, b)            c[16 x 16 float32] += a[16 x 32 bfloat16] * b[16 pairs of rows x 16 columns]
// The tile numbers are literals.
#pragma once

#include "simd.h"

namespace fastdl::cpu::FASTDL_ISA {

struct alignas(64) TileConfig {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};
static_assert(sizeof(TileConfig) == 64, "the layout of LDTILECFG's operand");

}  // namespace fastdl::cpu::FASTDL_ISA

#if defined(FASTDL_TILES_EMULATED)

namespace fastdl::cpu::FASTDL_ISA {

struct Tiles {
  __m512i t[8][16];
  bool configured;
};
static thread_local Tiles tiles;

// A tile instruction without a configuration faults on the machine, so it must not go unnoticed here.
static FASTDL_INLINE void require_tiles() {
  if (!tiles.configured) __builtin_trap();
}
static FASTDL_INLINE void tile_configure() {
  __builtin_memset(&tiles, 0, sizeof tiles);
  tiles.configured = true;
}
static FASTDL_INLINE void tile_release() {
  __builtin_memset(&tiles, 0xff, sizeof tiles);  // NaN: what is read after a release shows
  tiles.configured = false;
}
static inline void tile_zero(int t) {
  require_tiles();
  __builtin_memset(tiles.t[t], 0, sizeof tiles.t[t]);
}
static inline void tile_load(int t, const void* p, int64_t stride) {
  require_tiles();
  for (int r = 0; r < 16; ++r) tiles.t[t][r] = _mm512_loadu_si512(static_cast<const char*>(p) + r * stride);
}
static inline void tile_store(int t, void* p, int64_t stride) {
  require_tiles();
  for (int r = 0; r < 16; ++r) _mm512_storeu_si512(static_cast<char*>(p) + r * stride, tiles.t[t][r]);
}
// Sums of even and of odd terms run apart and meet the old sum at the end; operands and results that are
// subnormal count as zero, rounding is to nearest even whatever MXCSR says.
static inline void tile_dot(int c, int a, int b) {
  require_tiles();
  const unsigned saved = _mm_getcsr();
  _mm_setcsr(0x9fc0);  // flush to zero, subnormals are zero, exceptions masked, to nearest
  for (int r = 0; r < 16; ++r) {
    alignas(64) uint32_t pairs[16];
    _mm512_store_si512(pairs, tiles.t[a][r]);
    __m512 even = _mm512_setzero_ps(), odd = _mm512_setzero_ps();
    for (int k = 0; k < 16; ++k) {
      const __m512i row = tiles.t[b][k], upper = _mm512_set1_epi32(-65536);
      const __m512i x = _mm512_set1_epi32(static_cast<int32_t>(pairs[k]));
      even = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_slli_epi32(x, 16)),
                             _mm512_castsi512_ps(_mm512_slli_epi32(row, 16)), even);
      odd = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_and_si512(x, upper)),
                            _mm512_castsi512_ps(_mm512_and_si512(row, upper)), odd);
    }
    const __m512 sum = _mm512_castsi512_ps(tiles.t[c][r]);
    tiles.t[c][r] = _mm512_castps_si512(_mm512_add_ps(sum, _mm512_add_ps(even, odd)));
  }
  _mm_setcsr(saved);
}

}  // namespace fastdl::cpu::FASTDL_ISA

#define TILE_ZERO(t) tile_zero(t)
#define TILE_LOAD(t, p, stride) tile_load(t, p, stride)
#define TILE_STORE(t, p, stride) tile_store(t, p, stride)
#define TILE_DOT(c, a, b) tile_dot(c, a, b)

#else

namespace fastdl::cpu::FASTDL_ISA {

static FASTDL_INLINE void tile_configure() {
  TileConfig config = {};
  config.palette = 1;
  for (int t = 0; t < 8; ++t) {
    config.row_bytes[t] = 64;
    config.rows[t] = 16;
  }
  // GCC 12 believes that the instruction reads 8 bytes of its operand, and drops the other stores without
  // this.
  asm volatile("" : : "r"(&config) : "memory");
  _tile_loadconfig(&config);
}
static FASTDL_INLINE void tile_release() { _tile_release(); }

}  // namespace fastdl::cpu::FASTDL_ISA

#define TILE_ZERO(t) _tile_zero(t)
#define TILE_LOAD(t, p, stride) _tile_loadd(t, p, stride)
#define TILE_STORE(t, p, stride) _tile_stored(t, p, stride)
#define TILE_DOT(c, a, b) _tile_dpbf16ps(c, a, b)

#endif
