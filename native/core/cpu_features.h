// What the CPU and the operating system together offer. Plain data: instruction-set files may include this header.
#pragma once

#include <cstdint>

namespace lowbit {

enum CpuFeature : uint32_t {
  kCpuAny = 0,
  kCpuAvx2 = 1u << 0,        // AVX2, FMA, F16C
  kCpuAvx512 = 1u << 1,      // AVX-512 F, BW, DQ, VL (implies kCpuAvx2)
  kCpuAvx512Vnni = 1u << 2,  // AVX-512 VNNI (implies kCpuAvx512)
  kCpuAvx512Bf16 = 1u << 3,  // AVX-512 BF16 (implies kCpuAvx512)
};

/// The set bits usable here: instruction bits of CPUID that the OS also saves and restores (XGETBV). Computed once.
uint32_t CpuFeatures();

}  // namespace lowbit
