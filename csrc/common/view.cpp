#include "common/view.h"

#include <cmath>
#include <cstdlib>

#include "common/place.h"

namespace fastdl {
namespace {

bool parse_dtype(fastdl_dtype d, DType* out) {
  if (d.lanes != 1) return false;
  if (d.code == FASTDL_FLOAT && d.bits == 32) *out = DType::kFloat32;
  else if (d.code == FASTDL_FLOAT && d.bits == 64) *out = DType::kFloat64;
  else if (d.code == FASTDL_BFLOAT && d.bits == 16) *out = DType::kBFloat16;
  else if (d.code == FASTDL_FLOAT && d.bits == 16) *out = DType::kFloat16;
  else if (d.code == FASTDL_INT && d.bits == 32) *out = DType::kInt32;
  else if (d.code == FASTDL_INT && d.bits == 64) *out = DType::kInt64;
  else if (d.code == FASTDL_UINT && d.bits == 8) *out = DType::kUInt8;
  else if (d.code == FASTDL_BOOL && d.bits == 8) *out = DType::kBool;
  else return false;
  return true;
}

std::string dtype_string(fastdl_dtype d) {
  const char* kind = d.code == FASTDL_INT      ? "int"
                     : d.code == FASTDL_UINT   ? "uint"
                     : d.code == FASTDL_FLOAT  ? "float"
                     : d.code == FASTDL_BFLOAT ? "bfloat"
                     : d.code == FASTDL_BOOL   ? "bool"
                                               : "unknown dtype ";
  return kind + std::to_string(d.bits);
}

// Beyond these, sizes and offsets in bytes could overflow 64 bits. No memory holds so much, but a view of few
// elements that repeats them can claim it, and so can an empty one.
constexpr double kMostElements = 1152921504606846976.0;  // 2^60
constexpr double kMostStride = 1099511627776.0;          // 2^40

}  // namespace

void set_c_strides(View& v) {
  int64_t stride = 1;
  for (int i = v.ndim - 1; i >= 0; --i) {
    v.strides[i] = stride;
    stride *= v.shape[i];
  }
}

const char* name_of(DType t) {
  switch (t) {
    case DType::kFloat32:
      return "float32";
    case DType::kFloat64:
      return "float64";
    case DType::kBFloat16:
      return "bfloat16";
    case DType::kFloat16:
      return "float16";
    case DType::kInt32:
      return "int32";
    case DType::kInt64:
      return "int64";
    case DType::kUInt8:
      return "uint8";
    case DType::kBool:
      return "bool";
  }
  return "?";
}

bool View::contiguous() const {
  if (size() == 0) return true;
  int64_t expected = 1;
  for (int i = ndim - 1; i >= 0; --i) {
    if (shape[i] != 1 && strides[i] != expected) return false;
    expected *= shape[i];
  }
  return true;
}

View view(const fastdl_tensor* t, const char* op, const char* name) {
  FASTDL_CHECK(t != nullptr, FASTDL_ERROR_VALUE, "%s: %s is required, got NULL", op, name);
  FASTDL_CHECK(t->device.type == kMemoryType, FASTDL_ERROR_DEVICE, "%s: %s must be in %s memory", op, name,
               kMemoryName);
  FASTDL_CHECK(t->ndim >= 0 && t->ndim <= FASTDL_MAX_NDIM, FASTDL_ERROR_SHAPE,
               "%s: %s has %d dimensions, expected at most %d", op, name, t->ndim, FASTDL_MAX_NDIM);
  View v;
  FASTDL_CHECK(parse_dtype(t->dtype, &v.dtype), FASTDL_ERROR_DTYPE,
               "%s: %s has dtype %s, which is not supported", op, name, dtype_string(t->dtype).c_str());
  v.ndim = t->ndim;
  FASTDL_CHECK(v.ndim == 0 || t->shape != nullptr, FASTDL_ERROR_VALUE, "%s: %s has no shape", op, name);
  double elements = 1;
  for (int i = 0; i < v.ndim; ++i) {
    FASTDL_CHECK(t->shape[i] >= 0, FASTDL_ERROR_SHAPE, "%s: %s has a negative extent", op, name);
    v.shape[i] = t->shape[i];
    if (v.shape[i] > 1) elements *= static_cast<double>(v.shape[i]);
  }
  FASTDL_CHECK(elements < kMostElements, FASTDL_ERROR_SHAPE, "%s: %s is too big, its shape is %s", op, name,
               shape_string(v).c_str());
  if (t->strides) {
    for (int i = 0; i < v.ndim; ++i) {
      v.strides[i] = t->strides[i];
      // The stride of a single element means nothing: none may overflow what is computed from it.
      if (v.shape[i] <= 1 && !(std::abs(static_cast<double>(v.strides[i])) < kMostStride)) v.strides[i] = 1;
      FASTDL_CHECK(
          std::abs(static_cast<double>(v.strides[i])) * static_cast<double>(v.shape[i]) < kMostElements,
          FASTDL_ERROR_SHAPE, "%s: stride %lld of %s is too big", op, static_cast<long long>(v.strides[i]),
          name);
    }
  } else {
    set_c_strides(v);
  }
  FASTDL_CHECK(t->data != nullptr || v.size() == 0, FASTDL_ERROR_VALUE, "%s: %s has no data", op, name);
  // An empty tensor may come without memory; pointers into it are formed, though never followed.
  static char nothing[64];
  v.data = t->data ? static_cast<char*>(t->data) + t->byte_offset : nothing;
  if (v.size() != 0) check_place(*t, item_size(v.dtype), op, name);
  return v;
}

View float_view(const fastdl_tensor* t, const char* op, const char* name) {
  const View v = view(t, op, name);
  FASTDL_CHECK(v.dtype == DType::kFloat32 || v.dtype == DType::kFloat64, FASTDL_ERROR_DTYPE,
               "%s: expected %s to be float32 or float64, got %s", op, name, name_of(v.dtype));
  return v;
}

View any_float_view(const fastdl_tensor* t, const char* op, const char* name) {
  const View v = view(t, op, name);
  FASTDL_CHECK(is_float(v.dtype), FASTDL_ERROR_DTYPE,
               "%s: expected %s to be float32, float64, bfloat16 or float16, got %s", op, name,
               name_of(v.dtype));
  return v;
}

View view_like(const fastdl_tensor* t, DType dtype, const char* op, const char* name) {
  const View v = view(t, op, name);
  FASTDL_CHECK(v.dtype == dtype, FASTDL_ERROR_DTYPE,
               "%s: expected %s to be %s like the other operands, got %s", op, name, name_of(dtype),
               name_of(v.dtype));
  return v;
}

View out_view(const fastdl_tensor* t, DType dtype, const char* op, const char* name) {
  const View v = view_like(t, dtype, op, name);
  check_out(v, op, name);
  return v;
}

void check_out(const View& v, const char* op, const char* name) {
  if (v.contiguous()) return;
  // By rising stride, each dim has to step over all that the dims before it reach.
  int64_t reach = 0;
  bool used[FASTDL_MAX_NDIM] = {};
  for (int step = 0; step < v.ndim; ++step) {
    int next = -1;
    for (int i = 0; i < v.ndim; ++i) {
      if (used[i] || v.shape[i] == 1) continue;
      if (next < 0 || std::abs(v.strides[i]) < std::abs(v.strides[next])) next = i;
    }
    if (next < 0) break;
    used[next] = true;
    FASTDL_CHECK(std::abs(v.strides[next]) > reach, FASTDL_ERROR_SHAPE,
                 "%s: elements of %s share memory (dim %d of shape %s has stride %lld)", op, name, next,
                 shape_string(v).c_str(), static_cast<long long>(v.strides[next]));
    reach += (v.shape[next] - 1) * std::abs(v.strides[next]);
  }
}

std::string shape_string(const View& v) {
  std::string s = "(";
  for (int i = 0; i < v.ndim; ++i) s += (i ? ", " : "") + std::to_string(v.shape[i]);
  return s + (v.ndim == 1 ? ",)" : ")");
}

bool same_shape(const View& a, const View& b) {
  if (a.ndim != b.ndim) return false;
  for (int i = 0; i < a.ndim; ++i) {
    if (a.shape[i] != b.shape[i]) return false;
  }
  return true;
}

void check_same_shape(const View& a, const char* a_name, const View& b, const char* b_name, const char* op) {
  FASTDL_CHECK(same_shape(a, b), FASTDL_ERROR_SHAPE, "%s: expected %s to have the shape of %s, %s, got %s",
               op, b_name, a_name, shape_string(a).c_str(), shape_string(b).c_str());
}

void check_ndim(const View& v, int ndim, const char* op, const char* name) {
  FASTDL_CHECK(v.ndim == ndim, FASTDL_ERROR_SHAPE, "%s: expected %s to have %d dimensions, got shape %s", op,
               name, ndim, shape_string(v).c_str());
}

bool same_dense_layout(const View& a, const View& b) {
  if (!same_shape(a, b)) return false;
  if (a.contiguous() && b.contiguous()) return true;
  for (int i = 0; i < a.ndim; ++i) {
    if (a.shape[i] > 1 && a.strides[i] != b.strides[i]) return false;
  }
  // Dense: taken by ascending stride, each stride is the product of the extents before it.
  int64_t expected = 1;
  bool used[FASTDL_MAX_NDIM] = {};
  for (int step = 0; step < a.ndim; ++step) {
    int found = -1;
    for (int i = 0; i < a.ndim; ++i) {
      if (!used[i] && (a.shape[i] == 1 || a.strides[i] == expected)) {
        found = i;
        break;
      }
    }
    if (found < 0) return false;
    used[found] = true;
    expected *= a.shape[found];
  }
  return true;
}

View channels_last(const View& v) {
  if (v.ndim < 2) return v;
  int order[FASTDL_MAX_NDIM] = {0};
  for (int i = 1; i < v.ndim - 1; ++i) order[i] = i + 1;
  order[v.ndim - 1] = 1;
  return permuted(v, order);
}

View permuted(const View& v, const int* order) {
  View p = v;
  for (int i = 0; i < v.ndim; ++i) {
    p.shape[i] = v.shape[order[i]];
    p.strides[i] = v.strides[order[i]];
  }
  return p;
}

}  // namespace fastdl
