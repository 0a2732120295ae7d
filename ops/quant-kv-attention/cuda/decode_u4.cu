#include "ops/quant-kv-attention/cuda/decode_launch.cuh"

namespace lowbit::cuda {

cudaError_t LaunchKvDecodeU4(const KvArgs& args, cudaStream_t stream) { return LaunchDecodeBits<4>(args, {stream}); }

KvScratch KvDecodeU4Scratch(const KvArgs& args) {
  KvScratch scratch;
  return LaunchDecodeBits<4>(args, {nullptr, &scratch}) == cudaSuccess ? scratch : KvScratch{};
}

}  // namespace lowbit::cuda
