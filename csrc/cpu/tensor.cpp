#include "cpu/tensor.h"

#include <cstdlib>
#include <cstring>

#include "common/place.h"
#include "cpu/parallel.h"

namespace fastdl {
const int32_t kMemoryType = FASTDL_CPU;
const char* const kMemoryName = "CPU";
void check_place(const fastdl_tensor&, int64_t, const char*, const char*) {}
}  // namespace fastdl

extern "C" const char* fastdl_last_error(void) { return fastdl::last_error(); }

namespace fastdl::cpu {
namespace {

template <class T>
void copy_rows(Context* context, const View& src, const View& dst) {
  // Innermost: the dim along which dst is densest, so that writes are sequential; the rest counts rows.
  int inner = src.ndim - 1;
  for (int i = 0; i < src.ndim; ++i) {
    if (dst.shape[i] > 1 && std::abs(dst.strides[i]) < std::abs(dst.strides[inner])) inner = i;
  }
  const int64_t n = src.shape[inner], ss = src.strides[inner], ds = dst.strides[inner];
  const int64_t rows = src.size() / n;
  const int64_t grain = n >= 4096 ? 1 : 4096 / n + 1;
  parallel_ranges(context, rows, grain, static_cast<double>(n), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const T* s = src.as<const T>();
      T* d = dst.as<T>();
      int64_t rest = row;
      for (int i = src.ndim - 1; i >= 0; --i) {
        if (i == inner) continue;
        const int64_t index = rest % src.shape[i];
        rest /= src.shape[i];
        s += index * src.strides[i];
        d += index * dst.strides[i];
      }
      if (ss == 1 && ds == 1) std::memcpy(d, s, static_cast<size_t>(n) * sizeof(T));
      else
        for (int64_t i = 0; i < n; ++i) d[i * ds] = s[i * ss];
    }
  });
}

}  // namespace

void copy(Context* context, const View& src, const View& dst) {
  if (src.size() == 0) return;
  if (same_dense_layout(src, dst)) {
    const int64_t bytes = src.nbytes();
    constexpr int64_t kChunk = 1 << 18;
    parallel_ranges(context, bytes, kChunk, 0.1, [&](int64_t begin, int64_t end) {
      std::memcpy(dst.as<char>() + begin, src.as<char>() + begin, static_cast<size_t>(end - begin));
    });
    return;
  }
  switch (item_size(src.dtype)) {
    case 8:
      return copy_rows<uint64_t>(context, src, dst);
    case 4:
      return copy_rows<uint32_t>(context, src, dst);
    case 2:
      return copy_rows<uint16_t>(context, src, dst);
    default:
      return copy_rows<uint8_t>(context, src, dst);
  }
}

}  // namespace fastdl::cpu
