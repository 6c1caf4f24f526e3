#include "common/rnn.h"

#include <algorithm>
#include <numeric>

#include "common/place.h"

namespace fastdl {

RnnReserve::RnnReserve(const RnnShape& s, int64_t rows) {
  directions_ = s.directions;
  gates_size_ = rows * s.gates * s.hidden;
  state_size_ = s.lstm() || s.gru() ? rows * s.hidden : 0;
  direction_size_ = gates_size_ + state_size_ + (s.projection ? rows * s.hidden : 0);
  y_size_ = rows * s.width();
  const int64_t all_gates = directions_ * direction_size_;
  layer_size_ = all_gates + y_size_ * (s.dropout > 0 ? 2 : 1);
  size_ = (s.layers - 1) * layer_size_ + all_gates;
}

namespace check {
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

// The reserve of so many rows can be counted in 64 bits.
void check_size(const RnnShape& s, int64_t rows, const char* op) {
  const double row =
      8.0 * static_cast<double>(s.gates) * static_cast<double>(s.hidden) + 4.0 * static_cast<double>(s.state);
  FASTDL_CHECK(row * static_cast<double>(s.directions * s.layers) * static_cast<double>(rows) < 1e18,
               FASTDL_ERROR_SHAPE, "%s: %lld rows of %lld hidden units are too many", op,
               static_cast<long long>(rows), static_cast<long long>(s.hidden));
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

// Lengths are read here and now: they lie in the host's memory whatever the tensors do.
View lengths_view(const fastdl_tensor* t, const char* op) {
  FASTDL_CHECK(t->device.type == FASTDL_CPU, FASTDL_ERROR_DEVICE, "%s: lengths must be in CPU memory", op);
  fastdl_tensor here = *t;
  here.device = {kMemoryType, kAnyDevice};
  return view(&here, op, "lengths");
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
    const View lengths = lengths_view(lengths_, op);
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

}  // namespace

View RnnProblem::states(const fastdl_tensor* t, int64_t columns, const char* name) const {
  if (!t) return View{};
  const View v = view_like(t, x.dtype, op, name);
  check_shape(v, {shape.layers * shape.directions, rows.sequences, columns}, op, name);
  return v;
}

View RnnProblem::sequences(const fastdl_tensor* t, int64_t columns, const char* name) const {
  if (!t) return View{};
  const View v = view_like(t, x.dtype, op, name);
  if (x.ndim == 3) check_shape(v, {x.shape[0], x.shape[1], columns}, op, name);
  else check_shape(v, {x.shape[0], columns}, op, name);
  return v;
}

namespace {

RnnProblem problem(const char* op, const fastdl_tensor* x, const fastdl_tensor* h0, const fastdl_tensor* c0,
                   const fastdl_tensor* const* params, int32_t num_params, const fastdl_tensor* lengths,
                   const fastdl_tensor* y, const fastdl_tensor* reserve, const fastdl_rnn_options* options) {
  RnnProblem p{op, shape_of(options, op), {}, any_float_view(x, op, "x"), {}, {}, {}, {}, {}};
  RnnShape& s = p.shape;
  p.params = check_params(s, p.x.dtype, params, num_params, op);
  p.rows = check_rows(p.x, lengths, op);
  FASTDL_CHECK(p.x.extent(-1) == s.input, FASTDL_ERROR_SHAPE, "%s: expected x with input_size %lld, got %s",
               op, static_cast<long long>(s.input), shape_string(p.x).c_str());
  FASTDL_CHECK(s.lstm() || !c0, FASTDL_ERROR_VALUE, "%s: c0 is for LSTM only", op);
  p.h0 = p.states(h0, s.state, "h0");
  p.c0 = p.states(c0, s.hidden, "c0");
  FASTDL_CHECK(y != nullptr, FASTDL_ERROR_VALUE, "%s: y is required, got NULL", op);
  p.y = p.sequences(y, s.width(), "y");
  check_size(s, p.rows.rows, op);
  if (reserve) {
    p.reserve = view_like(reserve, is_narrow(p.x.dtype) ? DType::kFloat32 : p.x.dtype, op, "reserve");
    check_shape(p.reserve, {RnnReserve(s, p.rows.rows).size()}, op, "reserve");
    FASTDL_CHECK(p.reserve.contiguous(), FASTDL_ERROR_SHAPE, "%s: reserve must be contiguous", op);
  }
  return p;
}

}  // namespace

RnnForward rnn_forward(const fastdl_tensor* x, const fastdl_tensor* h0, const fastdl_tensor* c0,
                       const fastdl_tensor* const* params, int32_t num_params, const fastdl_tensor* lengths,
                       const fastdl_tensor* y, const fastdl_tensor* h_n, const fastdl_tensor* c_n,
                       const fastdl_tensor* reserve, const fastdl_rnn_options* options) {
  RnnForward p{problem("rnn", x, h0, c0, params, num_params, lengths, y, reserve, options), {}, {}};
  FASTDL_CHECK(p.shape.lstm() || !c_n, FASTDL_ERROR_VALUE, "%s: c_n is for LSTM only", p.op);
  p.h_n = p.states(h_n, p.shape.state, "h_n");
  p.c_n = p.states(c_n, p.shape.hidden, "c_n");
  check_out(p.y, p.op, "y");
  if (h_n) check_out(p.h_n, p.op, "h_n");
  if (c_n) check_out(p.c_n, p.op, "c_n");
  return p;
}

RnnBackward rnn_backward(const fastdl_tensor* grad_y, const fastdl_tensor* grad_h_n,
                         const fastdl_tensor* grad_c_n, const fastdl_tensor* x, const fastdl_tensor* h0,
                         const fastdl_tensor* c0, const fastdl_tensor* const* params, int32_t num_params,
                         const fastdl_tensor* lengths, const fastdl_tensor* y, const fastdl_tensor* reserve,
                         const fastdl_tensor* grad_x, const fastdl_tensor* grad_h0,
                         const fastdl_tensor* grad_c0, const fastdl_tensor* const* grad_params,
                         const fastdl_rnn_options* options) {
  const char* op = "rnn_backward";
  FASTDL_CHECK(reserve, FASTDL_ERROR_VALUE, "%s: the reserve of the forward call is required", op);
  RnnBackward p;
  static_cast<RnnProblem&>(p) = problem(op, x, h0, c0, params, num_params, lengths, y, reserve, options);
  const RnnShape& s = p.shape;
  FASTDL_CHECK(s.lstm() || (!grad_c_n && !grad_c0), FASTDL_ERROR_VALUE,
               "%s: grad_c_n and grad_c0 are for LSTM only", op);
  p.grad_y = p.sequences(grad_y, s.width(), "grad_y");
  p.grad_x = p.sequences(grad_x, s.input, "grad_x");
  p.grad_h_n = p.states(grad_h_n, s.state, "grad_h_n");
  p.grad_c_n = p.states(grad_c_n, s.hidden, "grad_c_n");
  p.grad_h0 = p.states(grad_h0, s.state, "grad_h0");
  p.grad_c0 = p.states(grad_c0, s.hidden, "grad_c0");
  if (grad_x) check_out(p.grad_x, op, "grad_x");
  if (grad_h0) check_out(p.grad_h0, op, "grad_h0");
  if (grad_c0) check_out(p.grad_c0, op, "grad_c0");
  p.grad_params.resize(p.params.size());
  for (size_t i = 0; grad_params && i < p.params.size(); ++i) {
    if (!grad_params[i]) continue;
    const std::string name = param_name(s, static_cast<int64_t>(i)), grad = "the gradient of " + name;
    p.grad_params[i] = out_view(grad_params[i], p.x.dtype, op, grad.c_str());
    check_same_shape(p.params[i], name.c_str(), p.grad_params[i], grad.c_str(), op);
  }
  return p;
}

int64_t rnn_reserve_size(const fastdl_rnn_options* options, int64_t rows, int64_t hidden_size,
                         int64_t state_size, const int64_t* elements) {
  const char* op = "rnn_reserve_size";
  RnnShape s = shape_of(options, op);
  FASTDL_CHECK(rows >= 0 && hidden_size >= 1 && state_size >= 1 && elements, FASTDL_ERROR_VALUE,
               "%s: expected rows >= 0, hidden_size >= 1, state_size >= 1 and a place for the result", op);
  s.hidden = hidden_size;
  s.state = state_size;
  check_size(s, rows, op);
  return RnnReserve(s, rows).size();
}

int64_t rnn_dropout_size(const fastdl_rnn_options* options, int64_t rows, int64_t state_size,
                         const int64_t* numbers) {
  const char* op = "rnn_dropout_size";
  RnnShape s = shape_of(options, op);
  FASTDL_CHECK(rows >= 0 && state_size >= 1 && numbers, FASTDL_ERROR_VALUE,
               "%s: expected rows >= 0, state_size >= 1 and a place for the result", op);
  s.state = s.hidden = state_size;
  check_size(s, rows, op);
  return s.dropout > 0 ? (s.layers - 1) * rnn_dropout_numbers(s, rows) : 0;
}

}  // namespace check
}  // namespace fastdl
