// What a call needs beside its tensors: a stream, scratch memory, a precision.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "fastdl/base.h"

struct fastdl_context {
  cudaStream_t stream = nullptr;
  void* (*allocate)(size_t, void*, void*) = nullptr;
  void (*deallocate)(void*, size_t, void*, void*) = nullptr;
  void* user = nullptr;
  int32_t float32_precision = -1;  // -1: follow the process-wide setting
};

namespace fastdl::cuda {

using Context = fastdl_context;

cudaStream_t stream_of(const Context* context);              // context may be NULL
fastdl_precision float32_precision(const Context* context);  // context may be NULL

// Throws unless the runtime call went well.
void check_cuda(cudaError_t error, const char* what);

// How many multiprocessors the current device has.
int multiprocessors();

// Device memory for what one call launches: given back in stream order, so that the scope may end before the
// kernels do. 256-byte aligned, uninitialised.
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
  cudaStream_t stream_;
  void* data_ = nullptr;
  size_t bytes_;
};

// Where kernels note that a value they read is out of range (see fastdl_cuda_check): a word of device memory.
uint32_t* error_word();

}  // namespace fastdl::cuda
