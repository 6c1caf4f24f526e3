#include "common/arithmetic.h"

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "cpu/stream.h"
#include "cpu/tensor.h"

namespace fastdl::cpu {
namespace {

int64_t cache_bytes() {
#if defined(_SC_LEVEL3_CACHE_SIZE)
  const int64_t bytes = sysconf(_SC_LEVEL3_CACHE_SIZE);
  if (bytes > 0) return bytes;
#endif
  return int64_t{32} << 20;
}

constexpr int64_t kGrain = 16384;  // elements per task

template <class S>
void arithmetic(Context* context, const View& a, const View* b, double number, const View& out,
                int32_t kind) {
  const auto& table = table_for<S>(*kernels().arithmetic);
  const S *ap = a.as<S>(), *bp = b ? b->as<S>() : nullptr;
  const Output output(out.nbytes());
  parallel_ranges(context, a.size(), kGrain, 1.0, [&](int64_t begin, int64_t end) {
    output.put_pieces(context, out.as<S>(), begin, end, [&](S* to, int64_t i, int64_t j) {
      table.binary(kind, j - i, ap + i, bp ? bp + i : nullptr, static_cast<compute_t<S>>(number), to);
    });
  });
}

}  // namespace

bool exceeds_cache(int64_t bytes) {
  static const int64_t limit = cache_bytes() / 2;
  return bytes > limit;
}

}  // namespace fastdl::cpu

using namespace fastdl::cpu;

extern "C" fastdl_status fastdl_arithmetic(fastdl_context* context, const fastdl_tensor* a,
                                           const fastdl_tensor* b, double number, const fastdl_tensor* out,
                                           int32_t kind) {
  return guarded([&] {
    const check::Arithmetic v = check::arithmetic(a, b, out, kind);
    if (v.a.size() == 0) return;
    dispatch_storage(v.a.dtype, [&](auto zero) {
      using S = decltype(zero);
      in_one_layout<Memory>(
          context,
          [&](const View& to, const View& first, const View& second) {
            arithmetic<S>(context, first, b ? &second : nullptr, number, to, kind);
          },
          v.out, v.a, v.b);
    });
  });
}
