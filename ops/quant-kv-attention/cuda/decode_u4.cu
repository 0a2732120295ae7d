#include "ops/quant-kv-attention/cuda/decode_launch.cuh"

namespace lowbit::cuda {

cudaError_t LaunchKvDecodeU4(const KvArgs& args, cudaStream_t stream) { return LaunchDecodeBits<4>(args, stream); }

}  // namespace lowbit::cuda
