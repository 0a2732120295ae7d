// QuantGemm of minifloat codes with AVX-512 BF16: every code is a bfloat16, and an instruction multiplies two of them a
// lane. Twice the speed of floats.
#include "native/core/cpu_features.h"
#include "ops/quant-gemm/cpu/gemm.h"
#include "ops/quant-gemm/cpu/minifloat_avx512.h"

namespace lowbit::gemm {
namespace {

struct Isa : MinifloatAvx512 {
  static constexpr int kCodes = 2;
  static constexpr uint32_t kNeeds = kCpuAvx512Bf16;

  /// Two values that bfloat16 holds, the first in the low half.
  static float Join(float low, float high) {
    uint32_t bits[2];
    __builtin_memcpy(&bits[0], &low, 4);
    __builtin_memcpy(&bits[1], &high, 4);
    bits[0] = bits[0] >> 16 | (bits[1] & 0xffff0000u);
    __builtin_memcpy(&low, &bits[0], 4);
    return low;
  }
  static F Join(F low, F high) {
    const I first = _mm512_srli_epi32(_mm512_castps_si512(low), 16);
    return _mm512_castsi512_ps(_mm512_mask_mov_epi16(first, 0xaaaaaaaa, _mm512_castps_si512(high)));
  }
  static F MulAddUnits(F a, F b, F c) {
    return _mm512_dpbf16_ps(c, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
  }
};

#define LOWBIT_TILE "12x32__avx512bf16"
#include "ops/quant-gemm/cpu/minifloat.inl"

}  // namespace

Table MinifloatAvx512Bf16Kernels() { return IsaKernels(); }

}  // namespace lowbit::gemm
