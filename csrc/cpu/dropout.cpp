#include "common/dropout.h"

#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "cpu/stream.h"
#include "cpu/tensor.h"

namespace fastdl::cpu {
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

extern "C" fastdl_status fastdl_dropout(fastdl_context* context, const fastdl_tensor* x,
                                        const fastdl_tensor* out, double p, uint64_t seed, uint64_t offset) {
  return guarded([&] {
    const check::Dropout d = check::dropout(x, out, p, seed, offset);
    const Contiguous xc(context, d.x);
    ContiguousOut yc(context, d.out);
    dispatch_storage(d.x.dtype, [&](auto zero) { apply<decltype(zero)>(context, d.mask, *xc, *yc); });
    yc.write_back();
  });
}
