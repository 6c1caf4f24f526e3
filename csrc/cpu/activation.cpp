#include "fastdl/activation.h"

#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "cpu/tensor.h"

namespace fastdl::cpu {
namespace {

constexpr int64_t kGrain =
    16384;  // elements per task: 64 KiB of float32, small enough to balance, large enough to stream

fastdl_activation checked(const fastdl_activation* f, const char* op) {
  FASTDL_CHECK(f != nullptr, FASTDL_ERROR_VALUE, "%s: activation is required, got NULL", op);
  FASTDL_CHECK(f->kind >= FASTDL_ACT_NONE && f->kind <= FASTDL_ACT_THRESHOLD, FASTDL_ERROR_VALUE,
               "%s: unknown activation kind %d", op, f->kind);
  return *f;
}

template <class T>
void forward(Context* context, const View& x, const View& out, const fastdl_activation& f) {
  const auto& table = table_for<T>(*kernels().activation);
  parallel_ranges(context, x.size(), kGrain, 1.0, [&](int64_t begin, int64_t end) {
    table.forward(f, end - begin, x.as<T>() + begin, out.as<T>() + begin);
  });
}

template <class T>
void backward(Context* context, const View& dy, const View& saved, const View& dx, const fastdl_activation& f,
              bool from_output) {
  const auto& table = table_for<T>(*kernels().activation);
  parallel_ranges(context, dy.size(), kGrain, 1.0, [&](int64_t begin, int64_t end) {
    table.backward(f, from_output, end - begin, dy.as<T>() + begin, saved.as<T>() + begin,
                   dx.as<T>() + begin);
  });
}

}  // namespace
}  // namespace fastdl::cpu

using namespace fastdl::cpu;

extern "C" {

fastdl_status fastdl_activation_forward(fastdl_context* context, const fastdl_tensor* x_,
                                        const fastdl_tensor* out_, const fastdl_activation* activation) {
  return guarded([&] {
    const char* op = "activation";
    const View x = float_view(x_, op, "x"), out = view_like(out_, x.dtype, op, "out");
    const fastdl_activation f = checked(activation, op);
    check_same_shape(x, "x", out, "out", op);
    dispatch_float(x.dtype, [&](auto zero) {
      using T = decltype(zero);
      if (same_dense_layout(x, out)) return forward<T>(context, x, out, f);
      const Contiguous xc(context, x);
      ContiguousOut yc(context, out);
      forward<T>(context, *xc, *yc, f);
      yc.write_back();
    });
  });
}

fastdl_status fastdl_activation_backward(fastdl_context* context, const fastdl_tensor* grad_out,
                                         const fastdl_tensor* saved_, const fastdl_tensor* grad_x,
                                         const fastdl_activation* activation, int32_t from_output) {
  return guarded([&] {
    const char* op = "activation_backward";
    const View dy = float_view(grad_out, op, "grad_out");
    const View saved = view_like(saved_, dy.dtype, op, "saved"),
               dx = view_like(grad_x, dy.dtype, op, "grad_x");
    const fastdl_activation f = checked(activation, op);
    check_same_shape(dy, "grad_out", saved, "saved", op);
    check_same_shape(dy, "grad_out", dx, "grad_x", op);
    FASTDL_CHECK(!from_output || fastdl_activation_from_output(&f), FASTDL_ERROR_VALUE,
                 "%s: this activation's derivative needs its input, not its output", op);
    dispatch_float(dy.dtype, [&](auto zero) {
      using T = decltype(zero);
      if (same_dense_layout(dy, saved) && same_dense_layout(dy, dx)) {
        return backward<T>(context, dy, saved, dx, f, from_output != 0);
      }
      const Contiguous dyc(context, dy), sc(context, saved);
      ContiguousOut dxc(context, dx);
      backward<T>(context, *dyc, *sc, *dxc, f, from_output != 0);
      dxc.write_back();
    });
  });
}

int32_t fastdl_activation_from_output(const fastdl_activation* f) {
  switch (f->kind) {
    case FASTDL_ACT_NONE:
    case FASTDL_ACT_RELU:
    case FASTDL_ACT_RELU6:
    case FASTDL_ACT_SELU:
    case FASTDL_ACT_HARDTANH:
    case FASTDL_ACT_SIGMOID:
    case FASTDL_ACT_TANH:
      return 1;
    case FASTDL_ACT_LEAKY_RELU:
    case FASTDL_ACT_ELU:
    case FASTDL_ACT_CELU:
      return f->alpha > 0;
    default:
      return 0;
  }
}
}
