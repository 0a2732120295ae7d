// Lanes of the graph type, float32 or float16, with AVX2. For instruction-set files only.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "ops/quant-gemm/cpu/gemm.h"

namespace lowbit::gemm {
namespace {

/// The first `bytes` (at most 32) bytes, zeros behind them. Never reads further.
inline __m256i LoadBytes(const void* from, int64_t bytes) {
  if (bytes >= 32) return _mm256_loadu_si256(static_cast<const __m256i*>(from));
  alignas(32) char copy[32] = {};
  if (bytes > 0) __builtin_memcpy(copy, from, static_cast<size_t>(bytes));
  return _mm256_load_si256(reinterpret_cast<const __m256i*>(copy));
}

/// The first `lanes` (at most 8) of the values from `index` on, zeros behind them.
inline __m256 LoadLanes(const void* data, int64_t index, int64_t lanes, bool half) {
  if (!half) return _mm256_castsi256_ps(LoadBytes(static_cast<const float*>(data) + index, lanes * 4));
  return _mm256_cvtph_ps(_mm256_castsi256_si128(LoadBytes(static_cast<const uint16_t*>(data) + index, lanes * 2)));
}

/// Writes the first `lanes`, rounded once.
inline void StoreLanes(void* data, int64_t index, int64_t lanes, bool half, __m256 value) {
  alignas(32) char copy[32];
  const int64_t size = half ? 2 : 4;
  if (half) {
    const __m128i rounded = _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm_store_si128(reinterpret_cast<__m128i*>(copy), rounded);
  } else {
    _mm256_store_ps(reinterpret_cast<float*>(copy), value);
  }
  __builtin_memcpy(static_cast<char*>(data) + index * size, copy, static_cast<size_t>(lanes * size));
}

/// What the struct `Isa` of every file with vectors of 256 bits begins with.
struct Avx2 {
  using I = __m256i;
  using F = __m256;
  static constexpr int64_t kLanes = 8;

  static I SetI(int32_t value) { return _mm256_set1_epi32(value); }
  static I LoadI(const void* from) { return _mm256_loadu_si256(static_cast<const __m256i*>(from)); }
  static void StoreI(void* to, I value) { _mm256_storeu_si256(static_cast<__m256i*>(to), value); }
  static F SetF(float value) { return _mm256_set1_ps(value); }
  static F LoadF(const float* from) { return _mm256_loadu_ps(from); }
  static void StoreF(float* to, F value) { _mm256_storeu_ps(to, value); }
  static F ToFloat(I value) { return _mm256_cvtepi32_ps(value); }
  static I Bits(F value) { return _mm256_castps_si256(value); }
  static I AddI(I a, I b) { return _mm256_add_epi32(a, b); }
  static F Add(F a, F b) { return _mm256_add_ps(a, b); }
  static F Mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F MulAdd(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static float HalfToFloat(uint16_t half) { return _cvtsh_ss(half); }
  static F LoadAny(const void* data, int64_t index, int64_t lanes, bool half) {
    return LoadLanes(data, index, lanes, half);
  }
  static void StoreAny(void* data, int64_t index, int64_t lanes, bool half, F value) {
    StoreLanes(data, index, lanes, half, value);
  }
  static I LoadBytes(const void* from) { return LoadI(from); }
  static I LoadBytes(const void* from, int64_t bytes) { return gemm::LoadBytes(from, bytes); }
  /// Not _mm_prefetch: GCC takes a function that does nothing else for one without effect and drops its calls.
  static void Prefetch(const void* from) { asm volatile("prefetcht0 %0" ::"m"(*static_cast<const char*>(from))); }

  /// rows[i] lane j -> rows[j] lane i
  LOWBIT_INLINE static void Transpose(I (&rows)[8]) {
    I t[8];
    Unroll<4>([&](auto i) LOWBIT_INLINE {
      t[2 * i.value] = _mm256_unpacklo_epi32(rows[2 * i.value], rows[2 * i.value + 1]);
      t[2 * i.value + 1] = _mm256_unpackhi_epi32(rows[2 * i.value], rows[2 * i.value + 1]);
    });
    Unroll<2>([&](auto i) LOWBIT_INLINE {
      constexpr int k = 4 * i.value;
      rows[k] = _mm256_unpacklo_epi64(t[k], t[k + 2]);
      rows[k + 1] = _mm256_unpackhi_epi64(t[k], t[k + 2]);
      rows[k + 2] = _mm256_unpacklo_epi64(t[k + 1], t[k + 3]);
      rows[k + 3] = _mm256_unpackhi_epi64(t[k + 1], t[k + 3]);
    });
    Unroll<4>([&](auto j) LOWBIT_INLINE {
      const I a = rows[j.value], b = rows[4 + j.value];
      t[j.value] = _mm256_permute2x128_si256(a, b, 0x20);
      t[4 + j.value] = _mm256_permute2x128_si256(a, b, 0x31);
    });
    Unroll<8>([&](auto i) LOWBIT_INLINE { rows[i.value] = t[i.value]; });
  }
};

}  // namespace
}  // namespace lowbit::gemm
