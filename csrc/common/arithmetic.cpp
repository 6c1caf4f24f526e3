#include "common/arithmetic.h"

namespace fastdl::check {

Arithmetic arithmetic(const fastdl_tensor* a_, const fastdl_tensor* b_, const fastdl_tensor* out_,
                      int32_t kind) {
  const char* op = "arithmetic";
  const View a = any_float_view(a_, op, "a"), b = b_ ? view_like(b_, a.dtype, op, "b") : a;
  const View out = out_view(out_, a.dtype, op, "out");
  check_same_shape(a, "a", b, "b", op);
  check_same_shape(a, "a", out, "out", op);
  FASTDL_CHECK(kind >= FASTDL_ADD && kind <= FASTDL_DIV, FASTDL_ERROR_VALUE, "%s: unknown kind %d", op, kind);
  return {a, b, out};
}

}  // namespace fastdl::check
