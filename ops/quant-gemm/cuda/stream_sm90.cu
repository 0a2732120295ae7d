// The streaming kernels for quantized activations of at most 8 tokens.
#include "ops/quant-gemm/cuda/stream_launch.cuh"

namespace lowbit::cuda {

bool AcceptsStream(const GemmArgs& args) { return args.m <= 8 && AcceptsBatch(args); }

namespace {

template <class Math>
cudaError_t LaunchIntegers(const GemmArgs& args, int split, cudaStream_t stream) {
  return args.segments() == 1 ? stream::LaunchTiles<Math, 1, true>(args, split, stream)
                              : stream::LaunchTiles<Math, 1, false>(args, split, stream);
}

}  // namespace

cudaError_t LaunchStreamWith(const GemmArgs& args, int split, cudaStream_t stream) {
  if (args.weight_format == Format::kS8) return LaunchIntegers<CodeMath<false>>(args, split, stream);
  return args.a_format == Format::kS4E4M3 ? LaunchIntegers<SignMagnitudeMath>(args, split, stream)
                                          : LaunchIntegers<CodeMath<true>>(args, split, stream);
}

cudaError_t LaunchStream(const GemmArgs& args, cudaStream_t stream) { return LaunchStreamWith(args, 0, stream); }

}  // namespace lowbit::cuda
