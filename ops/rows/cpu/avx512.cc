// AVX-512 (F, BW, DQ, VL) row kernels, 16 floats a vector. scalar.cc says what each function does.
#if defined(__x86_64__)
#if defined(__GNUC__) && !defined(__clang__)
// GCC's own AVX-512 headers spell "any value" as a variable initialized with itself, and GCC warns about it.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include "ops/rows/rows.h"

namespace lowbit {
namespace {

struct Avx512 {
  static constexpr int kWidth = 16;
  using F = __m512;
  using I = __m512i;
  using Mask = __mmask16;

  static __mmask16 MaskOf(Part part) { return static_cast<__mmask16>((1u << part.count) - 1); }

  static F Set(float value) { return _mm512_set1_ps(value); }
  static F Load(const float* p, Whole) { return _mm512_loadu_ps(p); }
  static F Load(const float* p, Part part) { return _mm512_maskz_loadu_ps(MaskOf(part), p); }
  static F Load(const uint16_t* p, Whole) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static F Load(const uint16_t* p, Part part) { return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(MaskOf(part), p)); }
  static void Store(float* p, F value, Whole) { _mm512_storeu_ps(p, value); }
  static void Store(float* p, F value, Part part) { _mm512_mask_storeu_ps(p, MaskOf(part), value); }
  static __m256i ToHalf(F value) { return _mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static void Store(uint16_t* p, F value, Whole) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), ToHalf(value)); }
  static void Store(uint16_t* p, F value, Part part) { _mm256_mask_storeu_epi16(p, MaskOf(part), ToHalf(value)); }
  static F Keep(F value, Whole) { return value; }
  static F Keep(F value, Part part) { return _mm512_maskz_mov_ps(MaskOf(part), value); }
  static F RoundTo(F value, float) { return value; }
  static F RoundTo(F value, uint16_t) { return _mm512_cvtph_ps(ToHalf(value)); }

  static F Add(F a, F b) { return _mm512_add_ps(a, b); }
  static F Sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F Mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F Div(F a, F b) { return _mm512_div_ps(a, b); }
  static float Root(float a) { return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(a))); }
  static F Min(F a, F b) { return _mm512_min_ps(a, b); }
  static F Max(F a, F b) { return _mm512_max_ps(a, b); }
  static F Negate(F a) { return _mm512_xor_ps(a, Set(-0.f)); }
  static F Abs(F a) { return _mm512_abs_ps(a); }
  static Mask Less(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
  static Mask LessEqual(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ); }
  static F Select(Mask mask, F yes, F no) { return _mm512_mask_blend_ps(mask, no, yes); }
  static F AddExponent(F p, F shifted) {
    const I n = _mm512_slli_epi32(_mm512_castps_si512(shifted), 23);
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(p), n));
  }

  static I ZeroBits() { return _mm512_setzero_si512(); }
  static I MaxMagnitude(I largest, F value) { return _mm512_max_epu32(largest, _mm512_castps_si512(Abs(value))); }
  static uint32_t LargestOf(I bits) { return _mm512_reduce_max_epu32(bits); }

  // Sums of neighbours in each 128-bit lane: a0+a1, a2+a3, b0+b1, b2+b3.
  static F AddNeighbours(F a, F b) { return Add(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xdd)); }
  // Sums of neighbouring 128-bit lanes: A0+A1, A2+A3, B0+B1, B2+B3.
  static F AddLanes(F a, F b) { return Add(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd)); }
  static F SumEach(const F* v) {
    F quad[4];  // lane L of quad[i]: the sums of lane L of the vectors 4i … 4i+3
    for (int i = 0; i < 4; ++i) {
      quad[i] = AddNeighbours(AddNeighbours(v[4 * i], v[4 * i + 1]), AddNeighbours(v[4 * i + 2], v[4 * i + 3]));
    }
    return AddLanes(AddLanes(quad[0], quad[1]), AddLanes(quad[2], quad[3]));
  }

  static I Bits(F value) { return _mm512_castps_si512(value); }
  static I SetI(uint32_t value) { return _mm512_set1_epi32(static_cast<int32_t>(value)); }
  static I AddI(I a, I b) { return _mm512_add_epi32(a, b); }
  static I SubI(I a, I b) { return _mm512_sub_epi32(a, b); }
  static I AndI(I a, I b) { return _mm512_and_si512(a, b); }
  static I ShiftRight(I a, int count) { return _mm512_srl_epi32(a, _mm_cvtsi32_si128(count)); }
  static I SelectI(Mask mask, I yes, I no) { return _mm512_mask_blend_epi32(mask, no, yes); }
  static void StoreBytes(int8_t* q, I codes, Whole) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(q), _mm512_cvtepi32_epi8(codes));
  }
  static void StoreBytes(int8_t* q, I codes, Part part) { _mm512_mask_cvtepi32_storeu_epi8(q, MaskOf(part), codes); }

  static __m512i ToCodes(F value) {
    return _mm512_cvt_roundps_epi32(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  static void StoreCodes(int8_t* q, F value, Whole) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(q), _mm512_cvtepi32_epi8(ToCodes(value)));
  }
  static void StoreCodes(int8_t* q, F value, Part part) {
    _mm512_mask_cvtepi32_storeu_epi8(q, MaskOf(part), ToCodes(value));
  }
};

#include "ops/rows/cpu/rows.inl"

}  // namespace

RowFunctions RowFunctionsAvx512() { return {RunRows<Avx512, float>, RunRows<Avx512, uint16_t>}; }

}  // namespace lowbit

#endif  // defined(__x86_64__)
