#include "cpu/dropout.h"

#include <cmath>

#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "cpu/stream.h"
#include "cpu/tensor.h"
#include "fastdl/dropout.h"

namespace fastdl::cpu {

DropoutMask dropout_mask(double p, uint64_t seed, uint64_t offset, const char* op) {
  FASTDL_CHECK(p >= 0 && p <= 1, FASTDL_ERROR_VALUE, "%s: expected a probability between 0 and 1, got %g", op,
               p);
  const double two_to_32 = 4294967296.0;
  return {seed, offset, static_cast<uint64_t>(std::floor(p * two_to_32 + 0.5)), p < 1 ? 1 / (1 - p) : 0.0};
}

namespace {

template <class S>
void apply(Context* context, const DropoutMask& mask, const View& x, const View& out) {
  constexpr int64_t kGrain = 16384;
  const auto& table = table_for<S>(*kernels().dropout);
  const Output output(out.nbytes());
  parallel_ranges(context, x.size(), kGrain, 1.5, [&](int64_t begin, int64_t end) {
    output.put_pieces(context, out.as<S>(), begin, end,
                      [&](S* to, int64_t i, int64_t j) { table.apply(mask, i, j - i, x.as<S>() + i, to); });
  });
}

}  // namespace
}  // namespace fastdl::cpu

using namespace fastdl::cpu;

extern "C" fastdl_status fastdl_dropout(fastdl_context* context, const fastdl_tensor* x_,
                                        const fastdl_tensor* out_, double p, uint64_t seed, uint64_t offset) {
  return guarded([&] {
    const char* op = "dropout";
    const View x = any_float_view(x_, op, "x"), out = out_view(out_, x.dtype, op, "out");
    check_same_shape(x, "x", out, "out", op);
    const DropoutMask mask = dropout_mask(p, seed, offset, op);
    const Contiguous xc(context, x);
    ContiguousOut yc(context, out);
    dispatch_storage(x.dtype, [&](auto zero) { apply<decltype(zero)>(context, mask, *xc, *yc); });
    yc.write_back();
  });
}
