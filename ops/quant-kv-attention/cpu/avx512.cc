// AVX-512 (F, BW, DQ, VL) kernels, 16 floats a vector. scalar.cc says what each function does.
#if defined(__x86_64__)
#include <immintrin.h>

#include "native/core/cpu_features.h"
#include "ops/quant-kv-attention/cpu/attention.h"
#include "ops/rows/rows.h"

namespace lowbit::kv {
namespace {

struct Avx512 {
  static constexpr int kWidth = 16;
  using F = __m512;

  static float One(const float* p) { return *p; }
  static float One(const uint16_t* p) { return _cvtsh_ss(*p); }
  static uint16_t ToHalf(float value) { return _cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static F Set(float value) { return _mm512_set1_ps(value); }
  static F Load(const float* p) { return _mm512_loadu_ps(p); }
  static F Load(const uint16_t* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
  static void Store(float* p, F value) { _mm512_storeu_ps(p, value); }
  static void Store(uint16_t* p, F value) {
    const __m256i halves = _mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), halves);
  }
  template <int kBits>
  static F Codes(const uint8_t* codes, int64_t index) {
    __m128i bytes;
    if constexpr (kBits == 8) {
      bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + index));
    } else {
      const __m128i pairs = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes + index / 2));
      const __m128i nibble = _mm_set1_epi8(15);
      bytes = _mm_unpacklo_epi8(_mm_and_si128(pairs, nibble), _mm_and_si128(_mm_srli_epi16(pairs, 4), nibble));
    }
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes));
  }

  static F Add(F a, F b) { return _mm512_add_ps(a, b); }
  static F Sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F Mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F Div(F a, F b) { return _mm512_div_ps(a, b); }
  static F Negate(F a) { return _mm512_xor_ps(a, Set(-0.f)); }
  static F Abs(F a) { return _mm512_abs_ps(a); }
  static F MulAdd(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F Min(F a, F b) { return _mm512_min_ps(a, b); }
  static F Max(F a, F b) { return _mm512_max_ps(a, b); }
  static __mmask16 Less(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
  static __mmask16 LessEqual(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ); }
  static F Select(__mmask16 mask, F yes, F no) { return _mm512_mask_blend_ps(mask, no, yes); }
  static F AddExponent(F p, F shifted) {
    const __m512i n = _mm512_slli_epi32(_mm512_castps_si512(shifted), 23);
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(p), n));
  }

  static float ReduceMin(F a) { return _mm512_reduce_min_ps(a); }
  static float ReduceMax(F a) { return _mm512_reduce_max_ps(a); }
  static float ReduceAdd(F a) { return _mm512_reduce_add_ps(a); }
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
};

#include "ops/rows/cpu/activations.inl"
// Needs the Exp of the file above.
#include "ops/quant-kv-attention/cpu/attention.inl"

constexpr Kernel kTable[] = LOWBIT_KV_KERNELS(Avx512, "avx512", kCpuAvx512);

}  // namespace

const Kernel* Avx512Kernels() { return kTable; }

}  // namespace lowbit::kv

#endif  // defined(__x86_64__)
