// Which kernels of a family the environment asks for.
#pragma once

#include <cstdlib>
#include <cstring>

namespace fastdl::cuda::sm90 {

// What a variable (FASTDL_CUDA_MATMUL, ..._CONV, ..._ATTENTION, ..._RNN) asks for: the portable kernels,
// Hopper's for every shape that they can compute, or, unset, what suits the shape. few: matmul's for few rows
// or columns wherever it can be used.
enum class Wanted { automatic, portable, always, few };

inline Wanted wanted(const char* variable) {
  const char* const text = std::getenv(variable);
  if (!text) return Wanted::automatic;
  if (std::strcmp(text, "portable") == 0) return Wanted::portable;
  if (std::strcmp(text, "sm90_few") == 0) return Wanted::few;
  return std::strcmp(text, "sm90") == 0 ? Wanted::always : Wanted::automatic;
}

}  // namespace fastdl::cuda::sm90
