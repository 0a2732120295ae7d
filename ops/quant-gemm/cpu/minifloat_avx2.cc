// QuantGemm of minifloat codes with AVX2: decoded to floats, 6 rows x 16 columns of fused multiply-adds.
#include <immintrin.h>

#include "native/core/cpu_features.h"
#include "ops/formats/minifloat.h"
#include "ops/quant-gemm/cpu/avx2_lanes.h"
#include "ops/quant-gemm/cpu/gemm.h"

namespace lowbit::gemm {
namespace {

struct Isa : Avx2 {
  static constexpr int kCodes = 1;
  static constexpr int kRows = 6;  // 12 accumulators, 2 weights and 1 activation: 15 of 16 registers
  static constexpr uint32_t kNeeds = kCpuAvx2;

  static float Join(float value, float) { return value; }
  static F MulAddUnits(F a, F b, F c) { return MulAdd(a, b, c); }
  template <int kBits>
  static I ShiftRight(I value) {
    return _mm256_srli_epi32(value, kBits);
  }

  /// The values of the lowest nibbles: bit 3 chooses the half of the table.
  static F Lookup(const CodeValues<16>& values, I codes) {
    const F low = _mm256_permutevar8x32_ps(LoadF(values.of), codes);
    const F high = _mm256_permutevar8x32_ps(LoadF(values.of + 8), codes);
    return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(codes, 28)));
  }
  /// The lowest bytes as two's complement.
  static F FromS8(I codes) { return _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(codes, 24), 24)); }
  /// The lowest bytes as e4m3: in a binary16 they are 2^8 too small, subnormals too.
  static F FromE4M3(I codes) {
    const I magnitude = _mm256_and_si256(codes, _mm256_set1_epi32(0x7f));
    const I sign = _mm256_and_si256(codes, _mm256_set1_epi32(0x80));
    const I bits = _mm256_or_si256(_mm256_slli_epi32(magnitude, 7), _mm256_slli_epi32(sign, 8));
    const __m128i halves = _mm_packus_epi32(_mm256_castsi256_si128(bits), _mm256_extracti128_si256(bits, 1));
    const F value = _mm256_mul_ps(_mm256_cvtph_ps(halves), SetF(256.f));
    const I nan = _mm256_cmpeq_epi32(magnitude, _mm256_set1_epi32(0x7f));
    return _mm256_blendv_ps(value, SetF(__builtin_nanf("")), _mm256_castsi256_ps(nan));
  }
};

#define LOWBIT_TILE "6x16__avx2"
#include "ops/quant-gemm/cpu/lorc_up.inl"
#include "ops/quant-gemm/cpu/minifloat.inl"

}  // namespace

Table MinifloatAvx2Kernels() { return IsaKernels(); }
LorcUpKernel LorcUpAvx2() { return kLorcUpKernel; }

}  // namespace lowbit::gemm
