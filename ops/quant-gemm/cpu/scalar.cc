// The portable kernels: the written formula, one output at a time. Slow, and the yardstick for the others.
#include <cstddef>

#include "native/core/cpu_features.h"
#include "native/core/float16.h"
#include "ops/formats/minifloat.h"
#include "ops/quant-gemm/cpu/gemm.h"

namespace lowbit::gemm {
namespace {

constexpr CodeValues<16> kE2M1Values = MinifloatValues<16>(kE2M1), kE3M0Values = MinifloatValues<16>(kE3M0),
                         kBnbFp4Values = BnbFp4Values(), kS4Values = IntegerValues<16>();
constexpr CodeValues<256> kE4M3Values = MinifloatValues<256>(kE4M3);

float LoadFloat(const void* data, int64_t index, bool half) {
  return half ? HalfToFloat(static_cast<const uint16_t*>(data)[index]) : static_cast<const float*>(data)[index];
}

void StoreFloat(void* data, int64_t index, bool half, float value) {
  if (half) {
    static_cast<uint16_t*>(data)[index] = FloatToHalf(value);
  } else {
    static_cast<float*>(data)[index] = value;
  }
}

/// What the code of channel k stands for.
template <Codes kB>
float Weight(const uint8_t* row, int64_t k) {
  if constexpr (kB == Codes::kS8) return static_cast<float>(static_cast<int8_t>(row[k]));
  if constexpr (kB == Codes::kE4M3) return kE4M3Values.of[row[k]];
  const int nibble = row[k / 2] >> (k % 2 * 4) & 15;
  if constexpr (kB == Codes::kE2M1) return kE2M1Values.of[nibble];
  if constexpr (kB == Codes::kE3M0) return kE3M0Values.of[nibble];
  if constexpr (kB == Codes::kBnbFp4) return kBnbFp4Values.of[nibble];
  return kS4Values.of[nibble];
}

/// The unscaled sum of one segment: exact in int32 for integer codes on both sides, else in float.
template <Codes kA, Codes kB>
float SegmentSum(const Args& args, int64_t row, const uint8_t* b, int64_t begin, int64_t end) {
  const int64_t first = row * (args.body + args.outliers);
  const int8_t* codes = static_cast<const int8_t*>(args.a) + first;
  if constexpr (kA == Codes::kS8) {
    int32_t sum = 0;
    for (int64_t k = begin; k < end; ++k) sum += codes[k] * static_cast<int32_t>(Weight<kB>(b, k));
    return static_cast<float>(sum);
  }
  float sum = 0;
  for (int64_t k = begin; k < end; ++k) {
    const float a =
        kA == Codes::kFloat ? LoadFloat(args.a, first + k, args.half_a) : args.a_values[static_cast<uint8_t>(codes[k])];
    sum += a * Weight<kB>(b, k);
  }
  return sum;
}

template <Codes kA, Codes kB>
float Output(const Args& args, int64_t row, int64_t n) {
  const float* a_scale = args.a_scale + row * args.a_scale_row;
  float y = 0;
  for (int64_t s = 0; s < args.segments; ++s) {
    const float sum = SegmentSum<kA, kB>(args, row, args.b + n * args.b_row, s * args.segment, (s + 1) * args.segment);
    const float scale = kA == Codes::kFloat ? 1.0f : a_scale[s * args.a_scale_step];
    y += sum * scale * HalfToFloat(args.b_scale[n * args.b_scale_row + s * args.b_scale_step]);
  }
  if (args.outliers > 0) {
    const int8_t* a = static_cast<const int8_t*>(args.a) + row * (args.body + args.outliers) + args.body;
    const int8_t* b = args.b_outlier + n * args.b_outlier_row;
    int32_t sum = 0;
    for (int64_t k = 0; k < args.outliers; ++k) sum += a[k] * b[k];
    y += static_cast<float>(sum) * a_scale[args.a_scale_row - 1] * HalfToFloat(args.b_outlier_scale[n]);
  }
  if (args.bias != nullptr) y += LoadFloat(args.bias, n, args.half);
  if (args.residual != nullptr) y += LoadFloat(args.residual, row * args.n + n, args.half);
  return y;
}

template <Codes kA, Codes kB>
void Run(const Args& args, const Block& block, const void*, void*) {
  for (int64_t row = block.row; row < block.row + block.rows; ++row) {
    for (int64_t n = block.n_begin; n < block.n_end; ++n) {
      StoreFloat(args.y, row * args.n + n, args.half, Output<kA, kB>(args, row, n));
    }
  }
}

/// Vectors of one lane.
struct Isa {
  using I = uint32_t;
  using F = float;
  static constexpr int64_t kLanes = 1;
  static constexpr uint32_t kNeeds = kCpuAny;

  static F SetF(float value) { return value; }
  static I LoadI(const uint32_t* from) { return *from; }
  static F LoadF(const float* from) { return *from; }
  static void StoreF(float* to, F value) { *to = value; }
  static F Mul(F a, F b) { return a * b; }
  static F MulAdd(F a, F b, F c) { return a * b + c; }
  template <int kBits>
  static I ShiftRight(I value) {
    return value >> kBits;
  }
  static F FromS8(I word) { return static_cast<F>(static_cast<int8_t>(word)); }
  static float HalfToFloat(uint16_t half) { return lowbit::HalfToFloat(half); }
  static F LoadAny(const void* data, int64_t index, int64_t lanes, bool half) {
    return lanes > 0 ? LoadFloat(data, index, half) : 0.0f;
  }
  static void StoreAny(void* data, int64_t index, int64_t lanes, bool half, F value) {
    if (lanes > 0) StoreFloat(data, index, half, value);
  }
};

#include "ops/quant-gemm/cpu/lorc_up.inl"

bool Any(const Shape&) { return true; }
int64_t NoBytes(const Args&, int64_t) { return 0; }
void NoPack(const Args&, const Block&, int64_t, int64_t, void*) {}

template <Codes kA, Codes kB>
constexpr GemmKernel Make(const char* name) {
  return {name, kCpuAny, kA, kB, 64, 1, 1, Any, NoBytes, NoBytes, NoPack, Run<kA, kB>};
}

constexpr GemmKernel kTable[] = {
    Make<Codes::kS8, Codes::kS4>("s8s4_f32_1x1__scalar"),
    Make<Codes::kS8, Codes::kS8>("s8s8_f32_1x1__scalar"),
    Make<Codes::kTable, Codes::kS4>("x8s4_f32_1x1__scalar"),
    Make<Codes::kTable, Codes::kS8>("x8s8_f32_1x1__scalar"),
    Make<Codes::kTable, Codes::kE2M1>("x8e2m1_f32_1x1__scalar"),
    Make<Codes::kTable, Codes::kE3M0>("x8e3m0_f32_1x1__scalar"),
    Make<Codes::kTable, Codes::kBnbFp4>("x8bnb4_f32_1x1__scalar"),
    Make<Codes::kTable, Codes::kE4M3>("x8e4m3_f32_1x1__scalar"),
    Make<Codes::kFloat, Codes::kS4>("f32s4_f32_1x1__scalar"),
    Make<Codes::kFloat, Codes::kS8>("f32s8_f32_1x1__scalar"),
    Make<Codes::kFloat, Codes::kE2M1>("f32e2m1_f32_1x1__scalar"),
    Make<Codes::kFloat, Codes::kE3M0>("f32e3m0_f32_1x1__scalar"),
    Make<Codes::kFloat, Codes::kBnbFp4>("f32bnb4_f32_1x1__scalar"),
    Make<Codes::kFloat, Codes::kE4M3>("f32e4m3_f32_1x1__scalar"),
};

}  // namespace

LorcUpKernel LorcUpScalar() { return kLorcUpKernel; }
Table ScalarKernels() { return {kTable, sizeof kTable / sizeof kTable[0]}; }

}  // namespace lowbit::gemm
