// The decode kernels for 4-bit codes on both sides, on chips with INT4 tensor cores.
#include "ops/quant-gemm/cuda/decode_launch.cuh"

namespace lowbit::cuda {

cudaError_t LaunchS4Sm80(const GemmArgs& args, cudaStream_t stream) {
  return LaunchDecodeIntegers<NibbleMath>(args, stream);
}

}  // namespace lowbit::cuda
