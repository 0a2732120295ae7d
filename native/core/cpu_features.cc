#include "native/core/cpu_features.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace lowbit {
namespace {

#if defined(__x86_64__)
struct CpuId {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  explicit CpuId(unsigned leaf, unsigned part = 0) { __get_cpuid_count(leaf, part, &eax, &ebx, &ecx, &edx); }
};

uint64_t SavedStates() {
  uint32_t low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (uint64_t{high} << 32) | low;
}

bool Has(unsigned word, int bit) { return (word >> bit) & 1; }

uint32_t Detect() {
  const CpuId base(1), extended(7);
  if (!Has(base.ecx, 27)) return kCpuAny;  // OSXSAVE: without it XGETBV does not exist
  const uint64_t saved = SavedStates();
  const bool ymm = (saved & 0x6) == 0x6;    // XMM and YMM state
  const bool zmm = (saved & 0xe6) == 0xe6;  // and opmask, both halves of ZMM
  uint32_t features = kCpuAny;
  if (ymm && Has(base.ecx, 12) && Has(base.ecx, 29) && Has(extended.ebx, 5)) features |= kCpuAvx2;
  const bool avx512 = Has(extended.ebx, 16) && Has(extended.ebx, 17) && Has(extended.ebx, 30) && Has(extended.ebx, 31);
  if (zmm && avx512 && (features & kCpuAvx2)) features |= kCpuAvx512;
  if ((features & kCpuAvx512) && Has(extended.ecx, 11)) features |= kCpuAvx512Vnni;
  if ((features & kCpuAvx512) && extended.eax >= 1 && Has(CpuId(7, 1).eax, 5)) features |= kCpuAvx512Bf16;
  return features;
}
#else
uint32_t Detect() { return kCpuAny; }
#endif

}  // namespace

uint32_t CpuFeatures() {
  static const uint32_t features = Detect();
  return features;
}

}  // namespace lowbit
