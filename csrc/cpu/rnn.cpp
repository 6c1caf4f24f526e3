// Entry points: the checks that are left, then the arguments in the order the algorithms work in.
#include "fastdl/rnn.h"

#include "cpu/rnn_product.h"
#include "cpu/rnn_stage.h"
#include "cpu/widen.h"

namespace fastdl::cpu {
namespace {

template <class T>
std::vector<RnnWeights<T>> read_params(Context* context, const check::RnnProblem& p,
                                       std::deque<Contiguous>& copies) {
  return rnn_group<T>(p.shape, [&](int64_t i) {
    const View& v = p.params[static_cast<size_t>(i)];
    return v.contiguous() ? v.as<T>() : copies.emplace_back(context, v)->template as<T>();
  });
}

// bfloat16 has kernels of its own where there are products of bfloat16.
bool native(const fastdl_tensor* x) {
  return kernels().gemm_bf16 && x->dtype.bits == 16 && x->dtype.code == FASTDL_BFLOAT;
}

template <class F>
void dispatch(DType dtype, F&& f) {
  if (dtype == DType::kBFloat16) f(bfloat16{});
  else dispatch_float(dtype, f);
}

}  // namespace
}  // namespace fastdl::cpu

using namespace fastdl::cpu;

extern "C" {

fastdl_status fastdl_rnn_reserve_size(const fastdl_rnn_options* options, int64_t rows, int64_t hidden_size,
                                      int64_t state_size, int64_t* elements) {
  return guarded(
      [&] { *elements = check::rnn_reserve_size(options, rows, hidden_size, state_size, elements); });
}

fastdl_status fastdl_rnn_dropout_size(const fastdl_rnn_options* options, int64_t rows, int64_t state_size,
                                      int64_t* numbers) {
  return guarded([&] { *numbers = check::rnn_dropout_size(options, rows, state_size, numbers); });
}

fastdl_status fastdl_rnn_forward(fastdl_context* context, const fastdl_tensor* x_, const fastdl_tensor* h0_,
                                 const fastdl_tensor* c0_, const fastdl_tensor* const* params,
                                 int32_t num_params, const fastdl_tensor* lengths, const fastdl_tensor* y_,
                                 const fastdl_tensor* h_n_, const fastdl_tensor* c_n_,
                                 const fastdl_tensor* reserve, const fastdl_rnn_options* options) {
  if (is_narrow(x_) && !native(x_)) {
    return in_float32("rnn", fastdl_rnn_forward, context, reads(x_, "x"), reads(h0_, "h0"), reads(c0_, "c0"),
                      reads(params, num_params, "params"), num_params, lengths, writes(y_, "y"),
                      writes(h_n_, "h_n"), writes(c_n_, "c_n"), reserve, options);
  }
  return guarded([&] {
    const check::RnnForward p =
        check::rnn_forward(x_, h0_, c0_, params, num_params, lengths, y_, h_n_, c_n_, reserve, options);
    dispatch(p.x.dtype, [&](auto zero) {
      using T = decltype(zero);
      std::deque<Contiguous> copies;
      const RnnSequences<T> x(context, p.rows, p.x), y(context, p.rows, p.y);
      const RnnStates<T> h0(context, p.rows, p.h0), c0(context, p.rows, p.c0), h_n(context, p.rows, p.h_n),
          c_n(context, p.rows, p.c_n);
      x.read();
      h0.read();
      c0.read();
      rnn_forward<T>(context,
                     {p.shape, p.rows, read_params<T>(context, p, copies), x.data(), h0.data(), c0.data(),
                      y.data(), h_n.data(), c_n.data(), reserve ? p.reserve.as<compute_t<T>>() : nullptr});
      y.write();
      h_n.write();
      c_n.write();
    });
  });
}

fastdl_status fastdl_rnn_backward(fastdl_context* context, const fastdl_tensor* grad_y_,
                                  const fastdl_tensor* grad_h_n_, const fastdl_tensor* grad_c_n_,
                                  const fastdl_tensor* x_, const fastdl_tensor* h0_, const fastdl_tensor* c0_,
                                  const fastdl_tensor* const* params, int32_t num_params,
                                  const fastdl_tensor* lengths, const fastdl_tensor* y_,
                                  const fastdl_tensor* reserve, const fastdl_tensor* grad_x_,
                                  const fastdl_tensor* grad_h0_, const fastdl_tensor* grad_c0_,
                                  const fastdl_tensor* const* grad_params,
                                  const fastdl_rnn_options* options) {
  if (is_narrow(x_) && !native(x_)) {
    return in_float32("rnn_backward", fastdl_rnn_backward, context, reads(grad_y_, "grad_y"),
                      reads(grad_h_n_, "grad_h_n"), reads(grad_c_n_, "grad_c_n"), reads(x_, "x"),
                      reads(h0_, "h0"), reads(c0_, "c0"), reads(params, num_params, "params"), num_params,
                      lengths, reads(y_, "y"), reserve, writes(grad_x_, "grad_x"),
                      writes(grad_h0_, "grad_h0"), writes(grad_c0_, "grad_c0"),
                      writes(grad_params, num_params, "a gradient of params"), options);
  }
  return guarded([&] {
    const check::RnnBackward p =
        check::rnn_backward(grad_y_, grad_h_n_, grad_c_n_, x_, h0_, c0_, params, num_params, lengths, y_,
                            reserve, grad_x_, grad_h0_, grad_c0_, grad_params, options);
    dispatch(p.x.dtype, [&](auto zero) {
      using T = decltype(zero);
      std::deque<Contiguous> copies;
      std::deque<ContiguousOut> outs;
      const auto grads = rnn_group<T>(p.shape, [&](int64_t i) -> T* {
        const View& v = p.grad_params[static_cast<size_t>(i)];
        return v.ndim == 0 ? nullptr : (*outs.emplace_back(context, v)).template as<T>();
      });
      const RnnSequences<T> x(context, p.rows, p.x), y(context, p.rows, p.y),
          grad_y(context, p.rows, grad_y_ ? p.grad_y : p.y),
          grad_x(context, p.rows, grad_x_ ? p.grad_x : p.x);
      const RnnStates<T> h0(context, p.rows, p.h0), c0(context, p.rows, p.c0),
          grad_h_n(context, p.rows, p.grad_h_n), grad_c_n(context, p.rows, p.grad_c_n),
          grad_h0(context, p.rows, p.grad_h0), grad_c0(context, p.rows, p.grad_c0);
      x.read();
      y.read();
      if (grad_y_) grad_y.read();
      h0.read();
      c0.read();
      grad_h_n.read();
      grad_c_n.read();
      rnn_backward<T>(context, {p.shape, p.rows, read_params<T>(context, p, copies), grads, x.data(),
                                h0.data(), c0.data(), y.data(), p.reserve.as<compute_t<T>>(),
                                grad_y_ ? grad_y.data() : nullptr, grad_h_n.data(), grad_c_n.data(),
                                grad_x_ ? grad_x.data() : nullptr, grad_h0.data(), grad_c0.data()});
      if (grad_x_) grad_x.write();
      grad_h0.write();
      grad_c0.write();
      for (ContiguousOut& out : outs) out.write_back();
    });
  });
}
}
