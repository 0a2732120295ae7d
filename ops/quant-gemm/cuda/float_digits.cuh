// 16-bit floats as int8 digits, for products of one or two tokens with 4-bit weights. Making a 16-bit float of a nibble
// takes more instructions than anything else of a decode kernel; an int8 code of it takes a third of them. So the
// activations become int8 instead: the 128 channels of a step are brought to a common power of two and rounded to 22
// bits and a sign, and these are three digits of base 256, -128 ... 127 each. A digit is a column of mma.sync's eight,
// which one token would not fill anyway; its products are integers, exact, and its scale is the power of two times 256
// to the digit's place.
#pragma once
#include "ops/quant-gemm/cuda/decode_math.cuh"

namespace lowbit::cuda {

constexpr int kDigits = 3;
constexpr int kDigitColumns = 8;
constexpr int kMostDigitTokens = kDigitColumns / kDigits;  // one tile of columns

// 256 to the digit's place.
__device__ __forceinline__ float PlaceOf(int digit) { return digit == 0 ? 1.0f : digit == 1 ? 0x1p8f : 0x1p16f; }

// Byte `digit` of four integers.
__device__ __forceinline__ uint32_t FourBytes(const uint32_t (&v)[8], int first, int digit) {
  const uint32_t select = digit == 0 ? 0x0040 : digit == 1 ? 0x0051 : 0x0062;
  return __byte_perm(__byte_perm(v[first], v[first + 2], select), __byte_perm(v[first + 4], v[first + 6], select),
                     0x5410);
}

// Half a warp has the 128 channels of a step of a token, a thread eight after the other: words[d] are the digits d of
// the even ones and of the odd ones, as unpacked nibbles lie. Returns what the lowest digit is to be multiplied by.
template <class T>
__device__ __forceinline__ float ToDigits(const uint4& channels, uint2 (&words)[kDigits]) {
  constexpr float kMagic = 0x1.8p23f;  // puts an integer of at most 2^22 into the low bits
  T t[8];
  memcpy(t, &channels, sizeof channels);
  float v[8];
  uint32_t most = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) v[i] = Widen(t[i]), most = max(most, __float_as_uint(fabsf(v[i])));
#pragma unroll
  for (int other = 8; other > 0; other /= 2) most = max(most, __shfl_xor_sync(~0u, most, other));
  // The largest one becomes 2^21 ... 2^22; below 2^-100 all are zeros. Infinities and NaN make the sums NaN.
  const uint32_t exponent = max(most >> 23, 27u);
  const float up = __uint_as_float((275 - exponent) << 23);
  uint32_t digits[8];  // plus 128
#pragma unroll
  for (int i = 0; i < 8; ++i) digits[i] = __float_as_uint(fmaf(v[i], up, kMagic)) + (0x00808080u - kMagicBits);
#pragma unroll
  for (int d = 0; d < kDigits; ++d) {
    words[d] = make_uint2(FourBytes(digits, 0, d) ^ 0x80808080u, FourBytes(digits, 1, d) ^ 0x80808080u);
  }
  return __uint_as_float(exponent == 255 ? 0x7fc00000u : (exponent - 21) << 23);
}

}  // namespace lowbit::cuda
