// The thread's right to the matrix unit, for the time of a scope around calls of Bf16Kernels::tile.
#pragma once

#include "cpu/isa/gemm_bf16.h"

namespace fastdl::cpu {

class MatrixUnit {
 public:
  explicit MatrixUnit(const Bf16Kernels& kernels) : kernels_(kernels) {
    if (kernels_.enter) kernels_.enter();
  }
  ~MatrixUnit() {
    if (kernels_.leave) kernels_.leave();
  }
  MatrixUnit(const MatrixUnit&) = delete;
  MatrixUnit& operator=(const MatrixUnit&) = delete;

 private:
  const Bf16Kernels& kernels_;
};

}  // namespace fastdl::cpu
