// AVX2 (with F16C) row kernels, 8 floats a vector. scalar.cc says what each function does.
#if defined(__x86_64__)
#include <immintrin.h>

#include "ops/rows/rows.h"

namespace lowbit {
namespace {

struct Avx2 {
  static constexpr int kWidth = 8;
  using F = __m256;
  using I = __m256i;
  using Mask = __m256;

  static __m256i MaskOf(Part part) {
    alignas(32) static constexpr int32_t kOnes[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kOnes + 8 - part.count));
  }

  static F Set(float value) { return _mm256_set1_ps(value); }
  static F Load(const float* p, Whole) { return _mm256_loadu_ps(p); }
  static F Load(const float* p, Part part) { return _mm256_maskload_ps(p, MaskOf(part)); }
  static F Load(const uint16_t* p, Whole) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static F Load(const uint16_t* p, Part part) {
    alignas(16) uint16_t padded[8] = {};
    for (int i = 0; i < part.count; ++i) padded[i] = p[i];
    return _mm256_cvtph_ps(_mm_load_si128(reinterpret_cast<const __m128i*>(padded)));
  }
  static void Store(float* p, F value, Whole) { _mm256_storeu_ps(p, value); }
  static void Store(float* p, F value, Part part) { _mm256_maskstore_ps(p, MaskOf(part), value); }
  static __m128i ToHalf(F value) { return _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static void Store(uint16_t* p, F value, Whole) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), ToHalf(value)); }
  static void Store(uint16_t* p, F value, Part part) {
    alignas(16) uint16_t halves[8];
    _mm_store_si128(reinterpret_cast<__m128i*>(halves), ToHalf(value));
    for (int i = 0; i < part.count; ++i) p[i] = halves[i];
  }
  static F Keep(F value, Whole) { return value; }
  static F Keep(F value, Part part) { return _mm256_and_ps(value, _mm256_castsi256_ps(MaskOf(part))); }
  static F RoundTo(F value, float) { return value; }
  static F RoundTo(F value, uint16_t) { return _mm256_cvtph_ps(ToHalf(value)); }

  static F Add(F a, F b) { return _mm256_add_ps(a, b); }
  static F Sub(F a, F b) { return _mm256_sub_ps(a, b); }
  static F Mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F Div(F a, F b) { return _mm256_div_ps(a, b); }
  static float Root(float a) { return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(a))); }
  static F Min(F a, F b) { return _mm256_min_ps(a, b); }
  static F Max(F a, F b) { return _mm256_max_ps(a, b); }
  static F Negate(F a) { return _mm256_xor_ps(a, Set(-0.f)); }
  static F Abs(F a) { return _mm256_andnot_ps(Set(-0.f), a); }
  static Mask Less(F a, F b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
  static Mask LessEqual(F a, F b) { return _mm256_cmp_ps(a, b, _CMP_LE_OQ); }
  static F Select(Mask mask, F yes, F no) { return _mm256_blendv_ps(no, yes, mask); }
  static F AddExponent(F p, F shifted) {
    const I n = _mm256_slli_epi32(_mm256_castps_si256(shifted), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), n));
  }

  static I ZeroBits() { return _mm256_setzero_si256(); }
  static I MaxMagnitude(I largest, F value) { return _mm256_max_epu32(largest, _mm256_castps_si256(Abs(value))); }
  static uint32_t LargestOf(I bits) {
    __m128i m = _mm_max_epu32(_mm256_castsi256_si128(bits), _mm256_extracti128_si256(bits, 1));
    m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0x4e));
    m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0xb1));
    return static_cast<uint32_t>(_mm_cvtsi128_si32(m));
  }

  static F SumEach(const F* v) {
    F quad[2];  // each half of quad[i]: the sums of that half of the vectors 4i … 4i+3
    for (int i = 0; i < 2; ++i) {
      quad[i] = _mm256_hadd_ps(_mm256_hadd_ps(v[4 * i], v[4 * i + 1]), _mm256_hadd_ps(v[4 * i + 2], v[4 * i + 3]));
    }
    return Add(_mm256_permute2f128_ps(quad[0], quad[1], 0x20), _mm256_permute2f128_ps(quad[0], quad[1], 0x31));
  }

  static I Bits(F value) { return _mm256_castps_si256(value); }
  static I SetI(uint32_t value) { return _mm256_set1_epi32(static_cast<int32_t>(value)); }
  static I AddI(I a, I b) { return _mm256_add_epi32(a, b); }
  static I SubI(I a, I b) { return _mm256_sub_epi32(a, b); }
  static I AndI(I a, I b) { return _mm256_and_si256(a, b); }
  static I ShiftRight(I a, int count) { return _mm256_srl_epi32(a, _mm_cvtsi32_si128(count)); }
  static I SelectI(Mask mask, I yes, I no) { return _mm256_blendv_epi8(no, yes, _mm256_castps_si256(mask)); }
  static uint64_t ToBytes(I codes) {
    const __m128i halves = _mm_packs_epi32(_mm256_castsi256_si128(codes), _mm256_extracti128_si256(codes, 1));
    return static_cast<uint64_t>(_mm_cvtsi128_si64(_mm_packus_epi16(halves, halves)));
  }
  static void StoreBytes(int8_t* q, I codes, Whole) {
    const uint64_t bytes = ToBytes(codes);
    __builtin_memcpy(q, &bytes, sizeof bytes);
  }
  static void StoreBytes(int8_t* q, I codes, Part part) {
    const uint64_t bytes = ToBytes(codes);
    __builtin_memcpy(q, &bytes, static_cast<size_t>(part.count));
  }

  static uint64_t ToCodes(F value) {
    const __m256i words = _mm256_cvtps_epi32(value);  // MXCSR rounds half to even
    const __m128i halves = _mm_packs_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    return static_cast<uint64_t>(_mm_cvtsi128_si64(_mm_packs_epi16(halves, halves)));
  }
  static void StoreCodes(int8_t* q, F value, Whole) {
    const uint64_t codes = ToCodes(value);
    __builtin_memcpy(q, &codes, sizeof codes);
  }
  static void StoreCodes(int8_t* q, F value, Part part) {
    const uint64_t codes = ToCodes(value);
    __builtin_memcpy(q, &codes, static_cast<size_t>(part.count));
  }
};

#include "ops/rows/cpu/rows.inl"

}  // namespace

RowFunctions RowFunctionsAvx2() { return {RunRows<Avx2, float>, RunRows<Avx2, uint16_t>}; }

}  // namespace lowbit

#endif  // defined(__x86_64__)
