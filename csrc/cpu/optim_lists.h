// The tensor lists of one optimizer step: checked, flattened, and cut into chunks that are updated in
// parallel.
#pragma once

#include <initializer_list>
#include <memory>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "cpu/tensor.h"
#include "fastdl/optim.h"

namespace fastdl::cpu {

enum class Use { kRead, kUpdate, kWrite };

struct TensorList {
  fastdl_tensor_list tensors;  // may be NULL
  const char* name;
  Use use;
};

// One parameter with its gradient, its states and its rounding, as flat memory.
struct Item {
  static constexpr int kMaxLists = 6;
  int index;      // in the caller's lists
  DType compute;  // float32 or float64
  bool narrow;    // some of the lists hold 16-bit numbers
  int64_t n;
  struct List {
    void* data;  // NULL where there is none
    DType dtype;
    Use use;
  } lists[kMaxLists];
};

class Items {
 public:
  Items(Context* context, const char* op, int32_t count, std::initializer_list<TensorList> lists);

  // Calls f(item, task, T{}, pointers of the lists as T*, elements) for pieces that cover all items; T is
  // float or double. 16-bit lists are float32 in scratch while f runs, a piece that fits the L1 cache at a
  // time: memory sees one pass.
  template <class F>
  void for_pieces(Context* context, F&& f) {
    if (tasks() == 0) return;
    parallel_for(context, tasks(), cost_per_task(), [&](int64_t task) {
      int64_t begin, end;
      const Item& item = item_of(task, begin, end);
      if (item.compute == DType::kFloat64) {
        double* p[Item::kMaxLists];
        pointers(item, begin, p);
        f(item, task, double{}, p, end - begin);
      } else if (!item.narrow) {
        float* p[Item::kMaxLists];
        pointers(item, begin, p);
        f(item, task, float{}, p, end - begin);
      } else {
        const Workspace scratch(context, Item::kMaxLists * kPiece * sizeof(float));
        for (int64_t i = begin; i < end; i += kPiece) {
          const int64_t n = end - i < kPiece ? end - i : kPiece;
          float* p[Item::kMaxLists];
          widen(item, i, n, scratch.as<float>(), p);
          f(item, task, float{}, p, n);
          narrow(item, i, n, p);
        }
      }
    });
  }

  int64_t tasks() const { return first_.back(); }

  // Copies back what has another layout than its parameter. After all calls.
  void finish() {
    for (auto& out : written_) out->write_back();
  }

 private:
  static constexpr int64_t kChunk = 16384;  // elements of a task
  static constexpr int64_t kPiece = 1024;   // six lists of float32 in scratch take half of the L1 cache

  void add(Context* context, const char* op, int index, std::initializer_list<TensorList> lists);
  void copy_in(Context* context, const View* views, Item& item);
  const Item& item_of(int64_t task, int64_t& begin, int64_t& end) const;
  double cost_per_task() const;

  template <class T>
  static void pointers(const Item& item, int64_t begin, T** p) {
    for (int k = 0; k < Item::kMaxLists; ++k) {
      p[k] = item.lists[k].data ? static_cast<T*>(item.lists[k].data) + begin : nullptr;
    }
  }
  static void widen(const Item& item, int64_t begin, int64_t n, float* scratch, float** p);
  static void narrow(const Item& item, int64_t begin, int64_t n, float* const* p);

  std::vector<Item> items_;
  std::vector<int64_t> first_{0};  // first task of each item, then their number
  std::vector<std::unique_ptr<Contiguous>> read_;
  std::vector<std::unique_ptr<ContiguousOut>> written_;
};

}  // namespace fastdl::cpu
