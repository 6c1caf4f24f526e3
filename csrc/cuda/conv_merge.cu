#include "cuda/conv_merge.h"

#include <algorithm>

#include "cuda/device.cuh"
#include "cuda/divisor.cuh"
#include "cuda/launch.h"
#include "cuda/sm90_wanted.h"
#include "cuda/split.cuh"
#include "cuda/tensor_map.h"

namespace fastdl::cuda {
namespace {

constexpr int kThreads = 128;

// The image to make: rows of `pixels` stored pixels of `stored` elements, lines of them and planes of those.
// Stored pixel j of an axis has what lies at step * j + dilation * tap - padding there, of all merged taps.
template <class S>
struct MergeShape {
  ConvImage<const S> from;
  S* to;
  int64_t rows, pitch;
  int32_t lines, planes, pixels, chunks;  // chunks: of 16 bytes, in a row
  int32_t in_size[3], step[3], dilation[3], padding[3];
  Divisor stored, places;
  MergedTaps taps;
};

template <class S>
__global__ void __launch_bounds__(kThreads) conv_merge_taps(const __grid_constant__ MergeShape<S> m) {
  constexpr int kPerChunk = 16 / static_cast<int>(sizeof(S));
  for (int64_t row = blockIdx.x; row < m.rows; row += gridDim.x) {
    const int64_t image = row / m.lines / m.planes;
    const int32_t line = static_cast<int32_t>(row % m.lines),
                  plane = static_cast<int32_t>(row / m.lines % m.planes);
    for (int chunk = static_cast<int>(threadIdx.x); chunk < m.chunks; chunk += kThreads) {
      auto rest = static_cast<uint32_t>(chunk) * kPerChunk;
      auto pixel = static_cast<int32_t>(m.stored.divide(rest));
      uint32_t lane = rest, channel = rest, tap = m.places.divide(channel);
      Pack<S, kPerChunk> values;
#pragma unroll
      for (int i = 0; i < kPerChunk; ++i) {
        const auto taps2 = static_cast<uint32_t>(m.taps.kernel[2]),
                   taps1 = static_cast<uint32_t>(m.taps.kernel[1]);
        const uint32_t t[3] = {tap / taps2 / taps1, tap / taps2 % taps1, tap % taps2};
        const int32_t index[3] = {plane, line, pixel};
        bool inside = pixel < m.pixels && channel < static_cast<uint32_t>(m.taps.channels) &&
                      t[0] < static_cast<uint32_t>(m.taps.kernel[0]);
        int64_t from = image * m.from.n_step + channel * m.from.c_step;
#pragma unroll
        for (int a = 0; a < 3; ++a) {
          const int32_t at = m.step[a] * index[a] + m.dilation[a] * static_cast<int32_t>(t[a]) - m.padding[a];
          inside = inside && static_cast<uint32_t>(at) < static_cast<uint32_t>(m.in_size[a]);
          from += at * m.from.step[a];
        }
        values.at[i] = inside ? m.from.data[from] : narrow<S>(0);
        if (++lane == m.stored.value) {
          lane = channel = tap = 0, ++pixel;
        } else if (++channel == m.places.value) {
          channel = 0, ++tap;
        }
      }
      *reinterpret_cast<Pack<S, kPerChunk>*>(m.to + row * m.pitch + static_cast<int64_t>(chunk) * kPerChunk) =
          values;
    }
  }
}

int32_t narrowed(int64_t x) { return static_cast<int32_t>(x); }

// Pixels along an axis whose taps are left, from the first one met to the last.
int64_t met(const ConvGeometry& g, int i) {
  return (g.out[i] - 1) * g.stride[i] + (g.kernel[i] - 1) * g.dilation[i] + 1;
}

int64_t pitch_of(const ConvGeometry& g, const ConvMerge& m) {
  return m.overlaps ? rounded_up(met(g, 2) * m.places, 8) : g.out[2] * m.lanes;
}
double elements_of(const ConvGeometry& g, const ConvMerge& m) {
  double count = static_cast<double>(g.n) * static_cast<double>(pitch_of(g, m));
  for (int i = 0; i < 2; ++i) count *= static_cast<double>(i < 3 - m.axes ? met(g, i) : g.out[i]);
  return count;
}
// Of the copy with channels rounded up to 16 bytes, where the portable kernel needs one.
double padded_elements_of(const ConvGeometry& g, int64_t chunk) {
  if (g.c % chunk == 0) return 0;
  double count = static_cast<double>(g.n) * rounded(g.c, chunk);
  for (const int64_t size : g.in) count *= static_cast<double>(size);
  return count;
}

// How it is to be done, if it can and should. as_it_is(planes): whether Hopper's kernel has the convolution
// without; pays(m, planes, merged elements, padded ones). planes: of float32, 0 for 16-bit types.
template <class AsItIs, class Pays>
std::optional<ConvMerge> wanted(Context* context, const ConvGeometry& g, const View& x, AsItIs&& as_it_is,
                                Pays&& pays) {
  constexpr double kMost = 1 << 30;  // elements of a row, pixels of an image: 32 bits are to do
  const sm90::Wanted kernel = sm90::wanted("FASTDL_CUDA_CONV");
  if (x.dtype == DType::kFloat64 || g.groups != 1 || x.size() == 0 || kernel == sm90::Wanted::portable ||
      !sm90::is_hopper()) {
    return std::nullopt;
  }
  int planes = 0;
  if (x.dtype == DType::kFloat32) {
    with_planes<float>(context, [&](auto count) { planes = decltype(count)::value; });
  }
  const bool steps_fit = *std::max_element(g.stride, g.stride + 3) <= 8;  // a tensor map
  const bool always = kernel == sm90::Wanted::always;
  if (planes == 1 || (steps_fit && (always ? g.c >= 32 : as_it_is(planes)))) return std::nullopt;
  for (const bool may_overlap : {true, false}) {
    const ConvMerge m = conv_merge(g.c, g.kernel, g.stride, g.dilation, may_overlap && planes == 0);
    const double row = static_cast<double>(pitch_of(g, m)), merged = elements_of(g, m);
    const bool fits = row < kMost && merged / static_cast<double>(g.n * m.places) < kMost;
    const double padded = padded_elements_of(g, planes ? 4 : 8);
    if (!fits || !(always || pays(m, planes, merged, padded))) return std::nullopt;
    if (!m.overlaps || im2col_facts().overlaps) return m;
  }
  return std::nullopt;
}

template <class S>
void fill(Context* context, const ConvGeometry& g, const View& x, const ConvMerge& m, const MergedTaps& taps,
          const View& image, int64_t pitch) {
  MergeShape<S> s{};
  s.from = ConvImage<const S>(x), s.to = image.as<S>();
  s.planes = narrowed(image.shape[2]), s.lines = narrowed(image.shape[3]);
  s.rows = g.n * image.shape[2] * image.shape[3], s.pitch = pitch;
  s.chunks = narrowed(pitch * static_cast<int64_t>(sizeof(S)) / 16);
  s.pixels = narrowed(m.overlaps ? met(g, 2) : g.out[2]);
  s.stored = Divisor(m.overlaps ? m.places : m.lanes), s.places = Divisor(m.places);
  s.taps = taps;
  for (int i = 0; i < 3; ++i) {
    const bool whole = i < 3 - m.axes || (i == 2 && m.overlaps);  // pixels as they are
    if (whole) s.taps.kernel[i] = 1;
    s.in_size[i] = narrowed(g.in[i]), s.padding[i] = narrowed(g.padding[i]);
    s.step[i] = whole ? 1 : narrowed(g.stride[i]), s.dilation[i] = whole ? 0 : narrowed(g.dilation[i]);
  }
  launch(context, FASTDL_KERNEL(conv_merge_taps<S>), {blocks_for(s.rows, 1), kThreads}, s);
}

}  // namespace

std::optional<ConvMerge> merge_gather(Context* context, const ConvGeometry& g, const View& x) {
  const int64_t rows = g.n * g.out[0] * g.out[1] * g.out[2];
  return wanted(
      context, g, x,
      [&](int planes) {
        return conv_sm90_plan(rows, g.o, g.c, g.taps(), multiprocessors(), planes, false).fits;
      },
      [&](const ConvMerge& m, int planes, double merged, double padded) {
        return conv_merge_pays(m, rows, g.o, g.c, g.taps(), planes, merged, padded);
      });
}

std::optional<ConvMerge> merge_weight(Context* context, const ConvGeometry& g, const View& x) {
  const int64_t positions = g.n * g.out[0] * g.out[1] * g.out[2];
  return wanted(
      context, g, x,
      [&](int planes) {
        return conv_sm90_weight_plan(g.o, g.c, g.taps(), positions, multiprocessors(), planes, false).fits;
      },
      [&](const ConvMerge& m, int planes, double merged, double padded) {
        return conv_merge_weight_pays(m, g.o, positions, g.c, g.taps(), planes, merged, padded);
      });
}

MergedConv::MergedConv(Context* context, const ConvGeometry& g, const View& x, const ConvMerge& m)
    : geometry_(g), image_(x) {
  taps_ = {narrowed(g.c), narrowed(m.places)};
  for (int i = 0; i < 3; ++i) {
    if (i < 3 - m.axes) {
      geometry_.in[i] = met(g, i);
    } else {
      taps_.kernel[i] = narrowed(g.kernel[i]);
      geometry_.in[i] = g.out[i];
      geometry_.kernel[i] = geometry_.stride[i] = geometry_.dilation[i] = 1;
    }
    geometry_.padding[i] = 0;
  }
  geometry_.c = m.lanes;
  const int64_t pitch = pitch_of(g, m);
  image_.ndim = 5;
  image_.shape[1] = m.lanes, image_.strides[1] = 1;
  for (int i = 0; i < 3; ++i) image_.shape[2 + i] = geometry_.in[i];
  image_.strides[4] = m.overlaps ? g.stride[2] * m.places : m.lanes;
  image_.strides[3] = pitch, image_.strides[2] = image_.shape[3] * pitch;
  image_.strides[0] = image_.shape[2] * image_.strides[2];
  space_.emplace(context, static_cast<size_t>(g.n * image_.strides[0] * item_size(x.dtype)));
  image_.data = space_->as<void>();
  if (x.dtype == DType::kFloat32) fill<float>(context, g, x, m, taps_, image_, pitch);
  else if (x.dtype == DType::kBFloat16) fill<bfloat16>(context, g, x, m, taps_, image_, pitch);
  else fill<float16>(context, g, x, m, taps_, image_, pitch);
}

}  // namespace fastdl::cuda
