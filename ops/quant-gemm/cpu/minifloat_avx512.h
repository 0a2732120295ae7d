// Vectors of 16 lanes and the decoding of codes with AVX-512. For instruction-set files only.
#pragma once

#include <immintrin.h>

#include "ops/formats/minifloat.h"
#include "ops/quant-gemm/cpu/avx512_lanes.h"

namespace lowbit::gemm {
namespace {

/// What the instruction sets with 512 bits share; see minifloat.inl.
struct MinifloatAvx512 : Avx512 {
  template <int kBits>
  static I ShiftRight(I value) {
    return _mm512_srli_epi32(value, kBits);
  }

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

}  // namespace
}  // namespace lowbit::gemm
