// The decode kernels for 16-bit float activations (weight-only).
#include "ops/quant-gemm/cuda/decode_launch.cuh"

namespace lowbit::cuda {

bool AcceptsWeightOnly(const GemmArgs& args) {
  return args.a_format == Format::kNone && args.type != DType::kF32 && args.outliers == 0 && args.m <= 8 * 65535LL &&
         (args.weight_format == Format::kS4 || args.weight_format == Format::kS8) && DecodeTakes(args, 2);
}

cudaError_t LaunchWeightOnly(const GemmArgs& args, cudaStream_t stream) {
  const bool nibbles = args.weight_format == Format::kS4;
  if (args.type == DType::kF16) {
    return nibbles ? LaunchDecodeFloats<FloatMath<HalfPair, true>>(args, stream)
                   : LaunchDecodeFloats<FloatMath<HalfPair, false>>(args, stream);
  }
  return nibbles ? LaunchDecodeFloats<FloatMath<BFloatPair, true>>(args, stream)
                 : LaunchDecodeFloats<FloatMath<BFloatPair, false>>(args, stream);
}

}  // namespace lowbit::cuda
