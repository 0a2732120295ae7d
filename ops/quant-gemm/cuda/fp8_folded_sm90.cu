// QuantGemm on Hopper's FP8 tensor cores for FP4 weights whose scales have ratios of powers of two (ZeroQuant-FP's M1
// and M2).
#include <algorithm>

#include "ops/common/cuda/launch_clusters.h"
#include "ops/common/cuda/tensor_map.h"
#include "ops/quant-gemm/cuda/fp8_folded_consumer.cuh"
#include "ops/quant-gemm/cuda/launch.h"

namespace lowbit::cuda {
namespace fp8::folded {
namespace {

struct Maps {
  CUtensorMap tokens{}, body{}, y{}, residual{};
};

template <bool kE5M2>
__global__ __launch_bounds__(kThreads, 1) void Fp8FoldedKernel(const __grid_constant__ Plan plan,
                                                               const __grid_constant__ Maps maps) {
  extern __shared__ __align__(1024) uint8_t raw[];
  Shared& s = *reinterpret_cast<Shared*>(raw);
  const uint32_t rank = ClusterRank();
  CopyFoldedTables(plan, s);
  if (threadIdx.x == 0) {
    for (int i = 0; i < Shared::kStages; ++i) {
      BarrierInit(&s.full[i], 1);
      BarrierInit(&s.empty[i], StageReports::Arrivals(kMathWarps, true));
    }
    for (int i = 0; i < Shared::kTables; ++i) {
      BarrierInit(&s.tables_full[i], 2 * 32);
      BarrierInit(&s.tables_empty[i], kMathWarps * 32);
    }
    for (int i = 0; i < 4; ++i) BarrierInit(&s.residual[i / 2][i % 2], 1);
    BarrierInitFence();
    PrefetchTensorMap(&maps.tokens);
    PrefetchTensorMap(&maps.body);
  }
  ClusterSync();
  LetNextKernelStartIfAny();
  // Constant weights and their scales are read before the kernels ahead in the stream are done.
  if (!plan.args.constant_weights) WaitForPriorKernelsIfAny();
  if (threadIdx.x < kWarpgroup) {
    GiveRegisters<56>();
    const int warp = threadIdx.x / 32;
    WaitForPriorKernelsIfAny();
    if (threadIdx.x == 0) ProduceTiles<true>(plan, s, &maps.tokens, &maps.body, nullptr, rank);
    __syncwarp();
    if (warp >= 2) ProduceTables(plan, s, threadIdx.x - 64, rank);
  } else {
    TakeRegisters<224>();
    Consumer<kE5M2>(plan, s, rank).Run(&maps.y, &maps.residual);
  }
  ClusterSync();  // the other block may still write into this one or arrive at its barriers
}

cudaError_t MakeMaps(const GemmArgs& args, Maps* maps) {
  const uint64_t m = args.m, n = args.n, k = args.k, row = k / 2;
  constexpr uint32_t kRows = Shared::kTokens / 2, kWritten = Shared::kResultTokens;
  cudaError_t e = MakeTensorMap({args.a, m, k, k, kRows, kStep}, &maps->tokens);
  if (e == cudaSuccess) e = MakeTensorMap({args.b, n, row, row, kChannels, kNibbleRow}, &maps->body);
  if (args.type == DType::kF32) return e;
  if (e == cudaSuccess) e = MakeTensorMap({args.y, m, 2 * n, 2 * n, kWritten, 128}, &maps->y);
  if (e == cudaSuccess && args.residual)
    e = MakeTensorMap({args.residual, m, 2 * n, 2 * n, kWritten, 128}, &maps->residual);
  return e;
}

template <bool kE5M2>
cudaError_t Launch(const Plan& plan, cudaStream_t stream) {
  Maps maps;
  cudaError_t e = MakeMaps(plan.args, &maps);
  int sms = 0;
  if (e == cudaSuccess) e = Multiprocessors(&sms);
  if (e != cudaSuccess) return e;
  const int clusters = std::min(sms / 2, plan.tiles.count());
  return LaunchClusters(Fp8FoldedKernel<kE5M2>, {clusters, 2, kThreads, sizeof(Shared)}, stream, plan, maps);
}

}  // namespace
}  // namespace fp8::folded

bool AcceptsFp8FoldedSm90(const GemmArgs& args) {
  const bool folds = args.powers_of_two || args.b_scales() == 1;
  return folds && args.weight_format == Format::kE2M1 && args.outliers == 0 && args.a_group_size == 0 &&
         (args.a_format == Format::kE4M3 || args.a_format == Format::kE5M2) && AcceptsFp8Sm90(args);
}

cudaError_t LaunchFp8FoldedSm90(const GemmArgs& args, cudaStream_t stream) {
  using namespace fp8::folded;
  using fp8::kStep;
  fp8::Plan plan;
  plan.args = args;
  plan.tiles.rows = static_cast<int>((args.m + Shared::kTokens - 1) / Shared::kTokens);
  plan.tiles.columns = (args.n + 2 * kChannels - 1) / (2 * kChannels);
  plan.body_steps = (args.k + kStep - 1) / kStep;
  plan.weight_factor = FoldedFactor(args.weight_format);
  plan.folded = FoldedTablesOf(args.weight_format);
  return args.a_format == Format::kE5M2 ? Launch<true>(plan, stream) : Launch<false>(plan, stream);
}

}  // namespace lowbit::cuda
