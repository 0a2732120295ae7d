// Lanes of the graph type, float32 or float16, with AVX2. For instruction-set files only.
#pragma once

#include <immintrin.h>

#include <cstdint>

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

}  // namespace
}  // namespace lowbit::gemm
