// The resident kernels for 8-bit weights and 16-bit float activations.
#include "ops/quant-gemm/cuda/resident_launch.cuh"

namespace lowbit::cuda {

bool AcceptsResidentFloat(const GemmArgs& args) {
  return args.a_format == Format::kNone && args.type != DType::kF32 && args.outliers == 0 && WholeSteps(args) &&
         args.weight_format == Format::kS8 && resident::Takes(args, 2);
}
bool PrefersResidentFloat(const GemmArgs& args) { return AcceptsResidentFloat(args) && resident::Prefers(args, 2); }

cudaError_t LaunchResidentFloat(const GemmArgs& args, cudaStream_t stream) {
  return args.type == DType::kF16 ? resident::LaunchBy<FloatMath<HalfPair, false>, false>(args, stream)
                                  : resident::LaunchBy<FloatMath<BFloatPair, false>, false>(args, stream);
}

}  // namespace lowbit::cuda
