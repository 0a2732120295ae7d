// The batch kernels for 16-bit float activations (weight-only).
#include "ops/quant-gemm/cuda/batch_float_sm90.cuh"
#include "ops/quant-gemm/cuda/batch_sm90.h"

namespace lowbit::cuda {
namespace {

// By the number of tokens; more than 32 take several rows of blocks.
template <class T>
cudaError_t LaunchBy(const GemmArgs& args, int split, cudaStream_t stream) {
  using namespace batch_float;
  if (args.m <= DigitMath<T>::kTokenScales) return LaunchMath<T, DigitMath<T>>(args, split, stream);
  if (args.m <= 8) return LaunchMath<T, HalfMath<T, 1>>(args, split, stream);
  if (args.m <= 16) return LaunchMath<T, HalfMath<T, 2>>(args, split, stream);
  return LaunchMath<T, HalfMath<T, 4>>(args, split, stream);
}

}  // namespace

bool AcceptsBatchFloat(const GemmArgs& args) {
  return args.a_format == Format::kNone && args.type != DType::kF32 && args.outliers == 0 && WholeSteps(args) &&
         args.weight_format == Format::kS4 && stream::Takes(args, 2);
}

cudaError_t LaunchBatchFloatWith(const GemmArgs& args, int split, cudaStream_t stream) {
  return args.type == DType::kF16 ? LaunchBy<__half>(args, split, stream)
                                  : LaunchBy<__nv_bfloat16>(args, split, stream);
}

cudaError_t LaunchBatchFloat(const GemmArgs& args, cudaStream_t stream) {
  return LaunchBatchFloatWith(args, 0, stream);
}

}  // namespace lowbit::cuda
