// Host side of the resident kernels.
#pragma once
#include <algorithm>

#include "ops/common/cuda/launch_clusters.h"
#include "ops/common/cuda/tensor_map.h"
#include "ops/quant-gemm/cuda/resident_sm90.cuh"

namespace lowbit::cuda::resident {

constexpr int kMostTokens = 8;            // one tile of mma.sync
constexpr int kSharedBytes = 227 * 1024;  // of a multiprocessor
constexpr int kMultiprocessors = 132;

inline ResidentPlan MakePlan(const GemmArgs& args, int activation_bytes) {
  ResidentPlan p;
  CountSteps(args, &p);
  p.token_pitch = args.k * activation_bytes + 16;
  const auto aligned = [](const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; };
  p.bulk_weight_scales = args.n % 8 == 0 && aligned(args.b_scale) && aligned(args.b_outlier_scale);
  p.bulk_token_scales = args.m * p.a_scales % 4 == 0 && aligned(args.a_scale);
  ShareSteps(p, kWarps, p.begin);
  // Measured on an H200: with more tokens, and in the other kernels, all at once is faster.
  if (args.m == 1 && args.weight_format == Format::kS4 && activation_bytes == 1) p.asking = kWarps / 2;
  return p;
}

inline int SharedBytes(const ResidentPlan& plan, int row_tiles) {
  return LayoutOf(plan, 16 * row_tiles, plan.args.nibbles() ? 1 : 2).bytes;
}

// The shapes the kernels take: what the copy engine can address, whole steps, 16 rows that fit a multiprocessor.
inline bool Takes(const GemmArgs& args, int activation_bytes) {
  return args.m <= kMostTokens && args.body() > 0 && args.body() % kStepChannels == 0 && args.outliers % 64 == 0 &&
         args.outliers <= kStepChannels && args.k <= 65536 &&
         CopyEngineTakes(args.a, static_cast<uint64_t>(args.k) * activation_bytes) &&
         CopyEngineTakes(args.b, args.nibbles() ? args.body() / 2 : args.body()) &&
         reinterpret_cast<uintptr_t>(args.b_outlier) % 16 == 0 &&
         SharedBytes(MakePlan(args, activation_bytes), 1) <= kSharedBytes;
}

// Tiles of 16 rows of a block, measured on an H200: two where they fit, but of bytes only where no multiprocessor gets
// more than one block.
inline int ChooseRowTiles(const ResidentPlan& plan) {
  const bool wanted = plan.args.nibbles() || plan.args.n <= 32 * kMultiprocessors;
  return wanted && SharedBytes(plan, 2) <= kSharedBytes ? 2 : 1;
}

// Whether these kernels are the fastest ones, measured likewise: for several tokens where there is a block a
// multiprocessor and tokens are fewer bytes than weights; for one token where blocks come in at most two waves.
inline bool Prefers(const GemmArgs& args, int activation_bytes) {
  if (!Takes(args, activation_bytes)) return false;
  const ResidentPlan plan = MakePlan(args, activation_bytes);
  const int tiles = ChooseRowTiles(plan), blocks = (args.n + 16 * tiles - 1) / (16 * tiles);
  const int weight_bytes = plan.body_steps * kBoxBytes * (args.nibbles() ? 1 : 2);
  if (tiles == 2 && blocks <= kMultiprocessors) return args.m * plan.token_pitch <= 20 * weight_bytes;
  const int at_once = std::min(3, kSharedBytes / (SharedBytes(plan, tiles) + 1024));
  return args.m == 1 && blocks <= 2 * kMultiprocessors * at_once;
}

template <class Math, bool kWhole, int kRowTiles>
cudaError_t LaunchShape(const GemmArgs& args, cudaStream_t stream) {
  auto* kernel = ResidentKernel<Math, kRowTiles, kWhole>;
  const ResidentPlan plan = MakePlan(args, Math::kActivationBytes);
  const int shared_bytes = SharedBytes(plan, kRowTiles), blocks = (args.n + 16 * kRowTiles - 1) / (16 * kRowTiles);
  // Room for more blocks, of this kernel or the next.
  cudaError_t e = cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, 100);
  CUtensorMap weights{}, outliers{};
  const auto map = [&args](const void* base, int64_t bytes, CUtensorMap* out) {
    ByteMatrix matrix;
    matrix.base = base;
    matrix.rows = args.n;
    matrix.columns = matrix.stride = bytes;
    matrix.box_rows = 16 * kRowTiles;
    matrix.box_columns = kBoxBytes;
    return MakeTensorMap(matrix, out);
  };
  if (e == cudaSuccess) e = map(args.b, Math::kNibbles ? args.body() / 2 : args.body(), &weights);
  if (e == cudaSuccess && args.outliers) e = map(args.b_outlier, args.outliers, &outliers);
  if (e != cudaSuccess) return e;
  return LaunchClusters(kernel, {blocks, 1, kThreads, static_cast<size_t>(shared_bytes)}, stream, plan, weights,
                        outliers);
}

template <class Math, bool kWhole>
cudaError_t LaunchBy(const GemmArgs& args, cudaStream_t stream) {
  return ChooseRowTiles(MakePlan(args, Math::kActivationBytes)) == 2 ? LaunchShape<Math, kWhole, 2>(args, stream)
                                                                     : LaunchShape<Math, kWhole, 1>(args, stream);
}

}  // namespace lowbit::cuda::resident
