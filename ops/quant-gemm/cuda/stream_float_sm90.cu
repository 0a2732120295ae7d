// The streaming kernels for 16-bit float activations (weight-only).
#include "ops/quant-gemm/cuda/stream_launch.cuh"

namespace lowbit::cuda {

bool AcceptsStreamFloat(const GemmArgs& args) {
  return args.a_format == Format::kNone && args.type != DType::kF32 && args.outliers == 0 && WholeSteps(args) &&
         (args.weight_format == Format::kS4 || args.weight_format == Format::kS8) && stream::Takes(args, 2);
}

cudaError_t LaunchStreamFloatWith(const GemmArgs& args, int split, cudaStream_t stream) {
  const bool nibbles = args.weight_format == Format::kS4;
  if (args.type == DType::kF16) {
    return nibbles ? stream::LaunchBy<FloatMath<HalfPair, true>>(args, split, stream)
                   : stream::LaunchBy<FloatMath<HalfPair, false>>(args, split, stream);
  }
  return nibbles ? stream::LaunchBy<FloatMath<BFloatPair, true>>(args, split, stream)
                 : stream::LaunchBy<FloatMath<BFloatPair, false>>(args, split, stream);
}

cudaError_t LaunchStreamFloat(const GemmArgs& args, cudaStream_t stream) {
  return LaunchStreamFloatWith(args, 0, stream);
}

}  // namespace lowbit::cuda
