// The batch kernels for minifloat weights and 8-bit float activations.
#include "ops/quant-gemm/cuda/batch_launch.cuh"

namespace lowbit::cuda {
namespace {

template <bool kE5M2>
cudaError_t Launch(const GemmArgs& args, int split, cudaStream_t stream) {
  switch (args.weight_format) {
    case Format::kE2M1:
      return batch::LaunchBy<batch::FloatCodeMath<Format::kE2M1, kE5M2>, false>(args, split, stream);
    case Format::kE3M0:
      return batch::LaunchBy<batch::FloatCodeMath<Format::kE3M0, kE5M2>, false>(args, split, stream);
    default:
      return batch::LaunchBy<batch::FloatCodeMath<Format::kE4M3, kE5M2>, false>(args, split, stream);
  }
}

}  // namespace

bool AcceptsBatchMinifloat(const GemmArgs& args) {
  const bool formats = (args.weight_format == Format::kE2M1 || args.weight_format == Format::kE3M0 ||
                        args.weight_format == Format::kE4M3) &&
                       (args.a_format == Format::kE4M3 || args.a_format == Format::kE5M2);
  return formats && WholeSteps(args) && stream::Takes(args, 1);
}

cudaError_t LaunchBatchMinifloatWith(const GemmArgs& args, int split, cudaStream_t stream) {
  return args.a_format == Format::kE5M2 ? Launch<true>(args, split, stream) : Launch<false>(args, split, stream);
}

cudaError_t LaunchBatchMinifloat(const GemmArgs& args, cudaStream_t stream) {
  return LaunchBatchMinifloatWith(args, 0, stream);
}

}  // namespace lowbit::cuda
