// QuantGemm with AVX-512 VNNI: 16 output channels per register, u8 x s8 dot products of four codes per lane.
#include <immintrin.h>

#include "native/core/cpu_features.h"
#include "ops/quant-gemm/cpu/gemm.h"

namespace lowbit::gemm {
namespace {

struct Isa {
  using I = __m512i;
  using F = __m512;
  static constexpr int64_t kLanes = 16;
  static constexpr int kRows = 12;  // 24 accumulators, 2 weights and 1 activation: 27 of 32 registers
  static constexpr int64_t kPackCodes = 64;

  static I SetI(int32_t value) { return _mm512_set1_epi32(value); }
  static I LoadI(const int32_t* from) { return _mm512_loadu_si512(from); }
  static void StoreI(int32_t* to, I value) { _mm512_storeu_si512(to, value); }
  static F SetF(float value) { return _mm512_set1_ps(value); }
  static F LoadF(const float* from) { return _mm512_loadu_ps(from); }
  static void StoreF(float* to, F value) { _mm512_storeu_ps(to, value); }
  static F ToFloat(I value) { return _mm512_cvtepi32_ps(value); }
  static F Add(F a, F b) { return _mm512_add_ps(a, b); }
  static F Mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F MulAdd(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }

  static __mmask16 First(int64_t lanes) { return static_cast<__mmask16>((1u << lanes) - 1); }
  static __mmask64 FirstBytes(int64_t bytes) { return bytes >= 64 ? ~0ull : (1ull << bytes) - 1; }

  static float LoadOne(const void* data, int64_t index, bool half) {
    return half ? _mm512_cvtss_f32(
                      _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(1, static_cast<const uint16_t*>(data) + index)))
                : static_cast<const float*>(data)[index];
  }
  static F LoadAny(const void* data, int64_t index, int64_t lanes, bool half) {
    if (!half) return _mm512_maskz_loadu_ps(First(lanes), static_cast<const float*>(data) + index);
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(First(lanes), static_cast<const uint16_t*>(data) + index));
  }
  static void StoreAny(void* data, int64_t index, int64_t lanes, bool half, F value) {
    if (!half) return _mm512_mask_storeu_ps(static_cast<float*>(data) + index, First(lanes), value);
    const __m256i rounded = _mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm256_mask_storeu_epi16(static_cast<uint16_t*>(data) + index, First(lanes), rounded);
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

  template <int kR>
  LOWBIT_INLINE static void DotFloat(F (&acc)[kR][2], const float* tile, const float* a, int64_t steps) {
    for (int64_t k = 0; k < steps; ++k) {
      const F b0 = _mm512_load_ps(tile), b1 = _mm512_load_ps(tile + 16);
      Unroll<kR>([&](auto r) LOWBIT_INLINE {
        const F broadcast = _mm512_set1_ps(a[r.value]);
        acc[r.value][0] = _mm512_fmadd_ps(b0, broadcast, acc[r.value][0]);
        acc[r.value][1] = _mm512_fmadd_ps(b1, broadcast, acc[r.value][1]);
      });
      tile += 32;
      a += kR;
    }
  }

  /// Puts up to 64 codes into product order, zeros behind them; returns their sum.
  template <Codes kB>
  static int32_t OrderCodes(const int8_t* a, int64_t count, int32_t* quads) {
    I codes = _mm512_maskz_loadu_epi8(FirstBytes(count), a);
    const I sums = _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(1), codes);
    if constexpr (kB == Codes::kS4) {
      const __m128i even_odd = _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15);
      codes = _mm512_shuffle_epi8(codes, _mm512_broadcast_i32x4(even_odd));
    }
    _mm512_store_si512(quads, codes);
    return _mm512_reduce_add_epi32(sums);
  }

  /// rows[i] lane j -> rows[j] lane i
  static void Transpose(I (&rows)[16]) {
    I t[16];
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
      t[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
      t[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
      rows[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
      rows[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
      rows[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
      rows[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    // Now 128-bit lane l of rows[4g + j] holds column 4l + j of rows 4g .. 4g+3.
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const I a = _mm512_shuffle_i32x4(rows[j], rows[4 + j], 0x88),
              b = _mm512_shuffle_i32x4(rows[8 + j], rows[12 + j], 0x88);
      const I c = _mm512_shuffle_i32x4(rows[j], rows[4 + j], 0xdd),
              d = _mm512_shuffle_i32x4(rows[8 + j], rows[12 + j], 0xdd);
      t[j] = _mm512_shuffle_i32x4(a, b, 0x88);
      t[8 + j] = _mm512_shuffle_i32x4(a, b, 0xdd);
      t[4 + j] = _mm512_shuffle_i32x4(c, d, 0x88);
      t[12 + j] = _mm512_shuffle_i32x4(c, d, 0xdd);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) rows[i] = t[i];
  }

  /// float16 [column][count], columns `row` apart -> float [count][32]; absent columns get 0.
  static void FillScales(float* scales, const uint16_t* from, int64_t row, int64_t count, int64_t columns) {
    for (int64_t g = 0; g < count; g += 16) {
      const __mmask16 mask = First(count - g < 16 ? count - g : 16);
      for (int64_t half = 0; half < 32; half += 16) {
        I rows[16];
#pragma GCC unroll 16
        for (int i = 0; i < 16; ++i) {
          const __m256i halves =
              half + i < columns ? _mm256_maskz_loadu_epi16(mask, from + (half + i) * row + g) : _mm256_setzero_si256();
          rows[i] = _mm512_castps_si512(_mm512_cvtph_ps(halves));
        }
        Transpose(rows);
        for (int64_t i = 0; i < 16 && g + i < count; ++i)
          StoreI(reinterpret_cast<int32_t*>(scales) + (g + i) * 32 + half, rows[i]);
      }
    }
  }

  /// Four unsigned codes in each lane -> four rows of floats of their signed values.
  template <Codes kB>
  static void StoreFloats(float* to, I codes) {
    const I offset = _mm512_set1_epi32(kB == Codes::kS4 ? 8 : 128), byte = _mm512_set1_epi32(0xff);
    for (int j = 0; j < 4; ++j) {
      const I code = _mm512_and_si512(_mm512_srl_epi32(codes, _mm_cvtsi32_si128(8 * j)), byte);
      StoreF(to + j * 32, ToFloat(_mm512_sub_epi32(code, offset)));
    }
  }

  /// Unpacks `codes` codes of `columns` weight rows into quads of unsigned codes, [quad][32 columns]. Absent columns
  /// give rubbish that nothing reads; codes after the last one meet zero activations.
  template <Codes kA, Codes kB>
  static void FillTile(uint8_t* tile, const uint8_t* b, int64_t b_row, int64_t columns, int64_t codes,
                       const uint8_t* next) {
    constexpr int64_t kQuadBytes = kA == Codes::kFloat ? 512 : 128;
    const int64_t bytes = kB == Codes::kS4 ? (codes + 1) / 2 : codes;
    for (int64_t half = 0; half < 32; half += 16) {
      uint8_t* out = tile + half * 4;
      const auto put = [&](I quad) {
        if constexpr (kA == Codes::kFloat) {
          StoreFloats<kB>(reinterpret_cast<float*>(out), quad);
        } else {
          _mm512_store_si512(out, quad);
        }
        out += kQuadBytes;
      };
      for (int64_t at = 0; at < bytes; at += 64) {
        const __mmask64 mask = FirstBytes(bytes - at);
        I rows[16];
#pragma GCC unroll 16
        for (int i = 0; i < 16; ++i) {
          _mm_prefetch(next + (half + i) * b_row + at, _MM_HINT_T0);
          rows[i] =
              half + i < columns ? _mm512_maskz_loadu_epi8(mask, b + (half + i) * b_row + at) : _mm512_setzero_si512();
        }
        Transpose(rows);
        const int64_t words = (bytes - at < 64 ? bytes - at + 3 : 64) / 4;
        for (int64_t i = 0; i < words; ++i) {
          if constexpr (kB == Codes::kS4) {
            // (word & 0x0f) ^ 8 turns a two's complement nibble into code + 8.
            const I low = _mm512_set1_epi8(0x0f), eight = _mm512_set1_epi8(8);
            put(_mm512_ternarylogic_epi32(rows[i], low, eight, 0x6a));
            put(_mm512_ternarylogic_epi32(_mm512_srli_epi32(rows[i], 4), low, eight, 0x6a));
          } else {
            put(_mm512_xor_si512(rows[i], _mm512_set1_epi8(-128)));
          }
        }
      }
    }
  }
};

#include "ops/quant-gemm/cpu/panel.inl"

template <Codes kA, Codes kB>
constexpr GemmKernel Make(const char* name) {
  constexpr auto pack = kA == Codes::kFloat ? PackFloatPanels<kB> : PackCodePanels<kB>;
  return {name, kCpuAvx512Vnni,   kA, kB, 1, 252, Isa::kRows, kCols, PackedBytes<kA, kB>, ScratchBytes,
          pack, RunPanels<kA, kB>};
}

constexpr GemmKernel kTable[] = {
    Make<Codes::kS8, Codes::kS4>("s8s4_f32_12x32__avx512vnni"),
    Make<Codes::kS8, Codes::kS8>("s8s8_f32_12x32__avx512vnni"),
    Make<Codes::kFloat, Codes::kS4>("f32s4_f32_12x32__avx512vnni"),
    Make<Codes::kFloat, Codes::kS8>("f32s8_f32_12x32__avx512vnni"),
};

}  // namespace

Table Avx512VnniKernels() { return {kTable, sizeof kTable / sizeof kTable[0]}; }

}  // namespace lowbit::gemm
