// The batch kernels for quantized activations.
#include "ops/quant-gemm/cuda/batch_launch.cuh"

namespace lowbit::cuda {

bool AcceptsBatch(const GemmArgs& args) {
  const bool integers =
      (args.weight_format == Format::kS4 || args.weight_format == Format::kS8) &&
      (args.a_format == Format::kS4 || args.a_format == Format::kS8 || args.a_format == Format::kS4E4M3);
  const bool segments = args.segments() == 1 ? args.outliers == 0 : args.segment() == kStepChannels;
  return integers && segments && stream::Takes(args, 1);
}

namespace {

template <class Math>
cudaError_t LaunchIntegers(const GemmArgs& args, int split, cudaStream_t stream) {
  return args.segments() == 1 ? batch::LaunchBy<Math, true>(args, split, stream)
                              : batch::LaunchBy<Math, false>(args, split, stream);
}

}  // namespace

cudaError_t LaunchBatchWith(const GemmArgs& args, int split, cudaStream_t stream) {
  if (args.weight_format == Format::kS8) return LaunchIntegers<batch::IntegerMath<false, false>>(args, split, stream);
  return args.a_format == Format::kS4E4M3 ? LaunchIntegers<batch::IntegerMath<true, true>>(args, split, stream)
                                          : LaunchIntegers<batch::IntegerMath<true, false>>(args, split, stream);
}

cudaError_t LaunchBatch(const GemmArgs& args, cudaStream_t stream) { return LaunchBatchWith(args, 0, stream); }

}  // namespace lowbit::cuda
