// AVX2 (with FMA and F16C) kernels, 8 floats a vector. scalar.cc says what each function does.
#if defined(__x86_64__)
#include <immintrin.h>

#include "native/core/cpu_features.h"
#include "ops/quant-kv-attention/cpu/attention.h"
#include "ops/rows/rows.h"

namespace lowbit::kv {
namespace {

struct Avx2 {
  static constexpr int kWidth = 8;
  using F = __m256;

  static float One(const float* p) { return *p; }
  static float One(const uint16_t* p) { return _cvtsh_ss(*p); }
  static uint16_t ToHalf(float value) { return _cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static F Set(float value) { return _mm256_set1_ps(value); }
  static F Load(const float* p) { return _mm256_loadu_ps(p); }
  static F Load(const uint16_t* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
  static void Store(float* p, F value) { _mm256_storeu_ps(p, value); }
  static void Store(uint16_t* p, F value) {
    const __m128i halves = _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), halves);
  }
  template <int kBits>
  static F Codes(const uint8_t* codes, int64_t index) {
    __m128i bytes;
    if constexpr (kBits == 8) {
      bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes + index));
    } else {
      int32_t packed;
      __builtin_memcpy(&packed, codes + index / 2, 4);
      const __m128i pairs = _mm_cvtsi32_si128(packed), nibble = _mm_set1_epi8(15);
      bytes = _mm_unpacklo_epi8(_mm_and_si128(pairs, nibble), _mm_and_si128(_mm_srli_epi16(pairs, 4), nibble));
    }
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
  }

  static F Add(F a, F b) { return _mm256_add_ps(a, b); }
  static F Sub(F a, F b) { return _mm256_sub_ps(a, b); }
  static F Mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F Div(F a, F b) { return _mm256_div_ps(a, b); }
  static F Negate(F a) { return _mm256_xor_ps(a, Set(-0.f)); }
  static F Abs(F a) { return _mm256_andnot_ps(Set(-0.f), a); }
  static F MulAdd(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static F Min(F a, F b) { return _mm256_min_ps(a, b); }
  static F Max(F a, F b) { return _mm256_max_ps(a, b); }
  static F Less(F a, F b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
  static F LessEqual(F a, F b) { return _mm256_cmp_ps(a, b, _CMP_LE_OQ); }
  static F Select(F mask, F yes, F no) { return _mm256_blendv_ps(no, yes, mask); }
  static F AddExponent(F p, F shifted) {
    const __m256i n = _mm256_slli_epi32(_mm256_castps_si256(shifted), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), n));
  }

  /// Folds a vector in halves until one value is left.
  template <class Fold>
  static float Reduce(F a, const Fold& fold) {
    __m128 x = fold(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    x = fold(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(fold(x, _mm_shuffle_ps(x, x, 1)));
  }
  static float ReduceMin(F a) {
    return Reduce(a, [](__m128 x, __m128 y) { return _mm_min_ps(x, y); });
  }
  static float ReduceMax(F a) {
    return Reduce(a, [](__m128 x, __m128 y) { return _mm_max_ps(x, y); });
  }
  static float ReduceAdd(F a) {
    return Reduce(a, [](__m128 x, __m128 y) { return _mm_add_ps(x, y); });
  }
  static F SumEach(const F* v) {
    F quad[2];  // each half of quad[i]: the sums of that half of the vectors 4i … 4i+3
    for (int i = 0; i < 2; ++i) {
      quad[i] = _mm256_hadd_ps(_mm256_hadd_ps(v[4 * i], v[4 * i + 1]), _mm256_hadd_ps(v[4 * i + 2], v[4 * i + 3]));
    }
    return Add(_mm256_permute2f128_ps(quad[0], quad[1], 0x20), _mm256_permute2f128_ps(quad[0], quad[1], 0x31));
  }
};

#include "ops/rows/cpu/activations.inl"
// Needs the Exp of the file above.
#include "ops/quant-kv-attention/cpu/attention.inl"

constexpr Kernel kTable[] = LOWBIT_KV_KERNELS(Avx2, "avx2", kCpuAvx2);

}  // namespace

const Kernel* Avx2Kernels() { return kTable; }

}  // namespace lowbit::kv

#endif  // defined(__x86_64__)
