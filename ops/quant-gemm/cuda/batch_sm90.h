// The batch kernels' shapes; open to the benchmark, which tries the alternatives.
#pragma once
#include "ops/quant-gemm/cuda/launch.h"

namespace lowbit::cuda {

// `split`: blocks of a cluster that share out the input channels, 1 ... 8; 0: the best known.
cudaError_t LaunchBatchWith(const GemmArgs& args, int split, cudaStream_t stream);
cudaError_t LaunchBatchFloatWith(const GemmArgs& args, int split, cudaStream_t stream);
cudaError_t LaunchBatchMinifloatWith(const GemmArgs& args, int split, cudaStream_t stream);

}  // namespace lowbit::cuda
