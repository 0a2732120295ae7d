#include "ops/quant-kv-attention/cuda/decode_launch.cuh"

namespace lowbit::cuda {

cudaError_t LaunchKvDecodeU8(const KvArgs& args, cudaStream_t stream) { return LaunchDecodeBits<8>(args, {stream}); }

KvScratch KvDecodeU8Scratch(const KvArgs& args) {
  KvScratch scratch;
  return LaunchDecodeBits<8>(args, {nullptr, &scratch}) == cudaSuccess ? scratch : KvScratch{};
}

}  // namespace lowbit::cuda
