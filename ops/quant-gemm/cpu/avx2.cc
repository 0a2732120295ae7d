// QuantGemm with AVX2: 8 output channels per register. There is no exact u8 x s8 instruction for all codes: s4 weights
// (0 … 15 as unsigned) use the one that saturates at 16 bits, which they cannot reach; s8 weights are widened.
#include <immintrin.h>

#include "native/core/cpu_features.h"
#include "ops/quant-gemm/cpu/avx2_lanes.h"
#include "ops/quant-gemm/cpu/gemm.h"

namespace lowbit::gemm {
namespace {

struct Isa : Avx2 {
  static constexpr int kRows =
      4;  // 8 accumulators, as many partial sums of 16 bits in half of them, 2 weights, 1 activation
  static constexpr uint32_t kNeeds = kCpuAvx2;
  static constexpr int64_t kPackCodes = 32;

  static I Broadcast(const int8_t* quad) {
    int32_t value;
    __builtin_memcpy(&value, quad, 4);
    return _mm256_set1_epi32(value);
  }

  /// acc[r][c] += sum over quads of weights (u8) times activations (s8).
  template <Codes kB, int kR>
  LOWBIT_INLINE static void Dot(I (&acc)[kR][2], const uint8_t* tile, const int8_t* a, int64_t quads) {
    if constexpr (kB == Codes::kS4) {
      // A pair of products is at most 2 * 15 * 128 in magnitude: eight of them fit in 16 bits.
      constexpr int64_t kFit = 8;
      const I ones = _mm256_set1_epi16(1);
      for (int64_t q = 0; q < quads; q += kFit) {
        I sums[kR][2];
        Unroll<kR>([&](auto r) LOWBIT_INLINE { sums[r.value][0] = sums[r.value][1] = _mm256_setzero_si256(); });
        for (int64_t i = 0; i < kFit && q + i < quads; ++i) {
          const I b0 = LoadI(tile), b1 = LoadI(tile + 32);
          Unroll<kR>([&](auto r) LOWBIT_INLINE {
            const I quad = Broadcast(a + r.value * 4);
            sums[r.value][0] = _mm256_add_epi16(sums[r.value][0], _mm256_maddubs_epi16(b0, quad));
            sums[r.value][1] = _mm256_add_epi16(sums[r.value][1], _mm256_maddubs_epi16(b1, quad));
          });
          tile += 64;
          a += kR * 4;
        }
        Unroll<kR>([&](auto r) LOWBIT_INLINE {
          acc[r.value][0] = AddI(acc[r.value][0], _mm256_madd_epi16(sums[r.value][0], ones));
          acc[r.value][1] = AddI(acc[r.value][1], _mm256_madd_epi16(sums[r.value][1], ones));
        });
      }
    } else {
      const I low = _mm256_set1_epi16(0xff);
      for (int64_t q = 0; q < quads; ++q) {
        const I b0 = LoadI(tile), b1 = LoadI(tile + 32);
        const I even0 = _mm256_and_si256(b0, low), odd0 = _mm256_srli_epi16(b0, 8);
        const I even1 = _mm256_and_si256(b1, low), odd1 = _mm256_srli_epi16(b1, 8);
        Unroll<kR>([&](auto r) LOWBIT_INLINE {
          const I quad = Broadcast(a + r.value * 4);
          const I even = _mm256_srai_epi16(_mm256_slli_epi16(quad, 8), 8), odd = _mm256_srai_epi16(quad, 8);
          acc[r.value][0] = AddI(acc[r.value][0], AddI(_mm256_madd_epi16(even0, even), _mm256_madd_epi16(odd0, odd)));
          acc[r.value][1] = AddI(acc[r.value][1], AddI(_mm256_madd_epi16(even1, even), _mm256_madd_epi16(odd1, odd)));
        });
        tile += 64;
        a += kR * 4;
      }
    }
  }

  /// Codes in product order.
  template <Codes kB>
  static I OrderCodes(I codes) {
    if constexpr (kB == Codes::kS8) return codes;
    const __m128i even_odd = _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15);
    return _mm256_shuffle_epi8(codes, _mm256_broadcastsi128_si256(even_odd));
  }
  /// The sum of eight codes is added to every second lane: of codes + 128 as unsigned, then the 128s are taken off
  /// again.
  static I AddCodes(I sum, I codes) {
    const I sums = _mm256_sad_epu8(_mm256_xor_si256(codes, _mm256_set1_epi8(-128)), _mm256_setzero_si256());
    return AddI(sum, _mm256_sub_epi32(sums, _mm256_set1_epi64x(8 * 128)));
  }
  static void StoreFirst(int32_t* to, int64_t lanes, I value) {
    const I counted = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    _mm256_maskstore_epi32(to, _mm256_cmpgt_epi32(SetI(static_cast<int32_t>(lanes)), counted), value);
  }

  /// Lane l of the result is the sum of all lanes of rows[l].
  static I SumEach(I (&rows)[8]) {
    Transpose(rows);
    I sum = rows[0];
    Unroll<7>([&](auto i) LOWBIT_INLINE { sum = AddI(sum, rows[1 + i.value]); });
    return sum;
  }

  /// Four unsigned codes in each lane -> four rows of their signed values times `scale`, `width` floats apart.
  template <Codes kB>
  static void StoreFloats(float* to, int64_t width, I codes, F scale) {
    const I offset = SetI(kB == Codes::kS4 ? 8 : 128), byte = SetI(0xff);
    for (int j = 0; j < 4; ++j) {
      const I code = _mm256_and_si256(_mm256_srl_epi32(codes, _mm_cvtsi32_si128(8 * j)), byte);
      StoreF(to + j * width, Mul(ToFloat(_mm256_sub_epi32(code, offset)), scale));
    }
  }

  /// Calls use(index, quad) for the quads of unsigned codes in a word of weights, in product order.
  template <Codes kB, class Use>
  LOWBIT_INLINE static void ForQuads(I word, const Use& use) {
    if constexpr (kB == Codes::kS4) {
      const I low = _mm256_set1_epi8(0x0f), eight = _mm256_set1_epi8(8);
      use(Int<0>{}, _mm256_xor_si256(_mm256_and_si256(word, low), eight));
      use(Int<1>{}, _mm256_xor_si256(_mm256_and_si256(_mm256_srli_epi32(word, 4), low), eight));
    } else {
      use(Int<0>{}, _mm256_xor_si256(word, _mm256_set1_epi8(-128)));
    }
  }
};

#include "ops/quant-gemm/cpu/panel.inl"

constexpr GemmKernel kTable[] = {
    PanelKernel<Codes::kS8, Codes::kS4>("s8s4_f32_4x16__avx2"),
    PanelKernel<Codes::kS8, Codes::kS8>("s8s8_f32_4x16__avx2"),
    PanelKernel<Codes::kFloat, Codes::kS4>("f32s4_f32_4x16__avx2"),
    PanelKernel<Codes::kFloat, Codes::kS8>("f32s8_f32_4x16__avx2"),
};

}  // namespace

Table Avx2Kernels() { return {kTable, sizeof kTable / sizeof kTable[0]}; }

}  // namespace lowbit::gemm
