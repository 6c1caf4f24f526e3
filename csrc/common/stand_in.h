// Stand-ins for the caller's tensors where kernels want them contiguous, the same on every backend.
#pragma once

#include "common/view.h"

namespace fastdl {

// A view of `data` in C order with v's shape; `wide`: in float32 where v is stored in 16 bits.
inline View contiguous_at(const View& v, void* data, bool wide = false) {
  View result = v;
  result.data = data;
  if (wide && is_narrow(v.dtype)) result.dtype = DType::kFloat32;
  set_c_strides(result);
  return result;
}

// `Memory` is a backend's: Context and Workspace, copy() between views of one dtype, convert() between
// others, and in_place(), which says whether kernels can take a view as it is. `wide`: 16-bit floats become
// float32.
template <class Memory, bool wide>
struct StandInRules {
  static bool serves(const View& v) { return Memory::in_place(v) && !(wide && v.data && is_narrow(v.dtype)); }
  static size_t scratch_bytes(const View& v) {
    return serves(v) ? 0 : static_cast<size_t>(contiguous_at(v, nullptr, wide).nbytes());
  }
  static View view(const View& v, void* scratch) { return serves(v) ? v : contiguous_at(v, scratch, wide); }
  static void copy(typename Memory::Context* context, const View& from, const View& to) {
    if (from.dtype == to.dtype) Memory::copy(context, from, to);
    else Memory::convert(context, from, to);
  }
};

// `v` itself where it serves, else a C-contiguous copy that lives as long as this object.
template <class Memory, bool wide>
class StandIn {
  using Rules = StandInRules<Memory, wide>;

 public:
  StandIn(typename Memory::Context* context, const View& v)
      : workspace_(context, Rules::scratch_bytes(v)), view_(Rules::view(v, workspace_.template as<void>())) {
    if (!Rules::serves(v)) Rules::copy(context, v, view_);
  }
  const View& operator*() const { return view_; }
  const View* operator->() const { return &view_; }
  template <class T>
  T* as() const {
    return view_.as<T>();
  }

 private:
  typename Memory::Workspace workspace_;
  View view_;
};

// A destination: `v` itself where it serves, else scratch that write_back() copies or rounds to `v`.
template <class Memory, bool wide>
class StandInOut {
  using Rules = StandInRules<Memory, wide>;

 public:
  StandInOut(typename Memory::Context* context, const View& v)
      : context_(context),
        target_(v),
        workspace_(context, Rules::scratch_bytes(v)),
        view_(Rules::view(v, workspace_.template as<void>())) {}
  const View& operator*() const { return view_; }
  const View* operator->() const { return &view_; }
  template <class T>
  T* as() const {
    return view_.as<T>();
  }
  void write_back() {
    if (!Rules::serves(target_)) Rules::copy(context_, view_, target_);
  }

 private:
  typename Memory::Context* context_;
  View target_;
  typename Memory::Workspace workspace_;
  View view_;
};

// Calls f(out, in...) with views that lie in memory in one dense order, whichever: the caller's own where
// they do, else contiguous stand-ins.
template <class Memory, class F, class... In>
void in_one_layout(typename Memory::Context* context, F&& f, const View& out, const In&... in) {
  if ((same_dense_layout(out, in) && ...)) return f(out, in...);
  StandInOut<Memory, false> result(context, out);
  [&](const auto&... operand) { f(*result, *operand...); }(StandIn<Memory, false>(context, in)...);
  result.write_back();
}

}  // namespace fastdl
