// QuantGemm with AVX-512 VNNI: 16 output channels per register, u8 x s8 dot products of four codes per lane.
#include <immintrin.h>

#include "native/core/cpu_features.h"
#include "ops/quant-gemm/cpu/avx512_lanes.h"
#include "ops/quant-gemm/cpu/gemm.h"

namespace lowbit::gemm {
namespace {

struct Isa : Avx512 {
  static constexpr uint32_t kNeeds = kCpuAvx512Vnni;
  static constexpr int64_t kPackCodes = 64;

  static void StoreFirst(int32_t* to, int64_t lanes, I value) {
    _mm512_mask_storeu_epi32(to, FirstLanes(lanes), value);
  }

  /// acc[r][c] += sum over quads of weights (u8) times activations (s8).
  template <Codes, int kR>
  LOWBIT_INLINE static void Dot(I (&acc)[kR][2], const uint8_t* tile, const int8_t* a, int64_t quads) {
    for (int64_t q = 0; q < quads; ++q) {
      const I b0 = _mm512_load_si512(tile), b1 = _mm512_load_si512(tile + 64);
      Unroll<kR>([&](auto r) LOWBIT_INLINE {
        int32_t quad;
        __builtin_memcpy(&quad, a + r.value * 4, 4);
        const I broadcast = _mm512_set1_epi32(quad);
        acc[r.value][0] = _mm512_dpbusd_epi32(acc[r.value][0], b0, broadcast);
        acc[r.value][1] = _mm512_dpbusd_epi32(acc[r.value][1], b1, broadcast);
      });
      tile += 128;
      a += kR * 4;
    }
  }

  /// Codes in product order.
  template <Codes kB>
  static I OrderCodes(I codes) {
    if constexpr (kB == Codes::kS8) return codes;
    const __m128i even_odd = _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15);
    return _mm512_shuffle_epi8(codes, _mm512_broadcast_i32x4(even_odd));
  }
  /// The sum of a lane's codes is added to it.
  static I AddCodes(I sum, I codes) { return _mm512_dpbusd_epi32(sum, _mm512_set1_epi8(1), codes); }

  /// Calls use(index, quad) for the quads of unsigned codes in a word of weights, in product order.
  template <Codes kB, class Use>
  LOWBIT_INLINE static void ForQuads(I word, const Use& use) {
    if constexpr (kB == Codes::kS4) {
      // (word & 0x0f) ^ 8 turns a two's complement nibble into code + 8.
      const I low = _mm512_set1_epi8(0x0f), eight = _mm512_set1_epi8(8);
      use(Int<0>{}, _mm512_ternarylogic_epi32(word, low, eight, 0x6a));
      use(Int<1>{}, _mm512_ternarylogic_epi32(_mm512_srli_epi32(word, 4), low, eight, 0x6a));
    } else {
      use(Int<0>{}, _mm512_xor_si512(word, _mm512_set1_epi8(-128)));
    }
  }

  /// Puts the codes that meet one register of weights into product order: for s4 the 64 even ones, then the 64 odd
  /// ones. Codes behind `count` are zero. Returns the sum of the codes.
  template <Codes kB>
  static int32_t OrderChunk(const int8_t* a, int64_t count, char* out) {
    const I ones = _mm512_set1_epi8(1), zero = _mm512_setzero_si512();
    const I low = count > 0 ? LoadBytes(reinterpret_cast<const uint8_t*>(a), count) : zero;
    if constexpr (kB == Codes::kS8) {
      _mm512_store_si512(out, low);
      return _mm512_reduce_add_epi32(_mm512_dpbusd_epi32(zero, ones, low));
    }
    const I high = count > 64 ? LoadBytes(reinterpret_cast<const uint8_t*>(a) + 64, count - 64) : zero;
    const auto join = [](__m256i first, __m256i second) {
      return _mm512_inserti64x4(_mm512_castsi256_si512(first), second, 1);
    };
    const I even = join(_mm512_cvtepi16_epi8(low), _mm512_cvtepi16_epi8(high));
    const I odd =
        join(_mm512_cvtepi16_epi8(_mm512_srli_epi16(low, 8)), _mm512_cvtepi16_epi8(_mm512_srli_epi16(high, 8)));
    _mm512_store_si512(out, even);
    _mm512_store_si512(out + 64, odd);
    return _mm512_reduce_add_epi32(_mm512_dpbusd_epi32(_mm512_dpbusd_epi32(zero, ones, even), ones, odd));
  }

  /// Codes ordered by OrderChunk, in registers.
  template <Codes kB>
  struct Ordered {
    I even, odd;  // s8: all in even
    LOWBIT_INLINE explicit Ordered(const char* codes)
        : even(_mm512_load_si512(codes)), odd(kB == Codes::kS4 ? _mm512_load_si512(codes + 64) : even) {}
    LOWBIT_INLINE I Dot(I acc, I weights) const {
      asm("" : "+v"(weights));  // one load: the compiler would read memory again for the shift
      ForQuads<kB>(weights, [&](auto q, I unsigned_codes) LOWBIT_INLINE {
        acc = _mm512_dpbusd_epi32(acc, unsigned_codes, q.value == 0 ? even : odd);
      });
      return acc;
    }
  };

  static I AddLanes(I a, I b) { return AddI(_mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xdd)); }
  /// Lane 4i + j of the result is the sum of the lanes 4k + j of four[i].
  static I SumFour(const I (&four)[4]) { return AddLanes(AddLanes(four[0], four[1]), AddLanes(four[2], four[3])); }

  /// Lane l of the result is the sum of all lanes of acc[l].
  static I SumEach(const I (&acc)[16]) {
    I four[4];
    Unroll<4>([&](auto i) LOWBIT_INLINE {
      const I *a = acc + 4 * i.value, *b = a + 2;
      const I low = AddI(_mm512_unpacklo_epi32(a[0], a[1]), _mm512_unpackhi_epi32(a[0], a[1]));
      const I high = AddI(_mm512_unpacklo_epi32(b[0], b[1]), _mm512_unpackhi_epi32(b[0], b[1]));
      four[i.value] = AddI(_mm512_unpacklo_epi64(low, high), _mm512_unpackhi_epi64(low, high));
    });
    return SumFour(four);
  }

  static F SumEach(const F (&acc)[16]) {
    F four[4];
    Unroll<4>([&](auto i) LOWBIT_INLINE {
      const F *a = acc + 4 * i.value, *b = a + 2;
      const F low = Add(_mm512_unpacklo_ps(a[0], a[1]), _mm512_unpackhi_ps(a[0], a[1]));
      const F high = Add(_mm512_unpacklo_ps(b[0], b[1]), _mm512_unpackhi_ps(b[0], b[1]));
      four[i.value] = Add(_mm512_shuffle_ps(low, high, 0x44), _mm512_shuffle_ps(low, high, 0xee));
    });
    const auto add_lanes = [](F a, F b) {
      return Add(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
    };
    return add_lanes(add_lanes(four[0], four[1]), add_lanes(four[2], four[3]));
  }

  /// Likewise for lanes that hold 8 products of u4 and s8 codes: below 2^14 each and 2^15 in pairs, so that they fit in
  /// 16 bits and one instruction adds neighbours.
  static I SumEachSmall(const I (&acc)[16]) {
    const I ones = _mm512_set1_epi16(1);
    I four[4];
    Unroll<4>([&](auto i) LOWBIT_INLINE {
      const I* a = acc + 4 * i.value;
      const I low = _mm512_madd_epi16(_mm512_packs_epi32(a[0], a[1]), ones);
      const I high = _mm512_madd_epi16(_mm512_packs_epi32(a[2], a[3]), ones);
      four[i.value] = _mm512_madd_epi16(_mm512_packs_epi32(low, high), ones);
    });
    return SumFour(four);
  }

  /// Four unsigned codes in each lane -> four rows of their signed values times `scale`, `width` floats apart.
  template <Codes kB>
  static void StoreFloats(float* to, int64_t width, I codes, F scale) {
    const I offset = _mm512_set1_epi32(kB == Codes::kS4 ? 8 : 128), byte = _mm512_set1_epi32(0xff);
    for (int j = 0; j < 4; ++j) {
      const I code = _mm512_and_si512(_mm512_srl_epi32(codes, _mm_cvtsi32_si128(8 * j)), byte);
      StoreF(to + j * width, Mul(ToFloat(_mm512_sub_epi32(code, offset)), scale));
    }
  }
};

#include "ops/quant-gemm/cpu/panel.inl"
#include "ops/quant-gemm/cpu/row.inl"

template <Codes kB>
constexpr GemmKernel RowKernel(const char* name) {
  return {name,           kCpuAvx512Vnni,     Codes::kS8,      kB,          kFewRows,  1, kLanes,
          RowAccepts<kB>, RowPackedBytes<kB>, RowScratchBytes, PackRow<kB>, RunRow<kB>};
}

constexpr GemmKernel kTable[] = {
    RowKernel<Codes::kS4>("s8s4_f32_1x16__avx512vnni"),
    RowKernel<Codes::kS8>("s8s8_f32_1x16__avx512vnni"),
    PanelKernel<Codes::kS8, Codes::kS4>("s8s4_f32_12x32__avx512vnni"),
    PanelKernel<Codes::kS8, Codes::kS8>("s8s8_f32_12x32__avx512vnni"),
    PanelKernel<Codes::kFloat, Codes::kS4>("f32s4_f32_12x32__avx512vnni"),
    PanelKernel<Codes::kFloat, Codes::kS8>("f32s8_f32_12x32__avx512vnni"),
};

}  // namespace

Table Avx512VnniKernels() { return {kTable, sizeof kTable / sizeof kTable[0]}; }

}  // namespace lowbit::gemm
