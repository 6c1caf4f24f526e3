// What a call needs beside its tensors: threads and scratch memory.
#pragma once

#include <cstddef>
#include <cstdint>

#include "fastdl/base.h"

struct fastdl_context {
  int32_t num_threads = 0;  // 0: follow the process-wide setting
  void* (*allocate)(size_t, void*) = nullptr;
  void (*deallocate)(void*, size_t, void*) = nullptr;
  void* user = nullptr;
  int32_t float32_precision = -1;              // -1: follow the process-wide setting
  fastdl_parallel_for parallel_for = nullptr;  // nullptr: this library's own threads
  void* parallel_user = nullptr;
};

namespace fastdl::cpu {

using Context = fastdl_context;

int num_threads(const Context* context);  // context may be NULL
// How exact products of float32 matrices have to be. Read once per call, before work is handed to threads.
fastdl_precision float32_precision(const Context* context);  // context may be NULL

// Scratch memory for one scope, 64-byte aligned, uninitialised. Comes from a cache of this thread's, so that
// packing buffers are reused from call to call; usable inside parallel tasks.
class Workspace {
 public:
  Workspace(Context* context, size_t bytes);
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  Context* context_;
  void* data_;
  size_t bytes_;
};

}  // namespace fastdl::cpu
