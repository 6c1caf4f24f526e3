// Entry points: the checked arguments as rows, in the order the algorithms work in.
#include "cuda/rnn.h"

#include <deque>

#include "fastdl/cuda.h"

namespace fastdl::cuda {
namespace {

template <class S>
std::vector<RnnWeights<S>> read_params(Context* context, const check::RnnProblem& p,
                                       std::deque<Contiguous>& copies) {
  return rnn_group<S>(p.shape, [&](int64_t i) {
    return (*copies.emplace_back(context, p.params[static_cast<size_t>(i)])).template as<S>();
  });
}

}  // namespace
}  // namespace fastdl::cuda

using namespace fastdl;
using namespace fastdl::cuda;

extern "C" {

fastdl_status fastdl_cuda_rnn_reserve_size(const fastdl_rnn_options* options, int64_t rows,
                                           int64_t hidden_size, int64_t state_size, int64_t* elements) {
  return guarded(
      [&] { *elements = check::rnn_reserve_size(options, rows, hidden_size, state_size, elements); });
}

fastdl_status fastdl_cuda_rnn_dropout_size(const fastdl_rnn_options* options, int64_t rows,
                                           int64_t state_size, int64_t* numbers) {
  return guarded([&] { *numbers = check::rnn_dropout_size(options, rows, state_size, numbers); });
}

fastdl_status fastdl_cuda_rnn_forward(fastdl_context* context, const fastdl_tensor* x_,
                                      const fastdl_tensor* h0_, const fastdl_tensor* c0_,
                                      const fastdl_tensor* const* params, int32_t num_params,
                                      const fastdl_tensor* lengths, const fastdl_tensor* y_,
                                      const fastdl_tensor* h_n_, const fastdl_tensor* c_n_,
                                      const fastdl_tensor* reserve, const fastdl_rnn_options* options) {
  return guarded([&] {
    const check::RnnForward p =
        check::rnn_forward(x_, h0_, c0_, params, num_params, lengths, y_, h_n_, c_n_, reserve, options);
    const RnnIndex index(context, p.rows);
    std::deque<Contiguous> copies;
    RnnSequences x(context, p.rows, index, p.x), y(context, p.rows, index, p.y);
    RnnStates h0(context, p.rows, index, p.h0), c0(context, p.rows, index, p.c0),
        h_n(context, p.rows, index, p.h_n), c_n(context, p.rows, index, p.c_n);
    x.read();
    h0.read();
    c0.read();
    dispatch_storage(p.x.dtype, [&](auto zero) {
      using S = decltype(zero);
      const auto as = [](const auto& staged) { return static_cast<S*>(staged.data()); };
      rnn_forward<S>(context,
                     {p.shape, p.rows, read_params<S>(context, p, copies), as(x), as(h0), as(c0), as(y),
                      as(h_n), as(c_n), reserve ? p.reserve.as<compute_t<S>>() : nullptr},
                     *index);
    });
    y.write();
    h_n.write();
    c_n.write();
  });
}

fastdl_status fastdl_cuda_rnn_backward(fastdl_context* context, const fastdl_tensor* grad_y_,
                                       const fastdl_tensor* grad_h_n_, const fastdl_tensor* grad_c_n_,
                                       const fastdl_tensor* x_, const fastdl_tensor* h0_,
                                       const fastdl_tensor* c0_, const fastdl_tensor* const* params,
                                       int32_t num_params, const fastdl_tensor* lengths,
                                       const fastdl_tensor* y_, const fastdl_tensor* reserve,
                                       const fastdl_tensor* grad_x_, const fastdl_tensor* grad_h0_,
                                       const fastdl_tensor* grad_c0_, const fastdl_tensor* const* grad_params,
                                       const fastdl_rnn_options* options) {
  return guarded([&] {
    const check::RnnBackward p =
        check::rnn_backward(grad_y_, grad_h_n_, grad_c_n_, x_, h0_, c0_, params, num_params, lengths, y_,
                            reserve, grad_x_, grad_h0_, grad_c0_, grad_params, options);
    const RnnIndex index(context, p.rows);
    std::deque<Contiguous> copies;
    std::deque<ContiguousOut> outs;
    RnnSequences x(context, p.rows, index, p.x), y(context, p.rows, index, p.y),
        grad_y(context, p.rows, index, p.grad_y), grad_x(context, p.rows, index, p.grad_x);
    RnnStates h0(context, p.rows, index, p.h0), c0(context, p.rows, index, p.c0),
        grad_h_n(context, p.rows, index, p.grad_h_n), grad_c_n(context, p.rows, index, p.grad_c_n),
        grad_h0(context, p.rows, index, p.grad_h0), grad_c0(context, p.rows, index, p.grad_c0);
    x.read();
    y.read();
    grad_y.read();
    h0.read();
    c0.read();
    grad_h_n.read();
    grad_c_n.read();
    dispatch_storage(p.x.dtype, [&](auto zero) {
      using S = decltype(zero);
      const auto as = [](const auto& staged) { return static_cast<S*>(staged.data()); };
      const auto grads = rnn_group<S>(p.shape, [&](int64_t i) -> S* {
        const View& v = p.grad_params[static_cast<size_t>(i)];
        return v.ndim == 0 ? nullptr : (*outs.emplace_back(context, v)).template as<S>();
      });
      rnn_backward<S>(context,
                      {p.shape, p.rows, read_params<S>(context, p, copies), grads, as(x), as(h0), as(c0),
                       as(y), p.reserve.as<compute_t<S>>(), as(grad_y), as(grad_h_n), as(grad_c_n),
                       as(grad_x), as(grad_h0), as(grad_c0)},
                      *index);
    });
    grad_x.write();
    grad_h0.write();
    grad_c0.write();
    for (ContiguousOut& out : outs) out.write_back();
  });
}
}
