// 4-bit activations as any chip stores them, on a chip whose FP8 tensor cores are its fastest: the codes become the
// bytes of s4_e4m3 in scratch memory (ops/formats/README.md), which a rewrite for that chip would have stored.
#pragma once
#include "ops/quant-gemm/cuda/launch.h"

namespace lowbit::cuda {

// Bytes of scratch for the codes where multiplying them as s4_e4m3 is faster, all counted; otherwise 0.
size_t SignMagnitudeBytes(const GemmArgs& args, int arch);

// Replaces args->a, [M, K] codes of s4, by the same codes as s4_e4m3 in `scratch`; outlier channels stay as they are.
// Asynchronous on `stream`, neither allocates nor synchronizes.
cudaError_t LaunchSignMagnitude(GemmArgs* args, void* scratch, cudaStream_t stream);

}  // namespace lowbit::cuda
