#include "cpu/conv_plan.h"

#include <algorithm>

#include "cpu/round.h"

namespace fastdl::cpu::conv {
namespace {

// The number of equal shares of at most about `rows` that `total` items of `size` rows each are cut into.
int64_t share(int64_t total, int64_t size, int64_t rows) {
  const int64_t fit = std::max<int64_t>(1, rows / std::max<int64_t>(size, 1));
  const int64_t parts = ceil_div(std::max<int64_t>(total, 1), fit);
  return ceil_div(std::max<int64_t>(total, 1), parts);
}

int64_t floor_mod(int64_t a, int64_t b) { return (a % b + b) % b; }

}  // namespace

bool AxisTaps::consecutive() const {
  for (size_t i = 1; i < offset.size(); ++i) {
    if (offset[i] != offset[i - 1] + 1 || slot[i] != slot[i - 1] + 1) return false;
  }
  return true;
}

bool Lattice::reaches_out(int axis, int64_t extent) const {
  const AxisTaps& t = taps[axis];
  if (t.count() == 0 || count[axis] == 0) return false;
  return t.offset.front() < 0 || (count[axis] - 1) * in_step[axis] + t.offset.back() >= extent;
}

Lattice forward_lattice(const Geometry& g) {
  Lattice l;
  for (int i = 0; i < 3; ++i) {
    l.count[i] = g.out[i];
    l.in_step[i] = g.stride[i];
    l.out_start[i] = 0;
    l.out_step[i] = 1;
    for (int64_t t = 0; t < g.kernel[i]; ++t) {
      l.taps[i].offset.push_back(t * g.dilation[i] - g.padding[i]);
      l.taps[i].slot.push_back(t);
    }
  }
  return l;
}

Lattice plain_lattice(const Geometry& g) {
  Lattice l = forward_lattice(g);
  for (int i = 0; i < 3; ++i) {
    l.in_step[i] = 1;
    l.taps[i].offset = {0};
    l.taps[i].slot = {0};
  }
  return l;
}

// dx[i] = sum of w[t] g[p] over p * stride - padding + t * dilation = i: for i = r + stride * j the taps with
// (r + padding - t * dilation) divisible by the stride meet p = j + (r + padding - t * dilation) / stride.
std::vector<Lattice> data_lattices(const Geometry& g) {
  std::vector<Lattice> lattices;
  int64_t residue[3];
  for (residue[0] = 0; residue[0] < std::min(g.stride[0], g.in[0]); ++residue[0]) {
    for (residue[1] = 0; residue[1] < std::min(g.stride[1], g.in[1]); ++residue[1]) {
      for (residue[2] = 0; residue[2] < std::min(g.stride[2], g.in[2]); ++residue[2]) {
        Lattice l;
        bool empty = false;
        for (int i = 0; i < 3; ++i) {
          const int64_t r = residue[i], s = g.stride[i];
          l.count[i] = r < g.in[i] ? ceil_div(g.in[i] - r, s) : 0;
          empty = empty || l.count[i] == 0;
          l.in_step[i] = 1;
          l.out_start[i] = r;
          l.out_step[i] = s;
          for (int64_t t = g.kernel[i] - 1; t >= 0; --t) {
            const int64_t distance = r + g.padding[i] - t * g.dilation[i];
            if (floor_mod(distance, s) != 0) continue;
            l.taps[i].offset.push_back((distance - floor_mod(distance, s)) / s);
            l.taps[i].slot.push_back(g.kernel[i] - 1 - t);
          }
        }
        if (!empty) lattices.push_back(std::move(l));
      }
    }
  }
  return lattices;
}

bool reaches_out(const Geometry& g, bool data_gradient) {
  const auto outside = [&](const Lattice& l) {
    const int64_t* const size = data_gradient ? g.out : g.in;
    return l.reaches_out(0, size[0]) || l.reaches_out(1, size[1]) || l.reaches_out(2, size[2]);
  };
  if (!data_gradient) return outside(forward_lattice(g));
  const std::vector<Lattice> all = data_lattices(g);
  return std::any_of(all.begin(), all.end(), outside);
}

Blocks::Blocks(int64_t n, const int64_t count[3], int64_t rows)
    : n_total_(n), d_total_(count[0]), h_total_(count[1]), n_(1), d_(1), h_(1) {
  h_ = share(h_total_, count[2], rows);
  if (h_ == h_total_) d_ = share(d_total_, h_total_ * count[2], rows);
  if (h_ == h_total_ && d_ == d_total_) n_ = share(n_total_, d_total_ * h_total_ * count[2], rows);
  n_blocks_ = ceil_div(n_total_, n_);
  d_blocks_ = ceil_div(d_total_, d_);
  h_blocks_ = ceil_div(h_total_, h_);
}

Block Blocks::operator[](int64_t i) const {
  Block b;
  b.h0 = i % h_blocks_ * h_;
  b.d0 = i / h_blocks_ % d_blocks_ * d_;
  b.n0 = i / h_blocks_ / d_blocks_ * n_;
  b.h = std::min(h_, h_total_ - b.h0);
  b.d = std::min(d_, d_total_ - b.d0);
  b.n = std::min(n_, n_total_ - b.n0);
  return b;
}

}  // namespace fastdl::cpu::conv
