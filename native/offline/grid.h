// The values a quantized weight may take, as a rounding function: GPTQ and round-to-nearest both call it.
#pragma once

#include <cmath>
#include <cstdint>

namespace lowbit::offline {

// What a code means. Codes are what is stored: two's complement integers, or the bit pattern of the minifloat.
enum class Grid { kS4, kS8, kE2M1, kE3M0, kE4M3 };

// Largest magnitude of the grid: a group's absmax maps to it (times the clip ratio).
inline float GridMax(Grid grid) {
  switch (grid) {
    case Grid::kS4:
      return 7.0f;
    case Grid::kS8:
      return 127.0f;
    case Grid::kE2M1:
      return 6.0f;
    case Grid::kE3M0:
      return 16.0f;
    case Grid::kE4M3:
      return 448.0f;
  }
  return 0.0f;
}

// Rounds to `mantissa` explicit bits, half to even, with the smallest normal 2^min_exponent and subnormals below it.
inline float RoundMantissa(float x, int mantissa, int min_exponent) {
  if (x == 0.0f) return x;
  int exponent = std::ilogb(x);
  if (exponent < min_exponent) exponent = min_exponent;
  const float ulp = std::ldexp(1.0f, exponent - mantissa);
  return std::nearbyint(x / ulp) * ulp;
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
    case Grid::kE3M0: {
      // Powers of two from 0.25 to 16, and zero; halfway is arithmetic, between zero and 0.25 at 0.125.
      const float magnitude = std::fabs(x);
      if (magnitude <= 0.125f) return 0.0f;
      if (magnitude <= 0.25f) return std::copysign(0.25f, x);
      const float low = std::ldexp(1.0f, std::ilogb(magnitude));
      const float q = magnitude - low <= 0.5f * low ? low : 2.0f * low;
      return std::copysign(q > 16.0f ? 16.0f : q, x);
    }
    case Grid::kE4M3: {
      const float q = RoundMantissa(x, 3, -6);
      return q > 448.0f ? 448.0f : q < -448.0f ? -448.0f : q;
    }
  }
  return 0.0f;
}

// The stored code of a value that lies on the grid.
inline int8_t GridCode(float value, Grid grid) {
  int mantissa = 0, bias = 0, bits = 0;
  switch (grid) {
    case Grid::kS4:
    case Grid::kS8:
      return static_cast<int8_t>(value);
    case Grid::kE2M1:
      mantissa = 1, bias = 1, bits = 4;
      break;
    case Grid::kE3M0:
      mantissa = 0, bias = 3, bits = 4;
      break;
    case Grid::kE4M3:
      mantissa = 3, bias = 7, bits = 8;
      break;
  }
  int code = 0;
  const float magnitude = std::fabs(value);
  if (magnitude > 0.0f) {
    int exponent = std::ilogb(magnitude);
    const int lowest = 1 - bias;
    const bool subnormal = mantissa > 0 && exponent < lowest;
    if (subnormal) exponent = lowest;
    const int fraction = static_cast<int>(std::ldexp(magnitude, mantissa - exponent));
    code = subnormal ? fraction : ((exponent + bias) << mantissa) + fraction - (1 << mantissa);
  }
  return static_cast<int8_t>(std::signbit(value) ? code | (1 << (bits - 1)) : code);
}

}  // namespace lowbit::offline
