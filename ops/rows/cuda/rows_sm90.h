// Sets of rows on Hopper (row_sets.cuh).
#pragma once
#include "ops/rows/cuda/norm_quantize.h"
#include "ops/rows/cuda/row_quantize.cuh"

namespace lowbit::cuda {

// Whether LaunchRowSets takes these rows on this device: 16 bits, RMSNorm without a bias or no norm (no weight), one of
// the numbers of channels that it has kernels for.
bool TakesRowSets(const NormQuantizeArgs& args);
// Asynchronous on `stream`.
cudaError_t LaunchRowSets(const NormQuantizeArgs& args, const RowTarget& target, cudaStream_t stream);

}  // namespace lowbit::cuda
