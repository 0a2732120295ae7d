// The streaming kernels for quantized activations.
#include "ops/quant-gemm/cuda/stream_launch.cuh"

namespace lowbit::cuda {

bool AcceptsStream(const GemmArgs& args) {
  const bool integers =
      (args.weight_format == Format::kS4 || args.weight_format == Format::kS8) &&
      (args.a_format == Format::kS4 || args.a_format == Format::kS8 || args.a_format == Format::kS4E4M3);
  const bool segments = args.segments() == 1 ? args.outliers == 0 : args.segment() == kStepChannels;
  return integers && segments && stream::Takes(args, 1);
}

namespace {

template <class Math>
cudaError_t LaunchIntegers(const GemmArgs& args, int split, cudaStream_t stream) {
  return args.segments() == 1 ? stream::LaunchBy<Math, true>(args, split, stream)
                              : stream::LaunchBy<Math, false>(args, split, stream);
}

}  // namespace

cudaError_t LaunchStreamWith(const GemmArgs& args, int split, cudaStream_t stream) {
  if (args.weight_format == Format::kS8) return LaunchIntegers<CodeMath<false>>(args, split, stream);
  return args.a_format == Format::kS4E4M3 ? LaunchIntegers<SignMagnitudeMath>(args, split, stream)
                                          : LaunchIntegers<CodeMath<true>>(args, split, stream);
}

cudaError_t LaunchStream(const GemmArgs& args, cudaStream_t stream) { return LaunchStreamWith(args, 0, stream); }

}  // namespace lowbit::cuda
