#include "fastdl/convert.h"

#include "cuda/map.cuh"
#include "cuda/tensor.h"
#include "fastdl/cuda.h"

namespace fastdl::cuda {
namespace {

struct Identity {
  static constexpr bool kUsesIndex = false;
  template <class T>
  __device__ T operator()(int64_t, T x) const {
    return x;
  }
};

// Kernels choose the width of their accesses, and so the order of their sums, by shape alone: what does not
// begin at a multiple of 16 bytes is copied, too.
bool in_place(const View& v) { return v.contiguous() && reinterpret_cast<uintptr_t>(v.data) % 16 == 0; }
size_t scratch_bytes(const View& v) { return in_place(v) ? 0 : static_cast<size_t>(v.nbytes()); }

View contiguous_at(const View& like, void* data) {
  View v = like;
  v.data = data;
  set_c_strides(v);
  return v;
}

}  // namespace

void copy(Context* context, const View& src, const View& dst) {
  if (src.size() == 0) return;
  if (same_dense_layout(src, dst)) {
    return check_cuda(cudaMemcpyAsync(dst.data, src.data, static_cast<size_t>(src.nbytes()),
                                      cudaMemcpyDeviceToDevice, stream_of(context)),
                      "copy");
  }
  switch (item_size(src.dtype)) {  // elements are moved, whatever they stand for
    case 8:
      return map<uint64_t, uint64_t>(context, Identity{}, dst, src);
    case 4:
      return map<uint32_t, uint32_t>(context, Identity{}, dst, src);
    case 2:
      return map<uint16_t, uint16_t>(context, Identity{}, dst, src);
    default:
      return map<uint8_t, uint8_t>(context, Identity{}, dst, src);
  }
}

void convert(Context* context, const View& src, const View& dst) {
  dispatch_storage(src.dtype, [&](auto from) {
    dispatch_storage(dst.dtype, [&](auto to) {
      using From = decltype(from);
      using To = decltype(to);
      if constexpr (std::is_same_v<compute_t<From>, compute_t<To>>)
        map<To, From>(context, Identity{}, dst, src);
    });
  });
}

Contiguous::Contiguous(Context* context, const View& v) : workspace_(context, scratch_bytes(v)), view_(v) {
  if (scratch_bytes(v) == 0) return;
  view_ = contiguous_at(v, workspace_.as<void>());
  copy(context, v, view_);
}

ContiguousOut::ContiguousOut(Context* context, const View& v)
    : context_(context), target_(v), workspace_(context, scratch_bytes(v)), view_(v) {
  if (scratch_bytes(v) != 0) view_ = contiguous_at(v, workspace_.as<void>());
}

void ContiguousOut::write_back() {
  if (view_.data != target_.data) copy(context_, view_, target_);
}

namespace {

bool is_computed(const View& v) { return !v.data || (!is_narrow(v.dtype) && in_place(v)); }
size_t computed_bytes(const View& v) {
  return is_computed(v) ? 0 : static_cast<size_t>(v.size() * (is_narrow(v.dtype) ? 4 : item_size(v.dtype)));
}
View computed_view(const View& v, void* scratch) {
  if (is_computed(v)) return v;
  View wide = contiguous_at(v, scratch);
  if (is_narrow(v.dtype)) wide.dtype = DType::kFloat32;
  return wide;
}
void copy_or_convert(Context* context, const View& from, const View& to) {
  if (from.dtype == to.dtype) copy(context, from, to);
  else convert(context, from, to);
}

}  // namespace

Computed::Computed(Context* context, const View& v)
    : workspace_(context, computed_bytes(v)), view_(computed_view(v, workspace_.as<void>())) {
  if (!is_computed(v)) copy_or_convert(context, v, view_);
}

ComputedOut::ComputedOut(Context* context, const View& v)
    : context_(context),
      target_(v),
      workspace_(context, computed_bytes(v)),
      view_(computed_view(v, workspace_.as<void>())) {}

void ComputedOut::write_back() {
  if (!is_computed(target_)) copy_or_convert(context_, view_, target_);
}

}  // namespace fastdl::cuda

using namespace fastdl;
using namespace fastdl::cuda;

extern "C" fastdl_status fastdl_cuda_convert(fastdl_context* context, const fastdl_tensor* x_,
                                             const fastdl_tensor* out_) {
  return guarded([&] {
    const char* op = "convert";
    const View x = any_float_view(x_, op, "x"), out = any_float_view(out_, op, "out");
    check_out(out, op, "out");
    check_same_shape(x, "x", out, "out", op);
    FASTDL_CHECK(x.dtype != DType::kFloat64 && out.dtype != DType::kFloat64, FASTDL_ERROR_DTYPE,
                 "%s: expected float32, bfloat16 or float16, got %s to %s", op, name_of(x.dtype),
                 name_of(out.dtype));
    if (x.dtype == out.dtype) return copy(context, x, out);
    convert(context, x, out);
  });
}
