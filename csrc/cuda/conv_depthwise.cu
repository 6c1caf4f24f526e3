// Depthwise convolution: no product of matrices, but memory-bound sums of a few taps. Each thread has 16
// bytes of channels.
#include <algorithm>

#include "cuda/activation_inline.cuh"
#include "cuda/conv.h"
#include "cuda/divisor.cuh"
#include "cuda/launch.h"
#include "cuda/map.cuh"
#include "cuda/shared.cuh"
#include "cuda/tensor.h"

namespace fastdl::cuda {
namespace {

constexpr int kThreads = 256;

template <class S>
struct Depthwise {
  ConvImage<const S> in;
  ConvImage<S> out;
  ConvImage<const S> residual;
  int32_t in_size[3];
  ConvLattice lattice;
  const S* weights;  // [tap][channel]
  int64_t weight_step[3];
  int64_t images, channels;
  const S* bias;
  int64_t bias_stride;
  ActivationOf<compute_t<S>> activation;
  bool holes;  // as in ConvGather
};

constexpr int kStrip = 4;  // positions of a line that a thread has, so that weights are read once for all

template <class S, int Width>
__global__ void __launch_bounds__(kThreads)
    conv_depthwise(const __grid_constant__ Depthwise<S> p, int64_t tasks) {
  using T = compute_t<S>;
  using P = Pack<S, Width>;
  const ConvAxis(&axis)[3] = p.lattice.axis;
  const int64_t packs = p.channels / Width;
  const int32_t strips = (axis[2].count + kStrip - 1) / kStrip;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < tasks;
       i += static_cast<int64_t>(gridDim.x) * kThreads) {
    const int64_t channel = i % packs * Width, place = i / packs;
    const int32_t per_image = axis[0].count * axis[1].count * strips;
    const int64_t image = place / per_image;
    const auto rest = static_cast<int32_t>(place - image * per_image);
    const int32_t j2 = rest % strips * kStrip, j1 = rest / strips % axis[1].count,
                  j0 = rest / strips / axis[1].count;
    const S* const in = p.in.data + image * p.in.n_step + channel * p.in.c_step;
    T sums[kStrip][Width] = {};
    for (int32_t t0 = 0; t0 < axis[0].taps; ++t0) {
      const int32_t d = axis[0].in_step * j0 + axis[0].first + axis[0].tap_step * t0;
      for (int32_t t1 = 0; t1 < axis[1].taps; ++t1) {
        const int32_t h = axis[1].in_step * j1 + axis[1].first + axis[1].tap_step * t1;
        const bool inside = static_cast<uint32_t>(d) < static_cast<uint32_t>(p.in_size[0]) &&
                            static_cast<uint32_t>(h) < static_cast<uint32_t>(p.in_size[1]);
        if (!inside && p.holes) continue;
        for (int32_t t2 = 0; t2 < axis[2].taps; ++t2) {
          const int64_t tap = (axis[0].slot + t0 * axis[0].slot_step) * p.weight_step[0] +
                              (axis[1].slot + t1 * axis[1].slot_step) * p.weight_step[1] +
                              (axis[2].slot + t2 * axis[2].slot_step) * p.weight_step[2];
          const P w = *reinterpret_cast<const P*>(p.weights + tap + channel);
#pragma unroll
          for (int s = 0; s < kStrip; ++s) {
            const int32_t x = axis[2].in_step * (j2 + s) + axis[2].first + axis[2].tap_step * t2;
            if (inside && static_cast<uint32_t>(x) < static_cast<uint32_t>(p.in_size[2])) {
              const P v =
                  *reinterpret_cast<const P*>(in + d * p.in.step[0] + h * p.in.step[1] + x * p.in.step[2]);
#pragma unroll
              for (int c = 0; c < Width; ++c) sums[s][c] = fma(widen(v.at[c]), widen(w.at[c]), sums[s][c]);
            } else if (!p.holes) {
#pragma unroll
              for (int c = 0; c < Width; ++c) sums[s][c] = fma(T(0), widen(w.at[c]), sums[s][c]);
            }
          }
        }
      }
    }
    const auto at = [&](const auto& to, int s) {
      return image * to.n_step + channel * to.c_step +
             (axis[0].out_start + axis[0].out_step * j0) * to.step[0] +
             (axis[1].out_start + axis[1].out_step * j1) * to.step[1] +
             (axis[2].out_start + axis[2].out_step * (j2 + s)) * to.step[2];
    };
#pragma unroll
    for (int s = 0; s < kStrip; ++s) {
      if (j2 + s >= axis[2].count) break;
#pragma unroll
      for (int c = 0; c < Width; ++c) {
        if (p.bias) sums[s][c] += widen(p.bias[(channel + c) * p.bias_stride]);
        if (p.residual.data) sums[s][c] += widen(p.residual.data[at(p.residual, s) + c * p.residual.c_step]);
      }
      p.activation.apply(sums[s]);
      P y;
#pragma unroll
      for (int c = 0; c < Width; ++c) y.at[c] = narrow<S>(sums[s][c]);
      *reinterpret_cast<P*>(p.out.data + at(p.out, s)) = y;
    }
  }
}

template <class S>
struct DepthwiseWeight {
  ConvImage<const S> in, grad;
  int64_t grad_pitch;
  int32_t in_size[3];
  ConvLattice lattice;
  Divisor image, plane, line;
  int64_t positions, each, channels;  // each: positions of a block
  int32_t across;                     // threads side by side along channels, a power of 2
  compute_t<S>* partial;              // [part][tap][channel]
};

constexpr int kTapsOfBlock = 9;  // whose sums a thread keeps in registers

template <class S, int Width>
struct DepthwiseShared {
  SharedArray<Pack<int32_t, 4>, kTapsOfBlock> at;
  SharedArray<int64_t, kTapsOfBlock> offset;
  SharedArray<compute_t<S>, kThreads * Width> sums;
};

template <class S, int Width>
__global__ void __launch_bounds__(kThreads)
    conv_depthwise_weight(const __grid_constant__ DepthwiseWeight<S> p) {
  using T = compute_t<S>;
  using P = Pack<S, Width>;
  auto& shared = shared_memory<DepthwiseShared<S, Width>>();
  const int tid = static_cast<int>(threadIdx.x), x = tid % p.across, y = tid / p.across,
            rows = kThreads / p.across;
  const int64_t first_tap = static_cast<int64_t>(blockIdx.y) * kTapsOfBlock, all_taps = p.lattice.taps();
  const int taps =
      static_cast<int>(all_taps - first_tap < kTapsOfBlock ? all_taps - first_tap : kTapsOfBlock);
  if (tid < taps) {
    auto tap = static_cast<uint32_t>(first_tap + tid);
    Pack<int32_t, 4> at{};
    int64_t offset = 0;
    for (int i = 2; i >= 0; --i) {
      const ConvAxis& a = p.lattice.axis[i];
      at.at[i] = a.first + a.tap_step * static_cast<int32_t>(tap % static_cast<uint32_t>(a.taps));
      tap /= static_cast<uint32_t>(a.taps);
      offset += at.at[i] * p.in.step[i];
    }
    shared_store(shared.at.at(tid), at);
    shared.offset[tid] = offset;
  }
  __syncthreads();
  const int64_t channel = (static_cast<int64_t>(blockIdx.z) * p.across + x) * Width;
  const bool there = channel < p.channels;
  const int64_t begin = blockIdx.x * p.each,
                end = begin + p.each < p.positions ? begin + p.each : p.positions;
  const int64_t image0 = begin / p.image.value;
  const auto first = static_cast<uint32_t>(begin - image0 * p.image.value);
  T sums[kTapsOfBlock][Width] = {};
  for (int64_t k = begin + y; there && k < end; k += rows) {
    uint32_t index = first + static_cast<uint32_t>(k - begin);
    const int64_t image = image0 + p.image.divide(index);
    const uint32_t d = p.plane.divide(index), h = p.line.divide(index);
    const int32_t at[3] = {static_cast<int32_t>(d) * p.lattice.axis[0].in_step,
                           static_cast<int32_t>(h) * p.lattice.axis[1].in_step,
                           static_cast<int32_t>(index) * p.lattice.axis[2].in_step};
    const S* const in = p.in.data + image * p.in.n_step + channel * p.in.c_step + at[0] * p.in.step[0] +
                        at[1] * p.in.step[1] + at[2] * p.in.step[2];
    const P g = *reinterpret_cast<const P*>(p.grad.data + k * p.grad_pitch + channel * p.grad.c_step);
#pragma unroll
    for (int t = 0; t < kTapsOfBlock; ++t) {
      if (t >= taps) break;
      const auto tap = shared_load<Pack<int32_t, 4>>(shared.at.at(t));
      bool inside = true;
#pragma unroll
      for (int i = 0; i < 3; ++i) {
        inside = inside && static_cast<uint32_t>(at[i] + tap.at[i]) < static_cast<uint32_t>(p.in_size[i]);
      }
      P v{};
      if (inside) v = *reinterpret_cast<const P*>(in + static_cast<int64_t>(shared.offset[t]));
#pragma unroll
      for (int c = 0; c < Width; ++c) sums[t][c] = fma(widen(g.at[c]), widen(v.at[c]), sums[t][c]);
    }
  }
  // The rows of threads, added in their order, tap by tap.
  const int columns = p.across * Width;
#pragma unroll
  for (int t = 0; t < kTapsOfBlock; ++t) {
    if (t >= taps) break;
#pragma unroll
    for (int c = 0; c < Width; ++c) shared.sums[y * columns + x * Width + c] = sums[t][c];
    __syncthreads();
    for (int i = tid; i < columns; i += kThreads) {
      const int64_t to = static_cast<int64_t>(blockIdx.z) * columns + i;
      if (to >= p.channels) continue;
      T total = shared.sums[i];
      for (int row = 1; row < rows; ++row) total += static_cast<T>(shared.sums[row * columns + i]);
      p.partial[(blockIdx.x * all_taps + first_tap + t) * p.channels + to] = total;
    }
    __syncthreads();
  }
}

// Calls f(width): 16 bytes of channels where all that is read and written in packs allows it.
template <class S, class F>
void with_width(int64_t channels, bool packs, F&& f) {
  constexpr int kWidth = sizeof(S) < 8 ? static_cast<int>(16 / sizeof(S)) : 1;
  if (packs && channels % kWidth == 0) f(std::integral_constant<int, kWidth>{});
  else f(std::integral_constant<int, 1>{});
}

template <class S>
bool takes_packs(const ConvImage<S>& x) {
  constexpr int64_t kWidth = 16 / static_cast<int64_t>(sizeof(S));
  return x.c_step == 1 && aligned_to(16, x.data) && x.n_step % kWidth == 0 && x.step[0] % kWidth == 0 &&
         x.step[1] % kWidth == 0 && x.step[2] % kWidth == 0;
}

}  // namespace

template <class S>
void depthwise_gather(Context* context, const ConvGeometry& g, const GroupedImage& in, const View& weight,
                      const ConvEnd<S>& end, bool data_gradient) {
  Depthwise<S> p{};
  p.in = in.image<S>();
  p.out = end.out, p.residual = end.residual;
  p.images = g.n, p.channels = g.c;
  p.bias = end.bias, p.bias_stride = end.bias_stride;
  p.activation = ActivationOf<compute_t<S>>(end.activation);
  p.holes = data_gradient;
  const Workspace space(context, static_cast<size_t>(weight.nbytes()));
  View from = weight;  // (C, 1, *K) as (1, C, *K), in memory as [*K][C]
  std::swap(from.shape[0], from.shape[1]), std::swap(from.strides[0], from.strides[1]);
  View packed = from;
  packed.data = space.as<void>();
  check::channels_last(packed);
  copy(context, from, packed);
  const ConvImage<S> w(packed);
  p.weights = w.data;
  for (int i = 0; i < 3; ++i) {
    p.weight_step[i] = w.step[i];
    p.in_size[i] = static_cast<int32_t>(data_gradient ? g.out[i] : g.in[i]);
  }
  const auto run = [&](const ConvLattice& l) {
    p.lattice = l;
    with_width<S>(g.c, takes_packs(p.in) && takes_packs(p.out), [&](auto width) {
      constexpr int kWidth = decltype(width)::value;
      const ConvAxis(&axis)[3] = l.axis;
      const int64_t tasks =
          g.n * axis[0].count * axis[1].count * ((axis[2].count + kStrip - 1) / kStrip) * (g.c / kWidth);
      launch(context, FASTDL_KERNEL(conv_depthwise<S, kWidth>), {blocks_for(tasks, kThreads), kThreads}, p,
             tasks);
    });
  };
  if (!data_gradient) return run(forward_lattice(g));
  for (const ConvLattice& l : data_lattices(g)) run(l);
}

template <class S>
void depthwise_weight(Context* context, const ConvGeometry& g, const GroupedImage& in,
                      const GroupedImage& grad, const View& grad_weight) {
  using T = compute_t<S>;
  DepthwiseWeight<S> p{};
  p.in = in.image<S>(), p.grad = grad.image<S>(), p.grad_pitch = grad.pitch();
  p.lattice = forward_lattice(g);
  for (int i = 0; i < 3; ++i) p.in_size[i] = static_cast<int32_t>(g.in[i]);
  p.image = Divisor(g.out[0] * g.out[1] * g.out[2]);
  p.plane = Divisor(g.out[1] * g.out[2]), p.line = Divisor(g.out[2]);
  p.positions = g.n * p.image.value, p.channels = g.c;
  const int64_t taps = g.taps(), tap_blocks = (taps + kTapsOfBlock - 1) / kTapsOfBlock;
  with_width<S>(g.c, takes_packs(p.in) && takes_packs(p.grad), [&](auto width) {
    constexpr int kWidth = decltype(width)::value;
    const int64_t packs = g.c / kWidth;
    p.across = 1;
    while (p.across < 32 && p.across < packs) p.across *= 2;
    const int64_t blocks = (packs + p.across - 1) / p.across;
    // Some four blocks per multiprocessor, of at least 16 positions for every thread.
    const int64_t least = 16 * kThreads / p.across,
                  wanted = 4 * multiprocessors() / (blocks * tap_blocks) + 1;
    const int64_t longest = int64_t{1} << 29;  // see check_extents
    p.each = std::clamp((p.positions + wanted - 1) / wanted, least, longest);
    const int64_t parts = std::max<int64_t>((p.positions + p.each - 1) / p.each, 1), size = taps * g.c;
    const Workspace partial(context, static_cast<size_t>(parts * size) * sizeof(T));
    p.partial = partial.as<T>();
    launch(
        context, FASTDL_KERNEL(conv_depthwise_weight<S, kWidth>),
        {dim3(static_cast<unsigned>(parts), static_cast<unsigned>(tap_blocks), static_cast<unsigned>(blocks)),
         kThreads, sizeof(DepthwiseShared<S, kWidth>)},
        p);
    finish_weight<S>(context, g, {1, 1}, {p.partial, parts, size, 1, 0, g.c, 0}, grad_weight);
  });
}

#define FASTDL_DEPTHWISE(S)                                                                                  \
  template void depthwise_gather<S>(Context*, const ConvGeometry&, const GroupedImage&, const View&,         \
                                    const ConvEnd<S>&, bool);                                                \
  template void depthwise_weight<S>(Context*, const ConvGeometry&, const GroupedImage&, const GroupedImage&, \
                                    const View&);
FASTDL_DEPTHWISE(float)
FASTDL_DEPTHWISE(double)
FASTDL_DEPTHWISE(bfloat16)
FASTDL_DEPTHWISE(float16)
#undef FASTDL_DEPTHWISE

}  // namespace fastdl::cuda
