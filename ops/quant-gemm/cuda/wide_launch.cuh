// Host side of the wide kernels.
#pragma once
#include <algorithm>

#include "ops/common/cuda/launch_clusters.h"
#include "ops/common/cuda/tensor_map.h"
#include "ops/quant-gemm/cuda/wide_sm90.cuh"

namespace lowbit::cuda::wide {

// Of `pairs` of tiles on `at_once` clusters those of the last wave, where they leave half of the clusters without work.
inline int DividedPairs(int pairs, int at_once) {
  const int last = pairs % at_once;
  return kClusterBlocks * last <= at_once ? last : 0;
}

template <class Math, int kTokens>
cudaError_t Launch(const GemmArgs& args, int split, cudaStream_t stream) {
  using S = Shared<Math, kTokens>;
  Plan plan;
  plan.args = args;
  plan.split = split;
  const int channels = split > 1 ? kChannels : kClusterBlocks * kChannels;  // of a cluster
  plan.tiles.rows = static_cast<int>((args.m + kTokens - 1) / kTokens);
  plan.tiles.columns = (args.n + channels - 1) / channels;
  plan.steps = (args.k + Math::kStepChannels - 1) / Math::kStepChannels;
  plan.mask = Math::kMask, plan.flip = Math::kFlip;
  plan.group_steps = std::max(1, args.segment() / Math::kStepChannels);
  const uint64_t m = args.m, n = args.n, token_row = args.k * Math::kTokenElement;
  const uint64_t weight_row = static_cast<uint64_t>(args.k) * Math::kWeightRow / Math::kStepChannels;
  CUtensorMap tokens{}, weights{}, y{}, residual{};
  cudaError_t e = MakeTensorMap({args.a, m, token_row, token_row, kTokens / kClusterBlocks, kTokenRow}, &tokens);
  if (e == cudaSuccess) {
    e = MakeTensorMap({args.b, n, weight_row, weight_row, kChannels, Math::kWeightRow}, &weights);
  }
  if (args.type != DType::kF32) {
    const auto written = static_cast<uint32_t>(split > 1 ? S::kHalf : S::kPart);
    if (e == cudaSuccess) e = MakeTensorMap({args.y, m, 2 * n, 2 * n, written, 128}, &y);
    if (e == cudaSuccess && args.residual) e = MakeTensorMap({args.residual, m, 2 * n, 2 * n, written, 128}, &residual);
  }
  int sms = 0;
  if (e == cudaSuccess) e = Multiprocessors(&sms);
  auto* kernel = WideKernel<Math, kTokens>;
  if (e == cudaSuccess) e = cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, 100);
  if (e != cudaSuccess) return e;
  const int blocks = split > 1 ? split : kClusterBlocks, at_once = sms / blocks;
  static_assert(!kHasTail<kTokens> || S::kHalf == S::kPart);
  plan.tail = split == 1 && kHasTail<kTokens> ? DividedPairs(plan.tiles.count(), at_once) : 0;
  // Blocks that divide the input channels meet in the stages' memory, so each cluster has one such tile, its last one.
  const int clusters =
      split > 1 ? plan.tiles.count() : std::min(at_once, plan.tiles.count() + (kClusterBlocks - 1) * plan.tail);
  return LaunchClusters(kernel, {clusters, blocks, kThreads, sizeof(S)}, stream, plan, tokens, weights, y, residual);
}

}  // namespace lowbit::cuda::wide
