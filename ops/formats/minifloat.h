// Minifloat codes as ops/formats/README.md defines them; the values of all codes as tables.
#pragma once

#include <cstdint>

namespace lowbit {

/// A sign-magnitude float of at most 8 bits. Values above `max` are NaN (e5m2 has its infinity in the usual place).
struct Minifloat {
  int bits, mantissa, bias;
  float max;
};

inline constexpr Minifloat kE2M1{4, 1, 1, 6.f};
inline constexpr Minifloat kE3M0{4, 0, 3, 16.f};
inline constexpr Minifloat kE4M3{8, 3, 7, 448.f};
inline constexpr Minifloat kE5M2{8, 2, 15, 57344.f};

consteval float MinifloatValue(const Minifloat& format, uint32_t code) {
  const uint32_t half = 1u << (format.bits - 1), magnitude = code & (half - 1);
  const uint32_t exponent = magnitude >> format.mantissa, fraction = magnitude & ((1u << format.mantissa) - 1);
  float size = static_cast<float>(exponent == 0 ? fraction : fraction + (1u << format.mantissa));
  if (exponent == 0 && format.mantissa == 0) size = 0.f;
  for (int e = static_cast<int>(exponent == 0 ? 1 : exponent) - format.bias - format.mantissa; e < 0; ++e) size *= 0.5f;
  for (int e = static_cast<int>(exponent == 0 ? 1 : exponent) - format.bias - format.mantissa; e > 0; --e) size *= 2.f;
  if (size > format.max) {
    const bool infinity = format.bias == 15 && fraction == 0;
    size = infinity ? __builtin_inff() : __builtin_nanf("");
  }
  return code & half ? -size : size;
}

/// The value of every code, by bit pattern. No library type, so that instruction-set files may include it.
template <int kCount>
struct CodeValues {
  float of[kCount];
};

template <int kCount>
consteval CodeValues<kCount> MinifloatValues(const Minifloat& format) {
  CodeValues<kCount> values{};
  for (int code = 0; code < kCount; ++code) values.of[code] = MinifloatValue(format, static_cast<uint32_t>(code));
  return values;
}

/// The same for bnb_fp4, whose codes count its values.
consteval CodeValues<16> BnbFp4Values() {
  constexpr float kMagnitudes[8] = {0.f, 0.0625f, 2.f, 3.f, 4.f, 6.f, 8.f, 12.f};
  CodeValues<16> values{};
  for (int code = 0; code < 16; ++code) values.of[code] = code < 8 ? kMagnitudes[code] : -kMagnitudes[code - 8];
  return values;
}

/// The same for two's complement codes.
template <int kCount>
consteval CodeValues<kCount> IntegerValues() {
  CodeValues<kCount> values{};
  for (int code = 0; code < kCount; ++code) {
    values.of[code] = static_cast<float>(code < kCount / 2 ? code : code - kCount);
  }
  return values;
}

}  // namespace lowbit
