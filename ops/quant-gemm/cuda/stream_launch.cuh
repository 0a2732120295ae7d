// Host side of the streaming kernels.
#pragma once
#include <algorithm>

#include "ops/common/cuda/launch_clusters.h"
#include "ops/common/cuda/tensor_map.h"
#include "ops/quant-gemm/cuda/stream_sm90.cuh"

namespace lowbit::cuda::stream {

// The shapes the kernels take: what the copy engine can address, whole steps, one term for the outliers.
inline bool Takes(const GemmArgs& args, int activation_bytes) {
  return args.body() > 0 && args.body() % (args.nibbles() ? 128 : 64) == 0 && args.outliers % 64 == 0 &&
         args.outliers <= kStepChannels && args.k <= 65536 && args.m <= 65535 &&
         CopyEngineTakes(args.a, static_cast<uint64_t>(args.k) * activation_bytes) &&
         CopyEngineTakes(args.b, args.nibbles() ? args.body() / 2 : args.body()) &&
         reinterpret_cast<uintptr_t>(args.b_outlier) % 16 == 0;
}

// Blocks of a cluster, measured on an H200: as many as all run at once, two to a multiprocessor at most and clusters of
// three badly, while each still has some steps. A second wave of blocks costs more than uneven shares.
inline int ChooseSplit(int row_blocks, int steps, int activation_bytes, int sms) {
  const int least_steps = activation_bytes == 1 ? 7 : 5;
  for (const int split : {6, 4, 2}) {
    if (row_blocks * split <= 3 * sms / 2 && steps / split >= least_steps) return split;
  }
  return 1;
}

inline StreamPlan MakePlan(const GemmArgs& args, bool nibbles, int activation_bytes, int split, int sms) {
  StreamPlan p;
  CountSteps(args, &p);
  p.body_slots = nibbles ? 1 : 2;
  const int steps = p.body_steps + p.outlier_steps;
  p.split = split > 0 ? std::min(split, steps)
                      : ChooseSplit((args.n + kBlockRows - 1) / kBlockRows, steps, activation_bytes, sms);
  ShareSteps(p, p.split, p.begin);
  for (int i = 0; i < p.split; ++i) p.max_steps = std::max(p.max_steps, p.begin[i + 1] - p.begin[i]);
  return p;
}

// What the copy engine reads: weights and outliers in slots, activations in rows of 128 bytes.
struct StreamMaps {
  CUtensorMap weights{}, outliers{}, activations{};
};
inline cudaError_t MakeMaps(const GemmArgs& args, bool nibbles, int activation_bytes, int tiles, StreamMaps* maps) {
  const auto map = [](const void* base, int64_t rows, int64_t bytes, int box_rows, int box_columns, CUtensorMap* out) {
    ByteMatrix matrix;
    matrix.base = base;
    matrix.rows = rows;
    matrix.columns = matrix.stride = bytes;
    matrix.box_rows = box_rows;
    matrix.box_columns = box_columns;
    return MakeTensorMap(matrix, out);
  };
  cudaError_t e =
      map(args.b, args.n, nibbles ? args.body() / 2 : args.body(), kBlockRows, kSlotRowBytes, &maps->weights);
  if (e == cudaSuccess && args.outliers) {
    e = map(args.b_outlier, args.n, args.outliers, kBlockRows, kSlotRowBytes, &maps->outliers);
  }
  if (e == cudaSuccess) {
    e = map(args.a, args.m, static_cast<int64_t>(args.k) * activation_bytes, 8 * tiles, 128, &maps->activations);
  }
  return e;
}

// Launches a kernel of the streaming kind: clusters of plan.split blocks, one after the other along the rows.
template <class Kernel, class Plan>
cudaError_t LaunchStreaming(Kernel* kernel, const Plan& plan, const StreamMaps& maps, int tokens, int threads,
                            int shared_bytes, cudaStream_t stream) {
  // Room for a second block, of this kernel or the next.
  const cudaError_t e = cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, 100);
  if (e != cudaSuccess) return e;
  const int clusters = (plan.args.n + kBlockRows - 1) / kBlockRows;
  const auto rows = static_cast<int>((plan.args.m + tokens - 1) / tokens);
  return LaunchClusters(kernel, {clusters, plan.split, threads, static_cast<size_t>(shared_bytes), rows}, stream, plan,
                        maps.weights, maps.outliers, maps.activations);
}

template <class Math, int kTiles>
cudaError_t LaunchTiles(const GemmArgs& args, int split, cudaStream_t stream) {
  int sms = 0;
  cudaError_t e = Multiprocessors(&sms);
  if (e != cudaSuccess) return e;
  const StreamPlan plan = MakePlan(args, Math::kNibbles, 2, split, sms);
  const int shared_bytes =
      SlotCount(kTiles) * (SlotBytes(kTiles) + 16) + SumBytes(kTiles, plan.split) + plan.max_steps * kStreamWarps * 32;
  StreamMaps maps;
  e = MakeMaps(args, Math::kNibbles, 2, kTiles, &maps);
  if (e != cudaSuccess) return e;
  return LaunchStreaming(StreamKernel<Math, kTiles>, plan, maps, 8 * kTiles, kStreamThreads, shared_bytes, stream);
}

// launch(tiles), an integral constant: the fewest tiles that hold m tokens; more than 64 take several rows of blocks.
template <class Launch>
cudaError_t ByTiles(int64_t m, const Launch& launch) {
  if (m <= 8) return launch(std::integral_constant<int, 1>{});
  if (m <= 16) return launch(std::integral_constant<int, 2>{});
  if (m <= 32) return launch(std::integral_constant<int, 4>{});
  return launch(std::integral_constant<int, 8>{});
}

template <class Math>
cudaError_t LaunchBy(const GemmArgs& args, int split, cudaStream_t stream) {
  return ByTiles(args.m, [&](auto tiles) { return LaunchTiles<Math, tiles()>(args, split, stream); });
}

}  // namespace lowbit::cuda::stream
