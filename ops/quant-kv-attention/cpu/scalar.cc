// Portable kernels: one element at a time. Also the description of what a vector type provides.
#include "native/core/cpu_features.h"
#include "native/core/float16.h"
#include "ops/quant-kv-attention/cpu/attention.h"
#include "ops/rows/rows.h"

namespace lowbit::kv {
namespace {

struct Scalar {
  static constexpr int kWidth = 1;
  using F = float;  // a vector of floats

  static float One(const float* p) { return *p; }
  static float One(const uint16_t* p) { return HalfToFloat(*p); }
  static uint16_t ToHalf(float value) { return FloatToHalf(value); }
  static F Set(float value) { return value; }
  // Loads widen binary16, stores round to it.
  static F Load(const float* p) { return *p; }
  static F Load(const uint16_t* p) { return HalfToFloat(*p); }
  static void Store(float* p, F value) { *p = value; }
  static void Store(uint16_t* p, F value) { *p = FloatToHalf(value); }
  // Codes index … index + kWidth - 1 of a row as floats.
  template <int kBits>
  static F Codes(const uint8_t* codes, int64_t index) {
    if constexpr (kBits == 8) return static_cast<float>(codes[index]);
    return static_cast<float>(codes[index / 2] >> (index % 2 * 4) & 15);
  }

  static F Add(F a, F b) { return a + b; }
  static F Sub(F a, F b) { return a - b; }
  static F Mul(F a, F b) { return a * b; }
  static F Div(F a, F b) { return a / b; }
  static F Negate(F a) { return -a; }
  static F Abs(F a) { return __builtin_fabsf(a); }
  // a * b + c, rounded once or twice.
  static F MulAdd(F a, F b, F c) { return a * b + c; }
  // The second operand if either is NaN, like x86.
  static F Min(F a, F b) { return a < b ? a : b; }
  static F Max(F a, F b) { return a > b ? a : b; }
  static bool Less(F a, F b) { return a < b; }
  static bool LessEqual(F a, F b) { return a <= b; }
  static F Select(bool mask, F yes, F no) { return mask ? yes : no; }
  // p * 2^n, where the low bits of `shifted` are n.
  static F AddExponent(F p, F shifted) {
    return std::bit_cast<float>(std::bit_cast<uint32_t>(p) + (std::bit_cast<uint32_t>(shifted) << 23));
  }

  static float ReduceMin(F a) { return a; }
  static float ReduceMax(F a) { return a; }
  static float ReduceAdd(F a) { return a; }
  // Element i is the sum of the elements of vectors[i].
  static F SumEach(const F* vectors) { return vectors[0]; }
};

#include "ops/rows/cpu/activations.inl"
// Needs the Exp of the file above.
#include "ops/quant-kv-attention/cpu/attention.inl"

constexpr Kernel kTable[] = LOWBIT_KV_KERNELS(Scalar, "scalar", kCpuAny);

}  // namespace

const Kernel* ScalarKernels() { return kTable; }

int64_t ScratchFloats(const Args& args, int64_t tokens) {
  const int64_t rows = tokens * args.heads / args.kv_heads;
  return (rows + 2 * kKeyBlock) * args.head_dim + kKeyBlock + 2 * PartFloats(args, tokens);
}

}  // namespace lowbit::kv
