// Elementwise work: out[i] = f(i, a[i], b[i]...) for operands of one shape and any strides, i counting
// elements in C order. f is a struct with a __device__ operator(); values reach it widened and its result is
// rounded once.
//
//   map<float>(context, FASTDL_MAP_NAME, Scale{2}, out, x);
#pragma once

#include <algorithm>
#include <cstdlib>
#include <type_traits>
#include <utility>

#include "common/view.h"
#include "cuda/device.cuh"
#include "cuda/launch.h"

namespace fastdl::cuda {

// The shape that all operands have in common, innermost dim first, after dims that lie one behind the other
// in every operand are merged.
template <int Operands>
struct MapShape {
  int ndim = 0;
  int64_t size = 0;
  int64_t shape[FASTDL_MAX_NDIM];
  int64_t strides[Operands][FASTDL_MAX_NDIM];

  bool flat() const {  // element i lies at offset i in every operand
    if (ndim == 0) return true;
    for (int j = 0; j < Operands; ++j) {
      if (ndim > 1 || strides[j][0] != 1) return false;
    }
    return true;
  }
};

// in_order: elements are to be counted in C order; else in that of the memory of views[0], the output.
template <int Operands>
MapShape<Operands> map_shape(const View* const (&views)[Operands], bool in_order) {
  MapShape<Operands> m;
  const View& out = *views[0];
  m.size = out.size();
  int order[FASTDL_MAX_NDIM], dims = 0;
  for (int dim = out.ndim - 1; dim >= 0; --dim) {
    if (out.shape[dim] == 1) continue;
    int at = dims++;
    while (!in_order && at > 0 && std::abs(out.strides[dim]) < std::abs(out.strides[order[at - 1]])) {
      order[at] = order[at - 1];
      --at;
    }
    order[at] = dim;
  }
  for (int i = 0; i < dims; ++i) {
    const int dim = order[i];
    bool merge = m.ndim > 0;
    for (int j = 0; j < Operands && merge; ++j) {
      merge = views[j]->strides[dim] == m.strides[j][m.ndim - 1] * m.shape[m.ndim - 1];
    }
    if (merge) {
      m.shape[m.ndim - 1] *= out.shape[dim];
      continue;
    }
    m.shape[m.ndim] = out.shape[dim];
    for (int j = 0; j < Operands; ++j) m.strides[j][m.ndim] = views[j]->strides[dim];
    ++m.ndim;
  }
  return m;
}

constexpr int kMapThreads = 256;

// use(g) with the function to apply: f itself, or, where f has a member dispatch(use), one of several that it
// chooses between. A thread chooses once for all the elements of a pack.
template <class F, class = void>
struct Dispatches : std::false_type {};
template <class F>
struct Dispatches<F, std::void_t<decltype(&F::template dispatch<int&>)>> : std::true_type {};

template <class F, class Use>
__device__ __forceinline__ void with_function(const F& f, Use&& use) {
  if constexpr (Dispatches<F>::value) f.dispatch(use);
  else use(f);
}

// Operands without gaps. A thread takes Width neighbours at a time: 16 bytes of the widest operand.
template <int Width, class F, class Out, class... In>
__global__ void __launch_bounds__(kMapThreads, sizeof(Out) == 8 ? 2 : 0)
    map_flat(int64_t size, F f, Out* out, const In*... in) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kMapThreads * Width;
  int64_t i = (static_cast<int64_t>(blockIdx.x) * kMapThreads + threadIdx.x) * Width;
  for (; i + Width <= size; i += step) {
    Pack<Out, Width> y;
    const auto combine = [&](const auto... packs) {  // by value: loads of whole packs
      with_function(f, [&](const auto& g) {
#pragma unroll
        for (int j = 0; j < Width; ++j) y.at[j] = narrow<Out>(g(i + j, widen(packs.at[j])...));
      });
    };
    combine(*reinterpret_cast<const Pack<In, Width>*>(in + i)...);
    *reinterpret_cast<Pack<Out, Width>*>(out + i) = y;
  }
  for (int64_t j = i; j < size && j < i + Width; ++j) {
    with_function(f, [&](const auto& g) { out[j] = narrow<Out>(g(j, widen(in[j])...)); });
  }
}

template <class Out, class F, int Operands, size_t... J, class... In>
__device__ __forceinline__ Out map_one(const F& f, int64_t i, const int64_t (&at)[Operands],
                                       std::index_sequence<J...>, const In*... in) {
  Out y;
  with_function(f, [&](const auto& g) { y = narrow<Out>(g(i, widen(in[at[1 + J]])...)); });
  return y;
}

template <class F, class Out, class... In>
__global__ void __launch_bounds__(kMapThreads)
    map_strided(MapShape<1 + static_cast<int>(sizeof...(In))> shape, F f, Out* out, const In*... in) {
  constexpr int kOperands = 1 + static_cast<int>(sizeof...(In));
  const int64_t step = static_cast<int64_t>(gridDim.x) * kMapThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kMapThreads + threadIdx.x; i < shape.size; i += step) {
    int64_t at[kOperands] = {}, rest = i;
    for (int dim = 0; dim < shape.ndim; ++dim) {
      const int64_t index = rest % shape.shape[dim];
      rest /= shape.shape[dim];
#pragma unroll
      for (int j = 0; j < kOperands; ++j) at[j] += index * shape.strides[j][dim];
    }
    out[at[0]] = map_one<Out>(f, i, at, std::index_sequence_for<In...>(), in...);
  }
}

template <class... Pointers>
bool aligned_to(size_t bytes, Pointers... pointers) {
  return ((reinterpret_cast<uintptr_t>(pointers) % bytes == 0) && ...);
}

// Calls f(width) with 16 bytes' worth of elements where rows of n allow it, else with 1.
template <class S, class F, class... Pointers>
void with_pack_width(int64_t n, F&& f, Pointers... pointers) {
  constexpr int kWidth = static_cast<int>(16 / sizeof(S));
  if (n % kWidth == 0 && aligned_to(16, pointers...)) f(std::integral_constant<int, kWidth>{});
  else f(std::integral_constant<int, 1>{});
}

// Operands of any strides, one element at a time.
template <class Out, class... In, class F, class... Views>
void map_any(Context* context, const MapShape<1 + static_cast<int>(sizeof...(In))>& shape, const F& f,
             const View& out, const Views&... in) {
  launch(context, FASTDL_KERNEL(map_strided<F, Out, In...>),
         {blocks_for(shape.size, kMapThreads), kMapThreads}, shape, f, out.template as<Out>(),
         in.template as<const In>()...);
}

// Views of one shape with elements of Out and In... . F::kUsesIndex says whether f looks at i.
template <class Out, class... In, class F, class... Views>
void map(Context* context, const F& f, const View& out, const Views&... in) {
  static_assert(sizeof...(In) == sizeof...(Views), "one element type per input");
  constexpr int kOperands = 1 + static_cast<int>(sizeof...(In));
  if (out.size() == 0) return;
  const View* const views[kOperands] = {&out, &in...};
  const MapShape<kOperands> shape = map_shape(views, F::kUsesIndex);
  constexpr size_t kWidest = std::max({sizeof(Out), sizeof(In)...});
  constexpr int kWidth = static_cast<int>(16 / kWidest);
  if (shape.flat() && aligned_to(16, out.data, in.data...)) {
    launch(context, FASTDL_KERNEL(map_flat<kWidth, F, Out, In...>),
           {blocks_for(shape.size, kMapThreads * kWidth), kMapThreads}, shape.size, f, out.template as<Out>(),
           in.template as<const In>()...);
  } else {
    map_any<Out, In...>(context, shape, f, out, in...);
  }
}

}  // namespace fastdl::cuda
