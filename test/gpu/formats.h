// Types and formats, those of ops/formats/README.md written once more for the tests: values of codes, names.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cmath>

#include "ops/common/cuda/types.h"

namespace lowbit::test {

// The graph's type whose tensors hold T.
template <class T>
constexpr cuda::DType kType = cuda::DType::kF32;
template <>
constexpr cuda::DType kType<__half> = cuda::DType::kF16;
template <>
constexpr cuda::DType kType<__nv_bfloat16> = cuda::DType::kBF16;

// The value of a code in its low bits (a nibble or a byte).
__host__ __device__ inline double ValueOf(cuda::Format format, int code) {
  using cuda::Format;
  if (format == Format::kS4) return (code & 15) > 7 ? (code & 15) - 16 : code & 15;
  if (format == Format::kS8) return static_cast<signed char>(code);
  if (format == Format::kS4E4M3) return code & 0x80 ? -(code & 0x7f) : code & 0x7f;
  if (format == Format::kBnbFp4) {
    const double sizes[8] = {0, 0.0625, 2, 3, 4, 6, 8, 12};
    return code & 8 ? -sizes[code & 7] : sizes[code & 7];
  }
  const bool nibble = format == Format::kE2M1 || format == Format::kE3M0;
  const int mantissa = format == Format::kE2M1 ? 1 : format == Format::kE3M0 ? 0 : format == Format::kE4M3 ? 3 : 2;
  const int bias = format == Format::kE2M1 ? 1 : format == Format::kE3M0 ? 3 : format == Format::kE4M3 ? 7 : 15;
  const int sign = nibble ? 8 : 0x80, magnitude = code & (sign - 1);
  const int exponent = magnitude >> mantissa, fraction = magnitude & ((1 << mantissa) - 1);
  double size = exponent ? fraction + (1 << mantissa) : mantissa ? fraction : 0;
  for (int e = (exponent ? exponent : 1) - bias - mantissa; e != 0; e += e < 0 ? 1 : -1) size *= e < 0 ? 0.5 : 2.0;
  return code & sign ? -size : size;
}

inline const char* NameOf(cuda::Format format) {
  static const char* const names[] = {"s4", "s8", "float", "s4_e4m3", "e2m1", "e3m0", "e4m3", "e5m2", "bnb_fp4"};
  return names[static_cast<int>(format)];
}

__host__ __device__ constexpr bool IsNibble(cuda::Format weights) {
  return weights == cuda::Format::kS4 || weights == cuda::Format::kE2M1 || weights == cuda::Format::kE3M0 ||
         weights == cuda::Format::kBnbFp4;
}

// Largest magnitude of a format's codes that segments are scaled to.
inline float LargestOf(cuda::Format format) {
  using cuda::Format;
  if (format == Format::kE4M3) return 448.0f;
  if (format == Format::kE5M2) return 57344.0f;
  return format == Format::kS8 ? 127.0f : 7.0f;
}

}  // namespace lowbit::test
