// The C ABI for C++17: the same functions, which throw fastdl::Error instead of returning a status.
// Header-only.
//
//   std::vector<float> a(6), b(12), c(8);
//   fastdl::matmul(nullptr, fastdl::Tensor(a.data(), {2, 3}), fastdl::Tensor(b.data(), {3, 4}), nullptr,
//   nullptr,
//                  fastdl::Tensor(c.data(), {2, 4}), nullptr);
#ifndef FASTDL_HPP
#define FASTDL_HPP

#include <array>
#include <initializer_list>
#include <stdexcept>
#include <type_traits>
#include <utility>

#include "fastdl/fastdl.h"

namespace fastdl {

class Error : public std::runtime_error {
 public:
  Error(fastdl_status status, const char* message) : std::runtime_error(message), status_(status) {}
  fastdl_status status() const { return status_; }

 private:
  fastdl_status status_;
};

// last_error: the library's that the status is from.
inline void check(fastdl_status status, const char* (*last_error)() = fastdl_last_error) {
  if (status != FASTDL_OK) throw Error(status, last_error());
}

// The bits of 16-bit floating-point numbers, for programs that have no type of their own for them.
struct bfloat16 {
  uint16_t bits;
};
struct float16 {
  uint16_t bits;
};

// The dtype of a C++ type.
template <class T>
constexpr fastdl_dtype dtype_of() {
  using U = std::remove_const_t<T>;
  constexpr auto bits = static_cast<uint8_t>(8 * sizeof(U));
  if constexpr (std::is_same_v<U, bool>) return {FASTDL_BOOL, 8, 1};
  else if constexpr (std::is_same_v<U, bfloat16>) return {FASTDL_BFLOAT, 16, 1};
  else if constexpr (std::is_same_v<U, float16>) return {FASTDL_FLOAT, 16, 1};
  else if constexpr (std::is_floating_point_v<U>) return {FASTDL_FLOAT, bits, 1};
  else if constexpr (std::is_signed_v<U>) return {FASTDL_INT, bits, 1};
  else return {FASTDL_UINT, bits, 1};
}

// A view of the caller's memory; converts to the C functions' const fastdl_tensor*. Strides count elements;
// without them the memory is C-contiguous.
class Tensor {
 public:
  template <class T>
  Tensor(T* data, std::initializer_list<int64_t> shape, std::initializer_list<int64_t> strides = {}) {
    if (shape.size() > FASTDL_MAX_NDIM || (strides.size() && strides.size() != shape.size())) {
      throw std::invalid_argument("fastdl::Tensor: shape and strides do not fit together");
    }
    std::size_t i = 0;
    for (const int64_t n : shape) shape_[i++] = n;
    i = 0;
    for (const int64_t n : strides) strides_[i++] = n;
    // Inputs are never written: the C struct has one pointer type for both.
    tensor_.data = const_cast<std::remove_const_t<T>*>(data);
    tensor_.device = {FASTDL_CPU, 0};
    tensor_.ndim = static_cast<int32_t>(shape.size());
    tensor_.dtype = dtype_of<T>();
    has_strides_ = strides.size() != 0;
  }
  operator const fastdl_tensor*() const {  // NOLINT: meant to be implicit
    tensor_.shape = shape_.data();
    tensor_.strides = has_strides_ ? strides_.data() : nullptr;
    return &tensor_;
  }

 protected:
  void place(fastdl_device device) { tensor_.device = device; }

 private:
  mutable std::array<int64_t, FASTDL_MAX_NDIM> shape_{}, strides_{};
  mutable fastdl_tensor tensor_{};
  bool has_strides_ = false;
};

// Owns a context.
class Context {
 public:
  explicit Context(const fastdl_context_options& options) {
    check(fastdl_context_create(&options, &context_));
  }
  explicit Context(int32_t num_threads) {
    fastdl_context_options options = FASTDL_CONTEXT_OPTIONS_INIT;
    options.num_threads = num_threads;
    check(fastdl_context_create(&options, &context_));
  }
  // On the host's own threads, num_threads of them: pool(chunks, task) calls task(i) for every i in [0,
  // chunks) and returns when all have returned; what else fastdl_parallel_for says holds. `pool` outlives the
  // context.
  template <class Pool>
  Context(int32_t num_threads, Pool& pool) {
    fastdl_context_options options = FASTDL_CONTEXT_OPTIONS_INIT;
    options.num_threads = num_threads;
    options.parallel_for = [](int32_t chunks, fastdl_chunk chunk, void* argument, void* user) {
      (*static_cast<Pool*>(user))(chunks, [chunk, argument](int32_t index) { chunk(argument, index); });
    };
    options.parallel_user = &pool;
    check(fastdl_context_create(&options, &context_));
  }
  ~Context() { fastdl_context_destroy(context_); }
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;
  operator fastdl_context*() const { return context_; }  // NOLINT: meant to be implicit

 private:
  fastdl_context* context_ = nullptr;
};

// fastdl::name(...) is fastdl_name(...) with its status checked. Pass nullptr for what is optional.
template <auto Function, const char* (*LastError)() = fastdl_last_error>
struct Checked {
  template <class... Arguments>
  void operator()(Arguments&&... arguments) const {
    check(Function(std::forward<Arguments>(arguments)...), LastError);
  }
};

#define FASTDL_CHECKED(name) \
  inline constexpr Checked<fastdl_##name> name {}

FASTDL_CHECKED(version_check);
FASTDL_CHECKED(set_num_threads);
FASTDL_CHECKED(set_float32_precision);
FASTDL_CHECKED(set_cpu_isa);

FASTDL_CHECKED(matmul);
FASTDL_CHECKED(matmul_packed_b_size);
FASTDL_CHECKED(matmul_pack_b);
FASTDL_CHECKED(matmul_packed);
FASTDL_CHECKED(linear_backward);

FASTDL_CHECKED(conv_forward);
FASTDL_CHECKED(conv_backward_data);
FASTDL_CHECKED(conv_backward_weight);
FASTDL_CHECKED(conv_pool_backward);
FASTDL_CHECKED(conv_transpose_forward);
FASTDL_CHECKED(conv_transpose_backward_data);
FASTDL_CHECKED(conv_transpose_backward_weight);
FASTDL_CHECKED(unfold);
FASTDL_CHECKED(fold);

FASTDL_CHECKED(rnn_reserve_size);
FASTDL_CHECKED(rnn_dropout_size);
FASTDL_CHECKED(rnn_forward);
FASTDL_CHECKED(rnn_backward);

FASTDL_CHECKED(attention_forward);
FASTDL_CHECKED(attention_backward);

FASTDL_CHECKED(layer_norm_forward);
FASTDL_CHECKED(layer_norm_backward);
FASTDL_CHECKED(rms_norm_forward);
FASTDL_CHECKED(rms_norm_backward);
FASTDL_CHECKED(group_norm_forward);
FASTDL_CHECKED(group_norm_backward);
FASTDL_CHECKED(batch_norm_forward);
FASTDL_CHECKED(batch_norm_backward);

FASTDL_CHECKED(max_pool_forward);
FASTDL_CHECKED(max_pool_backward);
FASTDL_CHECKED(avg_pool_forward);
FASTDL_CHECKED(avg_pool_backward);

FASTDL_CHECKED(activation_forward);
FASTDL_CHECKED(activation_backward);
FASTDL_CHECKED(glu_forward);
FASTDL_CHECKED(glu_backward);
FASTDL_CHECKED(prelu_forward);
FASTDL_CHECKED(prelu_backward);
FASTDL_CHECKED(elementary);

FASTDL_CHECKED(arithmetic);
FASTDL_CHECKED(softmax_forward);
FASTDL_CHECKED(softmax_backward);

FASTDL_CHECKED(cross_entropy);
FASTDL_CHECKED(nll_loss);
FASTDL_CHECKED(loss);

FASTDL_CHECKED(embedding_forward);
FASTDL_CHECKED(embedding_backward);
FASTDL_CHECKED(embedding_renorm);
FASTDL_CHECKED(embedding_bag_forward);
FASTDL_CHECKED(embedding_bag_backward);

FASTDL_CHECKED(dropout);

FASTDL_CHECKED(sgd_step);
FASTDL_CHECKED(adam_step);
FASTDL_CHECKED(adagrad_step);
FASTDL_CHECKED(rmsprop_step);
FASTDL_CHECKED(norm);
FASTDL_CHECKED(scale);
FASTDL_CHECKED(clip_norm);

FASTDL_CHECKED(convert);
FASTDL_CHECKED(measure_peak);
FASTDL_CHECKED(measure_peak_bfloat16);
FASTDL_CHECKED(measure_copy);

#undef FASTDL_CHECKED

}  // namespace fastdl

#endif
