// The portable kernels of minifloat codes: the written formula, one output at a time, and the yardstick for the others.
#include "native/core/cpu_features.h"
#include "native/core/float16.h"
#include "ops/formats/minifloat.h"
#include "ops/quant-gemm/cpu/gemm.h"

namespace lowbit::gemm {
namespace {

constexpr CodeValues<16> kE2M1Values = MinifloatValues<16>(kE2M1), kE3M0Values = MinifloatValues<16>(kE3M0),
                         kS4Values = IntegerValues<16>();
constexpr CodeValues<256> kE4M3Values = MinifloatValues<256>(kE4M3), kS8Values = IntegerValues<256>();

template <Codes kB>
float Weight(const uint8_t* row, int64_t k) {
  if constexpr (kB == Codes::kE4M3) return kE4M3Values.of[row[k]];
  if constexpr (kB == Codes::kS8) return kS8Values.of[row[k]];
  const int nibble = row[k / 2] >> (k % 2 * 4) & 15;
  if constexpr (kB == Codes::kE2M1) return kE2M1Values.of[nibble];
  if constexpr (kB == Codes::kE3M0) return kE3M0Values.of[nibble];
  return kS4Values.of[nibble];
}

float LoadFloat(const void* data, int64_t index, bool half) {
  return half ? HalfToFloat(static_cast<const uint16_t*>(data)[index]) : static_cast<const float*>(data)[index];
}

template <Codes kA, Codes kB>
float Output(const Args& args, int64_t row, int64_t n) {
  const int64_t first = row * (args.body + args.outliers);
  const int8_t* codes = static_cast<const int8_t*>(args.a) + first;
  const float* a_scale = args.a_scale + row * args.a_scale_row;
  const uint8_t* b = args.b + n * args.b_row;
  float y = 0;
  for (int64_t s = 0; s < args.segments; ++s) {
    float sum = 0;
    for (int64_t k = s * args.segment; k < (s + 1) * args.segment; ++k) {
      const float a = kA == Codes::kFloat ? LoadFloat(args.a, first + k, args.half_a)
                                          : args.a_values[static_cast<uint8_t>(codes[k])];
      sum += a * Weight<kB>(b, k);
    }
    const float scale = kA == Codes::kFloat ? 1.0f : a_scale[s * args.a_scale_step];
    y += sum * HalfToFloat(args.b_scale[n * args.b_scale_row + s * args.b_scale_step]) * scale;
  }
  if (args.outliers > 0) {
    float sum = 0;
    for (int64_t k = 0; k < args.outliers; ++k) {
      sum += static_cast<float>(codes[args.body + k] * args.b_outlier[n * args.b_outlier_row + k]);
    }
    y += sum * HalfToFloat(args.b_outlier_scale[n]) * a_scale[args.a_scale_row - 1];
  }
  if (args.bias != nullptr) y += LoadFloat(args.bias, n, args.half);
  if (args.residual != nullptr) y += LoadFloat(args.residual, row * args.n + n, args.half);
  return y;
}

template <Codes kA, Codes kB>
void Run(const Args& args, const Block& block, const void*, void*) {
  for (int64_t row = block.row; row < block.row + block.rows; ++row) {
    for (int64_t n = block.n_begin; n < block.n_end; ++n) {
      const float y = Output<kA, kB>(args, row, n);
      if (args.half) {
        static_cast<uint16_t*>(args.y)[row * args.n + n] = FloatToHalf(y);
      } else {
        static_cast<float*>(args.y)[row * args.n + n] = y;
      }
    }
  }
}

bool Any(const Shape&) { return true; }
int64_t NoBytes(const Args&, int64_t) { return 0; }
void NoPack(const Args&, const Block&, int64_t, int64_t, void*) {}

template <Codes kA, Codes kB>
constexpr GemmKernel Make(const char* name) {
  return {name, kCpuAny, kA, kB, 64, 1, 1, Any, NoBytes, NoBytes, NoPack, Run<kA, kB>};
}

constexpr GemmKernel kTable[] = {
    Make<Codes::kTable, Codes::kE2M1>("x8e2m1_f32_1x1__scalar"),
    Make<Codes::kTable, Codes::kE3M0>("x8e3m0_f32_1x1__scalar"),
    Make<Codes::kTable, Codes::kE4M3>("x8e4m3_f32_1x1__scalar"),
    Make<Codes::kTable, Codes::kS4>("x8s4_f32_1x1__scalar"),
    Make<Codes::kTable, Codes::kS8>("x8s8_f32_1x1__scalar"),
    Make<Codes::kFloat, Codes::kE2M1>("f32e2m1_f32_1x1__scalar"),
    Make<Codes::kFloat, Codes::kE3M0>("f32e3m0_f32_1x1__scalar"),
    Make<Codes::kFloat, Codes::kE4M3>("f32e4m3_f32_1x1__scalar"),
};

}  // namespace

Table MinifloatScalarKernels() { return {kTable, sizeof kTable / sizeof kTable[0]}; }

}  // namespace lowbit::gemm
