// Packing bfloat16 operands for tiles that read pairs along k:
//   out[k / 2 * 2 * width + 2 * lane + k % 2] = src[k * k_stride + lane * lane_stride]
// for lane < lanes <= width <= 32, zero for the other lanes and for k from its end to a multiple of k_step.
// What lies along the lanes is interleaved, what lies along k is transposed in blocks of 16 lanes x 16 pairs,
// all in registers.
#pragma once

#include "bf16_pack.h"
#include "gemm_bf16.h"
#include "simd.h"

namespace fastdl::cpu::FASTDL_ISA {

FASTDL_INLINE __mmask32 lanes_mask32(int n) { return n < 32 ? (1u << n) - 1u : ~0u; }

// Rows of lanes: two rows become pairs.
template <bool Full, bool Wide>
static void pack_rows_of_lanes(const bfloat16* src, int64_t k_stride, int64_t k, int64_t padded, int lanes,
                               int width, bfloat16* out) {
  const __m512i low = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7,
                                       38, 6, 37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
  const __m512i high = _mm512_set_epi16(63, 31, 62, 30, 61, 29, 60, 28, 59, 27, 58, 26, 57, 25, 56, 24, 55,
                                        23, 54, 22, 53, 21, 52, 20, 51, 19, 50, 18, 49, 17, 48, 16);
  const __mmask32 from = lanes_mask32(lanes);
  const __mmask16 m0 = lanes_mask(width < 16 ? width : 16), m1 = lanes_mask(width < 16 ? 0 : width - 16);
  const auto load = [&](const bfloat16* p) {
    return Full ? _mm512_loadu_si512(p) : _mm512_maskz_loadu_epi16(from, p);
  };
  const auto store = [&](__m512i x, __m512i y) {
    if (Full) {
      _mm512_storeu_si512(out, _mm512_permutex2var_epi16(x, low, y));
      _mm512_storeu_si512(out + 32, _mm512_permutex2var_epi16(x, high, y));
    } else {
      _mm512_mask_storeu_epi32(out, m0, _mm512_permutex2var_epi16(x, low, y));
      if (Wide) _mm512_mask_storeu_epi32(out + 32, m1, _mm512_permutex2var_epi16(x, high, y));
    }
    out += 2 * width;
  };
  int64_t i = 0;
  for (; i + 2 <= k; i += 2, src += 2 * k_stride) {
    // Each row is another page or nearly so, where the processor's own prefetching stops.
    prefetch(src + 16 * k_stride);
    prefetch(src + 17 * k_stride);
    store(load(src), load(src + k_stride));
  }
  if (i < k) {
    store(load(src), _mm512_setzero_si512());
    i += 2;
  }
  for (; i < padded; i += 2) store(_mm512_setzero_si512(), _mm512_setzero_si512());
}

// Lanes contiguous along k. 14 to 32 streams are more than the processor prefetches by itself: with two cache
// lines of each on their way, packing from beyond the L2 cache takes a third to a half of the time.
constexpr int kAhead = 64;

static void pack_transposed(const bfloat16* src, int64_t lane_stride, int64_t k, int64_t padded, int lanes,
                            int width, bfloat16* out) {
  for (int64_t k0 = 0; k0 < padded; k0 += kBlockSteps) {
    const int steps = static_cast<int>(k - k0 < 0 ? 0 : k - k0 < kBlockSteps ? k - k0 : kBlockSteps);
    const int pairs = static_cast<int>((padded - k0 < kBlockSteps ? padded - k0 : kBlockSteps) / 2);
    for (int lane = 0; lane < width; lane += kBlockLanes) {
      const int here = lanes - lane < kBlockLanes ? lanes - lane : kBlockLanes;
      const bfloat16* p = src + lane * lane_stride + k0;
      bfloat16* o = out + k0 * width + 2 * lane;
      Vec<float> v[kBlockLanes];
      if (here == kBlockLanes && steps == kBlockSteps) {
        FASTDL_UNROLL for (int i = 0; i < kBlockLanes; ++i) {
          v[i].v = _mm512_loadu_ps(reinterpret_cast<const float*>(p + i * lane_stride));
          prefetch(p + i * lane_stride + kAhead);
        }
      } else {
        const __mmask32 m = lanes_mask32(steps);
        FASTDL_UNROLL for (int i = 0; i < kBlockLanes; ++i) {
          v[i].v = i < here ? _mm512_castsi512_ps(_mm512_maskz_loadu_epi16(m, p + i * lane_stride))
                            : _mm512_setzero_ps();
          if (i < here) prefetch(p + i * lane_stride + kAhead);
        }
      }
      transpose(v);
      if (width - lane >= kBlockLanes && pairs == kBlockSteps / 2) {
        FASTDL_UNROLL for (int i = 0; i < kBlockLanes; ++i) {
          _mm512_storeu_ps(reinterpret_cast<float*>(o + i * 2 * width), v[i].v);
        }
      } else {
        const __mmask16 m = lanes_mask(width - lane < kBlockLanes ? width - lane : kBlockLanes);
        FASTDL_UNROLL for (int i = 0; i < kBlockLanes; ++i) {
          if (i < pairs) _mm512_mask_storeu_ps(reinterpret_cast<float*>(o + i * 2 * width), m, v[i].v);
        }
      }
    }
  }
}

static void pack_panel(const bfloat16* src, int64_t k_stride, int64_t lane_stride, int64_t k, int lanes,
                       int width, int k_step, bfloat16* out) {
  const int64_t padded = (k + k_step - 1) / k_step * k_step;
  if (lane_stride == 1) {
    if (lanes == 32 && width == 32) pack_rows_of_lanes<true, true>(src, k_stride, k, padded, 32, 32, out);
    else if (width > 16) pack_rows_of_lanes<false, true>(src, k_stride, k, padded, lanes, width, out);
    else pack_rows_of_lanes<false, false>(src, k_stride, k, padded, lanes, width, out);
  } else if (k_stride == 1) {
    pack_transposed(src, lane_stride, k, padded, lanes, width, out);
  } else {
    pack_pairs(src, k_stride, lane_stride, k, lanes, width, k_step, 1, out, 0);
  }
}

}  // namespace fastdl::cpu::FASTDL_ISA
