// Checked views of the caller's tensors, and what can be asked of them. The library says where its tensors
// live.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>

#include "common/error.h"
#include "common/narrow.h"
#include "fastdl/base.h"

namespace fastdl {

// The memory this library computes on: FASTDL_CPU or FASTDL_CUDA, and its name. Defined once per library.
extern const int32_t kMemoryType;
extern const char* const kMemoryName;

enum class DType : uint8_t { kFloat32, kFloat64, kBFloat16, kFloat16, kInt32, kInt64, kUInt8, kBool };

constexpr int64_t item_size(DType t) {
  return t == DType::kFloat64 || t == DType::kInt64      ? 8
         : t == DType::kFloat32 || t == DType::kInt32    ? 4
         : t == DType::kBFloat16 || t == DType::kFloat16 ? 2
                                                         : 1;
}
constexpr bool is_narrow(DType t) { return t == DType::kBFloat16 || t == DType::kFloat16; }
constexpr bool is_float(DType t) { return t <= DType::kFloat16; }
const char* name_of(DType t);

template <class T>
struct DTypeOf;
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::kFloat32;
};
template <>
struct DTypeOf<double> {
  static constexpr DType value = DType::kFloat64;
};
template <>
struct DTypeOf<bfloat16> {
  static constexpr DType value = DType::kBFloat16;
};
template <>
struct DTypeOf<float16> {
  static constexpr DType value = DType::kFloat16;
};

// A validated tensor: plain pointer (byte offset applied), strides always present, in elements.
struct View {
  void* data = nullptr;
  DType dtype = DType::kFloat32;
  int ndim = 0;
  int64_t shape[FASTDL_MAX_NDIM];
  int64_t strides[FASTDL_MAX_NDIM];

  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
  int64_t size() const {  // number of elements
    int64_t n = 1;
    for (int i = 0; i < ndim; ++i) n *= shape[i];
    return n;
  }
  int64_t nbytes() const { return size() * item_size(dtype); }
  bool contiguous() const;  // C order
  // Negative dims count from the end.
  int64_t extent(int dim) const { return shape[dim < 0 ? dim + ndim : dim]; }
  int64_t stride(int dim) const { return strides[dim < 0 ? dim + ndim : dim]; }
};

// Validates `t`; `op` and `name` go into the message. Fails on NULL, a foreign device, an unknown dtype or a
// bad rank.
View view(const fastdl_tensor* t, const char* op, const char* name);
// The same, but only float32 and float64 pass.
View float_view(const fastdl_tensor* t, const char* op, const char* name);
// The same, and bfloat16 and float16 pass too.
View any_float_view(const fastdl_tensor* t, const char* op, const char* name);
// The same with the dtype of another operand required.
View view_like(const fastdl_tensor* t, DType dtype, const char* op, const char* name);
// The same for a tensor that will be written: its elements must not share memory.
View out_view(const fastdl_tensor* t, DType dtype, const char* op, const char* name);
void check_out(const View& v, const char* op, const char* name);

// The caller's options struct, which may be older (shorter) or newer (longer) than ours: fields it lacks keep
// their defaults, fields we do not know are ignored. NULL: all defaults.
template <class Options>
Options read_options(const Options* given, const Options& defaults, const char* op) {
  Options o = defaults;
  if (!given) return o;
  FASTDL_CHECK(given->struct_size >= sizeof(size_t), FASTDL_ERROR_VALUE,
               "%s: options must begin with their size (use the _INIT macro)", op);
  std::memcpy(&o, given, given->struct_size < sizeof o ? given->struct_size : sizeof o);
  o.struct_size = sizeof o;
  return o;
}

void set_c_strides(View& v);              // those of C order
std::string shape_string(const View& v);  // "(2, 3)"
bool same_shape(const View& a, const View& b);
void check_same_shape(const View& a, const char* a_name, const View& b, const char* b_name, const char* op);
void check_ndim(const View& v, int ndim, const char* op, const char* name);

// True if both have the same shape and the same strides and fill a dense block of memory (in whatever order):
// such tensors can be processed as flat arrays of size() elements starting at `data`.
bool same_dense_layout(const View& a, const View& b);

// A view with dims reordered: result dim i is v's dim order[i].
View permuted(const View& v, const int* order);
// (N, C, ...) -> (N, ..., C); fewer than two dims stay as they are.
View channels_last(const View& v);

// Calls f(T{}) with T = float or double.
template <class F>
void dispatch_float(DType dtype, F&& f) {
  if (dtype == DType::kFloat32) f(float{});
  else f(double{});
}

// Calls f(S{}) with S = float, double, bfloat16 or float16, the type the elements are stored in.
template <class F>
void dispatch_storage(DType dtype, F&& f) {
  switch (dtype) {
    case DType::kBFloat16:
      return f(bfloat16{});
    case DType::kFloat16:
      return f(float16{});
    case DType::kFloat64:
      return f(double{});
    default:
      return f(float{});
  }
}

}  // namespace fastdl
