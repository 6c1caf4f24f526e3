#include "common/pool.h"

namespace fastdl::check {
namespace {

PoolPlan make_plan(const View& x, const View& out, const fastdl_pool_options* options, bool max,
                   const char* op) {
  const auto p = read_options(options, fastdl_pool_options FASTDL_POOL_OPTIONS_INIT, op);
  FASTDL_CHECK(x.ndim >= 3 && x.ndim <= 5, FASTDL_ERROR_SHAPE,
               "%s: expected an input of shape (N, C, *spatial) with 1 to 3 spatial dimensions, got %s", op,
               shape_string(x).c_str());
  FASTDL_CHECK(out.ndim == x.ndim && out.shape[0] == x.shape[0] && out.shape[1] == x.shape[1],
               FASTDL_ERROR_SHAPE, "%s: an output of shape %s does not fit an input of shape %s", op,
               shape_string(out).c_str(), shape_string(x).c_str());
  for (const View* v : {&x, &out}) {
    double plane = 1;
    for (int i = 2; i < v->ndim; ++i) plane *= static_cast<double>(v->shape[i]);
    FASTDL_CHECK(plane <= INT32_MAX, FASTDL_ERROR_SHAPE,
                 "%s: a plane of more than 2^31 - 1 elements is not supported, got shape %s", op,
                 shape_string(*v).c_str());
  }
  PoolPlan plan;
  plan.n = x.shape[0];
  plan.c = x.shape[1];
  plan.divisor = p.adaptive ? 0 : p.divisor_override;
  plan.include_pad = p.count_include_pad != 0;
  plan.adaptive = p.adaptive != 0;
  const int spatial = x.ndim - 2, lead = 3 - spatial;
  for (int i = 0; i < spatial; ++i) {
    const int64_t in = x.shape[2 + i], outs = out.shape[2 + i];
    plan.in[lead + i] = in;
    plan.out[lead + i] = outs;
    if (p.adaptive) {
      FASTDL_CHECK(in > 0 || outs == 0, FASTDL_ERROR_SHAPE,
                   "%s: the input's spatial dimensions are empty, got %s", op, shape_string(x).c_str());
      continue;
    }
    const int64_t kernel = p.kernel[i], stride = p.stride[i], padding = p.padding[i];
    const int64_t dilation = max ? p.dilation[i] : 1;
    FASTDL_CHECK(kernel > 0 && stride > 0 && dilation > 0, FASTDL_ERROR_VALUE,
                 "%s: kernel_size, stride and dilation must be positive, got %lld, %lld, %lld", op,
                 static_cast<long long>(kernel), static_cast<long long>(stride),
                 static_cast<long long>(dilation));
    FASTDL_CHECK(kernel <= INT32_MAX && stride <= INT32_MAX && dilation <= INT32_MAX, FASTDL_ERROR_VALUE,
                 "%s: kernel_size, stride and dilation must be below 2^31", op);
    FASTDL_CHECK(in > 0, FASTDL_ERROR_SHAPE, "%s: the input's spatial dimensions are empty, got %s", op,
                 shape_string(x).c_str());
    FASTDL_CHECK(padding >= 0 && padding <= kernel / 2, FASTDL_ERROR_VALUE,
                 "%s: padding must be between 0 and half the kernel_size %lld, got %lld", op,
                 static_cast<long long>(kernel), static_cast<long long>(padding));
    const int64_t room = in + 2 * padding - dilation * (kernel - 1) - 1;
    int64_t expected = room < 0 ? 0 : room / stride + 1;
    if (p.ceil_mode && room + stride - 1 >= 0) {
      expected = (room + stride - 1) / stride + 1;
      if ((expected - 1) * stride >= in + padding) --expected;
    }
    FASTDL_CHECK(expected > 0 && outs == expected, FASTDL_ERROR_SHAPE,
                 "%s: spatial dimension %d of the output should be %lld for an input of shape %s, got %lld",
                 op, i, static_cast<long long>(expected), shape_string(x).c_str(),
                 static_cast<long long>(outs));
    plan.kernel[lead + i] = kernel;
    plan.stride[lead + i] = stride;
    plan.padding[lead + i] = padding;
    plan.dilation[lead + i] = dilation;
  }
  FASTDL_CHECK(plan.divisor >= 0, FASTDL_ERROR_VALUE, "%s: divisor_override must be positive, got %lld", op,
               static_cast<long long>(plan.divisor));
  return plan;
}

View index_view(const fastdl_tensor* t, const View& out, const char* op) {
  const View v = view(t, op, "indices");
  FASTDL_CHECK(v.dtype == DType::kInt32 || v.dtype == DType::kInt64, FASTDL_ERROR_DTYPE,
               "%s: expected indices to be int32 or int64, got %s", op, name_of(v.dtype));
  check_same_shape(out, "out", v, "indices", op);
  return v;
}

}  // namespace

MaxPool max_pool_forward(const fastdl_tensor* x_, const fastdl_tensor* out_, const fastdl_tensor* indices,
                         const fastdl_pool_options* options) {
  const char* op = "max_pool";
  const View x = any_float_view(x_, op, "x"), out = out_view(out_, x.dtype, op, "out");
  MaxPool p{channels_last(x), channels_last(out), View{}, make_plan(x, out, options, true, op)};
  if (indices) {
    p.indices = channels_last(index_view(indices, out, op));
    check_out(p.indices, op, "indices");
  }
  return p;
}

MaxPool max_pool_backward(const fastdl_tensor* grad_out, const fastdl_tensor* indices,
                          const fastdl_tensor* grad_x, const fastdl_pool_options* options) {
  const char* op = "max_pool_backward";
  const View dy = any_float_view(grad_out, op, "grad_out"), dx = out_view(grad_x, dy.dtype, op, "grad_x");
  const PoolPlan plan = make_plan(dx, dy, options, true, op);
  return {channels_last(dx), channels_last(dy), channels_last(index_view(indices, dy, op)), plan};
}

AvgPool avg_pool_forward(const fastdl_tensor* x_, const fastdl_tensor* out_,
                         const fastdl_pool_options* options) {
  const char* op = "avg_pool";
  const View x = any_float_view(x_, op, "x"), out = out_view(out_, x.dtype, op, "out");
  return {channels_last(x), channels_last(out), make_plan(x, out, options, false, op)};
}

AvgPool avg_pool_backward(const fastdl_tensor* grad_out, const fastdl_tensor* grad_x,
                          const fastdl_pool_options* options) {
  const char* op = "avg_pool_backward";
  const View dy = any_float_view(grad_out, op, "grad_out"), dx = out_view(grad_x, dy.dtype, op, "grad_x");
  const PoolPlan plan = make_plan(dx, dy, options, false, op);
  return {channels_last(dx), channels_last(dy), plan};
}

}  // namespace fastdl::check
