// Entry points: the checks that are left, then the arguments in the order the algorithms work in.
#include "fastdl/rnn.h"

#include "cpu/rnn_problem.h"
#include "cpu/rnn_product.h"
#include "cpu/rnn_stage.h"
#include "cpu/widen.h"

namespace fastdl::cpu {
namespace {

// Groups parameters (or their gradients) by direction; data(i) is parameter i's contiguous memory or NULL.
template <class T, class Data>
std::vector<RnnWeights<T>> group(const RnnShape& s, Data&& data) {
  std::vector<RnnWeights<T>> groups;
  for (int64_t d = 0, i = 0; d < s.layers * s.directions; ++d) {
    RnnWeights<T> w;
    w.ih = data(i++);
    w.hh = data(i++);
    if (s.bias) {
      w.bias_ih = data(i++);
      w.bias_hh = data(i++);
    }
    if (s.projection) w.hr = data(i++);
    groups.push_back(w);
  }
  return groups;
}

template <class T>
std::vector<RnnWeights<T>> read_params(Context* context, const RnnProblem& p,
                                       std::deque<Contiguous>& copies) {
  return group<T>(p.shape, [&](int64_t i) {
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
  return guarded([&] {
    const char* op = "rnn_reserve_size";
    RnnShape s = rnn_shape_of(options, op);
    FASTDL_CHECK(rows >= 0 && hidden_size >= 1 && state_size >= 1 && elements, FASTDL_ERROR_VALUE,
                 "%s: expected rows >= 0, hidden_size >= 1, state_size >= 1 and a place for the result", op);
    s.hidden = hidden_size;
    s.state = state_size;
    check_rnn_size(s, rows, op);
    *elements = RnnReserve(s, rows).size();
  });
}

fastdl_status fastdl_rnn_dropout_size(const fastdl_rnn_options* options, int64_t rows, int64_t state_size,
                                      int64_t* numbers) {
  return guarded([&] {
    const char* op = "rnn_dropout_size";
    RnnShape s = rnn_shape_of(options, op);
    FASTDL_CHECK(rows >= 0 && state_size >= 1 && numbers, FASTDL_ERROR_VALUE,
                 "%s: expected rows >= 0, state_size >= 1 and a place for the result", op);
    s.state = s.hidden = state_size;
    check_rnn_size(s, rows, op);
    *numbers = s.dropout > 0 ? (s.layers - 1) * rnn_dropout_numbers(s, rows) : 0;
  });
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
    const RnnProblem p =
        check_rnn_problem("rnn", x_, h0_, c0_, params, num_params, lengths, y_, reserve, options);
    FASTDL_CHECK(p.shape.lstm() || !c_n_, FASTDL_ERROR_VALUE, "%s: c_n is for LSTM only", p.op);
    const View h_n_view = p.states(h_n_, p.shape.state, "h_n"),
               c_n_view = p.states(c_n_, p.shape.hidden, "c_n");
    check_out(p.y, p.op, "y");
    if (h_n_) check_out(h_n_view, p.op, "h_n");
    if (c_n_) check_out(c_n_view, p.op, "c_n");
    dispatch(p.x.dtype, [&](auto zero) {
      using T = decltype(zero);
      std::deque<Contiguous> copies;
      const RnnSequences<T> x(context, p.rows, p.x), y(context, p.rows, p.y);
      const RnnStates<T> h0(context, p.rows, p.h0), c0(context, p.rows, p.c0), h_n(context, p.rows, h_n_view),
          c_n(context, p.rows, c_n_view);
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
    const char* op = "rnn_backward";
    FASTDL_CHECK(reserve, FASTDL_ERROR_VALUE, "%s: the reserve of the forward call is required", op);
    const RnnProblem p =
        check_rnn_problem(op, x_, h0_, c0_, params, num_params, lengths, y_, reserve, options);
    const RnnShape& s = p.shape;
    FASTDL_CHECK(s.lstm() || (!grad_c_n_ && !grad_c0_), FASTDL_ERROR_VALUE,
                 "%s: grad_c_n and grad_c0 are for LSTM only", op);
    const View grad_y_view = grad_y_ ? p.sequences(grad_y_, s.width(), "grad_y") : View{};
    const View grad_x_view = grad_x_ ? p.sequences(grad_x_, s.input, "grad_x") : View{};
    const View grad_h_n_view = p.states(grad_h_n_, s.state, "grad_h_n"),
               grad_c_n_view = p.states(grad_c_n_, s.hidden, "grad_c_n"),
               grad_h0_view = p.states(grad_h0_, s.state, "grad_h0"),
               grad_c0_view = p.states(grad_c0_, s.hidden, "grad_c0");
    if (grad_x_) check_out(grad_x_view, op, "grad_x");
    if (grad_h0_) check_out(grad_h0_view, op, "grad_h0");
    if (grad_c0_) check_out(grad_c0_view, op, "grad_c0");
    std::vector<View> grad_views(p.params.size());
    for (size_t i = 0; grad_params && i < p.params.size(); ++i) {
      if (!grad_params[i]) continue;
      const std::string name = "the gradient of " + rnn_param_name(s, static_cast<int64_t>(i));
      grad_views[i] = out_view(grad_params[i], p.x.dtype, op, name.c_str());
      check_same_shape(p.params[i], rnn_param_name(s, static_cast<int64_t>(i)).c_str(), grad_views[i],
                       name.c_str(), op);
    }
    dispatch(p.x.dtype, [&](auto zero) {
      using T = decltype(zero);
      std::deque<Contiguous> copies;
      std::deque<ContiguousOut> outs;
      const auto grads = group<T>(s, [&](int64_t i) -> T* {
        const View& v = grad_views[static_cast<size_t>(i)];
        return v.ndim == 0 ? nullptr : (*outs.emplace_back(context, v)).template as<T>();
      });
      const View x_view = p.x;
      const RnnSequences<T> x(context, p.rows, x_view), y(context, p.rows, p.y),
          grad_y(context, p.rows, grad_y_ ? grad_y_view : p.y),
          grad_x(context, p.rows, grad_x_ ? grad_x_view : x_view);
      const RnnStates<T> h0(context, p.rows, p.h0), c0(context, p.rows, p.c0),
          grad_h_n(context, p.rows, grad_h_n_view), grad_c_n(context, p.rows, grad_c_n_view),
          grad_h0(context, p.rows, grad_h0_view), grad_c0(context, p.rows, grad_c0_view);
      x.read();
      y.read();
      if (grad_y_) grad_y.read();
      h0.read();
      c0.read();
      grad_h_n.read();
      grad_c_n.read();
      rnn_backward<T>(context, {s, p.rows, read_params<T>(context, p, copies), grads, x.data(), h0.data(),
                                c0.data(), y.data(), p.reserve.as<compute_t<T>>(),
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
