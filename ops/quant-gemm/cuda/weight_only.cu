// The decode kernels for 16-bit float activations (weight-only).
#include "ops/quant-gemm/cuda/decode_launch.cuh"

namespace lowbit::cuda {

bool AcceptsWeightOnly(const GemmArgs& args) {
  return args.a_format == Format::kNone && args.type != DType::kF32 && args.outliers == 0 && args.m <= 8 * 65535LL &&
         DecodeTakes(args, 2);
}

cudaError_t LaunchWeightOnly(const GemmArgs& args, cudaStream_t stream) {
  const DecodeConfig config = ChooseDecode(args);
  return args.type == DType::kF16 ? LaunchDecodeBy<FloatMath<HalfPair>>(args, config, stream)
                                  : LaunchDecodeBy<FloatMath<BFloatPair>>(args, config, stream);
}

}  // namespace lowbit::cuda
