#include "native/offline/round_lanes.h"

#include <bit>

namespace lowbit::offline {
namespace {

#define LOWBIT_CLONES __attribute__((target_clones("avx512f", "avx2,fma", "default")))

// Adding and subtracting it rounds a float below 2^22 to an integer, half to even.
constexpr float kMagic = 0x1.8p23f;

// The end that all grids share. `rounded` is code times scale, which is exact in float32.
inline float Finish(float value, float rounded, float pivot, float* error, float* loss) {
  *error = (value - rounded) * pivot;
  *loss += *error * *error;
  return rounded;
}

LOWBIT_CLONES void Integers(float low, float high, float* value, const float* scale, const float* inverse, float pivot,
                            float* error, float* loss, int8_t* code) {
  for (int64_t n = 0; n < kLanes; n++) {
    float x = value[n] * inverse[n];
    x = x < low - 1.0f ? low - 1.0f : x;  // keeps the sum below in range; one step more saturates all the same
    x = x > high + 1.0f ? high + 1.0f : x;
    float q = (x + kMagic) - kMagic;
    q = q < low ? low : q;
    q = q > high ? high : q;
    code[n] = static_cast<int8_t>(static_cast<int32_t>(q));
    value[n] = Finish(value[n], q * scale[n], pivot, &error[n], &loss[n]);
  }
}

// A minifloat with subnormals: `mantissa` explicit bits, smallest normal 2^lowest, largest value `most`, `bits` in all.
LOWBIT_CLONES void Minifloats(int mantissa, int lowest, float most, int bits, float* value, const float* scale,
                              const float* inverse, float pivot, float* error, float* loss, int8_t* code) {
  const uint32_t lowest_bits = static_cast<uint32_t>(127 + lowest) << 23;
  const float smallest_normal = std::bit_cast<float>(lowest_bits);
  const float subnormals = std::bit_cast<float>(static_cast<uint32_t>(127 + mantissa - lowest) << 23);
  const int32_t code_offset = (126 + lowest) << mantissa;  // the smallest normal has exponent code 1
  for (int64_t n = 0; n < kLanes; n++) {
    const uint32_t x = std::bit_cast<uint32_t>(value[n] * inverse[n]);
    const uint32_t sign = x & 0x80000000u;
    float magnitude = std::bit_cast<float>(x & 0x7fffffffu);
    magnitude = magnitude > most ? most : magnitude;
    uint32_t exponent = std::bit_cast<uint32_t>(magnitude) & 0x7f800000u;
    exponent = exponent < lowest_bits ? lowest_bits : exponent;
    // 2^23 steps of the grid at this exponent, half as much again: the sum keeps whole steps, half to even.
    const float magic = std::bit_cast<float>(exponent + (static_cast<uint32_t>(23 - mantissa) << 23)) * 1.5f;
    const float q = (magnitude + magic) - magic;
    const int32_t normal = static_cast<int32_t>(std::bit_cast<uint32_t>(q) >> (23 - mantissa)) - code_offset;
    const int32_t subnormal = static_cast<int32_t>(q * subnormals);
    const int32_t magnitude_code = q < smallest_normal ? subnormal : normal;
    code[n] = static_cast<int8_t>(magnitude_code | static_cast<int32_t>(sign >> (32 - bits)));
    const float signed_q = std::bit_cast<float>(std::bit_cast<uint32_t>(q) | sign);
    value[n] = Finish(value[n], signed_q * scale[n], pivot, &error[n], &loss[n]);
  }
}

// Eight magnitudes: as many thresholds as lie below a value are its code.
LOWBIT_CLONES void Eight(const float (&magnitudes)[8], float* value, const float* scale, const float* inverse,
                         float pivot, float* error, float* loss, int8_t* code) {
  const Thresholds thresholds = ThresholdsOf(magnitudes);
  for (int64_t n = 0; n < kLanes; n++) {
    const uint32_t x = std::bit_cast<uint32_t>(value[n] * inverse[n]);
    const uint32_t sign = x & 0x80000000u;
    const float magnitude = std::bit_cast<float>(x & 0x7fffffffu);
    float q = 0.0f;
    int32_t magnitude_code = 0;
    for (int i = 1; i < 8; i++) {
      const bool reached = magnitude >= thresholds.of[i];
      q = reached ? magnitudes[i] : q;
      magnitude_code = reached ? i : magnitude_code;
    }
    code[n] = static_cast<int8_t>(magnitude_code | static_cast<int32_t>(sign >> 28));
    const float signed_q = std::bit_cast<float>(std::bit_cast<uint32_t>(q) | sign);
    value[n] = Finish(value[n], signed_q * scale[n], pivot, &error[n], &loss[n]);
  }
}

}  // namespace

void RoundLanes(Grid grid, float* value, const float* scale, const float* inverse, float pivot, float* error,
                float* loss, int8_t* code) {
  switch (grid) {
    case Grid::kS4:
      return Integers(-8.0f, 7.0f, value, scale, inverse, pivot, error, loss, code);
    case Grid::kS8:
      return Integers(-128.0f, 127.0f, value, scale, inverse, pivot, error, loss, code);
    case Grid::kE2M1:
      return Minifloats(1, 0, 6.0f, 4, value, scale, inverse, pivot, error, loss, code);
    case Grid::kE4M3:
      return Minifloats(3, -6, 448.0f, 8, value, scale, inverse, pivot, error, loss, code);
    case Grid::kE3M0:
      return Eight(kE3M0Magnitudes, value, scale, inverse, pivot, error, loss, code);
    case Grid::kBnbFp4:
      return Eight(kBnbFp4Magnitudes, value, scale, inverse, pivot, error, loss, code);
  }
}

}  // namespace lowbit::offline
