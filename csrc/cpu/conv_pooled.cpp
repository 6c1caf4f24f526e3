// The products of the few positions that have a gradient: dw[o] is the sum over the pooled positions of the
// gradient times the patch of x that its position meets, dx the sum of the gradient times the filter, added
// to that patch. An image at a time, copied with its padding, so that all of it is in the L1 or L2 cache.
#include "cpu/conv_pooled.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "cpu/isa/conv_pooled.h"
#include "cpu/kernels.h"
#include "cpu/parallel.h"

namespace fastdl::cpu::conv {
namespace {

constexpr int64_t kMostImageBytes = 256 << 10;  // of an image with its padding: it shares L2 with the sums
constexpr int64_t kLeastRatio = 2;              // of positions to pooled ones, for a sum over those to pay
constexpr int64_t kMostShares = 8;              // copies of the sums of weights
constexpr int64_t kMostSums = 4 << 20;          // bytes of them
constexpr int64_t kFilterBytes = 40 << 10;      // of all filters' parts that are used together: L1 cache
constexpr double kVectorCost = 0.6;             // of a multiply-add of a vector, in elementary operations

template <class T>
const PooledTable<T>& kernels_of() {
  return pooled_table<T>(*kernels().conv->pooled);
}

// How the patch of a position is cut: lines of kernel width times channels side by side, in groups of one or
// three, in chunks of vectors.
struct Patch {
  Lattice lattice;
  int64_t size[3], step[3], elements;  // of the image with its padding; the elements with room for a vector
  int64_t length, vectors;             // of a line
  int64_t rows;                        // taken together: 3 or 1
  int64_t padded;                      // length in whole vectors
  std::vector<int64_t> offset;         // of each position

  int64_t last(int width) const { return length - (vectors - 1) * width; }
};

bool suits(const Geometry& g, int64_t positions) {
  const int64_t plane = g.out[0] * g.out[1] * g.out[2];
  return g.groups == 1 && (g.dilation[2] == 1 || g.kernel[2] == 1) && positions * kLeastRatio <= plane &&
         positions > 0 && plane <= INT32_MAX && g.n > 0 && g.c > 0 && g.o > 0;
}

Patch patch_of(const Geometry& g, int width) {
  Patch p;
  p.lattice = forward_lattice(g);
  for (int i = 0; i < 3; ++i) {
    p.size[i] = (g.out[i] - 1) * g.stride[i] + (g.kernel[i] - 1) * g.dilation[i] + 1;
  }
  p.step[2] = g.c;
  p.step[1] = p.size[2] * g.c;
  p.step[0] = p.size[1] * p.step[1];
  p.elements = p.size[0] * p.step[0] + 2 * width;
  p.length = g.kernel[2] * g.c;
  p.vectors = (p.length + width - 1) / width;
  p.padded = p.vectors * width;
  p.rows = g.kernel[1] % 3 == 0 ? 3 : 1;
  p.offset.reserve(static_cast<size_t>(g.out[0] * g.out[1] * g.out[2]));
  for (int64_t d = 0; d < g.out[0]; ++d) {
    for (int64_t h = 0; h < g.out[1]; ++h) {
      for (int64_t w = 0; w < g.out[2]; ++w) {
        p.offset.push_back(d * g.stride[0] * p.step[0] + h * g.stride[1] * p.step[1] +
                           w * g.stride[2] * p.step[2]);
      }
    }
  }
  return p;
}

// The positions of each pooling window, if windows lie side by side as mostly they do; [pooled
// position][likely].
struct Likely {
  std::vector<int32_t> places;
  int64_t each = 0;
};

template <class T>
Likely likely_places(const Geometry& g, const Pooled<T>& grad) {
  constexpr int64_t kMost = 16;  // more are rarely all there
  Likely result;
  int64_t step[3];
  for (int i = 0; i < 3; ++i) step[i] = g.out[i] / grad.size[i];
  result.each = step[0] * step[1] * step[2];
  if (result.each > kMost) return {};
  result.places.reserve(static_cast<size_t>(grad.positions * result.each));
  for (int64_t p = 0; p < grad.positions; ++p) {
    const int64_t d = p / (grad.size[1] * grad.size[2]) * step[0],
                  h = p / grad.size[2] % grad.size[1] * step[1];
    const int64_t w = p % grad.size[2] * step[2];
    for (int64_t i = 0; i < result.each; ++i) {
      const int64_t a = i / (step[1] * step[2]), b = i / step[2] % step[1], c = i % step[2];
      result.places.push_back(static_cast<int32_t>(((d + a) * g.out[1] + h + b) * g.out[2] + w + c));
    }
  }
  return result;
}

// Calls body(line of the kernel, chunk's first vector, its vectors) for all parts of a patch, the chunks as
// even as possible.
template <class Body>
void for_parts(const Geometry& g, const Patch& p, int64_t most, Body&& body) {
  const int64_t chunks = (p.vectors + most - 1) / most;
  for (int64_t line = 0; line < g.kernel[0] * g.kernel[1]; line += p.rows) {
    for (int64_t i = 0; i < chunks; ++i) {
      const int64_t first = p.vectors * i / chunks, end = p.vectors * (i + 1) / chunks;
      body(line, first, static_cast<int>(end - first));
    }
  }
}

// Vectors of a line whose sums stay in registers.
template <class T>
int64_t most_vectors(const Patch& p) {
  return std::min<int64_t>(kernels_of<T>().most / p.rows, kPooledVectors);
}

// Where a line of the kernel lies in a patch.
int64_t line_offset(const Geometry& g, const Patch& p, int64_t line) {
  return line / g.kernel[1] * g.dilation[0] * p.step[0] + line % g.kernel[1] * g.dilation[1] * p.step[1];
}

template <class T>
struct WeightTask {
  Context* context;
  const Geometry& g;
  const Source<T>& in;
  const Pooled<T>& grad;
  const Patch& patch;
  // Few channels: the whole patch of each position is copied into one line of so many vectors (else 0). One
  // channel, 3 x 3: the sums are [tap][output].
  int64_t unfolded;
  bool small;
  int64_t shares, blocks;  // of the images, of the outputs
  int64_t row, size;       // elements of the sums of an output, of a share with those for the bias
  T* sums;
  const int64_t* offset;  // of the patches, unfolded or not
  const Likely& likely;
  std::atomic<bool>* finite;

  int64_t plane() const { return static_cast<int64_t>(patch.offset.size()); }
  void operator()(int64_t task) const;
  void add_small(int64_t n, int64_t o0, int64_t o1, const T* image, T* sums) const;
  void add_image(const T* image, PooledWeight<T> p) const;
  void unfold(const T* image, T* lines) const;
};

template <class T>
void WeightTask<T>::operator()(int64_t task) const {
  const PooledTable<T>& k = kernels_of<T>();
  const int64_t share = task / blocks, part = task % blocks;
  const int64_t o0 = g.o * part / blocks, o1 = g.o * (part + 1) / blocks, count = o1 - o0;
  const int64_t entries = grad.positions * count, room = 2 * k.width;
  const int64_t lines = unfolded ? plane() * unfolded * k.width + room : 0;
  const Workspace scratch(context, static_cast<size_t>(patch.elements + lines + entries) * sizeof(T));
  const Workspace places(context, static_cast<size_t>(entries) * sizeof(int32_t));
  T *const image = scratch.as<T>(), *const line = image + patch.elements, *const gradient = line + lines;
  int32_t* const where = places.as<int32_t>();
  T *const mine = sums + share * size, *const bias = mine + g.o * row;
  if (!small) std::fill(mine + o0 * row, mine + o1 * row, T(0));
  else
    for (int64_t t = 0; t < row; ++t) std::fill(mine + t * g.o + o0, mine + t * g.o + o1, T(0));
  std::fill(bias + o0, bias + o1, T(0));
  for (int64_t n = g.n * share / shares; n < g.n * (share + 1) / shares; ++n) {
    copy_region(context, in, patch.lattice, {n, 1, 0, g.out[0], 0, g.out[1]}, {}, image);
    std::fill(image + patch.elements - room, image + patch.elements, T(0));
    if (!k.finite(image, patch.elements)) finite->store(false, std::memory_order_relaxed);
    if (!finite->load(std::memory_order_relaxed)) return;
    if (small) {
      add_small(n, o0, o1, image, mine);
      continue;
    }
    const int64_t runs = count == g.o ? 1 : grad.positions, run = entries / runs;
    for (int64_t i = 0; i < runs; ++i) {
      const int64_t at = n * grad.positions * g.o + i * g.o + o0;
      k.take(run, grad.grad + at, grad.out ? grad.out + at : nullptr, grad.where + at, plane(),
             gradient + i * run, where + i * run);
    }
    table_for<T>(*kernels().conv).add_rows(gradient, grad.positions, count, count, bias + o0);
    PooledWeight<T> p{};
    p.gradient = {gradient, where, grad.positions, count, count, offset, nullptr, 0};
    p.sums = mine + o0 * row;
    p.sums_row = row;
    if (unfolded) {
      unfold(image, line);
      p.x = line;
      p.rows = 1;
      p.vectors = static_cast<int>(unfolded);
      k.weight(p);
    } else {
      add_image(image, p);
    }
  }
}

template <class T>
void WeightTask<T>::add_small(int64_t n, int64_t o0, int64_t o1, const T* image, T* mine) const {
  const int64_t at = n * grad.positions * g.o + o0;
  PooledSmall<T> p{};
  p.gradient = {grad.grad + at, grad.where + at, grad.positions,       g.o,
                o1 - o0,        offset,          likely.places.data(), likely.each};
  p.out = grad.out ? grad.out + at : nullptr;
  p.plane = plane();
  p.x = image;
  p.x_step = g.dilation[1] * patch.step[1];
  p.sums = mine + o0;
  p.sums_row = g.o;
  p.bias = mine + g.o * row + o0;
  kernels_of<T>().small(p);
}

template <class T>
void WeightTask<T>::add_image(const T* image, PooledWeight<T> p) const {
  const int width = kernels_of<T>().width;
  p.rows = static_cast<int>(patch.rows);
  p.x_step = g.dilation[1] * patch.step[1];
  p.sums_step = patch.padded;
  T* const sums_of_part = p.sums;
  for_parts(g, patch, most_vectors<T>(patch), [&](int64_t line, int64_t first, int vectors) {
    p.x = image + line_offset(g, patch, line) + first * width;
    p.sums = sums_of_part + line * patch.padded + first * width;
    p.vectors = vectors;
    kernels_of<T>().weight(p);
  });
}

template <class T>
void WeightTask<T>::unfold(const T* image, T* lines) const {
  const PooledTable<T>& k = kernels_of<T>();
  for (int64_t q = 0; q < plane(); q += g.out[2]) {
    k.unfold(image + patch.offset[static_cast<size_t>(q)], g.out[2], g.stride[2] * g.c, g.kernel[1],
             g.dilation[1] * patch.step[1], patch.length, lines + offset[q], unfolded * k.width);
  }
}

// Adds the shares, in order, and writes them in the order of the weights.
template <class T>
void finish_sums(Context* context, const WeightTask<T>& t, const View& out, const View* bias) {
  const Geometry& g = t.g;
  int64_t steps[3] = {0, 0, 0};
  for (int i = 2; i < out.ndim; ++i) steps[i + 3 - out.ndim] = out.strides[i];
  const int64_t line = t.unfolded || t.small ? t.patch.length : t.patch.padded;
  const int64_t o_step = t.small ? 1 : t.row, step = t.small ? g.o : 1;
  const auto add = table_for<T>(*kernels().conv).add_rows;
  const double cost = static_cast<double>(t.row * (t.shares + 4));
  const int64_t grain = t.small ? g.o : std::max<int64_t>(1, 8192 / t.row);
  parallel_ranges(context, g.o, grain, cost, [&](int64_t o0, int64_t o1) {
    T* const sums = t.sums + o0 * t.row;
    if (t.shares > 1) add(sums + t.size, t.shares - 1, t.size, (o1 - o0) * t.row, sums);
    for (int64_t o = o0; o < o1; ++o) {
      T* const to = out.as<T>() + o * out.strides[0];
      const T* from = t.sums + o * o_step;
      for (int64_t l = 0; l < g.kernel[0] * g.kernel[1]; ++l, from += line * step) {
        T* const row = to + l / g.kernel[1] * steps[0] + l % g.kernel[1] * steps[1];
        for (int64_t w = 0; w < g.kernel[2]; ++w) {
          for (int64_t c = 0; c < g.c; ++c)
            row[w * steps[2] + c * out.strides[1]] = from[(w * g.c + c) * step];
        }
      }
    }
  });
  if (!bias) return;
  T* const sum = t.sums + g.o * t.row;
  if (t.shares > 1) add(sum + t.size, t.shares - 1, t.size, g.o, sum);
  for (int64_t o = 0; o < g.o; ++o) bias->as<T>()[o * bias->strides[0]] = sum[o];
}

// All filters as [o][line of the kernel][padded], zeros at the end of each line.
template <class T>
void pack_filters(Context* context, const Geometry& g, const Patch& p, const T* weight, T* to) {
  const int64_t taps = g.taps(), lines = g.kernel[0] * g.kernel[1];
  parallel_ranges(context, g.o, std::max<int64_t>(1, 8192 / (taps * g.c)),
                  static_cast<double>(2 * taps * g.c), [&](int64_t o0, int64_t o1) {
                    for (int64_t o = o0; o < o1; ++o) {
                      const T* const from = weight + o * g.c * taps;
                      for (int64_t l = 0; l < lines; ++l) {
                        T* const line = to + (o * lines + l) * p.padded;
                        for (int64_t c = 0; c < g.c; ++c) {
                          const T* const row = from + c * taps + l * g.kernel[2];
                          for (int64_t w = 0; w < g.kernel[2]; ++w) line[w * g.c + c] = row[w];
                        }
                        std::fill(line + p.length, line + p.padded, T(0));
                      }
                    }
                  });
}

// Writes the image without its padding.
template <class T>
void copy_out(const Geometry& g, const Patch& p, const T* image, const Image<T>& out, int64_t n) {
  for (int64_t d = 0; d < g.in[0]; ++d) {
    for (int64_t h = 0; h < g.in[1]; ++h) {
      for (int64_t w = 0; w < g.in[2]; ++w) {
        const int64_t at[3] = {d + g.padding[0], h + g.padding[1], w + g.padding[2]};
        bool there = true;
        for (int i = 0; i < 3; ++i) there = there && at[i] < p.size[i];
        const T* const from = image + at[0] * p.step[0] + at[1] * p.step[1] + at[2] * p.step[2];
        T* const to = out.at(n, d, h, w);
        if (!there) {
          std::fill(to, to + g.c, T(0));
        } else if (w == 0 && out.line_dense()) {
          const int64_t pixels = std::min(g.in[2], p.size[2] - g.padding[2]);
          std::memcpy(to, from, static_cast<size_t>(pixels * g.c) * sizeof(T));
          w = pixels - 1;
        } else {
          std::copy(from, from + g.c, to);
        }
      }
    }
  }
}

}  // namespace

template <class T>
bool pooled_weight_gradient(Context* context, const Geometry& g, const Source<T>& in, const Pooled<T>& grad,
                            const View& grad_weight, const View* grad_bias) {
  const int64_t width = kernels_of<T>().width;
  if (!suits(g, grad.positions)) return false;
  const Patch patch = patch_of(g, kernels_of<T>().width);
  if (patch.elements * static_cast<int64_t>(sizeof(T)) > kMostImageBytes) return false;
  std::atomic<bool> finite{true};
  const Likely likely = likely_places(g, grad);
  const bool small = g.kernel[0] == 1 && g.kernel[1] == 3 && patch.length == 3;
  WeightTask<T> t{context, g,      in, grad, patch, 0, small, 1, 1, 0, 0, nullptr, patch.offset.data(),
                  likely,  &finite};
  const int64_t lines = g.kernel[0] * g.kernel[1], together = (lines * patch.length + width - 1) / width;
  std::vector<int64_t> offset;
  if (!small && g.kernel[0] == 1 && patch.length <= width && together < lines && together <= kPooledVectors) {
    t.unfolded = together;
    offset.resize(patch.offset.size());
    for (size_t q = 0; q < offset.size(); ++q) offset[q] = static_cast<int64_t>(q) * together * width;
    t.offset = offset.data();
  }
  t.row = small ? lines * patch.length : t.unfolded ? t.unfolded * width : lines * patch.padded;
  t.size = (g.o * (t.row + 1) + width - 1) / width * width;
  t.shares = std::min(g.n, kMostShares);
  t.blocks = std::min(g.o, kMostShares / t.shares);
  if (t.size * t.shares * static_cast<int64_t>(sizeof(T)) > kMostSums) return false;
  const Workspace sums(context, static_cast<size_t>(t.size * t.shares) * sizeof(T));
  t.sums = sums.as<T>();
  const double vectors = static_cast<double>(g.n * grad.positions * g.o * (t.row / width + 2));
  const int64_t tasks = t.shares * t.blocks;
  parallel_for(context, tasks, vectors * kVectorCost / static_cast<double>(tasks), t);
  if (!finite) return false;
  finish_sums(context, t, grad_weight, grad_bias);
  return true;
}

template <class T>
bool pooled_data_gradient(Context* context, const Geometry& g, const Pooled<T>& grad, const T* weight,
                          const Image<T>& out) {
  const PooledTable<T>& k = kernels_of<T>();
  if (!suits(g, grad.positions)) return false;
  if (!k.finite(weight, g.o * g.c * g.taps())) return false;
  const Patch patch = patch_of(g, k.width);
  if (patch.elements * static_cast<int64_t>(sizeof(T)) > kMostImageBytes) return false;
  const int64_t lines = g.kernel[0] * g.kernel[1], row = lines * patch.padded;
  const Workspace packed(context, static_cast<size_t>(g.o * row) * sizeof(T));
  pack_filters(context, g, patch, weight, packed.as<T>());
  // Chains enough to keep the multipliers busy, even if the filters then come from the L2 cache.
  const int64_t fit = kFilterBytes / (g.o * patch.rows * k.width * static_cast<int64_t>(sizeof(T)));
  const int64_t most = std::clamp<int64_t>(fit, 2, most_vectors<T>(patch));
  const int64_t entries = grad.positions * g.o, plane = static_cast<int64_t>(patch.offset.size());
  const Likely likely = likely_places(g, grad);
  const double cost = static_cast<double>(entries * (row / k.width + 2)) * kVectorCost;
  parallel_for(context, g.n, cost, [&](int64_t n) {
    const Workspace scratch(context, static_cast<size_t>(patch.elements + entries) * sizeof(T));
    const Workspace places(context, static_cast<size_t>(entries) * sizeof(int32_t));
    T *const image = scratch.as<T>(), *const gradient = image + patch.elements;
    k.take(entries, grad.grad + n * entries, grad.out ? grad.out + n * entries : nullptr,
           grad.where + n * entries, plane, gradient, places.as<int32_t>());
    std::fill(image, image + patch.elements, T(0));
    PooledData<T> p{};
    p.gradient = {gradient, places.as<int32_t>(), grad.positions,       g.o,
                  g.o,      patch.offset.data(),  likely.places.data(), likely.each};
    p.w_row = row;
    p.w_step = patch.padded;
    p.y_step = g.dilation[1] * patch.step[1];
    p.rows = static_cast<int>(patch.rows);
    for_parts(g, patch, most, [&](int64_t line, int64_t first, int vectors) {
      p.w = packed.as<T>() + line * patch.padded + first * k.width;
      p.y = image + line_offset(g, patch, line) + first * k.width;
      p.vectors = vectors;
      p.last = first + vectors == patch.vectors ? static_cast<int>(patch.last(k.width)) : k.width;
      k.data(p);
    });
    copy_out(g, patch, image, out, n);
  });
  return true;
}

template <class T>
void unpool(Context* context, const Geometry& g, const Pooled<T>& grad, T* to) {
  const int64_t plane = g.out[0] * g.out[1] * g.out[2], entries = grad.positions * g.o;
  parallel_for(context, g.n, static_cast<double>(plane * g.o + 4 * entries), [&](int64_t n) {
    T* const image = to + n * plane * g.o;
    std::fill(image, image + plane * g.o, T(0));
    for (int64_t i = 0; i < entries; ++i) {
      const int64_t at = n * entries + i, place = grad.where[at];
      if (place < 0 || place >= plane || (grad.out && grad.out[at] <= 0)) continue;
      image[place * g.o + i % g.o] += grad.grad[at];
    }
  });
}

#define FASTDL_INSTANTIATE(T)                                                                            \
  template bool pooled_weight_gradient<T>(Context*, const Geometry&, const Source<T>&, const Pooled<T>&, \
                                          const View&, const View*);                                     \
  template bool pooled_data_gradient<T>(Context*, const Geometry&, const Pooled<T>&, const T*,           \
                                        const Image<T>&);                                                \
  template void unpool<T>(Context*, const Geometry&, const Pooled<T>&, T*);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(double)
#undef FASTDL_INSTANTIATE

}  // namespace fastdl::cpu::conv
