// Cross-entropy and negative log-likelihood with their gradients: a team of threads to a row of classes,
// which it reads once (rows.cuh) and writes once. What the rows are divided by is known only when all labels
// have been seen, so a first pass over the labels adds up their weights.
#include "common/loss.h"
#include "cuda/loss.cuh"
#include "cuda/rows.cuh"
#include "cuda/tensor.h"
#include "fastdl/cuda.h"

namespace fastdl::cuda {
namespace {

constexpr int64_t kIgnored = -1, kBad = -2;  // in the place of a label

struct ReadLabel {
  static constexpr bool kUsesIndex = true;  // in C order
  int64_t classes, ignore_index;
  uint32_t* error;
  template <class I>
  __device__ int64_t operator()(int64_t, I label) const {
    if (label == ignore_index) return kIgnored;
    if (label >= 0 && label < classes) return label;
    note_error(error);
    return kBad;
  }
};

// The labels of a call in C order.
class Labels {
 public:
  Labels(Context* context, const check::CrossEntropy& o)
      : workspace_(context, o.soft ? 0 : static_cast<size_t>(o.rows) * sizeof(int64_t)) {
    if (o.soft) return;
    View flat = o.target;
    flat.dtype = DType::kInt64;
    flat.data = workspace_.as<void>();
    set_c_strides(flat);
    const ReadLabel read{o.classes, o.options.ignore_index, error_word()};
    if (o.target.dtype == DType::kInt64) map<int64_t, int64_t>(context, read, flat, o.target);
    else map<int64_t, int32_t>(context, read, flat, o.target);
  }
  const int64_t* data() const { return workspace_.as<const int64_t>(); }

 private:
  Workspace workspace_;
};

template <class T>
struct LabelWeight {
  const int64_t* labels;
  const T* weight;
  __device__ T operator()(int64_t i) const {
    const int64_t label = labels[i];
    return label < 0 ? T(0) : weight ? weight[label] : T(1);
  }
};
template <class T>
struct Element {
  const T* x;
  __device__ T operator()(int64_t i) const { return x[i]; }
};

// Numbers of a call that rows share; those in memory are computed by kernels before.
template <class T>
struct RowTerms {
  const T* weight;  // NULL: ones
  double classes, confidence, smooth;
  const double* weight_sum;  // NULL: classes
  const double* norm;        // what losses are divided by; NULL: rows
  double rows;
  bool mean;
  // With every row ignored the mean is 0 / 0, but each gradient is 0.
  __device__ double scale() const {
    const double n = norm ? *norm : rows;
    return mean && n != 0 ? 1 / n : 1;
  }
};

// loss = total log(sum exp) - sum of q (x - top), grad = scale (total softmax - q); q: the weighted target.
template <int Threads, int Width, class S, class T = compute_t<S>>
__global__ void __launch_bounds__(kRowThreads, 2)
    cross_entropy_rows(RowTerms<T> terms, int64_t rows, int64_t n, const S* x, const int64_t* labels,
                       const S* target, T* loss, S* grad) {
  using P = Pack<S, Width>;
  const RowTeam<Threads, T> team{shared_memory<RowShared<T>>()};
  const T scale = static_cast<T>(terms.scale()), smooth = static_cast<T>(terms.smooth);
  const T confidence = static_cast<T>(terms.confidence);
  const double weight_sum = terms.weight_sum ? *terms.weight_sum : terms.classes;
  for (int64_t row = team.first_row(); row < rows; row += team.step()) {
    const int64_t label = labels ? labels[row] : 0;
    S* const to = grad ? grad + row * n : nullptr;
    if (label < 0) {
      const T value = label == kBad ? static_cast<T>(NAN) : T(0);
      if (team.thread() == 0) loss[row] = value;
      for (int64_t i = team.thread(); to && i < n; i += Threads) to[i] = narrow<S>(value);
      continue;
    }
    const RowShare<Threads, Width, S> share(x + row * n, n, team.thread());
    const auto q = [&](int64_t j) {
      const T w = terms.weight ? terms.weight[j] : T(1);
      if (!labels) return w * fma(confidence, widen(target[row * n + j]), smooth);
      return j == label ? w * (confidence + smooth) : w * smooth;
    };
    T top = -static_cast<T>(INFINITY), sum = 0, total = 0, rest = 0;
    share.each([&](int64_t, const P& p) {
#pragma unroll
      for (int j = 0; j < Width; ++j) top = Max{}(top, widen(p.at[j]));
    });
    top = team.reduce(top, Max{});
    share.each([&](int64_t i, const P& p) {
#pragma unroll
      for (int j = 0; j < Width; ++j) {
        const T d = widen(p.at[j]) - top;
        sum += exp(d);
        if (labels && smooth == T(0) && i + j != label) continue;
        const T own = q(i + j);
        total += own;
        // 0 log 0 = 0: a class that cannot be costs nothing where the target does not ask for it.
        if (labels || own != T(0)) rest -= own * d;
      }
    });
    sum = team.sum(sum);
    rest = team.sum(rest);
    total = team.sum(total);
    if (labels) {
      const T w = terms.weight ? terms.weight[label] : T(1);
      total = confidence * w + static_cast<T>(terms.smooth * weight_sum);
    }
    if (team.thread() == 0) loss[row] = fma(total, log(sum), rest);
    if (!to) continue;
    const T factor = scale * total / sum;
    share.each([&](int64_t i, const P& p) {
      P out;
#pragma unroll
      for (int j = 0; j < Width; ++j) {
        const T soft = exp(widen(p.at[j]) - top) * factor;
        const bool none = labels && smooth == T(0) && i + j != label;
        out.at[j] = narrow<S>(none ? soft : fma(-scale, q(i + j), soft));
      }
      *reinterpret_cast<P*>(to + i) = out;
    });
  }
}

template <class S, class T = compute_t<S>>
__global__ void __launch_bounds__(kMapThreads)
    nll_rows(int64_t rows, int64_t n, const S* x, const int64_t* labels, const T* weight, T* loss) {
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * kMapThreads + threadIdx.x; row < rows;
       row += static_cast<int64_t>(gridDim.x) * kMapThreads) {
    const int64_t label = labels[row];
    if (label >= 0) loss[row] = -(weight ? weight[label] : T(1)) * widen(x[row * n + label]);
    else loss[row] = label == kBad ? static_cast<T>(NAN) : T(0);
  }
}

template <class S, class T = compute_t<S>>
__global__ void __launch_bounds__(kMapThreads)
    nll_gradient(RowTerms<T> terms, int64_t size, int64_t n, const int64_t* labels, S* grad) {
  const T scale = static_cast<T>(terms.scale());
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kMapThreads + threadIdx.x; i < size;
       i += static_cast<int64_t>(gridDim.x) * kMapThreads) {
    const int64_t label = labels[i / n];
    T value = label == kBad ? static_cast<T>(NAN) : T(0);
    if (label == i % n) value = -(terms.weight ? terms.weight[label] : T(1)) * scale;
    grad[i] = narrow<S>(value);
  }
}

// The rows' losses by kernel, which is called with the terms, where the losses go and where the gradient
// goes; then the reduction.
template <class S, class Kernel>
void rows_loss(Context* context, const check::CrossEntropy& o, const Labels& labels, Kernel&& kernel) {
  using T = compute_t<S>;
  const Computed weight(context, o.weight);
  const Workspace sums(context, 3 * sizeof(double));
  double *const norm = sums.as<double>(), *const weight_sum = norm + 1, *const total = norm + 2;
  const bool mean = o.options.reduction == FASTDL_REDUCTION_MEAN,
             reduced = o.options.reduction != FASTDL_REDUCTION_NONE;
  const double classes = static_cast<double>(o.classes);
  RowTerms<T> terms{weight.as<const T>(),
                    classes,
                    1 - o.options.label_smoothing,
                    o.options.label_smoothing / classes,
                    nullptr,
                    nullptr,
                    static_cast<double>(o.rows),
                    mean};
  if (o.weight.data && !o.soft) {
    add_up(context, o.classes, Element<T>{weight.as<const T>()}, weight_sum);
    terms.weight_sum = weight_sum;
  }
  if (mean && !o.soft) {
    add_up(context, o.rows, LabelWeight<T>{labels.data(), weight.as<const T>()}, norm);
    terms.norm = norm;
  }
  const Workspace losses(context, reduced ? static_cast<size_t>(o.rows) * sizeof(T) : 0);
  ComputedOut loss(context, o.loss);
  ContiguousOut grad(context, o.grad);
  T* const row_losses = reduced ? losses.as<T>() : loss.as<T>();
  if (o.rows > 0) kernel(terms, row_losses, o.grad.data ? grad->as<S>() : nullptr);
  if (reduced) {
    add_up(context, o.rows, Element<T>{row_losses}, total);
    launch(context, FASTDL_KERNEL(finish_loss<T>), {1, 1}, total, mean ? terms.rows : 1.0,
           static_cast<const double*>(terms.norm), loss.as<T>());
  }
  loss.write_back();
  if (o.grad.data) grad.write_back();
}

template <class S>
void cross_entropy(Context* context, const check::CrossEntropy& o) {
  using T = compute_t<S>;
  const Labels labels(context, o);
  const Contiguous x(context, o.x), target(context, o.soft ? o.target : View{});
  const S *xp = x->as<const S>(), *tp = o.soft ? target->as<const S>() : nullptr;
  rows_loss<S>(context, o, labels, [&](const RowTerms<T>& terms, T* loss, S* grad) {
    with_row_team<S>(
        o.classes,
        [&](auto threads, auto width) {
          constexpr int kTeam = decltype(threads)::value, kWidth = decltype(width)::value;
          launch(context, FASTDL_KERNEL(cross_entropy_rows<kTeam, kWidth, S>),
                 {blocks_for(o.rows, kRowThreads / kTeam), kRowThreads, sizeof(RowShared<T>)}, terms, o.rows,
                 o.classes, xp, labels.data(), tp, loss, grad);
        },
        xp, grad);
  });
}

template <class S>
void nll_loss(Context* context, const check::CrossEntropy& o) {
  using T = compute_t<S>;
  const Labels labels(context, o);
  const Contiguous x(context, o.x);
  rows_loss<S>(context, o, labels, [&](const RowTerms<T>& terms, T* loss, S* grad) {
    launch(context, FASTDL_KERNEL(nll_rows<S>), {blocks_for(o.rows, kMapThreads), kMapThreads}, o.rows,
           o.classes, x->as<const S>(), labels.data(), terms.weight, loss);
    const int64_t size = o.rows * o.classes;
    if (!grad || size == 0) return;
    launch(context, FASTDL_KERNEL(nll_gradient<S>), {blocks_for(size, kMapThreads), kMapThreads}, terms, size,
           o.classes, labels.data(), grad);
  });
}

}  // namespace
}  // namespace fastdl::cuda

using namespace fastdl;
using namespace fastdl::cuda;

extern "C" {

fastdl_status fastdl_cuda_cross_entropy(fastdl_context* context, const fastdl_tensor* logits,
                                        const fastdl_tensor* target, const fastdl_tensor* weight,
                                        const fastdl_tensor* loss, const fastdl_tensor* grad_logits,
                                        const fastdl_cross_entropy_options* options) {
  return guarded([&] {
    const check::CrossEntropy o = check::cross_entropy(logits, target, weight, loss, grad_logits, options);
    dispatch_storage(o.x.dtype, [&](auto zero) { cross_entropy<decltype(zero)>(context, o); });
  });
}

fastdl_status fastdl_cuda_nll_loss(fastdl_context* context, const fastdl_tensor* x,
                                   const fastdl_tensor* target, const fastdl_tensor* weight,
                                   const fastdl_tensor* loss, const fastdl_tensor* grad_x,
                                   const fastdl_cross_entropy_options* options) {
  return guarded([&] {
    const check::CrossEntropy o = check::nll_loss(x, target, weight, loss, grad_x, options);
    dispatch_storage(o.x.dtype, [&](auto zero) { nll_loss<decltype(zero)>(context, o); });
  });
}
}
