// Softmax along one dim of a dense tensor, seen in memory as [outer, n, inner]. Adjacent rows (inner = 1) are
// read by whole blocks, adjacent columns by one thread each, neighbouring threads reading neighbouring
// columns. Rows that fit into a block's registers are read once, longer ones three times: maximum, sum,
// result.
#include "common/softmax.h"

#include "cuda/device.cuh"
#include "cuda/launch.h"
#include "cuda/shared.cuh"
#include "cuda/tensor.h"
#include "fastdl/cuda.h"

namespace fastdl::cuda {
namespace {

constexpr int kRowThreads = 256;
constexpr int kColumnThreads = 128;

struct Extents {
  int64_t outer, n, inner;
};
Extents extents(const View& v, int dim) {
  if (v.ndim == 0) return {1, 1, 1};
  const int64_t n = v.shape[dim], inner = n == 1 ? v.size() : v.strides[dim];
  return {v.size() / (n * inner), n, inner};
}

template <class T>
struct RowShared {
  SharedArray<T, kRowThreads / kWarp> sums;
};

// exp(x - largest), with the kind's sign applied to x beforehand.
template <class T>
__device__ __forceinline__ T signed_input(int kind, T x) {
  return kind == FASTDL_SOFTMIN ? -x : x;
}
template <class T>
__device__ __forceinline__ T result(int kind, T x, T largest, T sum) {
  return kind == FASTDL_LOG_SOFTMAX ? x - largest - log(sum) : exp(x - largest) / sum;
}

template <class S>
__global__ void __launch_bounds__(kRowThreads)
    softmax_rows(int kind, int64_t rows, int64_t n, const S* x, S* y) {
  using T = compute_t<S>;
  auto& shared = shared_memory<RowShared<T>>();
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const S* const from = x + row * n;
    S* const to = y + row * n;
    T largest = -static_cast<T>(INFINITY), sum = 0;
    for (int64_t i = threadIdx.x; i < n; i += kRowThreads)
      largest = Max{}(largest, signed_input(kind, widen(from[i])));
    largest = block_reduce<kRowThreads>(largest, Max{}, shared.sums);
    for (int64_t i = threadIdx.x; i < n; i += kRowThreads)
      sum += exp(signed_input(kind, widen(from[i])) - largest);
    sum = block_reduce<kRowThreads>(sum, Sum{}, shared.sums);
    for (int64_t i = threadIdx.x; i < n; i += kRowThreads) {
      to[i] = narrow<S>(result(kind, signed_input(kind, widen(from[i])), largest, sum));
    }
  }
}

template <class S>
__global__ void __launch_bounds__(kColumnThreads)
    softmax_columns(int kind, int64_t columns, int64_t n, int64_t inner, const S* x, S* y) {
  using T = compute_t<S>;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kColumnThreads;
  for (int64_t c = static_cast<int64_t>(blockIdx.x) * kColumnThreads + threadIdx.x; c < columns; c += step) {
    const int64_t at = c / inner * n * inner + c % inner;
    T largest = -static_cast<T>(INFINITY), sum = 0;
    for (int64_t i = 0; i < n; ++i) largest = Max{}(largest, signed_input(kind, widen(x[at + i * inner])));
    for (int64_t i = 0; i < n; ++i) sum += exp(signed_input(kind, widen(x[at + i * inner])) - largest);
    for (int64_t i = 0; i < n; ++i) {
      y[at + i * inner] = narrow<S>(result(kind, signed_input(kind, widen(x[at + i * inner])), largest, sum));
    }
  }
}

// dx = y (dy - sum(dy y)), for the log dy - exp(y) sum(dy), for softmin the first with the other sign.
template <class T>
__device__ __forceinline__ T term(int kind, T dy, T y) {
  return kind == FASTDL_LOG_SOFTMAX ? dy : dy * y;
}
template <class T>
__device__ __forceinline__ T gradient(int kind, T dy, T y, T sum) {
  if (kind == FASTDL_LOG_SOFTMAX) return dy - exp(y) * sum;
  return kind == FASTDL_SOFTMIN ? y * (sum - dy) : y * (dy - sum);
}

template <class S>
__global__ void __launch_bounds__(kRowThreads)
    softmax_backward_rows(int kind, int64_t rows, int64_t n, const S* dy, const S* y, S* dx) {
  using T = compute_t<S>;
  auto& shared = shared_memory<RowShared<T>>();
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const int64_t at = row * n;
    T sum = 0;
    for (int64_t i = threadIdx.x; i < n; i += kRowThreads)
      sum += term(kind, widen(dy[at + i]), widen(y[at + i]));
    sum = block_reduce<kRowThreads>(sum, Sum{}, shared.sums);
    for (int64_t i = threadIdx.x; i < n; i += kRowThreads) {
      dx[at + i] = narrow<S>(gradient(kind, widen(dy[at + i]), widen(y[at + i]), sum));
    }
  }
}

template <class S>
__global__ void __launch_bounds__(kColumnThreads)
    softmax_backward_columns(int kind, int64_t columns, int64_t n, int64_t inner, const S* dy, const S* y,
                             S* dx) {
  using T = compute_t<S>;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kColumnThreads;
  for (int64_t c = static_cast<int64_t>(blockIdx.x) * kColumnThreads + threadIdx.x; c < columns; c += step) {
    const int64_t at = c / inner * n * inner + c % inner;
    T sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += term(kind, widen(dy[at + i * inner]), widen(y[at + i * inner]));
    for (int64_t i = 0; i < n; ++i) {
      const int64_t j = at + i * inner;
      dx[j] = narrow<S>(gradient(kind, widen(dy[j]), widen(y[j]), sum));
    }
  }
}

template <class S>
void forward(Context* context, int32_t kind, const View& x, const View& out, int dim) {
  const Extents e = extents(x, dim);
  if (e.inner == 1) {
    launch(context, FASTDL_KERNEL(softmax_rows<S>),
           {blocks_for(e.outer, 1), kRowThreads, sizeof(RowShared<compute_t<S>>)}, kind, e.outer, e.n,
           x.as<const S>(), out.as<S>());
  } else {
    launch(context, FASTDL_KERNEL(softmax_columns<S>),
           {blocks_for(e.outer * e.inner, kColumnThreads), kColumnThreads}, kind, e.outer * e.inner, e.n,
           e.inner, x.as<const S>(), out.as<S>());
  }
}

template <class S>
void backward(Context* context, int32_t kind, const View& dy, const View& y, const View& dx, int dim) {
  const Extents e = extents(dy, dim);
  if (e.inner == 1) {
    launch(context, FASTDL_KERNEL(softmax_backward_rows<S>),
           {blocks_for(e.outer, 1), kRowThreads, sizeof(RowShared<compute_t<S>>)}, kind, e.outer, e.n,
           dy.as<const S>(), y.as<const S>(), dx.as<S>());
  } else {
    launch(context, FASTDL_KERNEL(softmax_backward_columns<S>),
           {blocks_for(e.outer * e.inner, kColumnThreads), kColumnThreads}, kind, e.outer * e.inner, e.n,
           e.inner, dy.as<const S>(), y.as<const S>(), dx.as<S>());
  }
}

}  // namespace
}  // namespace fastdl::cuda

using namespace fastdl;
using namespace fastdl::cuda;

extern "C" {

fastdl_status fastdl_cuda_softmax_forward(fastdl_context* context, const fastdl_tensor* x_,
                                          const fastdl_tensor* out_, int32_t dim, int32_t kind) {
  return guarded([&] {
    const check::Softmax s = check::softmax_forward(x_, out_, dim, kind);
    if (s.x.size() == 0) return;
    dispatch_storage(s.x.dtype, [&](auto zero) {
      using S = decltype(zero);
      in_one_layout<Memory>(
          context, [&](const View& y, const View& x) { forward<S>(context, kind, x, y, s.dim); }, s.out, s.x);
    });
  });
}

fastdl_status fastdl_cuda_softmax_backward(fastdl_context* context, const fastdl_tensor* grad_out,
                                           const fastdl_tensor* out_, const fastdl_tensor* grad_x,
                                           int32_t dim, int32_t kind) {
  return guarded([&] {
    const check::SoftmaxBackward s = check::softmax_backward(grad_out, out_, grad_x, dim, kind);
    if (s.grad_out.size() == 0) return;
    dispatch_storage(s.grad_out.dtype, [&](auto zero) {
      using S = decltype(zero);
      in_one_layout<Memory>(
          context,
          [&](const View& dx, const View& dy, const View& y) {
            backward<S>(context, kind, dy, y, dx, s.dim);
          },
          s.grad_x, s.grad_out, s.out);
    });
  });
}
}
