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
  const StreamPlan plan = MakePlan(args, Math::kNibbles, 1, split, sms);
  const int shared_bytes = WeightSlots(kTiles) * kSlotWeightBytes + TokenSlots(kTiles) * kTiles * 1024 +
                           ReceivedBytes(kTiles, plan.split) + static_cast<int>(sizeof(BatchBarriers<kTiles>)) +
                           plan.max_steps * (8 * kTiles * 4 + kStreamWarps * 32);
  StreamMaps maps;
  e = MakeMaps(args, Math::kNibbles, 1, kTiles, &maps);
  if (e != cudaSuccess) return e;
  return LaunchStreaming(BatchKernel<Math, kTiles, kWhole>, plan, maps, 8 * kTiles, kThreads, shared_bytes, stream);
}

// By the number of tokens; more than 64 take several rows of blocks.
template <class Math, bool kWhole>
cudaError_t LaunchBy(const GemmArgs& args, int split, cudaStream_t stream) {
  if (args.m <= 8) return LaunchTiles<Math, 1, kWhole>(args, split, stream);
  if (args.m <= 16) return LaunchTiles<Math, 2, kWhole>(args, split, stream);
  if (args.m <= 32) return LaunchTiles<Math, 4, kWhole>(args, split, stream);
  return LaunchTiles<Math, 8, kWhole>(args, split, stream);
}

}  // namespace lowbit::cuda::batch
