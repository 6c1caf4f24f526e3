// The operands of gemm_split.cpp: float32 matrices cut into planes of bfloat16 and packed for the matrix
// unit.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/gemm.h"
#include "cpu/gemm_bf16.h"
#include "cpu/round.h"

namespace fastdl::cpu {

constexpr int kAllPlanes = 3;
// K block. A tile of C is then written after 6 x 32 products of tiles, a panel of B takes 192 KiB.
constexpr int64_t kKBlock = 1024;
// Rows and columns of a tile register.
constexpr int64_t kLeastLanes = 16;

// The bfloat16 kernels where they are those of a matrix unit, else null.
const Bf16Kernels* unit_kernels();

// Even blocks of K. They depend on K alone: part of what makes a row's bits its own.
int64_t k_block(const Bf16Kernels& kernel, int64_t k);

// One K block of one panel.
struct PanelBlock {
  const bfloat16* data;
  int64_t plane;  // elements from one plane to the next
  ExponentRange range;
};

// Panels of `lanes` rows of A or columns of B over a range of K, cut into planes: panel by panel, block by
// block, plane by plane, each as the tiles read it.
struct Planes {
  bfloat16* data;
  ExponentRange* ranges;  // [panel][block]
  int64_t lanes, k_step, kc, begin, end;
  int planes;

  int64_t blocks() const { return ceil_div(end - begin, kc); }
  int64_t panel() const { return planes * lanes * round_up(end - begin, k_step); }
  int64_t bytes(int64_t panels) const {
    return panels * (panel() * 2 + blocks() * static_cast<int64_t>(sizeof(ExponentRange)));
  }
  void place(void* memory, int64_t panels) {
    data = static_cast<bfloat16*>(memory);
    ranges = reinterpret_cast<ExponentRange*>(data + panels * panel());
  }
  bfloat16* at(int64_t p, int64_t k0) const { return data + p * panel() + planes * lanes * (k0 - begin); }
  ExponentRange& range(int64_t p, int64_t k0) const { return ranges[p * blocks() + (k0 - begin) / kc]; }
  PanelBlock block(int64_t p, int64_t k0) const {
    return {at(p, k0), lanes * round_up(std::min(kc, end - k0), k_step), range(p, k0)};
  }
};

// All of a B that is cut for every precision: what split_b makes.
Planes all_of_b(const Bf16Kernels& kernel, int64_t k);

// The K block of k steps from k0 on of the columns of B from `col` on, of the rows of A from `row` on.
PanelBlock split_b_block(const Bf16Kernels& kernel, const Gemm<float>& g, int planes, int64_t col, int64_t k0,
                         int64_t k, bfloat16* out);
PanelBlock split_a_block(const Bf16Kernels& kernel, const Gemm<float>& g, int planes, int64_t row, int64_t k0,
                         int64_t k, bfloat16* out);

ExponentRange range_of(const float* x, int64_t stride, int64_t n);

}  // namespace fastdl::cpu
