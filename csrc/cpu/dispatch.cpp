// Chooses the instruction set once, at first use. Compiled without architecture flags: it runs on every CPU.
#include <atomic>
#include <cstdlib>
#include <cstring>

#if defined(FASTDL_X86)
#include <cpuid.h>
#endif
#if defined(FASTDL_X86) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "common/error.h"
#include "cpu/kernels.h"

namespace fastdl::cpu {

namespace generic {
extern const Kernels table;
}
#if defined(FASTDL_ARM64)
namespace neon {
extern const Kernels table;
}
#endif
#if defined(FASTDL_X86)
namespace avx2 {
extern const Kernels table;
}
namespace avx512 {
extern const Kernels table;
}
namespace avx512_bf16 {
extern const Bf16Kernels bf16_kernels;
}
namespace amx {
extern const Bf16Kernels bf16_kernels;
}
namespace amx_emulated {
extern const Bf16Kernels bf16_kernels;
}
#endif

namespace {

#if defined(FASTDL_X86)
// Conversions of float16; not all compilers' __builtin_cpu_supports knows the name.
bool has_f16c() {
  unsigned a, b, c, d;
  return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("fma");
}
bool has_avx512_bf16() { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }

// The processor's word (CPUID leaf 7: AMX-BF16, AMX-TILE), and Linux's leave for the whole process to use the
// tiles' 8 KiB of state (arch_prctl ARCH_REQ_XCOMP_PERM, XTILEDATA).
bool has_amx() {
#if defined(__linux__)
  static const bool granted = [] {
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (!has_avx512_bf16() || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    constexpr unsigned kAmxBf16 = 1u << 22, kAmxTile = 1u << 24;
    if (!(d & kAmxBf16) || !(d & kAmxTile)) return false;
    constexpr long kRequestPermission = 0x1023, kTileData = 18;
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  }();
  return granted;
#else
  return false;
#endif
}

// AVX-512 with bfloat16 products added.
Kernels with_bf16(const char* isa, const Bf16Kernels* kernels) {
  Kernels k = avx512::table;
  k.isa = isa;
  k.gemm_bf16 = kernels;
  return k;
}
const Kernels avx512_bf16_table = with_bf16("avx512_bf16", &avx512_bf16::bf16_kernels);
const Kernels amx_table = with_bf16("amx", &amx::bf16_kernels);
const Kernels amx_emulated_table = with_bf16("amx_emulated", &amx_emulated::bf16_kernels);
#endif

struct Candidate {
  const Kernels* table;
  bool (*runs_here)();
  bool automatic;  // false: only when asked for by name
};

// Best last.
const Candidate candidates[] = {
    {&generic::table, [] { return true; }, true},
#if defined(FASTDL_ARM64)
    {&neon::table, [] { return true; }, true},
#endif
#if defined(FASTDL_X86)
    {&avx2::table,
     [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c(); }, true},
    {&avx512::table, has_avx512, true},
    {&amx_emulated_table, has_avx512, false},
    {&avx512_bf16_table, has_avx512_bf16, true},
    {&amx_table, has_amx, true},
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
    if (c.automatic && c.runs_here()) best = c.table;
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

using namespace fastdl;
using namespace fastdl::cpu;

extern "C" {

const char* fastdl_get_cpu_isa(void) { return kernels().isa; }

const char* fastdl_available_cpu_isas(void) {
  // Long enough for all names; no string, which might throw for want of memory.
  static const struct Names {
    char text[128] = "";
    Names() {
      for (const Candidate& c : candidates) {
        if (!c.runs_here()) continue;
        if (text[0]) std::strncat(text, ",", sizeof text - std::strlen(text) - 1);
        std::strncat(text, c.table->isa, sizeof text - std::strlen(text) - 1);
      }
    }
  } names;
  return names.text;
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
