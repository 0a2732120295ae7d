// How the decode kernels cut a product; open to the benchmark, which tries the alternatives.
#pragma once
#include "ops/quant-gemm/cuda/launch.h"

namespace lowbit::cuda {

// Eight warps a block: `row_warps` of them side by side (16 output channels each), the others along the input channels;
// `split` blocks of a cluster divide the input channels further.
struct DecodeConfig {
  int row_warps = 1;  // 1, 2, 4, 8
  int split = 1;      // 1, 2, 4, 8
};

DecodeConfig ChooseDecode(const GemmArgs& args);
cudaError_t LaunchDecodeWith(const GemmArgs& args, DecodeConfig config, cudaStream_t stream);

}  // namespace lowbit::cuda
