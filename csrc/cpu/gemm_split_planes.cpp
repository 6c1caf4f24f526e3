#include "cpu/gemm_split_planes.h"

#include <cstring>

#include "cpu/gemm_cut.h"
#include "cpu/gemm_split.h"
#include "cpu/kernels.h"
#include "cpu/parallel.h"

namespace fastdl::cpu {

const Bf16Kernels* unit_kernels() {
  const Bf16Kernels* const kernel = kernels().gemm_bf16;
  return kernel && kernel->split_a ? kernel : nullptr;
}

int64_t k_block(const Bf16Kernels& kernel, int64_t k) {
  return round_up(ceil_div(k, ceil_div(k, kKBlock)), kernel.k_step);
}

Planes all_of_b(const Bf16Kernels& kernel, int64_t k) {
  return {nullptr, nullptr, kernel.nr, kernel.k_step, k_block(kernel, k), 0, k, kAllPlanes};
}

PanelBlock split_b_block(const Bf16Kernels& kernel, const Gemm<float>& g, int planes, int64_t col, int64_t k0,
                         int64_t k, bfloat16* out) {
  const int64_t plane = kernel.nr * round_up(k, kernel.k_step);
  const int cols = static_cast<int>(std::min<int64_t>(kernel.nr, g.n - col));
  const float* const b = g.b + k0 * g.b_k + col * g.b_n;
  return {out, plane, kernel.split_b(b, g.b_k, g.b_n, k, cols, planes, out, plane)};
}

PanelBlock split_a_block(const Bf16Kernels& kernel, const Gemm<float>& g, int planes, int64_t row, int64_t k0,
                         int64_t k, bfloat16* out) {
  const int64_t plane = kernel.mr * round_up(k, kernel.k_step);
  const int rows = static_cast<int>(std::min<int64_t>(kernel.mr, g.m - row));
  const float* const a = g.a + row * g.a_row + k0 * g.a_k;
  return {out, plane, kernel.split_a(a, g.a_row, g.a_k, k, rows, kernel.mr, planes, out, plane)};
}

ExponentRange range_of(const float* x, int64_t stride, int64_t n) {
  ExponentRange r{255, 0};
  for (int64_t i = 0; i < n; ++i, x += stride) {
    uint32_t bits;
    std::memcpy(&bits, x, 4);
    const int32_t e = static_cast<int32_t>(bits >> 23 & 255);
    r.high = std::max(r.high, e);
    if (bits << 1) r.low = std::min(r.low, e);
  }
  return r;
}

int64_t split_b_bytes(int64_t k, int64_t n) {
  const Bf16Kernels* const kernel = unit_kernels();
  if (!kernel || n < kLeastLanes || k < kernel->k_step) return 0;
  return round_up(all_of_b(*kernel, k).bytes(ceil_div(n, kernel->nr)), 64);
}

void split_b(Context* context, const float* b, int64_t b_k, int64_t b_n, int64_t k, int64_t n, void* out) {
  const Bf16Kernels& kernel = *kernels().gemm_bf16;
  const Gemm<float> g{0, n, k, nullptr, 0, 0, b, b_k, b_n, nullptr, 0};
  const int64_t panels = ceil_div(n, kernel.nr);
  Planes planes = all_of_b(kernel, k);
  planes.place(out, panels);
  parallel_for(context, panels, gemm_cost(kernel.nr, 32, k, 64), [&](int64_t p) {
    for (int64_t k0 = 0; k0 < k; k0 += planes.kc) {
      planes.range(p, k0) = split_b_block(kernel, g, kAllPlanes, p * kernel.nr, k0,
                                          std::min(planes.kc, k - k0), planes.at(p, k0))
                                .range;
    }
  });
}

}  // namespace fastdl::cpu
