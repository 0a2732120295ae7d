// The portable kernels: the written formula, one output at a time. Slow, and the yardstick for the others.
#include "native/core/cpu_features.h"
#include "native/core/float16.h"
#include "ops/quant-gemm/cpu/gemm.h"

namespace lowbit::gemm {
namespace {

float LoadFloat(const void* data, int64_t index, bool half) {
  return half ? HalfToFloat(static_cast<const uint16_t*>(data)[index]) : static_cast<const float*>(data)[index];
}

template <Codes kB>
int Code(const uint8_t* row, int64_t k) {
  if constexpr (kB == Codes::kS8) return static_cast<int8_t>(row[k]);
  const int nibble = row[k / 2] >> (k % 2 * 4) & 15;
  return (nibble ^ 8) - 8;  // two's complement
}

/// The unscaled sum of one segment: exact in int32 for codes, in float for float activations.
template <Codes kA, Codes kB>
float SegmentSum(const Args& args, int64_t row, const uint8_t* b, int64_t begin, int64_t end) {
  const int64_t first = row * (args.body + args.outliers);
  if constexpr (kA == Codes::kFloat) {
    float sum = 0;
    for (int64_t k = begin; k < end; ++k) {
      sum += LoadFloat(args.a, first + k, args.half_a) * static_cast<float>(Code<kB>(b, k));
    }
    return sum;
  }
  const int8_t* a = static_cast<const int8_t*>(args.a) + first;
  int32_t sum = 0;
  for (int64_t k = begin; k < end; ++k) sum += a[k] * Code<kB>(b, k);
  return static_cast<float>(sum);
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
    Make<Codes::kS8, Codes::kS4>("s8s4_f32_1x1__scalar"),
    Make<Codes::kS8, Codes::kS8>("s8s8_f32_1x1__scalar"),
    Make<Codes::kFloat, Codes::kS4>("f32s4_f32_1x1__scalar"),
    Make<Codes::kFloat, Codes::kS8>("f32s8_f32_1x1__scalar"),
};

}  // namespace

Table ScalarKernels() { return {kTable, sizeof kTable / sizeof kTable[0]}; }

}  // namespace lowbit::gemm
