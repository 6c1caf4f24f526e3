#include "cpu/optim_lists.h"

#include <algorithm>

namespace fastdl::cpu {
namespace {

constexpr double kCost = 2;  // elementary operations an element costs

// 16-bit lists may go with float32 ones.
View list_view(const fastdl_tensor* t, const View* param, const char* op, const char* name) {
  if (!param) return any_float_view(t, op, name);
  const View v = view(t, op, name);
  if (v.dtype == param->dtype) return v;
  const auto in_float32 = [](DType d) { return d == DType::kFloat32 || is_narrow(d); };
  return in_float32(v.dtype) && in_float32(param->dtype) ? v : view_like(t, param->dtype, op, name);
}

// Calls f(storage type) of a 16-bit dtype.
template <class F>
void dispatch_narrow(DType dtype, F&& f) {
  if (dtype == DType::kBFloat16) f(bfloat16{});
  else f(float16{});
}

}  // namespace

Items::Items(Context* context, const char* op, int32_t count, std::initializer_list<TensorList> lists) {
  FASTDL_CHECK(count >= 0, FASTDL_ERROR_VALUE, "%s: count is negative", op);
  FASTDL_CHECK(count == 0 || lists.begin()->tensors, FASTDL_ERROR_VALUE, "%s: %ss are required, got NULL", op,
               lists.begin()->name);
  items_.reserve(static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) add(context, op, i, lists);
}

void Items::add(Context* context, const char* op, int index, std::initializer_list<TensorList> lists) {
  View views[Item::kMaxLists];
  Item item{};
  item.index = index;
  bool same = true;
  int k = 0;
  for (const TensorList& list : lists) {
    Item::List& to = item.lists[k];
    to.use = list.use;
    if (list.tensors && (list.use != Use::kWrite || list.tensors[index])) {
      views[k] = list_view(list.tensors[index], k ? &views[0] : nullptr, op, list.name);
      FASTDL_CHECK(list.use != Use::kWrite || is_narrow(views[k].dtype), FASTDL_ERROR_DTYPE,
                   "%s: expected %s to be bfloat16 or float16, got %s", op, list.name,
                   name_of(views[k].dtype));
      to.data = views[k].data;
      to.dtype = views[k].dtype;
      item.narrow |= is_narrow(to.dtype);
      if (!same_dense_layout(views[0], views[k])) {
        check_same_shape(views[0], lists.begin()->name, views[k], list.name, op);
        same = false;
      }
      if (list.use != Use::kRead) check_out(views[k], op, list.name);
    }
    ++k;
  }
  item.compute = views[0].dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
  item.n = views[0].size();
  if (!same) copy_in(context, views, item);
  items_.push_back(item);
  first_.push_back(first_.back() + (item.n + kChunk - 1) / kChunk);
}

void Items::copy_in(Context* context, const View* views, Item& item) {
  for (int k = 0; k < Item::kMaxLists; ++k) {
    Item::List& list = item.lists[k];
    if (!list.data) continue;
    if (list.use == Use::kRead) {
      read_.push_back(std::make_unique<Contiguous>(context, views[k]));
      list.data = (*read_.back())->data;
    } else {
      written_.push_back(std::make_unique<ContiguousOut>(context, views[k]));
      ContiguousOut& out = *written_.back();
      if (list.use == Use::kUpdate && out->data != views[k].data) copy(context, views[k], *out);
      list.data = out->data;
    }
  }
}

const Item& Items::item_of(int64_t task, int64_t& begin, int64_t& end) const {
  const auto after = std::upper_bound(first_.begin(), first_.end(), task);
  const auto i = static_cast<size_t>(after - first_.begin()) - 1;
  begin = (task - first_[i]) * kChunk;
  end = std::min(begin + kChunk, items_[i].n);
  return items_[i];
}

double Items::cost_per_task() const {
  double elements = 0;
  for (const Item& item : items_) elements += static_cast<double>(item.n);
  return elements * kCost / static_cast<double>(tasks());
}

void Items::widen(const Item& item, int64_t begin, int64_t n, float* scratch, float** p) {
  for (int k = 0; k < Item::kMaxLists; ++k) {
    const Item::List& list = item.lists[k];
    if (!list.data || !is_narrow(list.dtype)) {
      p[k] = list.data ? static_cast<float*>(list.data) + begin : nullptr;
      continue;
    }
    p[k] = scratch + k * kPiece;
    if (list.use == Use::kWrite) continue;
    dispatch_narrow(list.dtype, [&](auto zero) {
      using S = decltype(zero);
      convert_table(*kernels().convert, zero).widen(n, static_cast<const S*>(list.data) + begin, 1, p[k], 1);
    });
  }
}

void Items::narrow(const Item& item, int64_t begin, int64_t n, float* const* p) {
  for (int k = 0; k < Item::kMaxLists; ++k) {
    const Item::List& list = item.lists[k];
    if (!list.data || !is_narrow(list.dtype) || list.use == Use::kRead) continue;
    const float* from = list.use == Use::kWrite ? p[0] : p[k];
    dispatch_narrow(list.dtype, [&](auto zero) {
      using S = decltype(zero);
      convert_table(*kernels().convert, zero).narrow(n, from, 1, static_cast<S*>(list.data) + begin, 1);
    });
  }
}

}  // namespace fastdl::cpu
