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

// How it would be done, where it can; planes: of float32, 0 for 16-bit types.
std::optional<ConvMerge> possible(Context* context, const ConvGeometry& g, const View& x, int& planes) {
  constexpr int64_t kMostPixels = int64_t{1} << 30;
  planes = 0;
  if (x.dtype == DType::kFloat32) {
    with_planes<float>(context, [&](auto count) { planes = decltype(count)::value; });
  }
  if (x.dtype == DType::kFloat64 || planes == 1 || g.groups != 1 || x.size() == 0 ||
      sm90::wanted("FASTDL_CUDA_CONV") == sm90::Wanted::portable || !sm90::is_hopper()) {
    return std::nullopt;
  }
  const ConvMerge m = conv_merge(g.c, g.kernel, g.stride, g.dilation, planes == 0 && im2col_facts().overlaps);
  double pixels = 1;
  for (int i = 0; i < 3; ++i) pixels *= static_cast<double>(std::max(g.out[i], met(g, i)));
  const double row = static_cast<double>(m.lanes) * static_cast<double>(std::max(g.out[2], met(g, 2)));
  return pixels < kMostPixels && row < kMostPixels ? std::optional<ConvMerge>(m) : std::nullopt;
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
  int planes;
  const auto m = possible(context, g, x, planes);
  if (!m) return m;
  const int64_t rows = g.n * g.out[0] * g.out[1] * g.out[2];
  const ConvSm90Plan as_it_is = conv_sm90_plan(rows, g.o, g.c, g.taps(), multiprocessors(), planes, false);
  const bool always = sm90::wanted("FASTDL_CUDA_CONV") == sm90::Wanted::always;
  const bool wanted =
      always ? g.c < 32 : !as_it_is.fits && conv_merge_pays(*m, rows, g.o, g.c, g.taps(), planes);
  return wanted ? m : std::nullopt;
}

std::optional<ConvMerge> merge_weight(Context* context, const ConvGeometry& g, const View& x) {
  int planes;
  const auto m = possible(context, g, x, planes);
  if (!m) return m;
  const int64_t positions = g.n * g.out[0] * g.out[1] * g.out[2];
  const ConvSm90Plan as_it_is =
      conv_sm90_weight_plan(g.o, g.c, g.taps(), positions, multiprocessors(), planes, false);
  const bool always = sm90::wanted("FASTDL_CUDA_CONV") == sm90::Wanted::always;
  const bool wanted =
      always ? g.c < 32 : !as_it_is.fits && conv_merge_weight_pays(*m, g.o, positions, g.c, g.taps(), planes);
  return wanted ? m : std::nullopt;
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
  const int64_t pitch = m.overlaps ? rounded_up(met(g, 2) * m.places, 8) : g.out[2] * m.lanes;
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
