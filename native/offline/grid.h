// The values a quantized weight may take, as a rounding function: GPTQ and round-to-nearest both call it.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace lowbit::offline {

// What a code means. Codes are what is stored: two's complement integers, or the bit pattern of the minifloat.
enum class Grid { kS4, kS8, kE2M1, kE3M0, kBnbFp4, kE4M3 };

// The magnitudes of a grid of eight that no formula gives, by code.
constexpr float kE3M0Magnitudes[8] = {0.0f, 0.25f, 0.5f, 1.0f, 2.0f, 4.0f, 8.0f, 16.0f};
constexpr float kBnbFp4Magnitudes[8] = {0.0f, 0.0625f, 2.0f, 3.0f, 4.0f, 6.0f, 8.0f, 12.0f};

// Where code i becomes the nearest of eight magnitudes, from below: halfway between it and the one before, or just
// above that if the code before is even and keeps the tie. Halves are exact.
struct Thresholds {
  float of[8];
};
constexpr Thresholds ThresholdsOf(const float (&magnitudes)[8]) {
  Thresholds thresholds{};
  for (int code = 1; code < 8; code++) {
    const float half = (magnitudes[code - 1] + magnitudes[code]) / 2;
    thresholds.of[code] = code % 2 == 0 ? half : std::bit_cast<float>(std::bit_cast<uint32_t>(half) + 1);
  }
  return thresholds;
}

// Rounds to `mantissa` explicit bits, half to even, with the smallest normal 2^min_exponent and subnormals below it.
inline float RoundMantissa(float x, int mantissa, int min_exponent) {
  if (x == 0.0f) return x;
  int exponent = std::ilogb(x);
  if (exponent < min_exponent) exponent = min_exponent;
  const float ulp = std::ldexp(1.0f, exponent - mantissa);
  return std::nearbyint(x / ulp) * ulp;
}

inline float RoundToEight(float x, const float (&magnitudes)[8]) {
  const Thresholds thresholds = ThresholdsOf(magnitudes);
  int code = 0;
  while (code < 7 && std::fabs(x) >= thresholds.of[code + 1]) code++;
  return std::copysign(magnitudes[code], x);
}

// The grid's value nearest to x (x is the weight over its scale), ties to even, saturating.
inline float RoundToGrid(float x, Grid grid) {
  switch (grid) {
    case Grid::kS4: {
      const float q = std::nearbyint(x);
      return q < -8.0f ? -8.0f : q > 7.0f ? 7.0f : q;
    }
    case Grid::kS8: {
      const float q = std::nearbyint(x);
      return q < -128.0f ? -128.0f : q > 127.0f ? 127.0f : q;
    }
    case Grid::kE2M1: {
      const float q = RoundMantissa(x, 1, 0);
      return q > 6.0f ? 6.0f : q < -6.0f ? -6.0f : q;
    }
    case Grid::kE3M0:
      return RoundToEight(x, kE3M0Magnitudes);
    case Grid::kBnbFp4:
      return RoundToEight(x, kBnbFp4Magnitudes);
    case Grid::kE4M3: {
      const float q = RoundMantissa(x, 3, -6);
      return q > 448.0f ? 448.0f : q < -448.0f ? -448.0f : q;
    }
  }
  return 0.0f;
}

}  // namespace lowbit::offline
