// Copies of input regions with zeros around them, so that the kernels' loops have no border cases; zeros
// where no tap reaches.
#include <algorithm>
#include <cstring>
#include <type_traits>

#include "common/narrow.h"
#include "cpu/conv_plan.h"
#include "cpu/kernels.h"
#include "cpu/parallel.h"

namespace fastdl::cpu::conv {
namespace {

struct Extents {
  int64_t first[3], size[3];
};

Extents extents(const Lattice& l, const Block& b) {
  const int64_t start[3] = {b.d0, b.h0, 0}, count[3] = {b.d, b.h, l.count[2]};
  Extents e;
  for (int i = 0; i < 3; ++i) {
    e.first[i] = start[i] * l.in_step[i] + l.taps[i].offset.front();
    e.size[i] = (count[i] - 1) * l.in_step[i] + l.taps[i].offset.back() - l.taps[i].offset.front() + 1;
  }
  return e;
}

// `pixels` pixels of one line, from the given one on, as [pixel][channel].
template <class T>
void copy_line(const Image<const T>& x, const T* from, int64_t pixels, T* to) {
  if (x.line_dense()) {
    std::memcpy(to, from, static_cast<size_t>(pixels * x.c) * sizeof(T));
  } else if (x.channels_together()) {
    for (int64_t w = 0; w < pixels; ++w)
      std::memcpy(to + w * x.c, from + w * x.step[2], static_cast<size_t>(x.c) * sizeof(T));
  } else if constexpr (!std::is_same_v<T, bfloat16>) {  // whose channels always are together
    const auto& k = gemm_kernels_of<T>(*kernels().gemm);
    k.pack(from, x.step[2], x.c_step, pixels, static_cast<int>(x.c), static_cast<int>(x.c), to);
  }
}

// The same as float32.
void copy_line(const Image<const bfloat16>& x, const bfloat16* from, int64_t pixels, float* to) {
  const auto widen = kernels().convert->bf16.widen;
  if (x.line_dense()) return widen(pixels * x.c, from, 1, to, 1);
  for (int64_t w = 0; w < pixels; ++w) widen(x.c, from + w * x.step[2], 1, to + w * x.c, 1);
}

// to = grad * f'(saved)
template <class T>
void mask_line(Context* context, const Source<T>& in, const T* grad, const T* saved, int64_t n, T* to) {
  if constexpr (std::is_same_v<T, bfloat16>) {
    Workspace scratch(context, static_cast<size_t>(2 * n) * sizeof(float));
    float *const g = scratch.as<float>(), *const s = g + n;
    kernels().convert->bf16.widen(n, grad, 1, g, 1);
    kernels().convert->bf16.widen(n, saved, 1, s, 1);
    kernels().activation->f32.backward(in.activation, in.from_output, n, g, s, g);
    kernels().convert->bf16.narrow(n, g, 1, to, 1);
  } else {
    table_for<T>(*kernels().activation).backward(in.activation, in.from_output, n, grad, saved, to);
  }
}

// Pixel [c] -> [reduce][groups * columns]; in place from the last pixel on would overwrite, so `from` !=
// `to`.
template <class T>
void spread_line(const T* from, int64_t pixels, int64_t c, const Spread& s, T* to) {
  const int64_t out = s.groups * s.columns;
  for (int64_t w = 0; w < pixels; ++w, from += c) {
    for (int64_t i = 0; i < s.reduce; ++i, to += out) {
      if (s.columns == 1) {
        for (int64_t g = 0; g < s.groups; ++g) to[g] = from[g * s.reduce + i];
      } else {
        for (int64_t g = 0; g < s.groups; ++g) {
          const T value = from[g * s.reduce + i];
          for (int64_t j = 0; j < s.columns; ++j) to[g * s.columns + j] = value;
        }
      }
    }
  }
}

}  // namespace

int64_t region_elements(const Lattice& l, const Blocks& blocks, int64_t channels) {
  if (l.num_taps() == 0) return 0;
  const Block b = blocks.largest();
  const Extents e = extents(l, b);
  return b.n * e.size[0] * e.size[1] * e.size[2] * channels;
}

template <class T>
Region<T> region_in_place(const Source<T>& in, const Block& b) {
  Region<T> r;
  r.data = in.x.data + b.n0 * in.x.n_step;
  r.n_step = in.x.n_step;
  for (int i = 0; i < 3; ++i) r.step[i] = in.x.step[i];
  return r;
}

template <class S, class T>
Region<T> copy_region(Context* context, const Source<S>& in, const Lattice& l, const Block& b,
                      const Spread& spread, T* to) {
  const Image<const S>& x = in.x;
  const Extents e = extents(l, b);
  const int64_t channels = spread.channels(x.c);
  Region<T> r;
  r.data = to;
  r.step[2] = channels;
  r.step[1] = e.size[2] * r.step[2];
  r.step[0] = e.size[1] * r.step[1];
  r.n_step = e.size[0] * r.step[0];
  for (int i = 0; i < 3; ++i) r.origin[i] = e.first[i];

  const int64_t w0 = std::max<int64_t>(e.first[2], 0);
  const int64_t w1 = std::min(e.first[2] + e.size[2], x.size[2]);
  const int64_t inside = std::max<int64_t>(w1 - w0, 0), left = inside ? w0 - e.first[2] : 0;
  const int64_t line = inside * x.c;
  [[maybe_unused]] const bool saved_dense = in.masked() && in.saved.line_dense(), x_dense = x.line_dense();
  Workspace scratch(context, static_cast<size_t>(line * 2) * sizeof(T));
  T* const unspread = scratch.as<T>();
  T* const saved_line = scratch.as<T>() + line;

  for (int64_t i = 0; i < b.n; ++i) {
    for (int64_t d = e.first[0]; d < e.first[0] + e.size[0]; ++d) {
      for (int64_t h = e.first[1]; h < e.first[1] + e.size[1]; ++h, to += r.step[1]) {
        const bool exists = d >= 0 && d < x.size[0] && h >= 0 && h < x.size[1];
        if (!exists || inside == 0) {
          std::fill(to, to + r.step[1], T{});
          continue;
        }
        std::fill(to, to + left * channels, T{});
        std::fill(to + (left + inside) * channels, to + r.step[1], T{});
        T* const pixels = to + left * channels;
        T* const plain = spread.groups ? unspread : pixels;
        const S* source = x.at(b.n0 + i, d, h, w0);
        if (!in.masked()) {
          copy_line(x, source, inside, plain);
        } else {
          const S* saved = in.saved.at(b.n0 + i, d, h, w0);
          if constexpr (std::is_same_v<S, T>) {
            if (!saved_dense) {
              copy_line(in.saved, saved, inside, saved_line);
              saved = saved_line;
            }
            if (!x_dense) {
              copy_line(x, source, inside, plain);
              source = plain;
            }
            mask_line(context, in, source, saved, line, plain);
          } else {
            copy_line(in.saved, saved, inside, saved_line);
            copy_line(x, source, inside, plain);
            kernels().activation->f32.backward(in.activation, in.from_output, line, plain, saved_line, plain);
          }
        }
        if (spread.groups) spread_line(plain, inside, x.c, spread, pixels);
      }
    }
  }
  return r;
}

template <class T>
void clear_unreached(Context* context, const std::vector<Lattice>& lattices, const Image<T>& out) {
  std::vector<const Lattice*> unreached;
  for (const Lattice& l : lattices) {
    if (l.num_taps() == 0) unreached.push_back(&l);
  }
  if (unreached.empty()) return;
  const auto zeros = [](T* to, int64_t begin, int64_t end) { std::fill(to, to + (end - begin), T{}); };
  const int64_t lines = out.n * out.size[0] * out.size[1], line_size = out.size[2] * out.c;
  const Output output(lines * line_size * static_cast<int64_t>(sizeof(T)));
  parallel_ranges(context, lines, 4, static_cast<double>(line_size) / 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t h = i % out.size[1], d = i / out.size[1] % out.size[0], n = i / out.size[1] / out.size[0];
      const auto meets = [&](const Lattice* l) {
        return d % l->out_step[0] == l->out_start[0] && h % l->out_step[1] == l->out_start[1];
      };
      int64_t count = 0;
      for (const Lattice* l : unreached) count += meets(l) ? l->count[2] : 0;
      T* const line = out.at(n, d, h, 0);
      if (count == out.size[2] && out.line_dense()) {
        output.put_pieces(context, line, 0, line_size, zeros);
        continue;
      }
      for (const Lattice* l : unreached) {
        if (!meets(l)) continue;
        for (int64_t q = l->out_start[2]; q < out.size[2]; q += l->out_step[2])
          zeros(line + q * out.step[2], 0, out.c);
      }
    }
  });
}

#define FASTDL_INSTANTIATE(T)                                                                    \
  template Region<T> region_in_place<T>(const Source<T>&, const Block&);                         \
  template Region<T> copy_region<T, T>(Context*, const Source<T>&, const Lattice&, const Block&, \
                                       const Spread&, T*);                                       \
  template void clear_unreached<T>(Context*, const std::vector<Lattice>&, const Image<T>&);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(double)
FASTDL_INSTANTIATE(bfloat16)
#undef FASTDL_INSTANTIATE
template Region<float> copy_region<bfloat16, float>(Context*, const Source<bfloat16>&, const Lattice&,
                                                    const Block&, const Spread&, float*);

}  // namespace fastdl::cpu::conv
