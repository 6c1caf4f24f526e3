// bfloat16 and float16 tensors for entry points that compute in float32. The entry point calls itself with
// float32 stand-ins:
//
//   fastdl_status fastdl_prelu_forward(context, x, weight, out) {
//     if (is_narrow(x)) {
//       return in_float32("prelu", fastdl_prelu_forward, context, in(x, "x"), in(weight, "weight"), out(out_,
//       "out"));
//     }
//
// Inputs are widened into scratch memory in their own memory order, outputs are rounded once, after the call
// has succeeded: a failing call writes nothing. A family with kernels of its own for a 16-bit type tests for
// them first.
#pragma once

#include <cstdint>
#include <optional>
#include <tuple>
#include <vector>

#include "cpu/tensor.h"

namespace fastdl::cpu {

inline bool is_narrow(const fastdl_tensor* t) {
  return t && t->dtype.bits == 16 && (t->dtype.code == FASTDL_BFLOAT || t->dtype.code == FASTDL_FLOAT);
}
// True if any of these, the parameters of an op that reads 16-bit data itself, is stored like its data x: it
// then calls itself with float32 ones.
template <class... Tensors>
bool narrow_like(const fastdl_tensor* x, Tensors... parameters) {
  return is_narrow(x) &&
         ((parameters && parameters->dtype.bits == 16 && parameters->dtype.code == x->dtype.code) || ...);
}
// True if any of the list is.
bool any_narrow(const fastdl_tensor* const* tensors, int32_t count);

// What the call does with an operand, and which dtypes may stand beside the call's 16-bit one.
enum class Access : uint8_t { kRead, kWrite, kUpdate };
enum class Accepts : uint8_t {
  kSame,
  kFloat32,  // that one or float32, which is passed as it is
  kAny       // 16-bit ones are widened, all others are left to the checks of the call itself
};

struct Operand {
  const fastdl_tensor* tensor;  // may be NULL
  const char* name;
  Access access;
  Accepts accepts = Accepts::kSame;
};
struct OperandList {
  const fastdl_tensor* const* tensors;  // may be NULL, and so may any entry
  int32_t count;
  const char* name;
  Access access;
  Accepts accepts = Accepts::kSame;
};

inline Operand reads(const fastdl_tensor* t, const char* name) { return {t, name, Access::kRead}; }
inline Operand writes(const fastdl_tensor* t, const char* name) { return {t, name, Access::kWrite}; }
inline Operand updates(const fastdl_tensor* t, const char* name) { return {t, name, Access::kUpdate}; }
inline OperandList reads(const fastdl_tensor* const* t, int32_t count, const char* name) {
  return {t, count, name, Access::kRead};
}
inline OperandList writes(const fastdl_tensor* const* t, int32_t count, const char* name) {
  return {t, count, name, Access::kWrite};
}
inline OperandList updates(const fastdl_tensor* const* t, int32_t count, const char* name) {
  return {t, count, name, Access::kUpdate};
}
template <class Argument>
Argument or_float32(Argument a) {
  a.accepts = Accepts::kFloat32;
  return a;
}
template <class Argument>
Argument of_any_dtype(Argument a) {
  a.accepts = Accepts::kAny;
  return a;
}

// The float32 stand-ins of one call.
class Widening {
 public:
  Widening(Context* context, const char* op) : context_(context), op_(op) {}

  // The call's arguments in their order. What is no operand passes as it is.
  struct Slot {
    size_t at;
  };
  struct ListSlot {
    size_t at;
    const fastdl_tensor* const* given;
  };
  Slot add(const Operand& operand);
  ListSlot add(const OperandList& list);
  template <class Other>
  Other add(Other other) {
    return other;
  }

  void begin();   // checks the dtypes, makes the stand-ins, widens what is read
  void finish();  // rounds what was written

  const fastdl_tensor* argument(Slot slot) const { return pointers_[slot.at]; }
  const fastdl_tensor* const* argument(ListSlot slot) const {
    return slot.given ? pointers_.data() + slot.at : nullptr;
  }
  template <class Other>
  Other argument(Other other) const {
    return other;
  }

 private:
  struct StandIn {
    size_t operand;
    View source, wide;  // the caller's memory and ours
    size_t at;          // bytes into scratch_
    fastdl_tensor tensor;
  };
  DType call_dtype() const;
  void check_dtype(const Operand& operand, DType dtype, DType expected) const;

  Context* context_;
  const char* op_;
  std::vector<Operand> operands_;
  std::vector<const fastdl_tensor*> pointers_;  // what stands for each operand
  std::vector<StandIn> stand_ins_;
  std::optional<Workspace> scratch_;
};

// function(context, arguments...) with every 16-bit operand among the arguments replaced by its stand-in.
template <class... Parameters, class... Arguments>
fastdl_status in_float32(const char* op, fastdl_status (*function)(fastdl_context*, Parameters...),
                         fastdl_context* context, const Arguments&... arguments) {
  fastdl_status status = FASTDL_OK;
  const fastdl_status conversions = guarded([&] {
    Widening w(context, op);
    const std::tuple slots{w.add(arguments)...};  // braces: from left to right
    w.begin();
    status = std::apply([&](const auto&... slot) { return function(context, w.argument(slot)...); }, slots);
    if (status == FASTDL_OK) w.finish();
  });
  return conversions != FASTDL_OK ? conversions : status;
}

}  // namespace fastdl::cpu
