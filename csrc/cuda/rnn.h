// Recurrent layers: the algorithms over rows, and how the caller's tensors become rows and back.
#pragma once

#include <optional>

#include "common/rnn.h"
#include "cuda/context.h"
#include "cuda/tensor.h"

namespace fastdl::cuda {

// RnnRows as plain pointers, into the memory of whoever reads them. Where every sequence has every step there
// is nothing to look up.
struct RnnPlaces {
  int64_t steps, sequences;
  const int64_t *offset, *batch;  // [steps], or NULL: as in [T, B]
  const int64_t* order;           // [sequences], or NULL: the caller's

  __host__ __device__ int64_t batch_at(int64_t t) const {
    return t < 0 || t >= steps ? 0 : batch ? batch[t] : sequences;
  }
  __host__ __device__ int64_t row(int64_t t, int64_t sequence = 0) const {
    return (offset ? offset[t] : t * sequences) + sequence;
  }
};
inline RnnPlaces places_of(const RnnRows& rows) {
  return {rows.steps, rows.sequences, rows.full ? nullptr : rows.offset.data(),
          rows.full ? nullptr : rows.batch.data(), nullptr};
}

// The same in device memory.
class RnnIndex {
 public:
  RnnIndex(Context* context, const RnnRows& rows);
  const RnnPlaces& operator*() const { return places_; }

 private:
  std::optional<Workspace> space_;
  RnnPlaces places_;
};

// places: of the device.
template <class S>
void rnn_forward(Context* context, const RnnForward<S>& p, const RnnPlaces& places);
template <class S>
void rnn_backward(Context* context, const RnnBackward<S>& p, const RnnPlaces& places);

// Sequences [T, B, C] (or packed [N, C]) as rows [N, C], and back; an absent one (ndim 0) has no data.
class RnnSequences {
 public:
  RnnSequences(Context* context, const RnnRows& rows, const RnnIndex& index, const View& v);
  void* data() const { return data_; }
  void read();
  void write();  // steps beyond a sequence's length become zeros

 private:
  Context* context_;
  const RnnIndex& index_;
  const View v_;
  bool direct_, dense_;
  Workspace scratch_;
  void* data_;
};

// States [L * D, B, C] with the sequences in the order of RnnRows, and back.
class RnnStates {
 public:
  RnnStates(Context* context, const RnnRows& rows, const RnnIndex& index, const View& v);
  void* data() const { return data_; }
  void read();
  void write();

 private:
  Context* context_;
  RnnPlaces places_;
  const View v_;
  bool direct_;
  Workspace scratch_;
  void* data_;
};

// h_prev[row] = the state that row's step began with, rows h_stride apart: a row of y ([N, y_stride]), or of
// h0 (NULL for zeros). item: bytes of an element.
struct RnnPrevious {
  const void *y, *h0;
  int64_t y_stride, columns;
  bool backwards;
  void* out;
  int64_t out_stride;
};
void rnn_previous(Context* context, int64_t item, const RnnPlaces& places, const RnnPrevious& p);

// Rows of states that a layer begins with, `stride` elements apart, as its steps hand them on.
void rnn_first_states(Context* context, int64_t item, int64_t rows, int64_t columns, const void* from,
                      void* to, int64_t stride);

}  // namespace fastdl::cuda
