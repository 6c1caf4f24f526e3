// Layer norm and its gradient as XLA FFI handlers: XLA allocates the results, the kernels write into them.
#include <fastdl/fastdl.hpp>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

using Array = ffi::Buffer<ffi::F32>;
using Result = ffi::ResultBuffer<ffi::F32>;

// A fastdl_tensor over an XLA buffer, which is always contiguous.
class View {
 public:
  explicit View(Array& buffer) : View(buffer.typed_data(), buffer.dimensions()) {}
  explicit View(Result& buffer) : View(buffer->typed_data(), buffer->dimensions()) {}
  operator const fastdl_tensor*() const { return &tensor_; }

 private:
  View(float* data, ffi::Span<const int64_t> shape) {
    tensor_.data = data;
    tensor_.device = {FASTDL_CPU, 0};
    tensor_.ndim = static_cast<int32_t>(shape.size());
    tensor_.dtype = {FASTDL_FLOAT, 32, 1};
    tensor_.shape = const_cast<int64_t*>(shape.begin());
  }
  fastdl_tensor tensor_{};
};

template <class Call>
ffi::Error guarded(Call&& call) {
  try {
    call();
    return ffi::Error::Success();
  } catch (const fastdl::Error& error) {
    return ffi::Error::InvalidArgument(error.what());
  }
}

ffi::Error forward(Array x, Array weight, Array bias, double eps, Result y, Result mean, Result rstd) {
  return guarded([&] {
    fastdl::layer_norm_forward(nullptr, View(x), View(weight), View(bias), View(y), View(mean), View(rstd), 1,
                               eps);
  });
}

ffi::Error backward(Array grad, Array x, Array weight, Array mean, Array rstd, Result grad_x,
                    Result grad_weight, Result grad_bias) {
  return guarded([&] {
    fastdl::layer_norm_backward(nullptr, View(grad), View(x), View(weight), View(mean), View(rstd),
                                View(grad_x), View(grad_weight), View(grad_bias), 1);
  });
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(LayerNorm, forward,
                              ffi::Ffi::Bind()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Attr<double>("eps")
                                  .Ret<Array>()
                                  .Ret<Array>()
                                  .Ret<Array>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(LayerNormBackward, backward,
                              ffi::Ffi::Bind()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Ret<Array>()
                                  .Ret<Array>()
                                  .Ret<Array>());
