// Lanes of the graph type, float32 or float16, with AVX-512. For instruction-set files only.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "ops/quant-gemm/cpu/gemm.h"

namespace lowbit::gemm {
namespace {

inline __mmask16 FirstLanes(int64_t lanes) { return static_cast<__mmask16>((1u << lanes) - 1); }
inline __mmask64 FirstBytes(int64_t bytes) { return bytes >= 64 ? ~0ull : (1ull << bytes) - 1; }

/// Fetches a line into the first-level cache; stopping at the second one costs more than it saves, wherever the line
/// is. Not _mm_prefetch: GCC takes a function that does nothing else for one without effect and drops its calls.
inline void Prefetch(const void* from) { asm volatile("prefetcht0 %0" ::"m"(*static_cast<const char*>(from))); }

/// The first `lanes` (at most 16) of the values from `index` on, zeros behind them.
inline __m512 LoadLanes(const void* data, int64_t index, int64_t lanes, bool half) {
  if (!half) return _mm512_maskz_loadu_ps(FirstLanes(lanes), static_cast<const float*>(data) + index);
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(FirstLanes(lanes), static_cast<const uint16_t*>(data) + index));
}

/// Writes the first `lanes`, rounded once.
inline void StoreLanes(void* data, int64_t index, int64_t lanes, bool half, __m512 value) {
  if (!half) return _mm512_mask_storeu_ps(static_cast<float*>(data) + index, FirstLanes(lanes), value);
  const __m256i rounded = _mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  _mm256_mask_storeu_epi16(static_cast<uint16_t*>(data) + index, FirstLanes(lanes), rounded);
}

/// What the struct `Isa` of every file with vectors of 512 bits begins with.
struct Avx512 {
  using I = __m512i;
  using F = __m512;
  static constexpr int64_t kLanes = 16;
  static constexpr int kRows = 12;  // 24 accumulators, 2 weights and 1 activation: 27 of 32 registers

  static I SetI(int32_t value) { return _mm512_set1_epi32(value); }
  static I LoadI(const void* from) { return _mm512_loadu_si512(from); }
  static void StoreI(void* to, I value) { _mm512_storeu_si512(to, value); }
  static F SetF(float value) { return _mm512_set1_ps(value); }
  static F LoadF(const float* from) { return _mm512_loadu_ps(from); }
  static void StoreF(float* to, F value) { _mm512_storeu_ps(to, value); }
  static F ToFloat(I value) { return _mm512_cvtepi32_ps(value); }
  static I Bits(F value) { return _mm512_castps_si512(value); }
  static I AddI(I a, I b) { return _mm512_add_epi32(a, b); }
  static F Add(F a, F b) { return _mm512_add_ps(a, b); }
  static F Mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F MulAdd(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static float HalfToFloat(uint16_t half) { return _cvtsh_ss(half); }
  static F LoadAny(const void* data, int64_t index, int64_t lanes, bool half) {
    return LoadLanes(data, index, lanes, half);
  }
  static void StoreAny(void* data, int64_t index, int64_t lanes, bool half, F value) {
    StoreLanes(data, index, lanes, half, value);
  }
  static I LoadBytes(const void* from) { return _mm512_loadu_si512(from); }
  static I LoadBytes(const void* from, int64_t bytes) { return _mm512_maskz_loadu_epi8(FirstBytes(bytes), from); }
  static void Prefetch(const void* from) { gemm::Prefetch(from); }

  /// rows[i] lane j -> rows[j] lane i
  LOWBIT_INLINE static void Transpose(I (&rows)[16]) {
    I t[16];
    Unroll<8>([&](auto i) LOWBIT_INLINE {
      const I a = rows[2 * i.value], b = rows[2 * i.value + 1];
      t[2 * i.value] = _mm512_unpacklo_epi32(a, b);
      t[2 * i.value + 1] = _mm512_unpackhi_epi32(a, b);
    });
    Unroll<4>([&](auto i) LOWBIT_INLINE {
      constexpr int k = 4 * i.value;
      rows[k] = _mm512_unpacklo_epi64(t[k], t[k + 2]);
      rows[k + 1] = _mm512_unpackhi_epi64(t[k], t[k + 2]);
      rows[k + 2] = _mm512_unpacklo_epi64(t[k + 1], t[k + 3]);
      rows[k + 3] = _mm512_unpackhi_epi64(t[k + 1], t[k + 3]);
    });
    // Now 128-bit lane l of rows[4g + j] holds column 4l + j of rows 4g .. 4g+3.
    Unroll<4>([&](auto j) LOWBIT_INLINE {
      constexpr int k = j.value;
      const I a = _mm512_shuffle_i32x4(rows[k], rows[4 + k], 0x88),
              b = _mm512_shuffle_i32x4(rows[8 + k], rows[12 + k], 0x88);
      const I c = _mm512_shuffle_i32x4(rows[k], rows[4 + k], 0xdd),
              d = _mm512_shuffle_i32x4(rows[8 + k], rows[12 + k], 0xdd);
      t[k] = _mm512_shuffle_i32x4(a, b, 0x88);
      t[8 + k] = _mm512_shuffle_i32x4(a, b, 0xdd);
      t[4 + k] = _mm512_shuffle_i32x4(c, d, 0x88);
      t[12 + k] = _mm512_shuffle_i32x4(c, d, 0xdd);
    });
    Unroll<16>([&](auto i) LOWBIT_INLINE { rows[i.value] = t[i.value]; });
  }
};

}  // namespace
}  // namespace lowbit::gemm
