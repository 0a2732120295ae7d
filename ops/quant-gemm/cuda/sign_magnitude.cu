// One pass, 16 bytes a thread. The product's kernel starts while this one ends (programmatic launch).
#include <algorithm>

#include "ops/common/cuda/launch_clusters.h"
#include "ops/common/cuda/ptx.cuh"
#include "ops/quant-gemm/cuda/sign_magnitude.h"

namespace lowbit::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kChunk = 16;

// Four codes -8 ... 7, a byte each, as sign and magnitude.
__device__ __forceinline__ uint32_t SignMagnitude(uint32_t codes) {
  const uint32_t sign = codes & 0x80808080u, ones = sign >> 7;
  // ~v + 1 where v is negative; no byte carries into the next, since a magnitude is at most 8.
  return ((codes ^ ones * 0xff) + ones) | sign;
}

__global__ __launch_bounds__(kThreads) void SignMagnitudeKernel(const uint4* from, int64_t chunks, int row_chunks,
                                                                int body, uint4* to) {
  LetNextKernelStartIfAny();
  WaitForPriorKernelsIfAny();
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x; i < chunks; i += step) {
    uint4 v = from[i];
    if (static_cast<int>(i % row_chunks) * kChunk < body) {
      v = make_uint4(SignMagnitude(v.x), SignMagnitude(v.y), SignMagnitude(v.z), SignMagnitude(v.w));
    }
    to[i] = v;
  }
}

}  // namespace

size_t SignMagnitudeBytes(const GemmArgs& args, int arch) {
  if (arch != 90 || args.a_format != Format::kS4 || args.weight_format != Format::kS4) return 0;
  if (args.m <= kReadBoundTokens) return 0;  // fewer: a pass over the activations costs more than the int8 products
  if (args.k % kChunk != 0 || args.outliers % kChunk != 0 || reinterpret_cast<uintptr_t>(args.a) % kChunk != 0) {
    return 0;
  }
  GemmArgs converted = args;
  converted.a_format = Format::kS4E4M3;  // scratch is aligned
  return AcceptsFp8Sm90(converted) ? static_cast<size_t>(args.m) * args.k : 0;
}

cudaError_t LaunchSignMagnitude(GemmArgs* args, void* scratch, cudaStream_t stream) {
  const int row_chunks = args->k / kChunk;
  const int64_t chunks = args->m * row_chunks;
  constexpr int64_t kMostBlocks = 132 * 8;
  const auto blocks = static_cast<int>(std::min((chunks + kThreads - 1) / kThreads, kMostBlocks));
  const cudaError_t launched =
      LaunchGrid(SignMagnitudeKernel, {blocks, 1, kThreads}, stream, static_cast<const uint4*>(args->a), chunks,
                 row_chunks, args->body(), static_cast<uint4*>(scratch));
  args->a = scratch;
  args->a_format = Format::kS4E4M3;
  return launched;
}

}  // namespace lowbit::cuda
