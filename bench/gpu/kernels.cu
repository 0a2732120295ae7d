// QuantGemm's kernels behind a plain C interface, for bench/gpu/run.py, which has the peers (PyTorch) in the same
// process.
#include <cstring>

#include "ops/common/cuda/launch_clusters.h"
#include "ops/common/cuda/ptx.cuh"
#include "ops/quant-gemm/cuda/batch_sm90.h"
#include "ops/quant-gemm/cuda/launch.h"
#include "ops/quant-gemm/cuda/sign_magnitude.h"

using namespace lowbit::cuda;

namespace {

constexpr int kReads = 8;  // of 16 bytes a thread, under way at once: as fast as copies by the copy engine, or faster

// Reads n chunks, weights that nobody writes, before the kernels ahead are done, and does nothing with them.
__global__ __launch_bounds__(256) void ReadKernel(const uint4* from, int64_t n, uint32_t* never) {
  LetNextKernelStartIfAny();
  const int64_t first = blockIdx.x * int64_t{256 * kReads} + threadIdx.x;
  uint4 v[kReads];
#pragma unroll
  for (int i = 0; i < kReads; ++i) {
    v[i] = first + i * 256 < n ? __ldcs(from + first + i * 256) : make_uint4(0, 0, 0, 0);
  }
  uint32_t all = 0;
#pragma unroll
  for (int i = 0; i < kReads; ++i) all ^= v[i].x ^ v[i].y ^ v[i].z ^ v[i].w;
  WaitForPriorKernelsIfAny();
  if (never && all == 0x5eed5eed) *never = all;
}

}  // namespace

extern "C" {

// Reads `bytes` (a multiple of 16), started the way the products for few tokens are: what the chip needs for a
// product's weights and scales alone. `never` may be null at run time, but the compiler must not know it. Returns the
// CUDA error.
__attribute__((visibility("default"))) int bench_read(const void* from, int64_t bytes, uint32_t* never,
                                                      cudaStream_t stream) {
  const int64_t chunks = bytes / 16;
  const int blocks = static_cast<int>((chunks + 256 * kReads - 1) / (256 * kReads));
  return LaunchGrid(ReadKernel, {blocks, 1, 256}, stream, static_cast<const uint4*>(from), chunks, never);
}

// `powers`: scale_ratios powers_of_two. Formats are numbers of ops/common/cuda/types.h's Format. Float tensors are
// float16. Returns the CUDA error, -1 for no kernel. `split` > 0 forces the batch kernel, with that many blocks a
// cluster. `scratch`: m * k bytes, or null to multiply s4 codes as they are.
__attribute__((visibility("default"))) int bench_gemm(const char* kernel, int64_t m, int n, int k, int outliers,
                                                      int group, int powers, int a_group, int weight, int a_format,
                                                      const void* a, const float* a_scale, const void* b,
                                                      const uint16_t* b_scale, const int8_t* b_outlier,
                                                      const uint16_t* b_outlier_scale, void* y, int split,
                                                      void* scratch, cudaStream_t stream) {
  GemmArgs args;
  args.type = DType::kF16;
  args.weight_format = static_cast<Format>(weight);
  args.a_format = static_cast<Format>(a_format);
  args.m = m, args.n = n, args.k = k, args.outliers = outliers, args.group_size = group, args.a_group_size = a_group;
  args.powers_of_two = powers != 0;
  args.a = a, args.a_scale = a_scale, args.b = b, args.b_scale = b_scale;
  args.b_outlier = b_outlier, args.b_outlier_scale = b_outlier_scale, args.y = y;
  args.constant_weights = true;
  if (split > 0) {
    if (args.a_format == Format::kNone) return LaunchBatchFloatWith(args, split, stream);
    return args.integers() ? LaunchBatchWith(args, split, stream) : LaunchBatchMinifloatWith(args, split, stream);
  }
  if (scratch && !kernel && SignMagnitudeBytes(args, 90) > 0) {
    const cudaError_t converted = LaunchSignMagnitude(&args, scratch, stream);
    if (converted != cudaSuccess) return converted;
  }
  const GemmKernel* chosen = ChooseGemmKernel(args, 90, kernel);
  if (kernel && std::strcmp(chosen->name, kernel) != 0) return -1;
  return chosen->run(args, stream);
}

__attribute__((visibility("default"))) const char* bench_choice(int64_t m, int n, int k, int outliers, int group,
                                                                int a_group, int weight, int a_format) {
  GemmArgs args;
  args.type = DType::kF16;
  args.weight_format = static_cast<Format>(weight);
  args.a_format = static_cast<Format>(a_format);
  args.m = m, args.n = n, args.k = k, args.outliers = outliers, args.group_size = group, args.a_group_size = a_group;
  return ChooseGemmKernel(args, 90, nullptr)->name;
}
}
