// The decode kernels for quantized activations.
#include "ops/quant-gemm/cuda/decode_launch.cuh"

namespace lowbit::cuda {
namespace {

constexpr int64_t kMaxTokens = 8 * 65535LL;  // the grid's rows, with the smallest tile

}  // namespace

bool AcceptsDecode(const GemmArgs& args) {
  return args.a_format != Format::kNone && args.m <= kMaxTokens && DecodeTakes(args, 1);
}

bool AcceptsS4Sm80(const GemmArgs& args) {
  return AcceptsDecode(args) && args.a_format == Format::kS4 && args.weight_format == Format::kS4;
}

DecodeConfig ChooseDecode(const GemmArgs& args) {
  // Measured on an H200. Many output channels fill the device by themselves: then more of them in a block, which share
  // the staged activations; few need their input channels divided.
  const bool wide = args.n >= 8192;
  if (args.m <= 8) return wide ? DecodeConfig{4, 1} : DecodeConfig{1, 1};
  if (args.m <= 16) return wide ? DecodeConfig{8, 2} : DecodeConfig{2, 2};
  return wide ? DecodeConfig{8, 4} : DecodeConfig{4, 2};
}

cudaError_t LaunchDecodeWith(const GemmArgs& args, DecodeConfig config, cudaStream_t stream) {
  return LaunchDecodeBy<CodeMath>(args, config, stream);
}

cudaError_t LaunchDecode(const GemmArgs& args, cudaStream_t stream) {
  return LaunchDecodeWith(args, ChooseDecode(args), stream);
}

cudaError_t LaunchS4Sm80(const GemmArgs& args, cudaStream_t stream) {
  return LaunchDecodeBy<NibbleMath>(args, ChooseDecode(args), stream);
}

}  // namespace lowbit::cuda
