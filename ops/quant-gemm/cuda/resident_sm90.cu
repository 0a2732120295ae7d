// The resident kernels for quantized activations.
#include "ops/quant-gemm/cuda/resident_launch.cuh"

namespace lowbit::cuda {

bool AcceptsResident(const GemmArgs& args) {
  const bool integers =
      (args.weight_format == Format::kS4 || args.weight_format == Format::kS8) &&
      (args.a_format == Format::kS4 || args.a_format == Format::kS8 || args.a_format == Format::kS4E4M3);
  const bool segments = args.segments() == 1 ? args.outliers == 0 : args.segment() == kStepChannels;
  return integers && segments && resident::Takes(args, 1);
}
bool PrefersResident(const GemmArgs& args) { return AcceptsResident(args) && resident::Prefers(args, 1); }

namespace {

template <class Math>
cudaError_t LaunchIntegers(const GemmArgs& args, cudaStream_t stream) {
  return args.segments() == 1 ? resident::LaunchBy<Math, true>(args, stream)
                              : resident::LaunchBy<Math, false>(args, stream);
}

}  // namespace

cudaError_t LaunchResident(const GemmArgs& args, cudaStream_t stream) {
  if (args.weight_format == Format::kS8) return LaunchIntegers<CodeMath<false>>(args, stream);
  return args.a_format == Format::kS4E4M3 ? LaunchIntegers<SignMagnitudeMath>(args, stream)
                                          : LaunchIntegers<CodeMath<true>>(args, stream);
}

}  // namespace lowbit::cuda
