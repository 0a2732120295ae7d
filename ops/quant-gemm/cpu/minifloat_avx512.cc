// QuantGemm of minifloat codes with AVX-512: decoded to floats, 12 rows x 32 columns of fused multiply-adds.
#include <immintrin.h>

#include "native/core/cpu_features.h"
#include "ops/formats/minifloat.h"
#include "ops/quant-gemm/cpu/gemm.h"

namespace lowbit::gemm {
namespace {

struct Isa {
  using I = __m512i;
  using F = __m512;
  static constexpr int64_t kLanes = 16;
  static constexpr int kRows = 12;  // 24 accumulators, 2 weights and 1 activation: 27 of 32 registers
  static constexpr uint32_t kNeeds = kCpuAvx512;

  static I LoadI(const uint32_t* from) { return _mm512_loadu_si512(from); }
  static F SetF(float value) { return _mm512_set1_ps(value); }
  static F LoadF(const float* from) { return _mm512_loadu_ps(from); }
  static void StoreF(float* to, F value) { _mm512_storeu_ps(to, value); }
  static F Mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F MulAdd(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  template <int kBits>
  static I ShiftRight(I value) {
    return _mm512_srli_epi32(value, kBits);
  }
  static float HalfToFloat(uint16_t half) { return _cvtsh_ss(half); }
  static uint16_t FloatToHalf(float value) { return _cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

  /// The values of the lowest nibbles.
  static F Lookup(const CodeValues<16>& values, I codes) { return _mm512_permutexvar_ps(codes, LoadF(values.of)); }
  /// The lowest bytes as two's complement.
  static F FromS8(I codes) { return _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(codes, 24), 24)); }
  /// The lowest bytes as e4m3: in a binary16 they are 2^8 too small, subnormals too.
  static F FromE4M3(I codes) {
    const I magnitude = _mm512_and_si512(codes, _mm512_set1_epi32(0x7f));
    const I sign = _mm512_and_si512(codes, _mm512_set1_epi32(0x80));
    const I bits = _mm512_or_si512(_mm512_slli_epi32(magnitude, 7), _mm512_slli_epi32(sign, 8));
    const F value = _mm512_mul_ps(_mm512_cvtph_ps(_mm512_cvtepi32_epi16(bits)), SetF(256.f));
    const __mmask16 nan = _mm512_cmpeq_epi32_mask(magnitude, _mm512_set1_epi32(0x7f));
    return _mm512_mask_mov_ps(value, nan, SetF(__builtin_nanf("")));
  }
};

#define LOWBIT_TILE "12x32__avx512"
#include "ops/quant-gemm/cpu/minifloat.inl"

}  // namespace

Table MinifloatAvx512Kernels() { return {kTable, sizeof kTable / sizeof kTable[0]}; }

}  // namespace lowbit::gemm
