// Brings the caller's tensors into the order the algorithms work in (see RnnRows), copying only what must be.
#pragma once

#include <cstring>
#include <deque>

#include "cpu/parallel.h"
#include "cpu/rnn_layout.h"

namespace fastdl::cpu {

template <class T>
void copy_strided(const T* from, int64_t from_stride, T* to, int64_t to_stride, int64_t n) {
  if (from_stride == 1 && to_stride == 1) std::memcpy(to, from, sizeof(T) * static_cast<size_t>(n));
  else
    for (int64_t i = 0; i < n; ++i) to[i * to_stride] = from[i * from_stride];
}

// Sequences [T, B, C] (or packed [N, C]) as rows, and back.
template <class T>
class RnnSequences {
 public:
  RnnSequences(Context* context, const RnnRows& rows, const View& v)
      : context_(context),
        rows_(rows),
        v_(v),
        direct_((v.ndim == 2 || rows.full) && v.contiguous()),
        scratch_(context, direct_ ? 0 : sizeof(T) * static_cast<size_t>(rows.rows * v.extent(-1))) {}
  T* data() const { return direct_ ? v_.as<T>() : scratch_.template as<T>(); }

  void read() const {
    each([&](T* row, T* element, int64_t stride) { copy_strided(element, stride, row, 1, v_.extent(-1)); });
  }
  // Steps beyond a sequence's length become zeros.
  void write() const {
    each([&](T* row, T* element, int64_t stride) { copy_strided(row, 1, element, stride, v_.extent(-1)); });
    if (v_.ndim == 2 || rows_.full) return;
    const int64_t columns = v_.extent(2);
    for (int64_t t = 0; t < rows_.steps; ++t) {
      for (int64_t i = rows_.batch_at(t); i < rows_.sequences; ++i) {
        T* to = at(t, i);
        for (int64_t j = 0; j < columns; ++j) to[j * v_.stride(2)] = T{};
      }
    }
  }

 private:
  T* at(int64_t t, int64_t i) const {
    return v_.ndim == 2 ? v_.as<T>() + (rows_.offset_at(t) + i) * v_.stride(0)
                        : v_.as<T>() + t * v_.stride(0) + rows_.at(i) * v_.stride(1);
  }
  template <class Body>
  void each(Body&& body) const {
    if (direct_) return;
    const int64_t columns = v_.extent(-1);
    parallel_for(context_, rows_.steps, static_cast<double>(rows_.sequences * columns) / 4, [&](int64_t t) {
      for (int64_t i = 0; i < rows_.batch_at(t); ++i) {
        body(scratch_.template as<T>() + (rows_.offset_at(t) + i) * columns, at(t, i), v_.stride(-1));
      }
    });
  }

  Context* context_;
  const RnnRows& rows_;
  const View v_;
  const bool direct_;
  const Workspace scratch_;
};

// States [L * D, B, C] with the sequences in the order of RnnRows, and back. Absent (ndim 0): data() is NULL.
template <class T>
class RnnStates {
 public:
  RnnStates(Context* context, const RnnRows& rows, const View& v)
      : rows_(rows),
        v_(v),
        direct_(v.ndim == 0 || (rows.order.empty() && v.contiguous())),
        scratch_(context, direct_ ? 0 : static_cast<size_t>(v.nbytes())) {}
  T* data() const { return v_.ndim == 0 ? nullptr : direct_ ? v_.as<T>() : scratch_.template as<T>(); }
  void read() const {
    each([&](T* row, T* element) { copy_strided(element, v_.stride(2), row, 1, v_.extent(2)); });
  }
  void write() const {
    each([&](T* row, T* element) { copy_strided(row, 1, element, v_.stride(2), v_.extent(2)); });
  }

 private:
  template <class Body>
  void each(Body&& body) const {
    if (direct_) return;
    for (int64_t l = 0; l < v_.extent(0); ++l) {
      for (int64_t i = 0; i < rows_.sequences; ++i) {
        body(scratch_.template as<T>() + (l * rows_.sequences + i) * v_.extent(2),
             v_.as<T>() + l * v_.stride(0) + rows_.at(i) * v_.stride(1));
      }
    }
  }
  const RnnRows& rows_;
  const View v_;
  const bool direct_;
  const Workspace scratch_;
};

}  // namespace fastdl::cpu
