// The optimizers' rules, element by element.
#include "cuda/optim.cuh"
#include "fastdl/cuda.h"

namespace fastdl::cuda::optim {
namespace {

struct StepPointers {
  float* step[kBatch];
};
__global__ void raise_steps(StepPointers pointers, int count) {
  if (static_cast<int>(threadIdx.x) < count) *pointers.step[threadIdx.x] += 1.0f;
}

template <class T>
struct Sgd {
  static constexpr int kLists = 3;
  static constexpr bool kUsesScalars = false;
  T sign, decay, rate, momentum, damping;
  bool nesterov;
  explicit Sgd(const fastdl_sgd_options& o)
      : sign(o.maximize ? T(-1) : T(1)),
        decay(static_cast<T>(o.weight_decay)),
        rate(static_cast<T>(o.lr)),
        momentum(static_cast<T>(o.momentum)),
        damping(static_cast<T>(1 - o.dampening)),
        nesterov(o.nesterov != 0) {}
  __device__ void operator()(T (&v)[kOptimLists], const Item& item, const T (&)[2]) const {
    T d = fma(decay, v[0], v[1] * sign);
    if (item.data[2]) {
      v[2] = item.fresh ? d : fma(momentum, v[2], damping * d);
      d = nesterov ? fma(momentum, v[2], d) : v[2];
    }
    v[0] = fma(-rate, d, v[0]);
  }
};

template <class T>
struct Adam {
  static constexpr int kLists = 5;
  static constexpr bool kUsesScalars = true;
  double lr, beta1, beta2;
  T sign, weight_decay, decay, eps, rest1, keep2, rest2;
  explicit Adam(const fastdl_adam_options& o)
      : lr(o.lr),
        beta1(o.beta1),
        beta2(o.beta2),
        sign(o.maximize ? T(-1) : T(1)),
        weight_decay(static_cast<T>(o.decoupled ? 0 : o.weight_decay)),
        decay(static_cast<T>(o.decoupled ? 1 - o.lr * o.weight_decay : 1)),
        eps(static_cast<T>(o.eps)),
        rest1(static_cast<T>(1 - o.beta1)),
        keep2(static_cast<T>(o.beta2)),
        rest2(static_cast<T>(1 - o.beta2)) {}
  __device__ void scalars(const Item& item, double (&out)[2]) const {
    const double t = *item.step;
    out[0] = lr / (1 - pow(beta1, t));
    out[1] = 1 / sqrt(1 - pow(beta2, t));
  }
  __device__ void operator()(T (&v)[kOptimLists], const Item& item, const T (&scalars)[2]) const {
    const T x = v[0] * decay, d = fma(weight_decay, x, v[1] * sign);
    v[2] = fma(d - v[2], rest1, v[2]);
    v[3] = fma(rest2 * d, d, keep2 * v[3]);
    T square = v[3];
    if (item.data[4]) square = v[4] = Max{}(v[4], square);
    v[0] = fma(-scalars[0], v[2] / fma(sqrt(square), scalars[1], eps), x);
  }
};

template <class T>
struct Adagrad {
  static constexpr int kLists = 3;
  static constexpr bool kUsesScalars = true;
  double lr, lr_decay;
  T sign, decay, eps;
  explicit Adagrad(const fastdl_adagrad_options& o)
      : lr(o.lr),
        lr_decay(o.lr_decay),
        sign(o.maximize ? T(-1) : T(1)),
        decay(static_cast<T>(o.weight_decay)),
        eps(static_cast<T>(o.eps)) {}
  __device__ void scalars(const Item& item, double (&out)[2]) const {
    const double t = *item.step;
    out[0] = lr / (1 + (t - 1) * lr_decay);
    out[1] = 0;
  }
  __device__ void operator()(T (&v)[kOptimLists], const Item&, const T (&scalars)[2]) const {
    const T d = fma(decay, v[0], v[1] * sign);
    v[2] = fma(d, d, v[2]);
    v[0] = fma(-scalars[0], d / (sqrt(v[2]) + eps), v[0]);
  }
};

template <class T>
struct Rmsprop {
  static constexpr int kLists = 5;
  static constexpr bool kUsesScalars = false;
  T sign, decay, rate, eps, momentum, alpha, rest;
  explicit Rmsprop(const fastdl_rmsprop_options& o)
      : sign(o.maximize ? T(-1) : T(1)),
        decay(static_cast<T>(o.weight_decay)),
        rate(static_cast<T>(o.lr)),
        eps(static_cast<T>(o.eps)),
        momentum(static_cast<T>(o.momentum)),
        alpha(static_cast<T>(o.alpha)),
        rest(static_cast<T>(1 - o.alpha)) {}
  __device__ void operator()(T (&v)[kOptimLists], const Item& item, const T (&)[2]) const {
    const T d = fma(decay, v[0], v[1] * sign);
    v[2] = fma(rest * d, d, alpha * v[2]);
    T square = v[2];
    if (item.data[3]) {
      v[3] = fma(d - v[3], rest, v[3]);
      square = fma(-v[3], v[3], square);
    }
    T u = d / (sqrt(square) + eps);
    if (item.data[4]) u = v[4] = fma(momentum, v[4], u);
    v[0] = fma(-rate, u, v[0]);
  }
};

}  // namespace

void Items::raise(int32_t count, fastdl_tensor_list steps, const char* op) {
  std::vector<float*> pointers;
  for (int32_t i = 0; i < count; ++i) pointers.push_back(check::optim_step(steps, i, op).as<float>());
  for (size_t i = 0; i < pointers.size(); ++i) items_[i].step = pointers[i];
  for (size_t first = 0; first < pointers.size(); first += kBatch) {
    StepPointers batch{};
    const size_t n = std::min(pointers.size() - first, size_t{kBatch});
    for (size_t i = 0; i < n; ++i) batch.step[i] = pointers[first + i];
    launch(context_, FASTDL_KERNEL(raise_steps), {1, 64}, batch, static_cast<int>(n));
  }
}

}  // namespace fastdl::cuda::optim

using namespace fastdl;
using namespace fastdl::cuda::optim;

extern "C" {

fastdl_status fastdl_cuda_sgd_step(fastdl_context* context, int32_t count, fastdl_tensor_list params,
                                   fastdl_tensor_list grads, fastdl_tensor_list buffers, const uint8_t* fresh,
                                   const fastdl_sgd_options* options) {
  return guarded([&] {
    const auto o = check::sgd(options, grads, &buffers);
    Items items(context, "sgd", count, {params, grads, buffers}, {"param", "grad", "momentum_buffer"},
                check::kGradients, o.rounded);
    items.set_fresh(fresh);
    step<Sgd>(context, items, o);
  });
}

fastdl_status fastdl_cuda_adam_step(fastdl_context* context, int32_t count, fastdl_tensor_list params,
                                    fastdl_tensor_list grads, fastdl_tensor_list avgs,
                                    fastdl_tensor_list avg_sqs, fastdl_tensor_list max_avg_sqs,
                                    fastdl_tensor_list steps, const fastdl_adam_options* options) {
  return guarded([&] {
    const auto o = check::adam(options, grads, avgs, avg_sqs, &max_avg_sqs, steps);
    Items items(context, "adam", count, {params, grads, avgs, avg_sqs, max_avg_sqs},
                {"param", "grad", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"}, check::kGradients, o.rounded);
    items.raise(count, steps, "adam");
    step<Adam>(context, items, o);
  });
}

fastdl_status fastdl_cuda_adagrad_step(fastdl_context* context, int32_t count, fastdl_tensor_list params,
                                       fastdl_tensor_list grads, fastdl_tensor_list sums,
                                       fastdl_tensor_list steps, const fastdl_adagrad_options* options) {
  return guarded([&] {
    const auto o = check::adagrad(options, grads, sums, steps);
    Items items(context, "adagrad", count, {params, grads, sums}, {"param", "grad", "sum"}, check::kGradients,
                o.rounded);
    items.raise(count, steps, "adagrad");
    step<Adagrad>(context, items, o);
  });
}

fastdl_status fastdl_cuda_rmsprop_step(fastdl_context* context, int32_t count, fastdl_tensor_list params,
                                       fastdl_tensor_list grads, fastdl_tensor_list square_avgs,
                                       fastdl_tensor_list avgs, fastdl_tensor_list buffers,
                                       fastdl_tensor_list steps, const fastdl_rmsprop_options* options) {
  return guarded([&] {
    const auto o = check::rmsprop(options, grads, square_avgs, &avgs, &buffers);
    Items items(context, "rmsprop", count, {params, grads, square_avgs, avgs, buffers},
                {"param", "grad", "square_avg", "grad_avg", "momentum_buffer"}, check::kGradients, o.rounded);
    if (steps) items.raise(count, steps, "rmsprop");
    step<Rmsprop>(context, items, o);
  });
}
}
