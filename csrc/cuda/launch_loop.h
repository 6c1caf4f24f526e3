// Loops of many small launches, which a CUDA graph launches at once: worth it where the same loop comes again
// with the same memory, as a layer's steps do in every iteration of a training loop.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <type_traits>

#include "cuda/context.h"

namespace fastdl::cuda {

// Everything that the launches of a loop are made from: kernels, grids and arguments, pointers among them. A
// graph is launched only where all of it is the same again, so it never sees other memory than its caller's.
class LoopKey {
 public:
  template <class T>
  void add(const T& value) {
    static_assert(std::has_unique_object_representations_v<T>, "its bytes have to be its value");
    add(&value, 1);
  }
  template <class T>
  void add(const T* values, int64_t count) {
    bytes_.append(reinterpret_cast<const char*>(values), static_cast<size_t>(count) * sizeof(T));
  }
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

// Calls issue(context), which launches `launches` kernels in the context's stream and does nothing else; or
// launches the graph of what it launched before. The first time a key is seen issue(context) is called, the
// second time it is called with a context whose stream is being captured, and from then on the graph is
// launched. Within a capture of the caller's it is called every time.
void launch_loop(Context* context, const LoopKey& key, int64_t launches,
                 const std::function<void(Context*)>& issue);

// Frees the graphs of a context.
void forget_loops(const Context* context);

}  // namespace fastdl::cuda
