// Entry points: every check, then the arguments in the order the algorithms work in.
#include "fastdl/rnn.h"

#include <algorithm>
#include <numeric>

#include "cpu/rnn_layout.h"
#include "cpu/rnn_product.h"
#include "cpu/rnn_stage.h"
#include "cpu/widen.h"

namespace fastdl::cpu {
namespace {

RnnShape shape_of(const fastdl_rnn_options* given, const char* op) {
  FASTDL_CHECK(given != nullptr, FASTDL_ERROR_VALUE, "%s: options are required, got NULL", op);
  const auto options = read_options(given, fastdl_rnn_options FASTDL_RNN_OPTIONS_INIT, op);
  const fastdl_rnn_options* const o = &options;
  FASTDL_CHECK(o->kind >= FASTDL_RNN_TANH && o->kind <= FASTDL_RNN_LSTM, FASTDL_ERROR_VALUE,
               "%s: unknown kind %d", op, o->kind);
  FASTDL_CHECK(o->num_layers >= 1, FASTDL_ERROR_VALUE, "%s: expected at least 1 layer, got %d", op,
               o->num_layers);
  FASTDL_CHECK(o->dropout >= 0 && o->dropout <= 1, FASTDL_ERROR_VALUE,
               "%s: expected a dropout probability in [0, 1], got %g", op, o->dropout);
  FASTDL_CHECK(!o->has_projection || o->kind == FASTDL_RNN_LSTM, FASTDL_ERROR_VALUE,
               "%s: projections are for LSTM only", op);
  RnnShape s;
  s.kind = o->kind;
  s.layers = o->num_layers;
  s.directions = o->bidirectional ? 2 : 1;
  s.gates = s.lstm() ? 4 : s.gru() ? 3 : 1;
  s.bias = o->has_bias != 0;
  s.projection = o->has_projection != 0;
  s.dropout = s.layers > 1 ? o->dropout : 0;
  s.seed = o->seed;
  s.offset = o->offset;
  return s;
}

void check_shape(const View& v, std::initializer_list<int64_t> expected, const char* op, const char* name) {
  bool same = v.ndim == static_cast<int>(expected.size());
  std::string text;
  int i = 0;
  for (const int64_t n : expected) {
    same = same && v.shape[i] == n;
    text += (i++ ? ", " : "") + std::to_string(n);
  }
  FASTDL_CHECK(same, FASTDL_ERROR_SHAPE, "%s: expected %s to have shape (%s%s), got %s", op, name,
               text.c_str(), expected.size() == 1 ? "," : "", shape_string(v).c_str());
}

// The name of parameter i as torch calls it.
std::string param_name(const RnnShape& s, int64_t i) {
  const int64_t per = s.params_per_direction(), place = i % per, group = i / per;
  const char* name = place == 0              ? "weight_ih"
                     : place == 1            ? "weight_hh"
                     : !s.bias || place == 4 ? "weight_hr"
                     : place == 2            ? "bias_ih"
                                             : "bias_hh";
  return std::string(name) + "_l" + std::to_string(group / s.directions) +
         (group % s.directions ? "_reverse" : "");
}

// Reads the parameters' sizes into `s` and checks every one of them.
std::vector<View> check_params(RnnShape& s, DType dtype, const fastdl_tensor* const* params, int32_t count,
                               const char* op) {
  const int64_t per = s.params_per_direction(), expected = s.layers * s.directions * per;
  FASTDL_CHECK(count == expected, FASTDL_ERROR_VALUE, "%s: expected %lld parameters, got %d", op,
               static_cast<long long>(expected), count);
  FASTDL_CHECK(params != nullptr, FASTDL_ERROR_VALUE, "%s: params is NULL", op);
  std::vector<View> views;
  for (int64_t i = 0; i < expected; ++i)
    views.push_back(view_like(params[i], dtype, op, param_name(s, i).c_str()));
  const View& ih = views[0];
  const View& last = views[static_cast<size_t>(per - 1)];
  FASTDL_CHECK(ih.ndim == 2 && ih.shape[0] >= s.gates && ih.shape[0] % s.gates == 0, FASTDL_ERROR_SHAPE,
               "%s: expected weight_ih_l0 to have shape (%lld * hidden_size, input_size), got %s", op,
               static_cast<long long>(s.gates), shape_string(ih).c_str());
  s.input = ih.shape[1];
  s.hidden = ih.shape[0] / s.gates;
  s.state = s.hidden;
  if (s.projection) {
    FASTDL_CHECK(last.ndim == 2 && last.shape[0] >= 1, FASTDL_ERROR_SHAPE,
                 "%s: expected weight_hr_l0 to have shape (proj_size, hidden_size), got %s", op,
                 shape_string(last).c_str());
    s.state = last.shape[0];
  }
  const int64_t rows = s.gates * s.hidden;
  for (int64_t i = 0; i < expected; ++i) {
    const View& v = views[static_cast<size_t>(i)];
    const std::string name = param_name(s, i);
    const int64_t place = i % per;
    if (place == 0) check_shape(v, {rows, s.input_of(i / per / s.directions)}, op, name.c_str());
    else if (place == 1) check_shape(v, {rows, s.state}, op, name.c_str());
    else if (!s.bias || place == 4) check_shape(v, {s.state, s.hidden}, op, name.c_str());
    else check_shape(v, {rows}, op, name.c_str());
  }
  return views;
}

// The reserve of so many rows can be counted in 64 bits.
void check_size(const RnnShape& s, int64_t rows, const char* op) {
  const double row =
      8.0 * static_cast<double>(s.gates) * static_cast<double>(s.hidden) + 4.0 * static_cast<double>(s.state);
  FASTDL_CHECK(row * static_cast<double>(s.directions * s.layers) * static_cast<double>(rows) < 1e18,
               FASTDL_ERROR_SHAPE, "%s: %lld rows of %lld hidden units are too many", op,
               static_cast<long long>(rows), static_cast<long long>(s.hidden));
}

int64_t length_at(const View& lengths, int64_t i) {
  const int64_t at = i * lengths.stride(0);
  return lengths.dtype == DType::kInt64 ? lengths.as<int64_t>()[at] : lengths.as<int32_t>()[at];
}

RnnRows check_rows(const View& x, const fastdl_tensor* lengths_, const char* op) {
  FASTDL_CHECK(x.ndim == 3 || x.ndim == 2, FASTDL_ERROR_SHAPE,
               "%s: expected x of shape (T, B, input_size), or (rows, input_size) when packed, got %s", op,
               shape_string(x).c_str());
  const bool packed = x.ndim == 2;
  RnnRows rows;
  if (!lengths_) {
    FASTDL_CHECK(!packed, FASTDL_ERROR_VALUE, "%s: packed sequences need lengths", op);
    rows.steps = x.shape[0];
    rows.sequences = x.shape[1];
    rows.length.assign(static_cast<size_t>(rows.sequences), rows.steps);
  } else {
    const View lengths = view(lengths_, op, "lengths");
    FASTDL_CHECK(lengths.dtype == DType::kInt64 || lengths.dtype == DType::kInt32, FASTDL_ERROR_DTYPE,
                 "%s: expected lengths to be int64 or int32, got %s", op, name_of(lengths.dtype));
    check_ndim(lengths, 1, op, "lengths");
    rows.sequences = lengths.shape[0];
    FASTDL_CHECK(packed || x.shape[1] == rows.sequences, FASTDL_ERROR_SHAPE,
                 "%s: expected one length for each of %lld sequences, got %lld", op,
                 static_cast<long long>(x.shape[1]), static_cast<long long>(rows.sequences));
    for (int64_t i = 0; i < rows.sequences; ++i) {
      const int64_t n = length_at(lengths, i);
      FASTDL_CHECK(n >= 1, FASTDL_ERROR_VALUE,
                   "%s: expected every length to be at least 1, got lengths[%lld] = %lld", op,
                   static_cast<long long>(i), static_cast<long long>(n));
      FASTDL_CHECK(n <= x.shape[0], FASTDL_ERROR_VALUE,
                   "%s: lengths[%lld] = %lld is longer than the sequence of %lld steps", op,
                   static_cast<long long>(i), static_cast<long long>(n), static_cast<long long>(x.shape[0]));
      FASTDL_CHECK(!packed || i == 0 || n <= rows.length.back(), FASTDL_ERROR_VALUE,
                   "%s: packed sequences must be in the order of falling length", op);
      rows.length.push_back(n);
    }
    rows.steps = packed ? (rows.sequences ? rows.length[0] : 0) : x.shape[0];
    rows.full =
        std::all_of(rows.length.begin(), rows.length.end(), [&](int64_t n) { return n == rows.steps; });
    if (!std::is_sorted(rows.length.begin(), rows.length.end(), std::greater<>())) {
      rows.order.resize(static_cast<size_t>(rows.sequences));
      std::iota(rows.order.begin(), rows.order.end(), int64_t{0});
      std::stable_sort(rows.order.begin(), rows.order.end(), [&](int64_t a, int64_t b) {
        return rows.length[static_cast<size_t>(a)] > rows.length[static_cast<size_t>(b)];
      });
      std::sort(rows.length.begin(), rows.length.end(), std::greater<>());
    }
  }
  FASTDL_CHECK(packed || x.shape[0] >= 1, FASTDL_ERROR_SHAPE,
               "%s: expected a sequence of at least 1 step, got %s", op, shape_string(x).c_str());
  int64_t alive = rows.sequences;
  for (int64_t t = 0; t < rows.steps; ++t) {
    while (alive > 0 && rows.length[static_cast<size_t>(alive - 1)] <= t) --alive;
    rows.batch.push_back(alive);
    rows.offset.push_back(rows.rows);
    rows.rows += alive;
  }
  FASTDL_CHECK(!packed || rows.rows == x.shape[0], FASTDL_ERROR_SHAPE,
               "%s: expected packed x to have %lld rows, the sum of lengths, got %s", op,
               static_cast<long long>(rows.rows), shape_string(x).c_str());
  return rows;
}

// The operands forward and backward share.
struct Problem {
  const char* op;
  RnnShape shape;
  RnnRows rows;
  View x, y, reserve, h0, c0;  // ndim 0: not given
  std::vector<View> params;

  View states(const fastdl_tensor* t, int64_t columns, const char* name) const {
    if (!t) return View{};
    const View v = view_like(t, x.dtype, op, name);
    check_shape(v, {shape.layers * shape.directions, rows.sequences, columns}, op, name);
    return v;
  }
  View sequences(const fastdl_tensor* t, int64_t columns, const char* name) const {
    const View v = view_like(t, x.dtype, op, name);
    if (x.ndim == 3) check_shape(v, {x.shape[0], x.shape[1], columns}, op, name);
    else check_shape(v, {x.shape[0], columns}, op, name);
    return v;
  }
};

Problem check_problem(const char* op, const fastdl_tensor* x, const fastdl_tensor* h0,
                      const fastdl_tensor* c0, const fastdl_tensor* const* params, int32_t num_params,
                      const fastdl_tensor* lengths, const fastdl_tensor* y, const fastdl_tensor* reserve,
                      const fastdl_rnn_options* options) {
  Problem p{op, shape_of(options, op), {}, any_float_view(x, op, "x"), {}, {}, {}, {}, {}};
  RnnShape& s = p.shape;
  p.params = check_params(s, p.x.dtype, params, num_params, op);
  p.rows = check_rows(p.x, lengths, op);
  FASTDL_CHECK(p.x.extent(-1) == s.input, FASTDL_ERROR_SHAPE, "%s: expected x with input_size %lld, got %s",
               op, static_cast<long long>(s.input), shape_string(p.x).c_str());
  FASTDL_CHECK(s.lstm() || !c0, FASTDL_ERROR_VALUE, "%s: c0 is for LSTM only", op);
  p.h0 = p.states(h0, s.state, "h0");
  p.c0 = p.states(c0, s.hidden, "c0");
  p.y = p.sequences(y, s.width(), "y");
  check_size(s, p.rows.rows, op);
  if (reserve) {
    p.reserve = view_like(reserve, is_narrow(x) ? DType::kFloat32 : p.x.dtype, op, "reserve");
    check_shape(p.reserve, {RnnReserve(s, p.rows.rows).size()}, op, "reserve");
    FASTDL_CHECK(p.reserve.contiguous(), FASTDL_ERROR_SHAPE, "%s: reserve must be contiguous", op);
  }
  return p;
}

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
std::vector<RnnWeights<T>> read_params(Context* context, const Problem& p, std::deque<Contiguous>& copies) {
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
    RnnShape s = shape_of(options, op);
    FASTDL_CHECK(rows >= 0 && hidden_size >= 1 && state_size >= 1 && elements, FASTDL_ERROR_VALUE,
                 "%s: expected rows >= 0, hidden_size >= 1, state_size >= 1 and a place for the result", op);
    s.hidden = hidden_size;
    s.state = state_size;
    check_size(s, rows, op);
    *elements = RnnReserve(s, rows).size();
  });
}

fastdl_status fastdl_rnn_dropout_size(const fastdl_rnn_options* options, int64_t rows, int64_t state_size,
                                      int64_t* numbers) {
  return guarded([&] {
    const char* op = "rnn_dropout_size";
    RnnShape s = shape_of(options, op);
    FASTDL_CHECK(rows >= 0 && state_size >= 1 && numbers, FASTDL_ERROR_VALUE,
                 "%s: expected rows >= 0, state_size >= 1 and a place for the result", op);
    s.state = s.hidden = state_size;
    check_size(s, rows, op);
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
    const Problem p = check_problem("rnn", x_, h0_, c0_, params, num_params, lengths, y_, reserve, options);
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
    const Problem p = check_problem(op, x_, h0_, c0_, params, num_params, lengths, y_, reserve, options);
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
      const std::string name = "the gradient of " + param_name(s, static_cast<int64_t>(i));
      grad_views[i] = out_view(grad_params[i], p.x.dtype, op, name.c_str());
      check_same_shape(p.params[i], param_name(s, static_cast<int64_t>(i)).c_str(), grad_views[i],
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
