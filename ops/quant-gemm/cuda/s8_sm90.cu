// QuantGemm with 8-bit weights per channel and 8-bit activations per token on Hopper's int8 tensor cores: a plain
// integer product, scaled once at the end. A block is 128 tokens x 256 channels; the cluster's two blocks lie along the
// tokens and share the channels' tile, of which each loads one half for both.
//
//   warp 0          copy engine, four stages of 128 channels ahead
//   warpgroups 1, 2 64 tokens x 256 channels each, one wgmma group always in flight
#include <algorithm>

#include "ops/common/cuda/tensor_map.h"
#include "ops/common/cuda/wgmma.cuh"
#include "ops/quant-gemm/cuda/launch.h"
#include "ops/quant-gemm/cuda/sm90_tiles.cuh"

namespace lowbit::cuda {
namespace {

constexpr int kTokens = 128, kChannels = 256;  // of a block
constexpr int kStep = 128;                     // input channels of a stage
constexpr int kStages = 4;
constexpr int kThreads = 3 * kWarpgroup;
constexpr int kTokenBytes = kTokens * kStep, kWeightBytes = kChannels * kStep;
constexpr int kMathWarps = 8;

struct alignas(1024) Shared {
  uint8_t tokens[kStages][kTokenBytes];
  uint8_t weights[kStages][kWeightBytes];
  uint64_t full[kStages], empty[kStages];
};

struct S8Plan {
  GemmArgs args;
  TileOrder tiles;  // rows: pairs of token tiles; columns: channel tiles
  int steps = 0;
};

__device__ __forceinline__ void Produce(const S8Plan& plan, Shared& s, const CUtensorMap* token_map,
                                        const CUtensorMap* weight_map, uint32_t rank) {
  RingPosition<kStages> ring;
  constexpr int kHalf = kChannels / kClusterBlocks;
  for (int tile = blockIdx.x / kClusterBlocks; tile < plan.tiles.count(); tile += gridDim.x / kClusterBlocks) {
    int pair, column;
    plan.tiles.Locate(tile, &pair, &column);
    const int token_row = (pair * kClusterBlocks + static_cast<int>(rank)) * kTokens;
    const int channel_row = column * kChannels + static_cast<int>(rank) * kHalf;
    for (int step = 0; step < plan.steps; ++step, ring.Advance()) {
      BarrierWait(&s.empty[ring.stage], ring.parity ^ 1);
      BarrierArriveExpect(&s.full[ring.stage], kTokenBytes + kWeightBytes);
      TensorLoad(token_map, &s.full[ring.stage], s.tokens[ring.stage], step * kStep, token_row);
      TensorLoadMulticast(weight_map, &s.full[ring.stage],
                          s.weights[ring.stage] + rank * (kWeightBytes / kClusterBlocks), step * kStep, channel_row,
                          (1 << kClusterBlocks) - 1);
    }
  }
}

// Element 4j + i is token r + 8 * (i / 2), channel 8j + 2q + i % 2.
__device__ __forceinline__ void WriteTile(const GemmArgs& args, int64_t m0, int n0, const int (&sum)[128]) {
  const int lane = threadIdx.x % 32, q = lane % 4;
  const int64_t m[2] = {m0 + lane / 4, m0 + lane / 4 + 8};
  float a_scale[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) a_scale[h] = m[h] < args.m ? __ldg(args.a_scale + m[h]) : 0.0f;
#pragma unroll
  for (int j = 0; j < 32; ++j) {
    const int n = n0 + 8 * j + 2 * q;
    if (n0 + 8 * j >= args.n) break;  // N is a multiple of 8
    const float2 b_scale = LoadPair(DType::kF16, args.b_scale, n);
    const float2 bias = args.bias ? LoadPair(args.type, args.bias, n) : make_float2(0.0f, 0.0f);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      if (m[h] >= args.m) continue;
      const int64_t at = m[h] * args.n + n;
      float x = static_cast<float>(sum[4 * j + 2 * h]) * a_scale[h] * b_scale.x + bias.x;
      float y = static_cast<float>(sum[4 * j + 2 * h + 1]) * a_scale[h] * b_scale.y + bias.y;
      if (args.residual) {
        const float2 v = LoadPair(args.type, args.residual, at);
        x += v.x, y += v.y;
      }
      if (args.type == DType::kF32) {
        *reinterpret_cast<float2*>(static_cast<float*>(args.y) + at) = make_float2(x, y);
      } else {
        *reinterpret_cast<uint32_t*>(static_cast<uint16_t*>(args.y) + at) = PackPair(args.type, x, y);
      }
    }
  }
}

__device__ __forceinline__ void Consume(const S8Plan& plan, Shared& s, uint32_t rank) {
  const int warpgroup = threadIdx.x / kWarpgroup - 1;
  const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  RingPosition<kStages> ring;
  int sum[128];
  const auto release = [&](int stage) {
    __syncwarp();
    if (lane < kClusterBlocks) BarrierArriveRemote(&s.empty[stage], lane);
  };
  for (int tile = blockIdx.x / kClusterBlocks; tile < plan.tiles.count(); tile += gridDim.x / kClusterBlocks) {
    int pair, column;
    plan.tiles.Locate(tile, &pair, &column);
    int previous = -1;
    for (int step = 0; step < plan.steps; ++step, ring.Advance()) {
      BarrierWait(&s.full[ring.stage], ring.parity);
      const uint64_t a = WgmmaDescriptor(s.tokens[ring.stage] + warpgroup * 64 * kStep);
      const uint64_t b = WgmmaDescriptor(s.weights[ring.stage]);
      WgmmaFence();
#pragma unroll
      for (int i = 0; i < kStep / 32; ++i) WgmmaS8(sum, a + 2 * i, b + 2 * i, step > 0 || i > 0);
      WgmmaCommit();
      WgmmaWait<1>();
      if (previous >= 0) release(previous);
      previous = ring.stage;
    }
    WgmmaWait<0>();
    release(previous);
    const int64_t m0 = (static_cast<int64_t>(pair) * kClusterBlocks + rank) * kTokens + warpgroup * 64 + warp * 16;
    WriteTile(plan.args, m0, column * kChannels, sum);
  }
}

__global__ __cluster_dims__(kClusterBlocks, 1, 1)
    __launch_bounds__(kThreads, 1) void S8Kernel(const __grid_constant__ S8Plan plan,
                                                 const __grid_constant__ CUtensorMap token_map,
                                                 const __grid_constant__ CUtensorMap weight_map) {
  extern __shared__ __align__(1024) uint8_t raw[];
  Shared& s = *reinterpret_cast<Shared*>(raw);
  const uint32_t rank = ClusterRank();
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      BarrierInit(&s.full[i], 1);
      BarrierInit(&s.empty[i], kMathWarps * kClusterBlocks);
    }
    BarrierInitFence();
    PrefetchTensorMap(&token_map);
    PrefetchTensorMap(&weight_map);
  }
  ClusterSync();
  if (threadIdx.x < kWarpgroup) {
    GiveRegisters<40>();
    if (threadIdx.x == 0) Produce(plan, s, &token_map, &weight_map, rank);
  } else {
    TakeRegisters<232>();
    Consume(plan, s, rank);
  }
  ClusterSync();  // the other block may still multicast into this one, or arrive at its barriers
}

}  // namespace

bool AcceptsS8Sm90(const GemmArgs& args) {
  const bool codes = args.a_format == Format::kS4 || args.a_format == Format::kS8;
  return args.weight_format == Format::kS8 && codes && args.outliers == 0 && args.segments() == 1 && args.n % 8 == 0 &&
         args.k <= 131072 && args.m <= (1LL << 30) && CopyEngineTakes(args.a, args.k) &&
         CopyEngineTakes(args.b, args.k);
}

cudaError_t LaunchS8Sm90(const GemmArgs& args, cudaStream_t stream) {
  S8Plan plan;
  plan.args = args;
  const int64_t rows_per_pair = kTokens * kClusterBlocks;
  plan.tiles.rows = static_cast<int>((args.m + rows_per_pair - 1) / rows_per_pair);
  plan.tiles.columns = (args.n + kChannels - 1) / kChannels;
  plan.steps = (args.k + kStep - 1) / kStep;
  CUtensorMap token_map{}, weight_map{};
  const uint64_t k = args.k;
  cudaError_t e = MakeTensorMap({args.a, static_cast<uint64_t>(args.m), k, k, kTokens, kStep}, &token_map);
  if (e == cudaSuccess) {
    e = MakeTensorMap({args.b, static_cast<uint64_t>(args.n), k, k, kChannels / kClusterBlocks, kStep}, &weight_map);
  }
  int device = 0, sms = 0;
  if (e == cudaSuccess) e = cudaGetDevice(&device);
  if (e == cudaSuccess) e = cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device);
  if (e == cudaSuccess) {
    e = cudaFuncSetAttribute(S8Kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(sizeof(Shared)));
  }
  if (e != cudaSuccess) return e;
  const int clusters = std::min(sms / kClusterBlocks, plan.tiles.count());
  S8Kernel<<<clusters * kClusterBlocks, kThreads, sizeof(Shared), stream>>>(plan, token_map, weight_map);
  return cudaGetLastError();
}

}  // namespace lowbit::cuda
