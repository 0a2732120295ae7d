// The streaming kernels, for 8-bit weights and 16-bit float activations.
#include "ops/quant-gemm/cuda/stream_launch.cuh"

namespace lowbit::cuda {

bool AcceptsStreamFloat(const GemmArgs& args) {
  return args.a_format == Format::kNone && args.type != DType::kF32 && args.outliers == 0 && WholeSteps(args) &&
         args.weight_format == Format::kS8 && stream::Takes(args, 2);
}

cudaError_t LaunchStreamFloat(const GemmArgs& args, cudaStream_t stream) {
  return args.type == DType::kF16 ? stream::LaunchBy<FloatMath<HalfPair, false>>(args, 0, stream)
                                  : stream::LaunchBy<FloatMath<BFloatPair, false>>(args, 0, stream);
}

}  // namespace lowbit::cuda
