#include "cpu/rnn_layout.h"

#include <algorithm>
#include <cstring>

#include "common/dropout.h"
#include "cpu/kernels.h"
#include "cpu/parallel.h"

namespace fastdl::cpu {

template <class S>
void rnn_dropout(Context* context, const RnnShape& shape, int64_t rows, int64_t layer, const S* x, S* y) {
  using A = compute_t<S>;
  constexpr int64_t kGrain = 16384;
  const auto& table = table_for<A>(*kernels().dropout);
  const DropoutMask mask = check::dropout_mask(shape.dropout, shape.seed, shape.offset, "rnn");
  const int64_t count = rnn_dropout_numbers(shape, rows), first = layer * count;
  parallel_ranges(context, count, kGrain, 4.0, [&](int64_t begin, int64_t end) {
    if constexpr (sizeof(S) == 2) {
      const Workspace wide(context, sizeof(A) * static_cast<size_t>(end - begin));
      rnn_widen(x + begin, wide.as<A>(), end - begin);
      table.apply(mask, first + begin, end - begin, wide.as<A>(), wide.as<A>());
      rnn_narrow(wide.as<A>(), y + begin, end - begin);
    } else {
      table.apply(mask, first + begin, end - begin, x + begin, y + begin);
    }
  });
}

template <class S>
void rnn_widen(const S* x, compute_t<S>* y, int64_t n) {
  if (n == 0) return;
  if constexpr (sizeof(S) == 2) convert_table(*kernels().convert, S{}).widen(n, x, 1, y, 1);
  else std::memcpy(y, x, sizeof(S) * static_cast<size_t>(n));
}

template <class S>
void rnn_narrow(const compute_t<S>* x, S* y, int64_t n) {
  if (n == 0) return;
  if constexpr (sizeof(S) == 2) convert_table(*kernels().convert, S{}).narrow(n, x, 1, y, 1);
  else std::memcpy(y, x, sizeof(S) * static_cast<size_t>(n));
}

RnnSplit rnn_split(const Context* context, int64_t sequences, int64_t directions, int64_t groups,
                   int64_t weight_bytes) {
  const int64_t threads = num_threads(context);
  // Half of the smallest L2 cache in use today.
  constexpr int64_t kWeightsInCache = 512 << 10;
  constexpr int64_t kLeastRows = 2;
  const int64_t wanted = (threads + directions - 1) / directions;
  const int64_t by_units = std::min(groups, wanted);
  const int64_t by_rows = std::min(std::max<int64_t>(sequences / kLeastRows, 1), wanted);
  if (by_rows > 1 && by_rows >= by_units && weight_bytes <= kWeightsInCache) {
    const int64_t chunk = (sequences + by_rows - 1) / by_rows;
    return {true, std::max<int64_t>(chunk, 1), by_rows};
  }
  return {false, 0, by_units};
}

#define FASTDL_INSTANTIATE(S)                                                           \
  template void rnn_dropout(Context*, const RnnShape&, int64_t, int64_t, const S*, S*); \
  template void rnn_widen(const S*, compute_t<S>*, int64_t);                            \
  template void rnn_narrow(const compute_t<S>*, S*, int64_t);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(double)
FASTDL_INSTANTIATE(bfloat16)

}  // namespace fastdl::cpu
