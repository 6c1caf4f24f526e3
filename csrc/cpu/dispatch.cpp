// Chooses the instruction set once, at first use. Compiled without architecture flags: it runs on every CPU.
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <string>

#if defined(FASTDL_X86)
#include <cpuid.h>
#endif

#include "cpu/error.h"
#include "cpu/kernels.h"

namespace fastdl::cpu {

namespace generic {
extern const Kernels table;
}
#if defined(FASTDL_X86)
namespace avx2 {
extern const Kernels table;
}
namespace avx512 {
extern const Kernels table;
}
#endif

namespace {

#if defined(FASTDL_X86)
// Conversions of float16; not all compilers' __builtin_cpu_supports knows the name.
bool has_f16c() {
  unsigned a, b, c, d;
  return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
#endif

struct Candidate {
  const Kernels* table;
  bool (*runs_here)();
};

// Best last.
const Candidate candidates[] = {
    {&generic::table, [] { return true; }},
#if defined(FASTDL_X86)
    {&avx2::table,
     [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c(); }},
    {&avx512::table,
     [] {
       return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
              __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
              __builtin_cpu_supports("fma");
     }},
#endif
};

const Kernels* find(const char* isa) {
  for (const Candidate& c : candidates) {
    if (std::strcmp(c.table->isa, isa) == 0 && c.runs_here()) return c.table;
  }
  return nullptr;
}

const Kernels* choose() {
  if (const char* isa = std::getenv("FASTDL_CPU_ISA")) {
    // A name this machine does not run is ignored here; `fastdl info` and fastdl_get_cpu_isa show what is in
    // force.
    if (const Kernels* table = find(isa)) return table;
  }
  const Kernels* best = nullptr;
  for (const Candidate& c : candidates) {
    if (c.runs_here()) best = c.table;
  }
  return best;
}

std::atomic<const Kernels*>& in_force() {
  static std::atomic<const Kernels*> table{choose()};
  return table;
}

}  // namespace

const Kernels& kernels() { return *in_force().load(std::memory_order_acquire); }

}  // namespace fastdl::cpu

using namespace fastdl::cpu;

extern "C" {

const char* fastdl_get_cpu_isa(void) { return kernels().isa; }

const char* fastdl_available_cpu_isas(void) {
  static const std::string names = [] {
    std::string s;
    for (const Candidate& c : candidates) {
      if (c.runs_here()) s += (s.empty() ? "" : ",") + std::string(c.table->isa);
    }
    return s;
  }();
  return names.c_str();
}

fastdl_status fastdl_set_cpu_isa(const char* name) {
  return guarded([&] {
    const Kernels* table = name ? find(name) : nullptr;
    FASTDL_CHECK(table, FASTDL_ERROR_VALUE, "set_cpu_isa: expected one of %s, got %s",
                 fastdl_available_cpu_isas(), name ? name : "NULL");
    in_force().store(table, std::memory_order_release);
  });
}
}
