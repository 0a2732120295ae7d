// QuantGemm's kernels behind a plain C interface, for bench/gpu/run.py, which has the peers (PyTorch) in the same
// process.
#include <cstring>

#include "ops/quant-gemm/cuda/batch_sm90.h"
#include "ops/quant-gemm/cuda/launch.h"
#include "ops/quant-gemm/cuda/sign_magnitude.h"

using namespace lowbit::cuda;

extern "C" {

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
