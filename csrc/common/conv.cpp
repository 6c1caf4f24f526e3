#include "common/conv.h"

#include <algorithm>

namespace fastdl::check {
namespace {

long long ll(int64_t v) { return static_cast<long long>(v); }

void check_options(const fastdl_conv_options& o, int nd, const char* op) {
  for (int i = 0; i < nd; ++i) {
    FASTDL_CHECK(o.stride[i] >= 1, FASTDL_ERROR_VALUE, "%s: expected stride of at least 1, got %lld", op,
                 ll(o.stride[i]));
    FASTDL_CHECK(o.dilation[i] >= 1, FASTDL_ERROR_VALUE, "%s: expected dilation of at least 1, got %lld", op,
                 ll(o.dilation[i]));
    FASTDL_CHECK(o.padding[i] >= 0 && o.padding_end[i] >= 0, FASTDL_ERROR_VALUE,
                 "%s: expected padding of at least 0, got %lld", op,
                 ll(std::min(o.padding[i], o.padding_end[i])));
  }
  FASTDL_CHECK(o.groups >= 1, FASTDL_ERROR_VALUE, "%s: expected groups of at least 1, got %lld", op,
               ll(o.groups));
  FASTDL_CHECK(o.activation.kind >= FASTDL_ACT_NONE && o.activation.kind <= FASTDL_ACT_THRESHOLD,
               FASTDL_ERROR_VALUE, "%s: unknown activation kind %d", op, o.activation.kind);
}

// Padded images, and what a kernel reaches, stay countable in 64 bits.
void check_extents(const View& big, const View& weight, const View& small, const fastdl_conv_options& o,
                   int nd, const char* op) {
  const auto d = [](int64_t v) { return static_cast<double>(v); };
  double elements =
      64 * std::max(1.0, std::max(d(big.shape[0]), 1.0) * std::max(d(big.shape[1]), d(small.shape[1])));
  for (int i = 0; i < nd; ++i) {
    elements *= d(big.shape[2 + i]) + d(o.padding[i]) + d(o.padding_end[i]) +
                d(o.dilation[i]) * d(weight.shape[2 + i]) + d(o.stride[i]) * d(small.shape[2 + i]) + 1;
  }
  FASTDL_CHECK(elements < 1e18, FASTDL_ERROR_VALUE,
               "%s: padding, dilation or stride are too big for an image of shape %s", op,
               shape_string(big).c_str());
}

std::optional<View> optional_vector(const fastdl_tensor* t, DType dtype, int64_t n, const char* op,
                                    const char* name) {
  if (!t) return std::nullopt;
  const View v = view_like(t, dtype, op, name);
  FASTDL_CHECK(v.ndim == 1 && v.shape[0] == n, FASTDL_ERROR_SHAPE, "%s: expected %s of shape (%lld,), got %s",
               op, name, ll(n), shape_string(v).c_str());
  return v;
}

std::optional<View> optional_like(const fastdl_tensor* t, const View& like, const char* like_name,
                                  const char* op, const char* name) {
  if (!t) return std::nullopt;
  const View v = view_like(t, like.dtype, op, name);
  check_same_shape(like, like_name, v, name, op);
  return v;
}

void check_saved(const std::optional<View>& saved, const fastdl_activation& f, const char* op) {
  FASTDL_CHECK(f.kind == FASTDL_ACT_NONE || saved, FASTDL_ERROR_VALUE,
               "%s: the activation's derivative needs saved, got NULL", op);
}

fastdl_conv_options conv_options(const fastdl_conv_options* options, const char* op) {
  return read_options(options, fastdl_conv_options FASTDL_CONV_OPTIONS_INIT, op);
}

// The shape of the convolution's output, in C order with the channels last.
View convolved(const View& x, const View& weight, const fastdl_conv_options& o, const char* op) {
  View v = x;
  v.data = nullptr;
  if (weight.ndim != x.ndim || x.ndim < 3 || x.ndim > 5) return v;  // refused when the geometry is checked
  v.shape[1] = weight.shape[0];
  std::fill(v.shape + 2, v.shape + v.ndim, 0);
  check_options(o, v.ndim - 2, op);
  check_extents(x, weight, v, o, v.ndim - 2, op);
  for (int i = 0; i + 2 < v.ndim; ++i) {
    const int64_t reach = o.dilation[i] * (weight.shape[2 + i] - 1) + 1;
    const int64_t room = x.shape[2 + i] + o.padding[i] + o.padding_end[i] - reach;
    v.shape[2 + i] = room < 0 ? 0 : room / o.stride[i] + 1;
  }
  channels_last(v);
  return v;
}

ConvWindows windows(const View& image, const View& columns, const int64_t* kernel,
                    const fastdl_conv_options* options, const char* op) {
  const fastdl_conv_options o = conv_options(options, op);
  check_ndim(image, 4, op, "the image");
  check_ndim(columns, 3, op, "the columns");
  FASTDL_CHECK(kernel != nullptr, FASTDL_ERROR_VALUE, "%s: kernel is required, got NULL", op);
  ConvWindows w;
  for (int i = 0; i < 2; ++i) {
    FASTDL_CHECK(kernel[i] >= 1 && o.stride[i] >= 1 && o.dilation[i] >= 1 && o.padding[i] >= 0 &&
                     o.padding_end[i] >= 0,
                 FASTDL_ERROR_VALUE,
                 "%s: expected kernel, stride and dilation of at least 1 and padding of at least 0", op);
    FASTDL_CHECK(kernel[i] <= INT32_MAX && o.stride[i] <= INT32_MAX && o.dilation[i] <= INT32_MAX &&
                     o.padding[i] <= INT32_MAX && o.padding_end[i] <= INT32_MAX,
                 FASTDL_ERROR_VALUE, "%s: kernel, stride, dilation and padding must be below 2^31", op);
    w.kernel[i] = kernel[i];
    w.stride[i] = o.stride[i];
    w.padding[i] = o.padding[i];
    w.dilation[i] = o.dilation[i];
    w.size[i] = image.shape[2 + i];
    const int64_t room = w.size[i] + o.padding[i] + o.padding_end[i] - w.dilation[i] * (w.kernel[i] - 1) - 1;
    FASTDL_CHECK(room >= 0, FASTDL_ERROR_SHAPE, "%s: the kernel is larger than the padded image %s", op,
                 shape_string(image).c_str());
    w.count[i] = room / w.stride[i] + 1;
  }
  FASTDL_CHECK(static_cast<double>(image.shape[1]) * static_cast<double>(w.kernel[0]) *
                       static_cast<double>(w.kernel[1]) * static_cast<double>(w.count[0]) *
                       static_cast<double>(w.count[1]) <
                   1e18,
               FASTDL_ERROR_SHAPE, "%s: the columns of an image of shape %s would be too big", op,
               shape_string(image).c_str());
  const int64_t rows = image.shape[1] * w.kernel[0] * w.kernel[1], length = w.count[0] * w.count[1];
  FASTDL_CHECK(columns.shape[0] == image.shape[0] && columns.shape[1] == rows && columns.shape[2] == length,
               FASTDL_ERROR_SHAPE, "%s: expected columns of shape (%lld, %lld, %lld), got %s", op,
               ll(image.shape[0]), ll(rows), ll(length), shape_string(columns).c_str());
  return w;
}

}  // namespace

void channels_last(View& v) {
  v.strides[1] = 1;
  int64_t step = v.shape[1];
  for (int i = v.ndim - 1; i >= 2; --i) {
    v.strides[i] = step;
    step *= v.shape[i];
  }
  v.strides[0] = step;
}

ConvGeometry conv_geometry(const View& big, const View& weight, const View& small,
                           const fastdl_conv_options& o, const ConvNames& names) {
  const char* op = names.op;
  const View& x = names.transposed ? small : big;
  FASTDL_CHECK(x.ndim >= 3 && x.ndim <= 5, FASTDL_ERROR_SHAPE,
               "%s: expected a batch of shape (N, C, ...) with 1 to 3 spatial axes, got shape %s", op,
               shape_string(x).c_str());
  check_ndim(weight, x.ndim, op, names.weight);
  check_ndim(big, x.ndim, op, names.big);
  check_ndim(small, x.ndim, op, names.small);
  const int nd = x.ndim - 2;
  check_options(o, nd, op);
  check_extents(big, weight, small, o, nd, op);
  ConvGeometry g;
  g.n = big.shape[0];
  g.c = big.shape[1];
  g.o = small.shape[1];
  g.groups = o.groups;
  FASTDL_CHECK(small.shape[0] == g.n, FASTDL_ERROR_SHAPE,
               "%s: expected %s and %s to have the same batch size, got %s and %s", op, names.big,
               names.small, shape_string(big).c_str(), shape_string(small).c_str());
  FASTDL_CHECK(g.c % g.groups == 0 && g.o % g.groups == 0, FASTDL_ERROR_SHAPE,
               "%s: expected channels divisible by groups = %lld, got %lld and %lld channels", op,
               ll(g.groups), ll(names.transposed ? g.o : g.c), ll(names.transposed ? g.c : g.o));
  FASTDL_CHECK(weight.shape[0] == g.o && weight.shape[1] == g.c / g.groups, FASTDL_ERROR_SHAPE,
               "%s: expected %s of shape (%lld, %lld, ...) for %lld and %lld channels in %lld groups, got %s",
               op, names.weight, ll(g.o), ll(g.c / g.groups), ll(names.transposed ? g.o : g.c),
               ll(names.transposed ? g.c : g.o), ll(g.groups), shape_string(weight).c_str());
  for (int i = 0; i < 3; ++i) {
    const int from = i - (3 - nd), dim = from + 2;
    const bool there = from >= 0;
    g.in[i] = there ? big.shape[dim] : 1;
    g.out[i] = there ? small.shape[dim] : 1;
    g.kernel[i] = there ? weight.shape[dim] : 1;
    g.stride[i] = there ? o.stride[from] : 1;
    g.dilation[i] = there ? o.dilation[from] : 1;
    g.padding[i] = there ? o.padding[from] : 0;
    if (!there) continue;
    FASTDL_CHECK(g.kernel[i] >= 1, FASTDL_ERROR_SHAPE,
                 "%s: expected a kernel of at least 1 on each axis, got %s", op,
                 shape_string(weight).c_str());
    const int64_t room =
        g.in[i] + o.padding[from] + o.padding_end[from] - g.dilation[i] * (g.kernel[i] - 1) - 1;
    if (names.transposed) {
      const int64_t least = (g.out[i] - 1) * g.stride[i] - o.padding[from] - o.padding_end[from] +
                            g.dilation[i] * (g.kernel[i] - 1) + 1;
      FASTDL_CHECK(
          g.out[i] >= 1 && g.in[i] >= 1 && g.in[i] >= least &&
              g.in[i] < least + std::max(g.stride[i], g.dilation[i]),
          FASTDL_ERROR_SHAPE,
          "%s: %s has extent %lld on spatial axis %d, expected %lld plus an output padding smaller than "
          "stride or dilation, and at least 1",
          op, names.big, ll(g.in[i]), from, ll(least));
    } else {
      FASTDL_CHECK(room >= 0, FASTDL_ERROR_SHAPE,
                   "%s: the kernel reaches %lld elements on spatial axis %d, the padded input has %lld", op,
                   ll(g.dilation[i] * (g.kernel[i] - 1) + 1), from,
                   ll(g.in[i] + o.padding[from] + o.padding_end[from]));
      FASTDL_CHECK(g.out[i] == room / g.stride[i] + 1, FASTDL_ERROR_SHAPE,
                   "%s: expected extent %lld of %s on spatial axis %d, got %lld", op,
                   ll(room / g.stride[i] + 1), names.small, from, ll(g.out[i]));
    }
  }
  return g;
}

ConvForward conv_forward(const fastdl_tensor* x_, const fastdl_tensor* weight_, const fastdl_tensor* bias_,
                         const fastdl_tensor* residual_, const fastdl_tensor* out_,
                         const fastdl_conv_options* options, bool transposed) {
  const char* op = transposed ? "conv_transpose" : "conv";
  ConvForward f;
  f.x = any_float_view(x_, op, "x"), f.weight = view_like(weight_, f.x.dtype, op, "weight");
  f.out = out_view(out_, f.x.dtype, op, "out");
  const fastdl_conv_options o = conv_options(options, op);
  f.activation = o.activation;
  f.geometry = transposed ? conv_geometry(f.out, f.weight, f.x, o, {op, "out", "x", "weight", true})
                          : conv_geometry(f.x, f.weight, f.out, o, {op, "x", "out", "weight", false});
  f.bias = optional_vector(bias_, f.x.dtype, f.out.shape[1], op, "bias");
  f.residual = optional_like(residual_, f.out, "out", op, "residual");
  return f;
}

ConvBackwardData conv_backward_data(const fastdl_tensor* grad_, const fastdl_tensor* saved_,
                                    const fastdl_tensor* weight_, const fastdl_tensor* grad_x_,
                                    const fastdl_conv_options* options, bool transposed) {
  const char* op = transposed ? "conv_transpose_backward_data" : "conv_backward_data";
  ConvBackwardData b;
  b.grad = any_float_view(grad_, op, "grad_out"), b.weight = view_like(weight_, b.grad.dtype, op, "weight");
  b.grad_x = out_view(grad_x_, b.grad.dtype, op, "grad_x");
  const fastdl_conv_options o = conv_options(options, op);
  b.activation = o.activation;
  b.geometry =
      transposed ? conv_geometry(b.grad, b.weight, b.grad_x, o, {op, "grad_out", "grad_x", "weight", true})
                 : conv_geometry(b.grad_x, b.weight, b.grad, o, {op, "grad_x", "grad_out", "weight", false});
  b.saved = optional_like(saved_, b.grad, "grad_out", op, "saved");
  check_saved(b.saved, b.activation, op);
  return b;
}

ConvBackwardWeight conv_backward_weight(const fastdl_tensor* grad_, const fastdl_tensor* saved_,
                                        const fastdl_tensor* x_, const fastdl_tensor* grad_weight_,
                                        const fastdl_tensor* grad_bias_, const fastdl_conv_options* options,
                                        bool transposed) {
  const char* op = transposed ? "conv_transpose_backward_weight" : "conv_backward_weight";
  ConvBackwardWeight b;
  b.grad = any_float_view(grad_, op, "grad_out"), b.x = view_like(x_, b.grad.dtype, op, "x");
  const fastdl_conv_options o = conv_options(options, op);
  b.activation = o.activation;
  b.saved = optional_like(saved_, b.grad, "grad_out", op, "saved");
  check_saved(b.saved, b.activation, op);
  if (grad_weight_) {
    const View w = out_view(grad_weight_, b.grad.dtype, op, "grad_weight");
    b.geometry = transposed ? conv_geometry(b.grad, w, b.x, o, {op, "grad_out", "x", "grad_weight", true})
                            : conv_geometry(b.x, w, b.grad, o, {op, "x", "grad_out", "grad_weight", false});
    b.grad_weight = w;
  } else if (grad_bias_) {
    FASTDL_CHECK(b.grad.ndim >= 3 && b.grad.ndim <= 5, FASTDL_ERROR_SHAPE,
                 "%s: expected grad_out of shape (N, C, ...) with 1 to 3 spatial axes, got %s", op,
                 shape_string(b.grad).c_str());
  }
  b.grad_bias = optional_vector(grad_bias_, b.grad.dtype, b.grad.shape[1], op, "grad_bias");
  if (b.grad_bias) check_out(*b.grad_bias, op, "grad_bias");
  return b;
}

ConvPoolBackward conv_pool_backward(const fastdl_tensor* grad_, const fastdl_tensor* out_,
                                    const fastdl_tensor* indices_, const fastdl_tensor* x_,
                                    const fastdl_tensor* weight_, const fastdl_tensor* grad_x_,
                                    const fastdl_tensor* grad_weight_, const fastdl_tensor* grad_bias_,
                                    const fastdl_conv_options* options) {
  const char* op = "conv_pool_backward";
  ConvPoolBackward b{};
  b.grad = any_float_view(grad_, op, "grad_out");
  const DType type = b.grad.dtype;
  b.indices = view_like(indices_, DType::kInt32, op, "indices");
  check_same_shape(b.grad, "grad_out", b.indices, "indices", op);
  b.x = view_like(x_, type, op, "x");
  b.weight = view_like(weight_, type, op, "weight");
  b.options = conv_options(options, op);
  const int kind = b.options.activation.kind;
  FASTDL_CHECK(kind == FASTDL_ACT_NONE || kind == FASTDL_ACT_RELU, FASTDL_ERROR_VALUE,
               "%s: expected no activation or ReLU, got kind %d", op, kind);
  FASTDL_CHECK(kind == FASTDL_ACT_NONE || out_, FASTDL_ERROR_VALUE,
               "%s: the activation's derivative needs out, got NULL", op);
  if (kind == FASTDL_ACT_RELU) b.out = optional_like(out_, b.grad, "grad_out", op, "out");
  check_ndim(b.grad, b.x.ndim, op, "grad_out");
  b.dense = convolved(b.x, b.weight, b.options, op);
  b.geometry = conv_geometry(b.x, b.weight, b.dense, b.options, {op, "x", "out", "weight", false});
  FASTDL_CHECK(b.grad.shape[0] == b.geometry.n && b.grad.shape[1] == b.geometry.o, FASTDL_ERROR_SHAPE,
               "%s: grad_out of shape %s does not fit x of shape %s and weight of shape %s", op,
               shape_string(b.grad).c_str(), shape_string(b.x).c_str(), shape_string(b.weight).c_str());
  b.grad_x = optional_like(grad_x_, b.x, "x", op, "grad_x");
  if (b.grad_x) check_out(*b.grad_x, op, "grad_x");
  b.grad_weight = optional_like(grad_weight_, b.weight, "weight", op, "grad_weight");
  if (b.grad_weight) check_out(*b.grad_weight, op, "grad_weight");
  b.grad_bias = optional_vector(grad_bias_, type, b.geometry.o, op, "grad_bias");
  if (b.grad_bias) check_out(*b.grad_bias, op, "grad_bias");
  return b;
}

Fold unfold(const fastdl_tensor* image_, const int64_t* kernel, const fastdl_tensor* columns_,
            const fastdl_conv_options* options) {
  Fold f;
  f.image = any_float_view(image_, "unfold", "the image");
  f.columns = out_view(columns_, f.image.dtype, "unfold", "the columns");
  f.windows = windows(f.image, f.columns, kernel, options, "unfold");
  return f;
}

Fold fold(const fastdl_tensor* columns_, const int64_t* kernel, const fastdl_tensor* image_,
          const fastdl_conv_options* options) {
  Fold f;
  f.image = any_float_view(image_, "fold", "the image");
  f.columns = view_like(columns_, f.image.dtype, "fold", "the columns");
  check_out(f.image, "fold", "the image");
  f.windows = windows(f.image, f.columns, kernel, options, "fold");
  return f;
}

}  // namespace fastdl::check
