// The resident kernels for 16-bit float activations (weight-only).
#include "ops/quant-gemm/cuda/resident_launch.cuh"

namespace lowbit::cuda {

bool AcceptsResidentFloat(const GemmArgs& args) {
  return args.a_format == Format::kNone && args.type != DType::kF32 && args.outliers == 0 && WholeSteps(args) &&
         (args.weight_format == Format::kS4 || args.weight_format == Format::kS8) && resident::Takes(args, 2);
}
bool PrefersResidentFloat(const GemmArgs& args) { return AcceptsResidentFloat(args) && resident::Prefers(args, 2); }

cudaError_t LaunchResidentFloat(const GemmArgs& args, cudaStream_t stream) {
  const bool nibbles = args.weight_format == Format::kS4;
  if (args.type == DType::kF16) {
    return nibbles ? resident::LaunchBy<FloatMath<HalfPair, true>, false>(args, stream)
                   : resident::LaunchBy<FloatMath<HalfPair, false>, false>(args, stream);
  }
  return nibbles ? resident::LaunchBy<FloatMath<BFloatPair, true>, false>(args, stream)
                 : resident::LaunchBy<FloatMath<BFloatPair, false>, false>(args, stream);
}

}  // namespace lowbit::cuda
