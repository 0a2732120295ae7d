// QuantGemm on Hopper's FP8 tensor cores: 4-bit or e4m3 weights, activations in e4m3, e5m2 or 4 bits stored as e4m3.
//
// The product is computed transposed: a warpgroup holds 64 output channels and up to 256 tokens, because wgmma takes
// only its left operand from registers and the weights are what has to be unpacked. A block is two warpgroups:
//
//   warp 0          copy engine: tokens (half of them from the cluster's other block) and weights
//   warp 1          token scales, warps 2, 3: weight scales; everything of a step arrives at one barrier
//   warpgroups 1, 2 64 channels each: fp8_consumer.cuh; some tiles of 128 tokens have a third one
//
// A sum lives for 128 channels in the tensor cores' registers, which keep about 14 bits: exact for 4-bit codes on both
// sides (at most 8192 units), and for other formats the README's bound. Nibbles reach fragments in natural order: two
// bytes of shared memory are the four channels that a thread feeds to wgmma.
#include <algorithm>

#include "ops/common/cuda/launch_clusters.h"
#include "ops/common/cuda/tensor_map.h"
#include "ops/quant-gemm/cuda/fp8_consumer.cuh"
#include "ops/quant-gemm/cuda/fp8_shifts.cuh"
#include "ops/quant-gemm/cuda/launch.h"

namespace lowbit::cuda {
namespace fp8 {
namespace {

template <class K>
__global__ __launch_bounds__(K::Shared::kThreads, 1) void Fp8Kernel(const __grid_constant__ Plan plan,
                                                                    const __grid_constant__ CUtensorMap token_map,
                                                                    const __grid_constant__ CUtensorMap body_map,
                                                                    const __grid_constant__ CUtensorMap outlier_map,
                                                                    const __grid_constant__ CUtensorMap y_map,
                                                                    const __grid_constant__ CUtensorMap residual_map) {
  extern __shared__ __align__(1024) uint8_t raw[];
  using Shared = typename K::Shared;
  Shared& s = *reinterpret_cast<Shared*>(raw);
  const uint32_t rank = ClusterRank();
  LetNextKernelStartIfAny();
  if (threadIdx.x == 0) {
    for (int i = 0; i < Shared::kStages; ++i) {
      BarrierInit(&s.full[i], 1 + 32 + 64);  // the copy engine, token scales, weight scales
      BarrierInit(&s.empty[i], K::Reports::Arrivals(Shared::kMathWarps, plan.split == 1));
    }
    for (uint64_t& barrier : s.residual) BarrierInit(&barrier, 1);
    for (int i = 0; i < 8; ++i) s.tables[i / 4][i % 4] = plan.tables.word[i % 4];
    BarrierInitFence();
    PrefetchTensorMap(&token_map);
    PrefetchTensorMap(&body_map);
  }
  if constexpr (K::kFolds) CopyFoldedTables(plan, s);
  ClusterSync();
  if (threadIdx.x < kWarpgroup) {
    GiveRegisters<Shared::kWarpgroups == 2 ? 40 : 56>();
    const int warp = threadIdx.x / 32;
    if (warp == 0) {
      if (threadIdx.x == 0) ProduceTiles<K::kNibbles>(plan, s, &token_map, &body_map, &outlier_map, rank);
      __syncwarp();
    } else if (warp == 1) {
      WaitForPriorKernelsIfAny();
      if constexpr (K::kFolds) {
        ProduceTokenWindows(plan, s, rank);
      } else {
        ProduceTokenScales<K::kGroupTokens>(plan, s, rank);
      }
    } else {
      if (!plan.args.constant_weights) WaitForPriorKernelsIfAny();
      if constexpr (K::kFolds) {
        ProduceRowTables(plan, s, threadIdx.x - 64, rank);
      } else {
        ProduceWeightScales(plan, s, warp - 2, rank);
      }
    }
    if (plan.split > 1) ClusterSync();  // the one in Publish
  } else {
    TakeRegisters<Shared::kWarpgroups == 2 ? 232 : 152>();
    if constexpr (K::kFolds) {
      if (!plan.args.constant_weights) WaitForPriorKernelsIfAny();
      FindFirstBases(plan, s, threadIdx.x / 32 - kWarpgroup / 32, rank);
    }
    WaitForPriorKernelsIfAny();  // the residual, and y, which they may still read
    Consumer<K>(plan, s, rank).Run(&y_map, &residual_map);
  }
  ClusterSync();  // another block may still write into this one, read from it, or arrive at its barriers
}

struct Maps {
  CUtensorMap tokens{}, body{}, outliers{}, y{}, residual{};
};

template <class S>
cudaError_t MakeMaps(const Plan& plan, Maps* maps) {
  const GemmArgs& args = plan.args;
  const bool nibbles = args.nibbles();
  const uint64_t m = args.m, n = args.n, k = args.k, o = args.outliers;
  const uint64_t row = nibbles ? args.body() / 2 : args.body();
  constexpr uint32_t rows = S::kTokens, channels = S::kChannels;
  cudaError_t e = MakeTensorMap({args.a, m, k, k, plan.split == 1 ? rows / 2 : rows, kStep}, &maps->tokens);
  if (e == cudaSuccess) {
    e = MakeTensorMap({args.b, n, row, row, channels, static_cast<uint32_t>(nibbles ? kNibbleRow : kStep)},
                      &maps->body);
  }
  if (e == cudaSuccess && o > 0) e = MakeTensorMap({args.b_outlier, n, o, o, channels, kStep}, &maps->outliers);
  if (args.type == DType::kF32) return e;
  const uint32_t written = rows / plan.split;
  if (e == cudaSuccess) e = MakeTensorMap({args.y, m, 2 * n, 2 * n, written, 128}, &maps->y);
  if (e == cudaSuccess && args.residual) {
    e = MakeTensorMap({args.residual, m, 2 * n, 2 * n, written, 128}, &maps->residual);
  }
  return e;
}

template <class K>
cudaError_t Launch(const Plan& plan, cudaStream_t stream) {
  Maps maps;
  cudaError_t e = MakeMaps<typename K::Shared>(plan, &maps);
  int sms = 0;
  if (e == cudaSuccess) e = Multiprocessors(&sms);
  if (e != cudaSuccess) return e;
  const int blocks = plan.split > 1 ? plan.split : 2;
  // Blocks that divide the input channels meet once, so each cluster has one tile.
  const int clusters = plan.split > 1 ? plan.tiles.count() : std::min(sms / blocks, plan.tiles.count());
  return LaunchClusters(Fp8Kernel<K>, {clusters, blocks, K::Shared::kThreads, sizeof(typename K::Shared)}, stream, plan,
                        maps.tokens, maps.body, maps.outliers, maps.y, maps.residual);
}

}  // namespace
}  // namespace fp8

bool AcceptsFp8Sm90(const GemmArgs& args) {
  const Format a = args.a_format;
  if (a != Format::kS4E4M3 && a != Format::kE4M3 && a != Format::kE5M2) return false;
  if (!args.nibbles() && args.weight_format != Format::kE4M3) return false;
  if (args.group_size % fp8::kStep || args.a_group_size % fp8::kStep) return false;
  if (args.outliers && args.body() % fp8::kStep) return false;  // a step's outlier codes could be NaNs as e4m3
  if (args.a_group_size && a == Format::kE5M2) return false;
  const int row = args.nibbles() ? args.body() / 2 : args.body();
  return args.n % 8 == 0 && args.m <= (1LL << 30) && CopyEngineTakes(args.a, args.k) && CopyEngineTakes(args.b, row) &&
         (args.outliers == 0 || CopyEngineTakes(args.b_outlier, args.outliers)) &&
         CopyEngineTakes(args.y, 2 * args.n) && CopyEngineTakes(args.residual, 2 * args.n);
}

// Whether tiles of this shape take weights' group scales for parts of their bytes. Where the tokens have one scale each
// that would spare nothing; other shapes gain next to nothing.
static bool FoldsScales(const GemmArgs& args, Fp8Shape shape) {
  return (args.powers_of_two || args.b_scales() == 1) && args.a_group_size != 0 && shape.split == 1 &&
         shape.tokens == 256 && (args.weight_format == Format::kS4 || args.weight_format == Format::kE2M1);
}

cudaError_t LaunchFp8Sm90With(const GemmArgs& args, Fp8Shape shape, cudaStream_t stream) {
  using namespace fp8;
  const bool nibbles = args.nibbles(), groups = args.a_group_size != 0, e5m2 = args.a_format == Format::kE5M2;
  if (e5m2 || (groups && !nibbles)) shape.tokens = 128;  // rare: one tile is enough
  if (!groups || !nibbles || shape.tokens != 128 || shape.split > 1) shape.channels = 128;
  Plan plan;
  plan.args = args;
  plan.split = shape.split;
  const int channels = shape.split > 1 ? shape.channels : 2 * shape.channels;  // of a cluster
  plan.tiles.rows = static_cast<int>((args.m + shape.tokens - 1) / shape.tokens);
  plan.tiles.columns = (args.n + channels - 1) / channels;
  plan.body_steps = (args.body() + kStep - 1) / kStep;
  plan.outlier_steps = (args.outliers + kStep - 1) / kStep;
  plan.weight_factor = NibbleFactor(args.weight_format) * (args.a_format == Format::kS4E4M3 ? 512.0f : 1.0f);
  plan.tables = MakeNibbleTables(args.weight_format);
  const bool few = shape.tokens == 64, many = shape.tokens == 256;
  if (e5m2) {
    return nibbles ? Launch<Kind<true, true, false, 128>>(plan, stream)
                   : Launch<Kind<false, true, false, 128>>(plan, stream);
  }
  if (!nibbles) {
    return groups ? Launch<Kind<false, false, true, 128>>(plan, stream)
           : many ? Launch<Kind<false, false, false, 256>>(plan, stream)
           : few  ? Launch<Kind<false, false, false, 64>>(plan, stream)
                  : Launch<Kind<false, false, false, 128>>(plan, stream);
  }
  if (FoldsScales(args, shape)) {
    plan.weight_factor = FoldedFactor(args.weight_format) * (args.a_format == Format::kS4E4M3 ? 512.0f : 1.0f);
    plan.folded = FoldedTablesOf(args.weight_format);
    return Launch<Kind<true, false, true, 256, 2, true>>(plan, stream);
  }
  if (groups) {
    return many                    ? Launch<Kind<true, false, true, 256>>(plan, stream)
           : shape.channels == 192 ? Launch<Kind<true, false, true, 128, 3>>(plan, stream)
           : few                   ? Launch<Kind<true, false, true, 64>>(plan, stream)
                                   : Launch<Kind<true, false, true, 128>>(plan, stream);
  }
  return many  ? Launch<Kind<true, false, false, 256>>(plan, stream)
         : few ? Launch<Kind<true, false, false, 64>>(plan, stream)
               : Launch<Kind<true, false, false, 128>>(plan, stream);
}

// Hundredths of a microsecond on an H200, with Atom's formats: a step of a tile, and everything else of one.
struct Fp8Times {
  Fp8Shape shape;
  int step, rest;
};
constexpr Fp8Times kFp8Times[] = {{{64, 1}, 40, 500},    {{64, 2}, 40, 600},    {{64, 4}, 40, 600},
                                  {{128, 1}, 50, 750},   {{128, 2}, 50, 820},   {{128, 4}, 50, 820},
                                  {{256, 1}, 100, 1000}, {{256, 2}, 100, 1050}, {{128, 1, 192}, 85, 600}};
constexpr int kFoldedStep = 88;  // of {256, 1} with weights' group scales in their bytes

Fp8Shape ChooseFp8Shape(const GemmArgs& args) {
  constexpr int64_t kBlocks = 132, kBlocksOfFour = 120;  // at one time; clusters of four do not fill every part
  const int64_t steps = (args.body() + fp8::kStep - 1) / fp8::kStep + (args.outliers + fp8::kStep - 1) / fp8::kStep;
  Fp8Shape best{128, 1};
  int64_t least = INT64_MAX;
  for (const Fp8Times& t : kFp8Times) {
    if (t.shape.channels > 128 && !(args.nibbles() && args.a_group_size)) continue;
    const int64_t tiles =
        (args.m + t.shape.tokens - 1) / t.shape.tokens * ((args.n + t.shape.channels - 1) / t.shape.channels);
    const int64_t at_once = t.shape.split == 4 ? kBlocksOfFour : kBlocks;
    const int64_t waves = (tiles * t.shape.split + at_once - 1) / at_once;
    const int step = FoldsScales(args, t.shape) ? kFoldedStep : t.step;
    const int64_t time = waves * ((steps + t.shape.split - 1) / t.shape.split * step + t.rest);
    if (time < least) least = time, best = t.shape;
  }
  return best;
}

cudaError_t LaunchFp8Sm90(const GemmArgs& args, cudaStream_t stream) {
  return LaunchFp8Sm90With(args, ChooseFp8Shape(args), stream);
}

}  // namespace lowbit::cuda
