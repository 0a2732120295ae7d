// Host side of the batch kernels.
#pragma once
#include "ops/quant-gemm/cuda/batch_sm90.cuh"
#include "ops/quant-gemm/cuda/stream_launch.cuh"

namespace lowbit::cuda::batch {

template <class Math, int kTiles, bool kWhole>
cudaError_t LaunchTiles(const GemmArgs& args, int split, cudaStream_t stream) {
  int sms = 0;
  cudaError_t e = Multiprocessors(&sms);
  if (e != cudaSuccess) return e;
  BatchPlan plan{MakePlan(args, Math::kNibbles, 1, split, sms)};
  for (int i = 0; i <= plan.split; ++i) plan.first_unit[i] = static_cast<uint8_t>(FirstUnit(kTiles, plan.split, i));
  using Ring = Rings<Math, kTiles>;
  const int shared_bytes = Ring::kWeights * Ring::kWeightBytes + Ring::kTokens * Ring::kTokenBytes +
                           ReceivedBytes(kTiles, plan.split) + static_cast<int>(sizeof(typename Ring::Barriers)) +
                           plan.max_steps * (8 * kTiles * 4 + kStreamWarps * 32);
  StreamMaps maps;
  e = MakeMaps(args, Math::kNibbles, 1, kTiles, &maps);
  if (e != cudaSuccess) return e;
  return LaunchStreaming(BatchKernel<Math, kTiles, kWhole>, plan, maps, 8 * kTiles, Threads(Math::kHelpers),
                         shared_bytes, stream);
}

template <class Math, bool kWhole>
cudaError_t LaunchBy(const GemmArgs& args, int split, cudaStream_t stream) {
  return ByTiles(args.m, [&](auto tiles) { return LaunchTiles<Math, tiles(), kWhole>(args, split, stream); });
}

}  // namespace lowbit::cuda::batch
