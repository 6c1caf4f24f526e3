// Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011,
// section 3.3) for several counters at a time. Each 64-bit lane holds one 32-bit word in its low half; the
// high half is left dirty, since the multiplications do not look at it.
#pragma once

#include "simd.h"

namespace fastdl::cpu::FASTDL_ISA {

#if FASTDL_ISA_ID == 3

struct Words {
  static constexpr int lanes = 8;
  __m512i v;
  static FASTDL_INLINE Words counters(uint64_t first) {
    return {_mm512_add_epi64(_mm512_set1_epi64(static_cast<long long>(first)),
                             _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7))};
  }
  static FASTDL_INLINE Words broadcast(uint64_t x) { return {_mm512_set1_epi64(static_cast<long long>(x))}; }
};
FASTDL_INLINE Words multiply(Words a, Words b) { return {_mm512_mul_epu32(a.v, b.v)}; }
FASTDL_INLINE Words high(Words a) { return {_mm512_srli_epi64(a.v, 32)}; }
FASTDL_INLINE Words operator^(Words a, Words b) { return {_mm512_xor_si512(a.v, b.v)}; }
// The low halves of a and b side by side.
FASTDL_INLINE Words pair(Words a, Words b) {
  return {_mm512_mask_blend_epi32(0xaaaa, a.v, _mm512_slli_epi64(b.v, 32))};
}
// a0 b0 a1 b1 ...
FASTDL_INLINE void store_interleaved(Words a, Words b, uint32_t* out) {
  const __m512i low = _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11);
  const __m512i top = _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15);
  _mm512_storeu_si512(out, _mm512_permutex2var_epi64(a.v, low, b.v));
  _mm512_storeu_si512(out + 16, _mm512_permutex2var_epi64(a.v, top, b.v));
}

#elif FASTDL_ISA_ID == 2

struct Words {
  static constexpr int lanes = 4;
  __m256i v;
  static FASTDL_INLINE Words counters(uint64_t first) {
    return {
        _mm256_add_epi64(_mm256_set1_epi64x(static_cast<long long>(first)), _mm256_setr_epi64x(0, 1, 2, 3))};
  }
  static FASTDL_INLINE Words broadcast(uint64_t x) { return {_mm256_set1_epi64x(static_cast<long long>(x))}; }
};
FASTDL_INLINE Words multiply(Words a, Words b) { return {_mm256_mul_epu32(a.v, b.v)}; }
FASTDL_INLINE Words high(Words a) { return {_mm256_srli_epi64(a.v, 32)}; }
FASTDL_INLINE Words operator^(Words a, Words b) { return {_mm256_xor_si256(a.v, b.v)}; }
FASTDL_INLINE Words pair(Words a, Words b) {
  return {_mm256_blend_epi32(a.v, _mm256_slli_epi64(b.v, 32), 0xaa)};
}
FASTDL_INLINE void store_interleaved(Words a, Words b, uint32_t* out) {
  const __m256i low = _mm256_unpacklo_epi64(a.v, b.v), top = _mm256_unpackhi_epi64(a.v, b.v);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_permute2x128_si256(low, top, 0x20));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 8), _mm256_permute2x128_si256(low, top, 0x31));
}

#elif FASTDL_ISA_ID == FASTDL_ISA_ID_neon

struct Words {
  static constexpr int lanes = 2;
  uint64x2_t v;
  static FASTDL_INLINE Words counters(uint64_t first) { return {uint64x2_t{first, first + 1}}; }
  static FASTDL_INLINE Words broadcast(uint64_t x) { return {vdupq_n_u64(x)}; }
};
FASTDL_INLINE Words multiply(Words a, Words b) { return {vmull_u32(vmovn_u64(a.v), vmovn_u64(b.v))}; }
FASTDL_INLINE Words high(Words a) { return {vshrq_n_u64(a.v, 32)}; }
FASTDL_INLINE Words operator^(Words a, Words b) { return {veorq_u64(a.v, b.v)}; }
FASTDL_INLINE Words pair(Words a, Words b) { return {vsliq_n_u64(a.v, b.v, 32)}; }
FASTDL_INLINE void store_interleaved(Words a, Words b, uint32_t* out) {
  vst1q_u32(out, vreinterpretq_u32_u64(vzip1q_u64(a.v, b.v)));
  vst1q_u32(out + 4, vreinterpretq_u32_u64(vzip2q_u64(a.v, b.v)));
}

#else

struct Words {
  static constexpr int lanes = 2;
  typedef uint64_t Raw __attribute__((vector_size(16)));
  Raw v;
  static FASTDL_INLINE Words counters(uint64_t first) { return {Raw{first, first + 1}}; }
  static FASTDL_INLINE Words broadcast(uint64_t x) { return {Raw{x, x}}; }
};
FASTDL_INLINE Words multiply(Words a, Words b) { return {(a.v & 0xffffffffu) * (b.v & 0xffffffffu)}; }
FASTDL_INLINE Words high(Words a) { return {a.v >> 32}; }
FASTDL_INLINE Words operator^(Words a, Words b) { return {a.v ^ b.v}; }
FASTDL_INLINE Words pair(Words a, Words b) { return {(a.v & 0xffffffffu) | (b.v << 32)}; }
FASTDL_INLINE void store_interleaved(Words a, Words b, uint32_t* out) {
  const uint64_t order[4] = {a.v[0], b.v[0], a.v[1], b.v[1]};
  for (int i = 0; i < 4; ++i) {
    out[2 * i] = static_cast<uint32_t>(order[i]);
    out[2 * i + 1] = static_cast<uint32_t>(order[i] >> 32);
  }
}

#endif

// Several independent blocks hide the latency of the multiplications.
constexpr int kPhiloxBlocks = 4;
constexpr int kPhiloxWords = kPhiloxBlocks * Words::lanes * 4;

// The kPhiloxWords random words of the counters from `counter` on, in order.
FASTDL_INLINE void philox(uint64_t seed, uint64_t counter, uint32_t* out) {
  const Words m0 = Words::broadcast(0xD2511F53u), m1 = Words::broadcast(0xCD9E8D57u);
  uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
  Words c0[kPhiloxBlocks], c1[kPhiloxBlocks], c2[kPhiloxBlocks], c3[kPhiloxBlocks];
  for (int b = 0; b < kPhiloxBlocks; ++b) {
    c0[b] = Words::counters(counter + static_cast<uint64_t>(b * Words::lanes));
    c1[b] = high(c0[b]);
    c2[b] = c3[b] = Words::broadcast(0);
  }
  for (int round = 0; round < 10; ++round) {
    const Words k0 = Words::broadcast(key0), k1 = Words::broadcast(key1);
    for (int b = 0; b < kPhiloxBlocks; ++b) {
      const Words p0 = multiply(m0, c0[b]), p1 = multiply(m1, c2[b]);
      c0[b] = high(p1) ^ c1[b] ^ k0;
      c1[b] = p1;
      c2[b] = high(p0) ^ c3[b] ^ k1;
      c3[b] = p0;
    }
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  for (int b = 0; b < kPhiloxBlocks; ++b) {
    store_interleaved(pair(c0[b], c1[b]), pair(c2[b], c3[b]), out + b * Words::lanes * 4);
  }
}

}  // namespace fastdl::cpu::FASTDL_ISA
