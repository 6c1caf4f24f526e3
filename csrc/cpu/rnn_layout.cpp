#include "cpu/rnn_layout.h"

#include "cpu/dropout.h"
#include "cpu/kernels.h"
#include "cpu/parallel.h"

namespace fastdl::cpu {

RnnReserve::RnnReserve(const RnnShape& s, int64_t rows) {
  directions_ = s.directions;
  gates_size_ = rows * s.gates * s.hidden;
  state_size_ = s.lstm() || s.gru() ? rows * s.hidden : 0;
  direction_size_ = gates_size_ + state_size_ + (s.projection ? rows * s.hidden : 0);
  y_size_ = rows * s.width();
  const int64_t all_gates = directions_ * direction_size_;
  layer_size_ = all_gates + y_size_ * (s.dropout > 0 ? 2 : 1);
  size_ = (s.layers - 1) * layer_size_ + all_gates;
}

template <class T>
void rnn_pack(Context* context, const RnnPanels& layout, const T* source, int64_t column_stride,
              int64_t row_stride, T* packed) {
  const auto& table = table_for<T>(*kernels().rnn);
  parallel_for(context, layout.panels(), static_cast<double>(layout.panel_size()),
               [&](int64_t panel) { table.pack(layout, source, column_stride, row_stride, panel, packed); });
}

int64_t rnn_block_steps(const RnnShape& s, const RnnRows& rows, int64_t item_size) {
  constexpr int64_t kBlockBytes = 2 << 20;  // two cores' L2 caches
  constexpr int64_t kLeastRows = 384;       // with fewer, products lose more than the cache gains
  const int64_t block = kBlockBytes / (s.gates * s.hidden * item_size);
  // A remainder of less than half a block is not worth a block of its own.
  if (block < kLeastRows || rows.sequences == 0 || rows.rows <= block + block / 2) {
    return rows.steps > 0 ? rows.steps : 1;
  }
  return (block + rows.sequences - 1) / rows.sequences;
}

int64_t rnn_dropout_numbers(const RnnShape& shape, int64_t rows) { return rows * shape.width(); }

template <class T>
void rnn_dropout(Context* context, const RnnShape& shape, int64_t rows, int64_t layer, const T* x, T* y) {
  constexpr int64_t kGrain = 16384;
  const auto& table = table_for<T>(*kernels().dropout);
  const DropoutMask mask = dropout_mask(shape.dropout, shape.seed, shape.offset, "rnn");
  const int64_t count = rnn_dropout_numbers(shape, rows), first = layer * count;
  parallel_ranges(context, count, kGrain, 4.0, [&](int64_t begin, int64_t end) {
    table.apply(mask, first + begin, end - begin, x + begin, y + begin);
  });
}

RnnSplit rnn_split(const Context* context, int64_t sequences, int64_t directions, int64_t panels,
                   int64_t weight_bytes, double) {
  const int64_t threads = num_threads(context);
  // Half of the smallest L2 cache in use today.
  constexpr int64_t kWeightsInCache = 512 << 10;
  constexpr int64_t kLeastRows = 4;  // fewer would reload the weights for too little work
  const int64_t wanted = (threads + directions - 1) / directions;
  int64_t chunks = sequences / kLeastRows;
  if (chunks < 1) chunks = 1;
  if (chunks > wanted) chunks = wanted;
  if (directions * chunks >= threads && (weight_bytes <= kWeightsInCache || wanted == 1)) {
    const int64_t chunk = (sequences + chunks - 1) / chunks;
    return {true, chunk < 1 ? 1 : chunk, chunks};
  }
  chunks = panels < wanted ? panels : wanted;
  return {false, (panels + chunks - 1) / chunks, chunks};
}

#define FASTDL_INSTANTIATE(T)                                                         \
  template void rnn_pack(Context*, const RnnPanels&, const T*, int64_t, int64_t, T*); \
  template void rnn_dropout(Context*, const RnnShape&, int64_t, int64_t, const T*, T*);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(double)

}  // namespace fastdl::cpu
