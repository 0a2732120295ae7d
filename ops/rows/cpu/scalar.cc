// Portable row kernels: one element at a time. Also the description of what a vector type provides.
#include "native/core/float16.h"
#include "ops/rows/rows.h"

namespace lowbit {
namespace {

struct Scalar {
  static constexpr int kWidth = 1;
  using F = float;     // a vector of floats
  using I = uint32_t;  // a vector of their bit patterns
  using Mask = bool;

  static F Set(float value) { return value; }
  // Loads widen binary16; elements beyond a Part are 0.
  template <class Count>
  static F Load(const float* p, Count) {
    return *p;
  }
  template <class Count>
  static F Load(const uint16_t* p, Count) {
    return HalfToFloat(*p);
  }
  // Stores round to binary16; elements beyond a Part are not written.
  template <class Count>
  static void Store(float* p, F value, Count) {
    *p = value;
  }
  template <class Count>
  static void Store(uint16_t* p, F value, Count) {
    *p = FloatToHalf(value);
  }
  // Zeroes what lies beyond a Part.
  template <class Count>
  static F Keep(F value, Count) {
    return value;
  }
  // Rounds to the precision of the type of the second argument.
  static F RoundTo(F value, float) { return value; }
  static F RoundTo(F value, uint16_t) { return HalfToFloat(FloatToHalf(value)); }

  static F Add(F a, F b) { return a + b; }
  static F Sub(F a, F b) { return a - b; }
  static F Mul(F a, F b) { return a * b; }
  static F Div(F a, F b) { return a / b; }
  static float Root(float a) { return __builtin_sqrtf(a); }
  // The second operand if either is NaN, like x86.
  static F Min(F a, F b) { return a < b ? a : b; }
  static F Max(F a, F b) { return a > b ? a : b; }
  static F Negate(F a) { return -a; }
  static F Abs(F a) { return __builtin_fabsf(a); }
  static Mask Less(F a, F b) { return a < b; }
  static Mask LessEqual(F a, F b) { return a <= b; }
  static F Select(Mask mask, F yes, F no) { return mask ? yes : no; }
  // p * 2^n, where the low bits of `shifted` are n: added to p's exponent.
  static F AddExponent(F p, F shifted) {
    return std::bit_cast<float>(std::bit_cast<uint32_t>(p) + (std::bit_cast<uint32_t>(shifted) << 23));
  }

  static I ZeroBits() { return 0; }
  // Element by element the larger of `largest` and the bits of |value|.
  static I MaxMagnitude(I largest, F value) {
    const uint32_t bits = std::bit_cast<uint32_t>(value) & 0x7fffffffu;
    return bits > largest ? bits : largest;
  }
  static uint32_t LargestOf(I bits) { return bits; }
  // Integer arithmetic on the bits of floats.
  static I Bits(F value) { return std::bit_cast<uint32_t>(value); }
  static I SetI(uint32_t value) { return value; }
  static I AddI(I a, I b) { return a + b; }
  static I SubI(I a, I b) { return a - b; }
  static I AndI(I a, I b) { return a & b; }
  static I ShiftRight(I a, int count) { return a >> count; }
  static I SelectI(Mask mask, I yes, I no) { return mask ? yes : no; }
  // Stores the low byte of each element; values lie in 0 … 255.
  template <class Count>
  static void StoreBytes(int8_t* q, I codes, Count) {
    *q = static_cast<int8_t>(codes);
  }
  // Element i is the pairwise sum of vectors[i].
  static F SumEach(const F* vectors) { return vectors[0]; }
  // Rounds half to even and stores int8; values lie in -128 … 127.
  template <class Count>
  static void StoreCodes(int8_t* q, F value, Count) {
    *q = static_cast<int8_t>((value + 12582912.f) - 12582912.f);
  }
};

#include "ops/rows/cpu/rows.inl"

}  // namespace

RowFunctions RowFunctionsScalar() { return {RunRows<Scalar, float>, RunRows<Scalar, uint16_t>}; }

}  // namespace lowbit
