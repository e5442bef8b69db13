// Which kernel sets this machine can run, and which one an engine gets. The CPU must have the instructions and the
// system must save the registers.
#include <cstdlib>
#include <cstring>
#include <string>

#include "errors.h"
#include "kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace bbg {
namespace {

#if defined(__x86_64__)

// Asks Linux for the tile registers (8 KiB per thread), which a process does not have from the start.
bool may_use_tiles() {
#if defined(__linux__)
  constexpr long kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
#else
  return false;
#endif
}

struct X86 {
  bool avx2 = false, avx512 = false, amx = false;

  X86() {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return;
    const bool fma = c >> 12 & 1, osxsave = c >> 27 & 1;
    if (!osxsave || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return;
    unsigned low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    const bool ymm = (low & 0x06) == 0x06, zmm = (low & 0xe6) == 0xe6;
    avx2 = ymm && fma && (b >> 5 & 1);
    const bool f = b >> 16 & 1, dq = b >> 17 & 1, bw = b >> 30 & 1, vl = b >> 31 & 1;
    const bool vbmi = c >> 1 & 1, vnni = c >> 11 & 1, bitalg = c >> 12 & 1, vpopcntdq = c >> 14 & 1;
    avx512 = avx2 && zmm && f && dq && bw && vl && vbmi && vnni && bitalg && vpopcntdq;
    const bool tile = d >> 24 & 1, int8 = d >> 25 & 1, saved = (low & 0x60000) == 0x60000;
    amx = avx512 && tile && int8 && saved && may_use_tiles();
  }
};

bool has_avx2() { return X86().avx2; }
bool has_avx512() { return X86().avx512; }
bool has_amx() { return X86().amx; }

#else

bool has_avx2() { return false; }
bool has_avx512() { return false; }
bool has_amx() { return false; }

#endif

}  // namespace

const KernelSet* kernel_sets() {
  static const KernelSet sets[kKernelSets] = {
      {"amx", has_amx() ? kernels_amx() : nullptr},
      {"avx512", has_avx512() ? kernels_avx512() : nullptr},
      {"avx2", has_avx2() ? kernels_avx2() : nullptr},
      {"neon", kernels_neon()},  // part of every aarch64
      {"scalar", kernels_scalar()},
  };
  return sets;
}

const Kernels& choose_kernels(const char* name) {
  const bool from_environment = !name;
  if (from_environment) name = std::getenv("BBG_ISA");
  std::string known;
  for (int i = 0; i < kKernelSets; ++i) {
    const KernelSet& set = kernel_sets()[i];
    if (!set.kernels) continue;
    if (!name || !std::strcmp(set.name, name)) return *set.kernels;
    known += (known.empty() ? "" : ", ") + std::string(set.name);
  }
  if (!from_environment) {
    throw InvalidArgument("there is no kernel set '" + std::string(name) + "': this machine has " + known);
  }
  throw InvalidArgument("BBG_ISA is '" + std::string(name) + "'; this machine has " + known +
                        ": set it to one of them or unset it");
}

}  // namespace bbg
