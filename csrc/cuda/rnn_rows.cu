// Moving rows of sequences: elements are words of their size, whatever they stand for.
#include "cuda/launch.h"
#include "cuda/rnn.h"
#include "cuda/rnn_exchange.cuh"

namespace fastdl::cuda {
namespace {

constexpr int kThreads = 256;

// Tables travel in the parameters of launches, so that the host's memory is read now and a call can be
// captured in a graph.
constexpr int kWords = 448;
struct Words {
  int count;
  int64_t at[kWords];
};
static_assert(sizeof(Words) < 3900, "kernel parameters are limited to 4 KB");

__global__ void __launch_bounds__(kWords) rnn_upload(Words words, int64_t* to) {
  const int i = static_cast<int>(threadIdx.x);
  if (i < words.count) to[i] = words.at[i];
}

void upload(Context* context, const std::vector<int64_t>& from, int64_t* to) {
  for (size_t begin = 0; begin < from.size(); begin += kWords) {
    Words words;
    words.count = static_cast<int>(std::min<size_t>(kWords, from.size() - begin));
    for (int i = 0; i < words.count; ++i) words.at[i] = from[begin + static_cast<size_t>(i)];
    launch(context, FASTDL_KERNEL(rnn_upload), {1, kWords}, words, to + begin);
  }
}

// A strided array [T, B, C].
template <class W>
struct Elements {
  W* data;
  int64_t stride[3];
};

// Calls body(t, i, j) for all steps, sequences and columns, neighbouring threads having neighbouring columns.
template <class Body>
__device__ __forceinline__ void each_element(const RnnPlaces& p, int64_t columns, Body&& body) {
  const int64_t size = p.steps * p.sequences * columns, step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; at < size; at += step) {
    const int64_t row = at / columns;
    body(row / p.sequences, row % p.sequences, at % columns);
  }
}

template <class W, bool ToRows>
__global__ void __launch_bounds__(kThreads)
    rnn_reorder(RnnPlaces p, int64_t columns, Elements<W> elements, W* rows) {
  each_element(p, columns, [&](int64_t t, int64_t i, int64_t j) {
    const int64_t sequence = p.order ? p.order[i] : i;
    W& element =
        elements.data[t * elements.stride[0] + sequence * elements.stride[1] + j * elements.stride[2]];
    const bool there = i < p.batch_at(t);
    W* const row = there ? rows + p.row(t, i) * columns + j : nullptr;
    if (!ToRows) element = there ? *row : W{};
    else if (there) *row = element;
  });
}

template <class W>
__global__ void __launch_bounds__(kThreads) rnn_gather_previous(RnnPlaces p, RnnPrevious g) {
  each_element(p, g.columns, [&](int64_t t, int64_t i, int64_t j) {
    if (i >= p.batch_at(t)) return;
    const int64_t before = g.backwards ? t + 1 : t - 1;
    W value{};
    if (i < p.batch_at(before)) value = static_cast<const W*>(g.y)[p.row(before, i) * g.y_stride + j];
    else if (g.h0) value = static_cast<const W*>(g.h0)[i * g.columns + j];
    static_cast<W*>(g.out)[p.row(t, i) * g.out_stride + j] = value;
  });
}

// All ones would be taken for what is still to come (rnn_exchange.cuh).
template <class W>
__global__ void __launch_bounds__(kThreads)
    rnn_hand_on(int64_t rows, int64_t columns, const W* from, W* to, int64_t stride) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; at < rows * columns;
       at += step) {
    publish(to + at / columns * stride + at % columns, from[at]);
  }
}

template <class F>
void with_words(int64_t item, F&& f) {
  if (item == 8) f(uint64_t{});
  else if (item == 4) f(uint32_t{});
  else f(uint16_t{});
}

template <bool ToRows>
void reorder(Context* context, const RnnPlaces& p, const View& v, void* rows) {
  if (v.size() == 0) return;
  with_words(item_size(v.dtype), [&](auto zero) {
    using W = decltype(zero);
    const Elements<W> elements{v.as<W>(), {v.strides[0], v.strides[1], v.strides[2]}};
    launch(context, FASTDL_KERNEL(rnn_reorder<W, ToRows>), {blocks_for(v.size(), kThreads), kThreads}, p,
           v.shape[2], elements, static_cast<W*>(rows));
  });
}

View dense(const View& v, void* data) {
  View d = v;
  d.data = data;
  set_c_strides(d);
  return d;
}

}  // namespace

RnnIndex::RnnIndex(Context* context, const RnnRows& rows)
    : places_{rows.steps, rows.sequences, nullptr, nullptr, nullptr} {
  if (rows.full) return;
  const size_t steps = rows.offset.size();
  space_.emplace(context, (2 * steps + rows.order.size()) * sizeof(int64_t));
  int64_t* const to = space_->as<int64_t>();
  upload(context, rows.offset, to);
  upload(context, rows.batch, to + steps);
  places_.offset = to, places_.batch = to + steps;
  if (rows.order.empty()) return;
  upload(context, rows.order, to + 2 * steps);
  places_.order = to + 2 * steps;
}

RnnSequences::RnnSequences(Context* context, const RnnRows& rows, const RnnIndex& index, const View& v)
    : context_(context),
      index_(index),
      v_(v),
      direct_(v.ndim == 0 || ((v.ndim == 2 || rows.full) && v.contiguous())),
      dense_(v.ndim == 2 || rows.full),
      scratch_(context, direct_ ? 0 : static_cast<size_t>(rows.rows * v.extent(-1) * item_size(v.dtype))),
      data_(v.ndim == 0 ? nullptr
            : direct_   ? v.data
                        : scratch_.as<void>()) {}

void RnnSequences::read() {
  if (direct_) return;
  if (dense_) copy(context_, v_, dense(v_, data_));
  else reorder<true>(context_, *index_, v_, data_);
}

void RnnSequences::write() {
  if (direct_) return;
  if (dense_) copy(context_, dense(v_, data_), v_);
  else reorder<false>(context_, *index_, v_, data_);
}

RnnStates::RnnStates(Context* context, const RnnRows& rows, const RnnIndex& index, const View& v)
    : context_(context),
      places_{v.ndim ? v.shape[0] : 0, rows.sequences, nullptr, nullptr, (*index).order},
      v_(v),
      direct_(v.ndim == 0 || (rows.order.empty() && v.contiguous())),
      scratch_(context, direct_ ? 0 : static_cast<size_t>(v.nbytes())),
      data_(v.ndim == 0 ? nullptr
            : direct_   ? v.data
                        : scratch_.as<void>()) {}

void RnnStates::read() {
  if (!direct_) reorder<true>(context_, places_, v_, data_);
}
void RnnStates::write() {
  if (!direct_) reorder<false>(context_, places_, v_, data_);
}

void rnn_previous(Context* context, int64_t item, const RnnPlaces& places, const RnnPrevious& p) {
  const int64_t size = places.steps * places.sequences * p.columns;
  if (size == 0) return;
  with_words(item, [&](auto zero) {
    launch(context, FASTDL_KERNEL(rnn_gather_previous<decltype(zero)>),
           {blocks_for(size, kThreads), kThreads}, places, p);
  });
}

void rnn_first_states(Context* context, int64_t item, int64_t rows, int64_t columns, const void* from,
                      void* to, int64_t stride) {
  if (rows * columns == 0) return;
  with_words(item, [&](auto zero) {
    using W = decltype(zero);
    launch(context, FASTDL_KERNEL(rnn_hand_on<W>), {blocks_for(rows * columns, kThreads), kThreads}, rows,
           columns, static_cast<const W*>(from), static_cast<W*>(to), stride);
  });
}

}  // namespace fastdl::cuda
