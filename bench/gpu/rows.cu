// The row operators behind a plain C interface, for bench/gpu/rows.py, and what they are compared with: a kernel that
// moves as many bytes.
#include "ops/common/cuda/launch_clusters.h"
#include "ops/common/cuda/ptx.cuh"
#include "ops/rows/cuda/norm_quantize.h"
#include "ops/rows/cuda/quantize.h"

using namespace lowbit::cuda;

namespace {

RowFormat FormatOf(int k, int group, int outliers, int format, float clip) {
  const Format f = static_cast<Format>(format);
  const float largest = f == Format::kS8 ? 127.0f : f == Format::kE4M3 ? 448.0f : 7.0f;
  return {k, group, outliers, f, clip / largest};
}

// to[i] of every from[i], from[i + n], ... of `reads` matrices of n chunks.
__global__ __launch_bounds__(256) void CopyKernel(const uint4* from, int reads, uint4* to, int64_t n) {
  LetNextKernelStartIfAny();
  WaitForPriorKernelsIfAny();
  const int64_t first = blockIdx.x * int64_t{512} + threadIdx.x;
  uint4 sum[2] = {};
  for (int r = 0; r < reads; ++r) {
    for (int i = 0; i < 2; ++i) {
      if (first + i * 256 >= n) continue;
      const uint4 v = __ldcs(from + r * n + first + i * 256);
      sum[i] = make_uint4(sum[i].x ^ v.x, sum[i].y ^ v.y, sum[i].z ^ v.z, sum[i].w ^ v.w);
    }
  }
  for (int i = 0; i < 2; ++i) {
    if (first + i * 256 < n) to[first + i * 256] = sum[i];
  }
}

}  // namespace

extern "C" {

// Formats are numbers of ops/common/cuda/types.h's Format, tensors float16, `order` null for none. Returns the CUDA
// error.
__attribute__((visibility("default"))) int bench_norm_quantize(int64_t m, int k, int group, int outliers, int format,
                                                               float clip, const void* x, const void* weight,
                                                               const int32_t* order, int8_t* q, float* scale,
                                                               cudaStream_t stream) {
  NormQuantizeArgs args;
  args.type = DType::kF16;
  args.constant_weights = true;
  args.x = x, args.weight = weight, args.reorder_index = order, args.q = q, args.scale = scale, args.rows = m;
  args.format = FormatOf(k, group, outliers, format, clip);
  return LaunchNormQuantize(args, stream);
}

// `gated`: rows of x are gates, then ups, k of each, and go through silu(gate) * up.
__attribute__((visibility("default"))) int bench_quantize(int64_t m, int k, int group, int outliers, int format,
                                                          float clip, int gated, const void* x, const int32_t* order,
                                                          int8_t* q, float* scale, cudaStream_t stream) {
  QuantizeArgs args;
  args.type = DType::kF16;
  args.x = x, args.reorder_index = order, args.q = q, args.scale = scale, args.rows = m;
  args.x_stride = args.up_stride = gated ? 2 * k : k;
  if (gated) args.activation = Activation::kSilu, args.up = static_cast<const char*>(x) + 2 * k;
  args.format = FormatOf(k, group, outliers, format, clip);
  return LaunchQuantize(args, stream);
}

// Reads `reads` times the `bytes` (a multiple of 16) that it writes, started the way the kernels above are.
__attribute__((visibility("default"))) int bench_copy(const void* from, int reads, void* to, int64_t bytes,
                                                      cudaStream_t stream) {
  const int64_t chunks = bytes / 16;
  const int blocks = static_cast<int>((chunks + 511) / 512);
  return LaunchGrid(CopyKernel, {blocks, 1, 256}, stream, static_cast<const uint4*>(from), reads,
                    static_cast<uint4*>(to), chunks);
}
}
