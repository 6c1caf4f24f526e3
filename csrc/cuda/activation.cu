// Elementwise activations, elementary functions and gated linear units: memory-bound, one read (backward two)
// and one write of each element.
#include "common/activation.h"

#include "cuda/activation.h"
#include "cuda/activation_inline.cuh"
#include "cuda/map.cuh"
#include "cuda/tensor.h"
#include "fastdl/cuda.h"

namespace fastdl::cuda {
namespace {

template <class T>
struct Forward {
  static constexpr bool kUsesIndex = false;
  ActivationOf<T> f;
  template <class Use>
  __device__ __forceinline__ void dispatch(Use&& use) const {
    with_activation(f.kind, [&](auto k) {
      use([&](int64_t, T x) { return activation_value<decltype(k)::value>(x, f.alpha, f.beta); });
    });
  }
};

template <class T, bool FromOutput>
struct Backward {
  static constexpr bool kUsesIndex = false;
  ActivationOf<T> f;
  template <class Use>
  __device__ __forceinline__ void dispatch(Use&& use) const {
    with_activation(f.kind, [&](auto k) {
      use([&](int64_t, T g, T s) {
        return activation_gradient<decltype(k)::value, FromOutput>(g, s, f.alpha, f.beta);
      });
    });
  }
};

template <class T>
struct ElementaryFunction {
  static constexpr bool kUsesIndex = false;
  int32_t kind;
  template <class Use>
  __device__ __forceinline__ void dispatch(Use&& use) const {
    switch (kind) {
      case FASTDL_EXP:
        return use([](int64_t, T x) { return exp(x); });
      case FASTDL_EXPM1:
        return use([](int64_t, T x) { return expm1(x); });
      case FASTDL_LOG:
        return use([](int64_t, T x) { return log(x); });
      case FASTDL_LOG1P:
        return use([](int64_t, T x) { return log1p(x); });
      case FASTDL_ERF:
        return use([](int64_t, T x) { return erf(x); });
      default:
        return use([](int64_t, T x) { return erfc(x); });
    }
  }
};

// GLU on contiguous memory, `outer` blocks of [a: n][b: n]. Width divides n: packs do not straddle a border.
template <int Width, class S>
__global__ void __launch_bounds__(kMapThreads) glu(int64_t size, int64_t n, const S* x, S* y) {
  using P = Pack<S, Width>;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kMapThreads * Width;
  for (int64_t i = (static_cast<int64_t>(blockIdx.x) * kMapThreads + threadIdx.x) * Width; i < size;
       i += step) {
    const S* const from = x + i / n * n + i;
    const P a = *reinterpret_cast<const P*>(from), b = *reinterpret_cast<const P*>(from + n);
    P out;
#pragma unroll
    for (int j = 0; j < Width; ++j) out.at[j] = narrow<S>(widen(a.at[j]) * sigmoid(widen(b.at[j])));
    *reinterpret_cast<P*>(y + i) = out;
  }
}

template <int Width, class S>
__global__ void __launch_bounds__(kMapThreads)
    glu_backward(int64_t size, int64_t n, const S* dy, const S* x, S* dx) {
  using T = compute_t<S>;
  using P = Pack<S, Width>;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kMapThreads * Width;
  for (int64_t i = (static_cast<int64_t>(blockIdx.x) * kMapThreads + threadIdx.x) * Width; i < size;
       i += step) {
    const int64_t at = i / n * n + i;
    const P g = *reinterpret_cast<const P*>(dy + i);
    const P a = *reinterpret_cast<const P*>(x + at), b = *reinterpret_cast<const P*>(x + at + n);
    P da, db;
#pragma unroll
    for (int j = 0; j < Width; ++j) {
      T opposite;
      const T gs = widen(g.at[j]) * sigmoid_pair(widen(b.at[j]), opposite);
      da.at[j] = narrow<S>(gs);
      db.at[j] = narrow<S>(gs * widen(a.at[j]) * opposite);
    }
    *reinterpret_cast<P*>(dx + at) = da;
    *reinterpret_cast<P*>(dx + at + n) = db;
  }
}

void activation_backward(Context* context, const fastdl_activation& given, bool from_output, const View& grad,
                         const View& saved, const View& grad_x) {
  dispatch_storage(grad.dtype, [&](auto zero) {
    using S = decltype(zero);
    using T = compute_t<S>;
    const ActivationOf<T> f(given);
    if (from_output) map<S, S, S>(context, Backward<T, true>{f}, grad_x, grad, saved);
    else map<S, S, S>(context, Backward<T, false>{f}, grad_x, grad, saved);
  });
}

}  // namespace

void activation_backward(Context* context, const fastdl_activation& f, const View& grad, const View& saved,
                         const View& grad_x) {
  activation_backward(context, f, check::derivative_from_output(&f), grad, saved, grad_x);
}

}  // namespace fastdl::cuda

using namespace fastdl;
using namespace fastdl::cuda;

extern "C" {

fastdl_status fastdl_cuda_activation_forward(fastdl_context* context, const fastdl_tensor* x,
                                             const fastdl_tensor* out, const fastdl_activation* activation) {
  return guarded([&] {
    const check::Activation a = check::activation_forward(x, out, activation);
    dispatch_storage(a.x.dtype, [&](auto zero) {
      using S = decltype(zero);
      using T = compute_t<S>;
      map<S, S>(context, Forward<T>{ActivationOf<T>(a.f)}, a.out, a.x);
    });
  });
}

fastdl_status fastdl_cuda_activation_backward(fastdl_context* context, const fastdl_tensor* grad_out,
                                              const fastdl_tensor* saved, const fastdl_tensor* grad_x,
                                              const fastdl_activation* activation, int32_t from_output) {
  return guarded([&] {
    const check::ActivationBackward a =
        check::activation_backward(grad_out, saved, grad_x, activation, from_output);
    activation_backward(context, a.f, a.from_output, a.grad_out, a.saved, a.grad_x);
  });
}

int32_t fastdl_cuda_activation_from_output(const fastdl_activation* f) {
  return check::derivative_from_output(f);
}

fastdl_status fastdl_cuda_elementary(fastdl_context* context, const fastdl_tensor* x,
                                     const fastdl_tensor* out, int32_t kind) {
  return guarded([&] {
    const check::Elementary e = check::elementary(x, out, kind);
    dispatch_storage(e.x.dtype, [&](auto zero) {
      using S = decltype(zero);
      map<S, S>(context, ElementaryFunction<compute_t<S>>{kind}, e.out, e.x);
    });
  });
}

fastdl_status fastdl_cuda_glu_forward(fastdl_context* context, const fastdl_tensor* x,
                                      const fastdl_tensor* out, int32_t dim) {
  return guarded([&] {
    const check::Glu g = check::glu_forward(x, out, dim);
    const int64_t size = g.out.size(), n = g.shape.n;
    if (size == 0) return;
    dispatch_storage(g.x.dtype, [&](auto zero) {
      using S = decltype(zero);
      const Contiguous xc(context, g.x);
      ContiguousOut yc(context, g.out);
      const auto run = [&](auto width) {
        constexpr int kWidth = decltype(width)::value;
        launch(context, FASTDL_KERNEL(glu<kWidth, S>), {blocks_for(size, kMapThreads * kWidth), kMapThreads},
               size, n, xc->as<const S>(), yc->as<S>());
      };
      with_pack_width<S>(n, run, xc->data, yc->data);
      yc.write_back();
    });
  });
}

fastdl_status fastdl_cuda_glu_backward(fastdl_context* context, const fastdl_tensor* grad_out,
                                       const fastdl_tensor* x, const fastdl_tensor* grad_x, int32_t dim) {
  return guarded([&] {
    const check::GluBackward g = check::glu_backward(grad_out, x, grad_x, dim);
    const int64_t size = g.grad_out.size(), n = g.shape.n;
    if (size == 0) return;
    dispatch_storage(g.x.dtype, [&](auto zero) {
      using S = decltype(zero);
      const Contiguous gc(context, g.grad_out), xc(context, g.x);
      ContiguousOut dxc(context, g.grad_x);
      const auto run = [&](auto width) {
        constexpr int kWidth = decltype(width)::value;
        launch(context, FASTDL_KERNEL(glu_backward<kWidth, S>),
               {blocks_for(size, kMapThreads * kWidth), kMapThreads}, size, n, gc->as<const S>(),
               xc->as<const S>(), dxc->as<S>());
      };
      with_pack_width<S>(n, run, gc->data, xc->data, dxc->data);
      dxc.write_back();
    });
  });
}
}
