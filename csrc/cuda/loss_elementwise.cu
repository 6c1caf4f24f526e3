// Losses of single elements with their gradients: memory-bound, each operand read once, and partial sums of
// float64 a block, whose number the shape decides.
#include "common/loss.h"
#include "cuda/activation_inline.cuh"
#include "cuda/loss.cuh"
#include "cuda/tensor.h"
#include "fastdl/cuda.h"

namespace fastdl::cuda {
namespace {

// Value and derivative of one element's loss.
template <class T>
struct Term {
  T value, slope;
};

template <int Kind, class T>
__device__ __forceinline__ Term<T> term(T x, T t, T parameter, T positive) {
  const T zero = T(0), one = T(1), half = T(0.5), d = x - t, size = fabs(d);
  (void)half, (void)parameter, (void)positive, (void)size, (void)zero, (void)one;
  if constexpr (Kind == FASTDL_LOSS_MSE) {
    return {d * d, d + d};
  } else if constexpr (Kind == FASTDL_LOSS_L1) {
    return {size, size > zero ? copysign(one, d) : d};
  } else if constexpr (Kind == FASTDL_LOSS_SMOOTH_L1) {
    return {size < parameter ? half * d * d / parameter : size - half * parameter,
            clamp(d / parameter, -one, one)};
  } else if constexpr (Kind == FASTDL_LOSS_HUBER) {
    return {size < parameter ? half * d * d : parameter * (size - half * parameter),
            clamp(d, -parameter, parameter)};
  } else if constexpr (Kind == FASTDL_LOSS_BCE) {
    const T a = at_least(T(-100), log(x)), b = at_least(T(-100), log1p(-x));
    return {-fma(t, a, (one - t) * b), d / at_least(T(1e-12), x * (one - x))};
  } else if constexpr (Kind == FASTDL_LOSS_BCE_LOGITS) {
    const T e = exp(-fabs(x)), inverse = one / (one + e), rest = log1p(e), small = e * inverse;
    const T s = x >= zero ? inverse : small, opposite = x >= zero ? small : inverse;
    const T yes = positive * t, no = one - t;
    return {fma(yes, at_least(zero, -x) + rest, no * (at_least(zero, x) + rest)),
            fma(-yes, opposite, no * s)};
  } else if constexpr (Kind == FASTDL_LOSS_KL) {
    return {t == zero ? zero : t * (log(t) - x), -t};
  } else if constexpr (Kind == FASTDL_LOSS_KL_LOG_TARGET) {
    const T e = exp(t);
    return {e * (t - x), -e};
  } else if constexpr (Kind == FASTDL_LOSS_POISSON_LOG) {
    const T e = exp(x);
    return {fma(-t, x, e), e - t};
  } else if constexpr (Kind == FASTDL_LOSS_POISSON) {
    const T y = x + parameter;
    return {fma(-t, log(y), x), one - t / y};
  } else if constexpr (Kind == FASTDL_LOSS_SOFT_MARGIN) {
    const T z = t * x;
    return {at_least(zero, -z) + log1p(exp(-fabs(z))), -t * sigmoid(-z)};
  } else {
    const T gap = parameter - x;
    const bool match = t == one;
    return {match ? x : at_least(zero, gap), match ? one : gap > zero ? -one : zero};
  }
}

template <int K>
struct LossKind {
  static constexpr int value = K;
};
// Calls f(LossKind<kind>{}): one switch for all elements of a thread.
template <class F>
__device__ __forceinline__ void with_loss(int32_t kind, F&& f) {
  switch (kind) {
#define FASTDL_CASE(K) \
  case K:              \
    return f(LossKind<K>{});
    FASTDL_CASE(FASTDL_LOSS_MSE)
    FASTDL_CASE(FASTDL_LOSS_L1)
    FASTDL_CASE(FASTDL_LOSS_SMOOTH_L1)
    FASTDL_CASE(FASTDL_LOSS_HUBER)
    FASTDL_CASE(FASTDL_LOSS_BCE)
    FASTDL_CASE(FASTDL_LOSS_BCE_LOGITS)
    FASTDL_CASE(FASTDL_LOSS_KL)
    FASTDL_CASE(FASTDL_LOSS_KL_LOG_TARGET)
    FASTDL_CASE(FASTDL_LOSS_POISSON_LOG)
    FASTDL_CASE(FASTDL_LOSS_POISSON)
    FASTDL_CASE(FASTDL_LOSS_SOFT_MARGIN)
    FASTDL_CASE(FASTDL_LOSS_HINGE_EMBEDDING)
#undef FASTDL_CASE
  }
}

template <class S>
struct LossPointers {
  const S *x, *target, *weight, *pos_weight;  // the last two may be NULL, and so may the next
  S *loss, *grad;
};

// partial[block]: the sum of a block's losses.
template <int Width, class S>
__global__ void __launch_bounds__(kSumThreads)
    elementwise_loss(int32_t kind, compute_t<S> parameter, compute_t<S> scale, int64_t size,
                     LossPointers<S> p, uint32_t* error, double* partial) {
  using T = compute_t<S>;
  using P = Pack<S, Width>;
  auto& shared = shared_memory<VectorSumShared<double>>();
  double total = 0;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kSumThreads * Width;
  with_loss(kind, [&](auto k) {
    constexpr int kKind = decltype(k)::value;
    for (int64_t i = (static_cast<int64_t>(blockIdx.x) * kSumThreads + threadIdx.x) * Width; i < size;
         i += step) {
      const auto load = [&](const S* from) { return *reinterpret_cast<const P*>(from + i); };
      const P x = load(p.x), t = load(p.target), w = p.weight ? load(p.weight) : P{},
              pos = p.pos_weight ? load(p.pos_weight) : P{};
      P loss, grad;
      T sum = 0;
#pragma unroll
      for (int j = 0; j < Width; ++j) {
        const T v = widen(x.at[j]);
        Term<T> y = term<kKind>(v, widen(t.at[j]), parameter, p.pos_weight ? widen(pos.at[j]) : T(1));
        if (kKind == FASTDL_LOSS_BCE && (v < T(0) || v > T(1))) {
          note_error(error);
          y.value = y.slope = static_cast<T>(NAN);
        }
        const T factor = p.weight ? widen(w.at[j]) : T(1);
        sum += y.value * factor;
        loss.at[j] = narrow<S>(y.value * factor);
        grad.at[j] = narrow<S>(y.slope * factor * scale);
      }
      if (p.loss) *reinterpret_cast<P*>(p.loss + i) = loss;
      if (p.grad) *reinterpret_cast<P*>(p.grad + i) = grad;
      total += static_cast<double>(sum);
    }
  });
  total = block_reduce<kSumThreads>(total, Sum{}, shared.sums);
  if (threadIdx.x == 0) partial[blockIdx.x] = total;
}

// Flat operands; loss: one element where losses are reduced.
template <class S>
void flat_loss(Context* context, const fastdl_loss_options& o, int64_t size, const LossPointers<S>& p,
               void* reduced, DType reduced_dtype) {
  using T = compute_t<S>;
  const int64_t blocks = sum_blocks(size);
  const Workspace partial(context, static_cast<size_t>(blocks + 1) * sizeof(double));
  const bool mean = o.reduction == FASTDL_REDUCTION_MEAN;
  const T scale = static_cast<T>(mean ? 1 / static_cast<double>(size) : 1.0);
  uint32_t* const error = error_word();
  const auto run = [&](auto width) {
    constexpr int kWidth = decltype(width)::value;
    launch(context, FASTDL_KERNEL(elementwise_loss<kWidth, S>),
           {static_cast<unsigned>(blocks), kSumThreads, sizeof(VectorSumShared<double>)}, o.kind,
           static_cast<T>(o.parameter), scale, size, p, error, partial.as<double>());
  };
  if (size > 0) with_pack_width<S>(size, run, p.x, p.target, p.weight, p.pos_weight, p.loss, p.grad);
  if (!reduced) return;
  double* const total = partial.as<double>() + blocks;
  add_up_columns<double>(context, blocks, 1, 1, partial.as<const double>(), total);
  const double divisor = mean ? static_cast<double>(size) : 1.0;
  dispatch_storage(reduced_dtype, [&](auto zero) {
    using Out = decltype(zero);
    launch(context, FASTDL_KERNEL(finish_loss<Out>), {1, 1}, static_cast<const double*>(total), divisor,
           static_cast<const double*>(nullptr), static_cast<Out*>(reduced));
  });
}

template <class S>
LossPointers<S> pointers(const check::Loss& o) {
  return {o.x.as<const S>(),
          o.target.as<const S>(),
          o.weight.as<const S>(),
          o.pos_weight.as<const S>(),
          o.full() ? o.loss.as<S>() : nullptr,
          o.grad.as<S>()};
}

// True if every operand has x's dtype and lies in memory as x does, at a multiple of 16 bytes.
bool uniform(const check::Loss& o) {
  for (const View* v : {&o.x, &o.target, &o.weight, &o.pos_weight, &o.grad, o.full() ? &o.loss : &o.grad}) {
    if (!v->data) continue;
    if (v->dtype != o.x.dtype || !same_dense_layout(o.x, *v) || !aligned_to(16, v->data)) return false;
  }
  return true;
}

}  // namespace
}  // namespace fastdl::cuda

using namespace fastdl;
using namespace fastdl::cuda;

extern "C" fastdl_status fastdl_cuda_loss(fastdl_context* context, const fastdl_tensor* x,
                                          const fastdl_tensor* target, const fastdl_tensor* weight,
                                          const fastdl_tensor* pos_weight, const fastdl_tensor* loss,
                                          const fastdl_tensor* grad_x, const fastdl_loss_options* options) {
  return guarded([&] {
    const check::Loss o = check::loss(x, target, weight, pos_weight, loss, grad_x, options);
    void* const reduced = o.full() ? nullptr : o.loss.data;
    const int64_t size = o.x.size();
    if (uniform(o)) {
      return dispatch_storage(o.x.dtype, [&](auto zero) {
        using S = decltype(zero);
        flat_loss<S>(context, o.options, size, pointers<S>(o), reduced, o.loss.dtype);
      });
    }
    // Mixed dtypes or layouts: all in C order and in the type computed with.
    const Computed xc(context, o.x), tc(context, o.target), wc(context, o.weight), pc(context, o.pos_weight);
    ComputedOut gc(context, o.grad), lc(context, o.full() ? o.loss : View{});
    dispatch_float(o.x.dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32, [&](auto zero) {
      using T = decltype(zero);
      const LossPointers<T> p{xc.as<const T>(), tc.as<const T>(), wc.as<const T>(),
                              pc.as<const T>(), lc.as<T>(),       gc.as<T>()};
      flat_loss<T>(context, o.options, size, p, reduced, o.loss.dtype);
    });
    gc.write_back();
    lc.write_back();
  });
}
