// QuantGemm as ops/formats/README.md defines it, in double, and how far a kernel's y may be from that.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "ops/quant-gemm/cuda/launch.h"
#include "test/gpu/formats.h"

namespace lowbit::test::gemm {

using cuda::DType;
using cuda::Format;
using cuda::GemmArgs;

__device__ inline double LoadFloat(DType type, const void* p, int64_t i) {
  if (type == DType::kF32) return static_cast<const float*>(p)[i];
  if (type == DType::kF16) return __half2float(static_cast<const __half*>(p)[i]);
  return __bfloat162float(static_cast<const __nv_bfloat16*>(p)[i]);
}

// y and how far a kernel may be from it, for rows first, first + step, ...; rough_bound for FP8 tensor cores and for
// scales multiplied into 16-bit weights.
static __global__ void ReferenceKernel(const GemmArgs args, int64_t first, int64_t step, double* y, double* bound,
                                       double* rough_bound) {
  const int n = blockIdx.x * blockDim.x + threadIdx.x;
  const int64_t m = first + blockIdx.y * step;
  if (n >= args.n) return;
  const __half* b_scale = reinterpret_cast<const __half*>(args.b_scale);
  const int body = args.k - args.outliers;
  double total = 0, magnitude = 0, body_magnitude = 0, activations = 0;
  int segments = 0;
  for (int start = 0; start < args.k;) {
    const bool outlier = start >= body;
    const int size = args.group_size ? args.group_size : args.a_group_size ? args.a_group_size : body;
    const int length = outlier ? args.outliers : size;
    double sum = 0, absolute = 0, part = 0, parts = 0;
    for (int k = start; k < start + length; ++k) {
      const uint8_t* b = static_cast<const uint8_t*>(args.b);
      double w;
      if (outlier) {
        w = args.b_outlier[static_cast<int64_t>(n) * args.outliers + (k - body)];
      } else if (!IsNibble(args.weight_format)) {
        w = ValueOf(args.weight_format, b[static_cast<int64_t>(n) * body + k]);
      } else {
        w = ValueOf(args.weight_format, b[static_cast<int64_t>(n) * ((body + 1) / 2) + k / 2] >> 4 * (k % 2) & 15);
      }
      const int64_t at = m * args.k + k;
      const double a = args.a_format == Format::kNone
                           ? LoadFloat(args.type, args.a, at)
                           : ValueOf(outlier ? Format::kS8 : args.a_format, static_cast<const uint8_t*>(args.a)[at]);
      sum += a * w, part += a * w, absolute += fabs(a * w), activations += fabs(a);
      if ((k - start) % 32 == 31 || k + 1 == start + length) parts += fabs(part), part = 0, ++segments;
    }
    double scale =
        outlier
            ? __half2float(reinterpret_cast<const __half*>(args.b_outlier_scale)[n])
            : __half2float(
                  b_scale[n * static_cast<int64_t>(args.b_scales()) + (args.group_size ? start / args.group_size : 0)]);
    if (args.a_scale) {
      const int index = outlier ? args.a_scales() - 1 : args.a_group_size ? start / args.a_group_size : 0;
      scale *= args.a_scale[m * args.a_scales() + index];
    }
    total += sum * scale;
    magnitude += fabs((args.integers() ? parts : absolute) * scale);
    if (!outlier) body_magnitude += fabs(absolute * scale);
    start += length;
  }
  if (args.bias) {
    const double v = LoadFloat(args.type, args.bias, n);
    total += v, magnitude += fabs(v);
  }
  if (args.residual) {
    const double v = LoadFloat(args.type, args.residual, m * args.n + n);
    total += v, magnitude += fabs(v);
  }
  double error = ((args.integers() ? 0 : args.k) + segments + 4) * 0x1p-24 * magnitude + 0x1p-120;
  double rough_error = args.integers() ? 0 : (args.powers_of_two ? 0x1p-8 : 0x1p-10) * body_magnitude;
  if (args.a_format == Format::kNone) {
    const bool half = args.type == DType::kF16;
    double most = 0;
    for (int i = 0; i < args.b_scales(); ++i) {
      most = fmax(most, __half2float(b_scale[n * static_cast<int64_t>(args.b_scales()) + i]));
    }
    rough_error = (half ? 0x1p-11 : 0x1.02p-9) * body_magnitude + (half ? 0x1p-15 * most * activations : 0);
  }
  const int64_t at = blockIdx.y * static_cast<int64_t>(args.n) + n;
  y[at] = total;
  for (int rough = 0; rough < 2; ++rough) {
    double e = error + rough * rough_error;
    if (args.type == DType::kF16) e += (fabs(total) + e) * 0x1p-11 + 0x1p-25;
    if (args.type == DType::kBF16) e += (fabs(total) + e) * 0x1p-8;
    (rough ? rough_bound : bound)[at] = e;
  }
}

}  // namespace lowbit::test::gemm
