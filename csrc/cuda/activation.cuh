#pragma once
#include "cuda/device.cuh"
#include "fastdl/activation.h"
namespace fastdl::cuda {
template <class T> __device__ __forceinline__ T activate(const fastdl_activation&, T x) { return x > 0 ? x : 0; }
}
