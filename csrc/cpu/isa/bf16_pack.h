// Packing for bfloat16 tiles, from bfloat16 or from float32 cut into planes. AVX-512.
//
// Everything is done in blocks of 16 lanes (rows of A, columns of B) x 32 steps of k = 16 pairs, as sixteen
// vectors of sixteen 32-bit pairs: "pairs first" (vector i = pair i of all lanes) is how the right operand
// and a dot product's left one are read, "lanes first" (vector i = all pairs of lane i) is a row of a matrix
// unit's left tile. What the source yields in the other order is transposed in registers.
#pragma once

#include "bf16_end.h"
#include "gemm_bf16.h"
#include "simd.h"

namespace fastdl::cpu::FASTDL_ISA {

constexpr int kBlockLanes = 16, kBlockSteps = 32, kMaxPlanes = 3;

struct PackBlock {
  __m512i v[kMaxPlanes][16];
};

// The low 16 bits of each of 16 lanes, the high ones.
FASTDL_INLINE __m512i join(__m256i low, __m256i high) {
  return _mm512_or_si512(_mm512_cvtepu16_epi32(low), _mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16));
}

// float32 -> its first 8 bits of mantissa as float32; what is left stays in x (exactly).
FASTDL_INLINE __m512i next_plane(__m512& x) {
  const __m512i u = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
  const __m512i r = _mm512_and_si512(_mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))),
                                     _mm512_set1_epi32(-65536));
  x = _mm512_sub_ps(x, _mm512_castsi512_ps(r));
  return r;
}

struct RangeVectors {
  __m512i low = _mm512_set1_epi32(255), high = _mm512_setzero_si512();
  FASTDL_INLINE void add(__m512 x) {
    const __m512i u = _mm512_castps_si512(x);
    const __m512i e = _mm512_and_si512(_mm512_srli_epi32(u, 23), _mm512_set1_epi32(255));
    high = _mm512_max_epi32(high, e);
    low = _mm512_mask_min_epi32(low, _mm512_test_epi32_mask(u, _mm512_set1_epi32(0x7fffffff)), low, e);
  }
  FASTDL_INLINE ExponentRange get() const {
    return {_mm512_reduce_min_epi32(low), _mm512_reduce_max_epi32(high)};
  }
};

// Vector i of a block whose lanes are contiguous in memory: pair i of up to 16 lanes.
FASTDL_INLINE void load_pair(const bfloat16* p, int64_t k_stride, int steps, __mmask16 m, int, PackBlock& b,
                             int i, RangeVectors&) {
  const __m256i low = _mm256_maskz_loadu_epi16(m, p);
  b.v[0][i] = join(low, steps > 1 ? _mm256_maskz_loadu_epi16(m, p + k_stride) : _mm256_setzero_si256());
}
FASTDL_INLINE void load_pair(const float* p, int64_t k_stride, int steps, __mmask16 m, int planes,
                             PackBlock& b, int i, RangeVectors& range) {
  __m512 x = _mm512_maskz_loadu_ps(m, p);
  __m512 y = steps > 1 ? _mm512_maskz_loadu_ps(m, p + k_stride) : _mm512_setzero_ps();
  range.add(x);
  range.add(y);
  for (int s = 0; s < planes; ++s) {
    const __m512i low = next_plane(x), high = next_plane(y);
    b.v[s][i] = _mm512_or_si512(_mm512_srli_epi32(low, 16), high);
  }
}

// Vector i of a block contiguous along k: up to 32 steps of lane i.
FASTDL_INLINE void load_lane(const bfloat16* p, int steps, int, PackBlock& b, int i, RangeVectors&) {
  b.v[0][i] = _mm512_maskz_loadu_epi16(steps < 32 ? (1u << steps) - 1u : ~0u, p);
}
FASTDL_INLINE void load_lane(const float* p, int steps, int planes, PackBlock& b, int i,
                             RangeVectors& range) {
  __m512 x = _mm512_maskz_loadu_ps(lanes_mask(steps < 16 ? steps : 16), p);
  __m512 y = _mm512_setzero_ps();
  if (steps > 16) y = _mm512_maskz_loadu_ps(lanes_mask(steps - 16), p + 16);
  range.add(x);
  range.add(y);
  for (int s = 0; s < planes; ++s) {
    const __m256i low = _mm512_cvtepi32_epi16(_mm512_srli_epi32(next_plane(x), 16));
    const __m256i high = _mm512_cvtepi32_epi16(_mm512_srli_epi32(next_plane(y), 16));
    b.v[s][i] = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
  }
}

FASTDL_INLINE void transpose_block(__m512i* v) {
  Vec<float> rows[16];
  FASTDL_UNROLL for (int i = 0; i < 16; ++i) rows[i].v = _mm512_castsi512_ps(v[i]);
  transpose(rows);
  FASTDL_UNROLL for (int i = 0; i < 16; ++i) v[i] = _mm512_castps_si512(rows[i].v);
}

// One block: `lanes` x `steps` of the source (the rest zero), in the order wanted.
template <bool PairsFirst, class S>
FASTDL_INLINE void load_block(const S* src, int64_t k_stride, int64_t lane_stride, int lanes, int steps,
                              int planes, PackBlock& b, RangeVectors& range) {
  const auto clear = [&](int i) {
    for (int s = 0; s < planes; ++s) b.v[s][i] = _mm512_setzero_si512();
  };
  bool pairs_first = false;
  if (lane_stride == 1) {
    pairs_first = true;
    const __mmask16 m = lanes_mask(lanes);
    for (int i = 0; i < 16; ++i) {
      if (2 * i < steps) load_pair(src + 2 * i * k_stride, k_stride, steps - 2 * i, m, planes, b, i, range);
      else clear(i);
    }
  } else if (k_stride == 1) {
    for (int i = 0; i < 16; ++i) {
      if (i < lanes) load_lane(src + i * lane_stride, steps, planes, b, i, range);
      else clear(i);
    }
  } else {
    S row[kBlockSteps];
    for (int i = 0; i < 16; ++i) {
      if (i < lanes) {
        for (int k = 0; k < steps; ++k) row[k] = src[i * lane_stride + k * k_stride];
        load_lane(row, steps, planes, b, i, range);
      } else {
        clear(i);
      }
    }
  }
  if (pairs_first != PairsFirst) {
    for (int s = 0; s < planes; ++s) transpose_block(b.v[s]);
  }
}

// A panel with pairs first: out[k / 2 * 2 * width + 2 * lane + k % 2], k filled up to a multiple of k_step.
template <class S>
static ExponentRange pack_pairs(const S* src, int64_t k_stride, int64_t lane_stride, int64_t k, int lanes,
                                int width, int k_step, int planes, bfloat16* out, int64_t plane_stride) {
  RangeVectors range;
  PackBlock b;
  const int64_t padded = (k + k_step - 1) / k_step * k_step;
  for (int64_t k0 = 0; k0 < padded; k0 += kBlockSteps) {
    const int steps = static_cast<int>(k - k0 < kBlockSteps ? k - k0 : kBlockSteps);
    const int pairs = static_cast<int>((padded - k0 < kBlockSteps ? padded - k0 : kBlockSteps) / 2);
    for (int lane = 0; lane < width; lane += kBlockLanes) {
      const int here = lanes - lane < 0 ? 0 : lanes - lane < kBlockLanes ? lanes - lane : kBlockLanes;
      load_block<true>(here ? src + k0 * k_stride + lane * lane_stride : src, k_stride, lane_stride, here,
                       steps, planes, b, range);
      const __mmask16 m = lanes_mask(width - lane < kBlockLanes ? width - lane : kBlockLanes);
      for (int s = 0; s < planes; ++s) {
        bfloat16* o = out + s * plane_stride + k0 * width + 2 * lane;
        for (int i = 0; i < pairs; ++i, o += 2 * width) _mm512_mask_storeu_epi32(o, m, b.v[s][i]);
      }
    }
  }
  return range.get();
}

// A panel with lanes first: out[k / 32 * 32 * height + 32 * lane + k % 32], k filled up to a multiple of 32.
template <class S>
static ExponentRange pack_lanes(const S* src, int64_t k_stride, int64_t lane_stride, int64_t k, int lanes,
                                int height, int planes, bfloat16* out, int64_t plane_stride) {
  RangeVectors range;
  PackBlock b;
  for (int64_t k0 = 0; k0 < k; k0 += kBlockSteps) {
    const int steps = static_cast<int>(k - k0 < kBlockSteps ? k - k0 : kBlockSteps);
    for (int lane = 0; lane < height; lane += kBlockLanes) {
      const int here = lanes - lane < 0 ? 0 : lanes - lane < kBlockLanes ? lanes - lane : kBlockLanes;
      load_block<false>(here ? src + k0 * k_stride + lane * lane_stride : src, k_stride, lane_stride, here,
                        steps, planes, b, range);
      const int rows = height - lane < kBlockLanes ? height - lane : kBlockLanes;
      for (int s = 0; s < planes; ++s) {
        bfloat16* o = out + s * plane_stride + k0 * height + kBlockSteps * lane;
        for (int i = 0; i < rows; ++i) _mm512_storeu_si512(o + kBlockSteps * i, b.v[s][i]);
      }
    }
  }
  return range.get();
}

}  // namespace fastdl::cpu::FASTDL_ISA
