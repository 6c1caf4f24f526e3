#include "cpu/widen.h"

#include <cstdlib>
#include <new>

#include "cpu/convert.h"

namespace fastdl::cpu {
namespace {

// The stand-in's layout: dense, dims in the source's order of memory; repeated dims (stride 0) stay repeated.
// Returns the number of elements.
int64_t lay_out(const View& source, View& wide) {
  bool done[FASTDL_MAX_NDIM] = {};
  int64_t elements = 1;
  for (int step = 0; step < source.ndim; ++step) {
    int next = -1;
    for (int i = source.ndim - 1; i >= 0; --i) {
      if (done[i]) continue;
      if (next < 0 || std::abs(source.strides[i]) < std::abs(source.strides[next])) next = i;
    }
    done[next] = true;
    const bool repeated = source.strides[next] == 0;
    wide.strides[next] = repeated ? 0 : elements;
    if (!repeated) elements *= source.shape[next];
  }
  return source.size() == 0 ? 0 : elements;
}

// The elements that are there, each once.
View stored_once(View v) {
  for (int i = 0; i < v.ndim; ++i) {
    if (v.strides[i] == 0 && v.shape[i] > 1) v.shape[i] = 1;
  }
  return v;
}

}  // namespace

bool any_narrow(const fastdl_tensor* const* tensors, int32_t count) {
  for (int32_t i = 0; tensors && i < count; ++i) {
    if (is_narrow(tensors[i])) return true;
  }
  return false;
}

Widening::Slot Widening::add(const Operand& operand) {
  operands_.push_back(operand);
  pointers_.push_back(operand.tensor);
  return {operands_.size() - 1};
}

Widening::ListSlot Widening::add(const OperandList& list) {
  const ListSlot slot{operands_.size(), list.tensors};
  for (int32_t i = 0; list.tensors && i < list.count; ++i) {
    add(Operand{list.tensors[i], list.name, list.access, list.accepts});
  }
  return slot;
}

DType Widening::call_dtype() const {
  for (const Operand& o : operands_) {
    if (o.accepts == Accepts::kSame && is_narrow(o.tensor)) return view(o.tensor, op_, o.name).dtype;
  }
  return DType::kFloat32;
}

void Widening::check_dtype(const Operand& operand, DType dtype, DType expected) const {
  if (operand.accepts == Accepts::kAny || dtype == expected) return;
  if (operand.accepts == Accepts::kFloat32) {
    FASTDL_CHECK(dtype == DType::kFloat32, FASTDL_ERROR_DTYPE, "%s: expected %s to be %s or float32, got %s",
                 op_, operand.name, name_of(expected), name_of(dtype));
    return;
  }
  fail(FASTDL_ERROR_DTYPE, "%s: expected %s to be %s like the other operands, got %s", op_, operand.name,
       name_of(expected), name_of(dtype));
}

void Widening::begin() {
  const DType expected = call_dtype();
  size_t bytes = 0;
  for (size_t i = 0; i < operands_.size(); ++i) {
    const Operand& o = operands_[i];
    if (!o.tensor) continue;
    const View source = view(o.tensor, op_, o.name);
    check_dtype(o, source.dtype, expected);
    if (!is_narrow(source.dtype)) continue;
    if (o.access != Access::kRead) check_out(source, op_, o.name);
    StandIn s{i, source, source, bytes, *o.tensor};
    s.wide.dtype = DType::kFloat32;
    const auto elements = static_cast<size_t>(lay_out(source, s.wide));
    constexpr size_t kLine = 64, kMost = SIZE_MAX / 4;  // sums of two below this do not overflow
    if (elements > kMost / sizeof(float)) throw std::bad_alloc();
    bytes += (elements * sizeof(float) + kLine - 1) / kLine * kLine;
    if (bytes > kMost) throw std::bad_alloc();
    stand_ins_.push_back(s);
  }
  scratch_.emplace(context_, bytes);
  for (StandIn& s : stand_ins_) {
    s.wide.data = scratch_->as<char>() + s.at;
    s.tensor.data = s.wide.data;
    s.tensor.byte_offset = 0;
    s.tensor.dtype = {FASTDL_FLOAT, 32, 1};
    s.tensor.strides = s.wide.strides;
    pointers_[s.operand] = &s.tensor;
    if (operands_[s.operand].access != Access::kWrite) {
      convert(context_, stored_once(s.source), stored_once(s.wide));
    }
  }
}

void Widening::finish() {
  for (const StandIn& s : stand_ins_) {
    if (operands_[s.operand].access != Access::kRead) convert(context_, s.wide, s.source);
  }
}

}  // namespace fastdl::cpu
