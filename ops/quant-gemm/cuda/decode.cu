// The decode kernels for quantized activations.
#include "ops/quant-gemm/cuda/decode_launch.cuh"

namespace lowbit::cuda {
namespace {

constexpr int64_t kMaxTokens = 8 * 65535LL;  // the grid's rows, with the smallest tile

bool Integers(Format f) { return f == Format::kS4 || f == Format::kS8; }

}  // namespace

bool AcceptsDecode(const GemmArgs& args) {
  return Integers(args.weight_format) && (Integers(args.a_format) || args.a_format == Format::kS4E4M3) &&
         args.m <= kMaxTokens && DecodeTakes(args, 1);
}

bool AcceptsS4Sm80(const GemmArgs& args) {
  return AcceptsDecode(args) && args.a_format == Format::kS4 && args.weight_format == Format::kS4;
}

cudaError_t LaunchDecode(const GemmArgs& args, cudaStream_t stream) {
  return args.weight_format == Format::kS4 ? LaunchDecodeIntegers<CodeMath<true>>(args, stream)
                                           : LaunchDecodeIntegers<CodeMath<false>>(args, stream);
}

}  // namespace lowbit::cuda
