// What the test programs share: each case is a function by name; the program runs the one it is asked for.
#pragma once

#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <string>

#include "cuda/shared.cuh"

using fastdl::cuda::shared_memory;
using fastdl::cuda::SharedArray;

#define CHECK(condition)                                                    \
  do {                                                                      \
    if (!(condition)) {                                                     \
      std::printf("%s:%d: not true: %s\n", __FILE__, __LINE__, #condition); \
      std::exit(1);                                                         \
    }                                                                       \
  } while (0)

inline std::map<std::string, std::function<void()>>& cases() {
  static std::map<std::string, std::function<void()>> all;
  return all;
}

struct Case {
  Case(const char* name, std::function<void()> run) { cases()[name] = std::move(run); }
};
#define CASE(name)                            \
  static void name();                         \
  static const Case case_##name(#name, name); \
  static void name()

// Without arguments: lists the cases. With a name: runs it; what launch() throws is printed as "Error: ...".
inline int run_cases(int argc, char** argv) {
  if (argc < 2) {
    for (const auto& entry : cases()) std::printf("%s\n", entry.first.c_str());
    return 0;
  }
  for (int i = 1; i < argc; ++i) {
    const auto found = cases().find(argv[i]);
    CHECK(found != cases().end());
    try {
      found->second();
      std::printf("%s: done\n", argv[i]);
    } catch (const fastdl::simt::Error& error) {
      std::printf("Error: %s\n", error.what());
    }
  }
  return 0;
}
