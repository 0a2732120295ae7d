// IEEE binary16 <-> binary32 in portable C++, bit-equal to F16C (round to nearest even). Kernels with F16C use the
// instructions; this serves the portable ones and row tails. Functions are static: each file compiles its own copy, so
// a copy built for a newer CPU can never be linked into portable code.
#pragma once
#include <cstdint>
#include <cstring>

namespace lowbit {

static inline uint32_t BitsOf(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

static inline float FloatOf(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// The binary16 pattern nearest to value; overflow gives an infinity, NaN a quiet NaN with the payload's upper bits.
static inline uint16_t HalfOf(float value) {
  const uint32_t bits = BitsOf(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
  if (magnitude >= 0x47800000u) return static_cast<uint16_t>(sign | 0x7c00u);  // 2^16 and above
  if (magnitude < 0x38800000u) {
    // Below 2^-14 the result is a multiple of 2^-24: adding 0.5, whose last place is 2^-24, rounds to it.
    return static_cast<uint16_t>(sign | (BitsOf(FloatOf(magnitude) + 0.5f) - 0x3f000000u));
  }
  const uint32_t odd = (magnitude >> 13) & 1u;
  return static_cast<uint16_t>(sign | ((magnitude - 0x38000000u + 0xfffu + odd) >> 13));  // 65520 carries to infinity
}

// The value of a binary16 pattern; exact.
static inline float FloatOfHalf(uint16_t half) {
  const uint32_t sign = (half & 0x8000u) << 16;
  const uint32_t rest = half & 0x7fffu;
  if (rest >= 0x7c00u) {  // infinity, or NaN made quiet
    const uint32_t quiet = rest > 0x7c00u ? 0x400000u : 0u;
    return FloatOf(sign | 0x7f800000u | quiet | ((rest & 0x3ffu) << 13));
  }
  // Exponents are moved by a product with 2^112, which also normalizes subnormals.
  return FloatOf(sign | BitsOf(FloatOf(rest << 13) * 0x1p112f));
}

}  // namespace lowbit
