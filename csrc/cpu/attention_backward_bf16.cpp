// The bfloat16 backward block. Every product has float32 sums; probabilities and the gradients of scores are
// rounded to bfloat16 for theirs. Factors have to be pairs of neighbours along the dimension that is summed
// over, which for the gradients of keys and values is that of the queries: weights are stored with two
// queries interleaved, and the products give the gradients transposed.
#include "cpu/attention_backward.h"

namespace fastdl::cpu {

Bf16BackwardBlock::Layout Bf16BackwardBlock::layout() const {
  const int64_t nr = tiles_.nr(), step = tiles_.kernel().height_step, rows = tiles_.depth(kBackwardQueries);
  int64_t end = 0;
  const auto take = [&](int64_t n) {
    const int64_t at = end;
    end += round_up(n, 32);
    return at;
  };
  Layout at{};
  at.keys_t = take(block_ * tiles_.depth(p_.e));
  at.values_t = take(block_ * tiles_.depth(p_.ev));
  at.keys = take(tiles_.depth(block_) * round_up(p_.e, nr));
  at.queries_a = take(rows * round_up(p_.e, step));
  at.douts_a = take(rows * round_up(p_.ev, step));
  at.weights = take(rows * block_);
  at.gradients = take(rows * block_);
  at.gradient_rows = take(tiles_.mr() * block_);
  at.copies = take(tiles_.mr() * (p_.e + p_.ev));
  at.all = end;
  return at;
}

Bf16BackwardBlock::Bf16BackwardBlock(Context* context, const AttentionProblem& p, const AttentionGradients& g,
                                     const float* lse2, const float* delta)
    : p_(p),
      g_(g),
      lse2_(lse2),
      delta_(delta),
      table_(table_for<float>(*kernels().attention)),
      // Rows one step of the products long would pass for a packed panel.
      block_(std::max(2 * tiles_.nr(), round_up(std::min(keys_per_block(p), p.keys), tiles_.nr()))),
      masks_(context, p, tiles_.mr(), block_),
      at_(layout()),
      packed_(context, static_cast<size_t>(at_.all) * sizeof(bfloat16)),
      sums_(context,
            static_cast<size_t>(3 * tiles_.mr() * block_ + block_ * (p.e + p.ev + std::max(p.e, p.ev))) *
                sizeof(float)),
      base_(packed_.as<bfloat16>()) {
  prob_ = sums_.as<float>();
  dp_ = prob_ + tiles_.mr() * block_;
  kept_ = dp_ + tiles_.mr() * block_;
  dk_ = kept_ + tiles_.mr() * block_;
  dv_ = dk_ + block_ * p.e;
  rows_ = dv_ + block_ * p.ev;
}

void Bf16BackwardBlock::set_keys(int64_t b, int64_t group, int64_t j, int64_t cols) {
  b_ = b;
  group_ = group;
  j_ = j;
  cols_ = cols;
  empty_ = true;
  const bfloat16 *k = row_of<const bfloat16>(p_.k, b, group, j),
                 *v = row_of<const bfloat16>(p_.v, b, group, j);
  const auto &ks = p_.k.strides, &vs = p_.v.strides;
  keys_t_ = tiles_.pack(k, ks[3], ks[2], p_.e, cols, base_ + at_.keys_t);
  values_t_ = tiles_.pack(v, vs[3], vs[2], p_.ev, cols, base_ + at_.values_t);
  keys_ = tiles_.pack(k, ks[2], ks[3], cols, p_.e, base_ + at_.keys);
}

// Rows of a tile begin at multiples of the products' step, so that a product may begin at any of them.
EvenParts Bf16BackwardBlock::row_tiles(int64_t rows) const {
  const int64_t step = tiles_.kernel().k_step;
  return EvenParts(ceil_div(rows, step), std::max<int64_t>(1, tiles_.mr() / step));
}

void Bf16BackwardBlock::add_queries(int64_t h, int64_t begin, int64_t end, int sides,
                                    const QuerySums<float>& sums) {
  to_ = sums;
  const EvenParts blocks(end - begin, kBackwardQueries);
  for (int64_t n = 0; n < blocks.parts; ++n) add_block(h, begin + blocks.begin(n), blocks.size(n), sides);
}

// Keys of this block, in whole panels, that queries before `end` see.
int64_t Bf16BackwardBlock::seen_by(int64_t end) const {
  const int64_t seen = p_.key_end(end) - j_;
  return seen <= 0 ? 0 : std::min(cols_, round_up(seen, tiles_.nr()));
}

void Bf16BackwardBlock::add_block(int64_t h, int64_t i, int64_t rows, int sides) {
  const int64_t step = tiles_.kernel().k_step, nr = tiles_.nr();
  const EvenParts parts = row_tiles(rows);
  int64_t first[kBackwardKeys];  // of each panel of keys: the first row that sees any of it
  std::fill_n(first, ceil_div(cols_, nr), rows);
  for (int64_t t = parts.parts - 1; t >= 0; --t) {
    const int64_t begin = parts.begin(t) * step, end = std::min(rows, parts.begin(t + 1) * step);
    const int64_t seen = seen_by(i + end);
    for (int64_t c = 0; c < seen; c += nr) first[c / nr] = begin;
    if (seen > 0) add_tile(h, i, begin, end - begin, seen, sides);
  }
  if (!(sides & kKeySide)) return;
  bfloat16 *weights = base_ + at_.weights, *gradients = base_ + at_.gradients;
  // Interleaved rows come in twos; the products' step may ask for more, of zeros.
  const int64_t written = round_up(rows, 2), missing = tiles_.depth(rows) - written;
  for (int64_t n = 0; n < ceil_div(cols_, nr) && missing > 0; ++n) {
    const int64_t at = (n * tiles_.depth(kBackwardQueries) + written) * nr;
    std::memset(static_cast<void*>(weights + at), 0, static_cast<size_t>(missing * nr) * sizeof(bfloat16));
    std::memset(static_cast<void*>(gradients + at), 0, static_cast<size_t>(missing * nr) * sizeof(bfloat16));
  }
  pack_left(p_.q, h, i, rows, p_.e, base_ + at_.queries_a);
  pack_left(g_.dout, h, i, rows, p_.ev, base_ + at_.douts_a);
  add_to_keys(p_.e, base_ + at_.queries_a, gradients, rows, first, dk_);
  add_to_keys(p_.ev, base_ + at_.douts_a, weights, rows, first, dv_);
  empty_ = false;
}

// The transpose of `rows` rows of x, in panels whose heights are even parts of its columns.
void Bf16BackwardBlock::pack_left(const View& x, int64_t h, int64_t i, int64_t rows, int64_t e,
                                  bfloat16* out) const {
  const Bf16Kernels& kernel = tiles_.kernel();
  const int64_t step = kernel.height_step;
  const EvenParts parts(ceil_div(e, step), kernel.mr / step);
  const bfloat16* from = row_of<const bfloat16>(x, b_, h, i);
  for (int64_t n = 0; n < parts.parts; ++n) {
    const int64_t c = parts.begin(n) * step, height = parts.size(n) * step;
    kernel.pack_a(from + c * x.strides[3], x.strides[3], x.strides[2], rows,
                  static_cast<int>(std::min(height, e - c)), static_cast<int>(height),
                  out + c * tiles_.depth(rows));
  }
}

// sums[e x cols] += left^T right over the rows of this block, panel by panel of keys.
void Bf16BackwardBlock::add_to_keys(int64_t e, const bfloat16* left, const bfloat16* right, int64_t rows,
                                    const int64_t* first, float* sums) const {
  const Bf16Kernels& kernel = tiles_.kernel();
  const int64_t step = kernel.height_step, nr = tiles_.nr();
  const EvenParts parts(ceil_div(e, step), kernel.mr / step);
  for (int64_t n = 0; n < parts.parts; ++n) {
    const int64_t c = parts.begin(n) * step, height = parts.size(n) * step;
    for (int64_t key = 0; key < cols_; key += nr) {
      const int64_t from = std::min(first[key / nr], rows);
      const bfloat16* panel = right + key * tiles_.depth(kBackwardQueries) + from * nr;
      tiles_.multiply(std::min(height, e - c), std::min(nr, cols_ - key), rows - from,
                      left + c * tiles_.depth(rows) + from * height, kernel.k_step, height * kernel.k_step,
                      {panel, nr, 0}, sums + c * block_ + key, block_, 1.0f, !empty_);
    }
  }
}

TileRows<bfloat16> Bf16BackwardBlock::rows_of(const View& x, int64_t h, int64_t i, int64_t rows, int64_t e,
                                              bfloat16* copy) const {
  const bfloat16* from = row_of<const bfloat16>(x, b_, h, i);
  if (x.strides[3] == 1 || e <= 1) return {from, x.strides[2], 1};
  for (int64_t r = 0; r < rows; ++r) copy_row(from + r * x.strides[2], x.strides[3], e, copy + r * e);
  return {copy, e, 1};
}

// Probabilities and their gradients for queries [i + first, i + first + rows), and what they give to dq.
void Bf16BackwardBlock::add_tile(int64_t h, int64_t i, int64_t first, int64_t rows, int64_t seen, int sides) {
  const int64_t at = i + first, row = (b_ * p_.heads + h) * p_.queries + at, nr = tiles_.nr();
  bfloat16* copies = base_ + at_.copies;
  const TileRows<bfloat16> q = rows_of(p_.q, h, at, rows, p_.e, copies);
  const TileRows<bfloat16> dout = rows_of(g_.dout, h, at, rows, p_.ev, copies + tiles_.mr() * p_.e);
  tiles_.multiply(rows, seen, p_.e, q, keys_t_, prob_, block_, 1.0f, false);
  tiles_.multiply(rows, seen, p_.ev, dout, values_t_, dp_, block_, 1.0f, false);
  ScoreRows<float> scores{prob_, rows, seen, block_, static_cast<float>(p_.scale * kLog2e)};
  masks_.apply(scores, b_, h, at, j_);
  // A product may read on to the end of its last step: what stands there must be a number.
  for (int64_t r = 0; r < rows && seen % table_.width != 0; ++r)
    std::fill_n(dp_ + r * block_ + seen, round_up(seen, table_.width) - seen, 0.0f);
  const float* kept = nullptr;
  if (p_.dropout > 0) {
    const ScoreRows<float> factors{kept_, rows, seen, block_, 1.0f};
    for (int64_t r = 0; r < rows; ++r) std::fill_n(kept_ + r * block_, seen, 1.0f);
    drop_weights(p_, factors, b_, h, at, j_);
    kept = kept_;
  }
  const RoundedGradients to{base_ + at_.weights + first * nr, base_ + at_.gradients + first * nr, nr,
                            tiles_.depth(kBackwardQueries) * nr, base_ + at_.gradient_rows};
  kernels().attention->gradients_bf16(scores, lse2_ + row, delta_ + row, kept, dp_, to);
  if (!(sides & kQuerySide)) return;
  tiles_.multiply(rows, p_.e, seen, {base_ + at_.gradient_rows, block_, 1}, keys_, to_.row(h, at), p_.e, 1.0f,
                  true);
}

// out[cols x e] = scale * sums[e x cols], transposed and rounded.
void Bf16BackwardBlock::write_keys(const View& out, const float* sums, int64_t e, float scale) {
  if (e == 0) return;
  const int width = static_cast<int>(e);
  kernels().gemm->f32.pack(sums, 1, block_, cols_, width, width, rows_);
  for (int64_t n = 0; n < cols_ * e; ++n) rows_[n] *= scale;
  for (int64_t j = 0; j < cols_; ++j)
    copy_row(rows_ + j * e, 1, e, row_of<bfloat16>(out, b_, group_, j_ + j));
}

void Bf16BackwardBlock::finish() {
  if (empty_) {
    zero_rows<bfloat16>(g_.dk, b_, group_, j_, j_ + cols_);
    zero_rows<bfloat16>(g_.dv, b_, group_, j_, j_ + cols_);
    return;
  }
  write_keys(g_.dk, dk_, p_.e, static_cast<float>(p_.scale));
  write_keys(g_.dv, dv_, p_.ev, 1.0f);
}

}  // namespace fastdl::cpu
