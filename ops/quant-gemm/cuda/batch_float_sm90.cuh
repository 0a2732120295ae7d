// QuantGemm with 4-bit weights for up to 32 tokens of 16-bit floats on Hopper: the frame of batch_sm90.cuh. A nibble
// becomes a 16-bit float (or, with up to four tokens, an int8 code) once for all tokens, on its way to wgmma's register
// operand; the sums of 128 channels are then scaled into binary32 while the next ones are in the tensor cores.
#pragma once
#include "ops/quant-gemm/cuda/batch_float_math.cuh"
#include "ops/quant-gemm/cuda/stream_launch.cuh"

namespace lowbit::cuda::batch_float {

using namespace stream;

constexpr int kGroups = 2;
constexpr int kThreads = kWarpgroup * (kGroups + 1);
constexpr int kMathRegisters = 104, kHelperRegisters = 32;

// Rings of weights and of tokens, and the sums that come from the cluster (most from one of six blocks); half of a
// multiprocessor.
constexpr int kRingsAndSums = 104 * 1024;
constexpr int ReceivedBytes(int tiles, int split) { return split == 1 ? 0 : split * OwnWarps(split) * tiles * 512; }
constexpr int TokenSlotBytes(int tiles) { return tiles * 2048; }
constexpr int TokenSlots(int tiles) { return tiles == 8 ? 3 : tiles == 4 ? 4 : 6; }
constexpr int WeightSlots(int tiles) {
  const int rest = TokenSlots(tiles) * TokenSlotBytes(tiles) + ReceivedBytes(tiles, 6);
  const int fit = (kRingsAndSums - rest) / kSlotWeightBytes;
  return fit < 10 ? fit : 10;
}

template <int kTiles>
struct alignas(16) Barriers {
  uint64_t weights_full[WeightSlots(kTiles)], weights_empty[WeightSlots(kTiles)];
  uint64_t tokens_full[TokenSlots(kTiles)], tokens_empty[TokenSlots(kTiles)];
  uint64_t tokens_ready[TokenSlots(kTiles)];  // in order
  uint64_t received;                          // the cluster's sums of the block's own rows
};

// One thread fills the ring of weights; it never waits for the kernels ahead in the stream.
template <int kTiles>
__device__ __forceinline__ void ProduceWeights(const CUtensorMap* weights, uint8_t* ring, Barriers<kTiles>& barriers,
                                               int begin, int end, int n0) {
  PrefetchTensorMap(weights);
  static_assert(WeightSlots(kTiles) >= kSlotsUnderWay);
  RingPosition<WeightSlots(kTiles)> at, under_way;
  for (int step = begin; step < end; ++step, at.Advance()) {
    if (step - begin >= kSlotsUnderWay) {
      BarrierWait(&barriers.weights_full[under_way.stage], under_way.parity);
      under_way.Advance();
    }
    BarrierWait(&barriers.weights_empty[at.stage], at.parity ^ 1);
    BarrierArriveExpect(&barriers.weights_full[at.stage], kSlotWeightBytes);
    TensorLoad(weights, &barriers.weights_full[at.stage], ring + at.stage * kSlotWeightBytes, step * kSlotRowBytes, n0);
  }
}

// Another one fills the ring of tokens: two runs of 64 channels a step, one behind the other.
template <int kTiles>
__device__ __forceinline__ void ProduceTokens(const StreamPlan& plan, const CUtensorMap* activations, uint8_t* ring,
                                              Barriers<kTiles>& barriers, int begin, int end, int m0) {
  constexpr int kRunBytes = kTiles * 1024;
  PrefetchTensorMap(activations);
  if (plan.args.constant_weights) WaitForPriorKernelsIfAny();
  LetNextKernelStartIfAny();  // not before: batch_sm90.cuh
  RingPosition<TokenSlots(kTiles)> at;
  for (int step = begin; step < end; ++step, at.Advance()) {
    BarrierWait(&barriers.tokens_empty[at.stage], at.parity ^ 1);
    BarrierArriveExpect(&barriers.tokens_full[at.stage], 2 * kRunBytes);
    for (int run = 0; run < 2; ++run) {
      TensorLoad(activations, &barriers.tokens_full[at.stage], ring + (2 * at.stage + run) * kRunBytes,
                 step * 2 * kStepChannels + run * 128, m0);
    }
  }
}

// The results of 16 rows from n and of 8 tokens from m.
template <class T, class Math>
__device__ __forceinline__ void WriteResults(const GemmArgs& args, int64_t m, int n, const float (&total)[4]) {
  const int lane = threadIdx.x % 32, r = lane / 4, q = lane % 4;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int64_t token = m + Math::TokenOf(q, i);
    const int row = n + r + 8 * (i / 2);
    if (token >= args.m || row >= args.n) continue;
    const int64_t index = token * args.n + row;
    float y = total[i] * Math::kFactor;
    if (args.bias) y += Widen(static_cast<const T*>(args.bias)[row]);
    if (args.residual) y += Widen(static_cast<const T*>(args.residual)[index]);
    static_cast<T*>(args.y)[index] = Narrow<T>(y);
  }
}

template <class T, class Math>
__global__ __launch_bounds__(kThreads, 2) void BatchFloatKernel(const __grid_constant__ StreamPlan plan,
                                                                const __grid_constant__ CUtensorMap weights,
                                                                const __grid_constant__ CUtensorMap,
                                                                const __grid_constant__ CUtensorMap activations) {
  using Acc = typename Math::Acc;
  constexpr int kTiles = Math::kTiles, kTokenSlotBytes = TokenSlotBytes(kTiles), kSums = 4 * kTiles;
  constexpr int kAccs = Math::kAccs, kTokenScales = Math::kTokenScales;
  const GemmArgs& args = plan.args;
  const int warp = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 32, 0);  // the compiler sees that it is uniform
  const int lane = threadIdx.x % 32, r = lane / 4;
  const int rank = blockIdx.x % plan.split, n0 = blockIdx.x / plan.split * kBlockRows;
  const int64_t m0 = static_cast<int64_t>(blockIdx.y) * 8 * kTiles;
  const int begin = plan.begin[rank], end = plan.begin[rank + 1];
  const int first_own = (rank * kStreamWarps + plan.split - 1) / plan.split;
  const int own = ((rank + 1) * kStreamWarps + plan.split - 1) / plan.split - first_own;

  extern __shared__ __align__(1024) uint8_t shared[];
  uint8_t* const token_ring = shared + WeightSlots(kTiles) * kSlotWeightBytes;
  uint8_t* const received = token_ring + TokenSlots(kTiles) * kTokenSlotBytes;  // [from block][own warp][tile][lane]
  auto& barriers = *reinterpret_cast<Barriers<kTiles>*>(received + ReceivedBytes(kTiles, plan.split));
  uint16_t* const weight_scales = reinterpret_cast<uint16_t*>(&barriers + 1);
  float* const token_scales = reinterpret_cast<float*>(weight_scales + plan.max_steps * kBlockRows);

  if (!args.constant_weights) WaitForPriorKernelsIfAny();
  if (threadIdx.x == kGroups * kWarpgroup) {
    for (int s = 0; s < WeightSlots(kTiles); ++s) {
      BarrierInit(&barriers.weights_full[s], 1);
      BarrierInit(&barriers.weights_empty[s], kStreamWarps);
    }
    for (int s = 0; s < TokenSlots(kTiles); ++s) {
      BarrierInit(&barriers.tokens_full[s], 1);
      BarrierInit(&barriers.tokens_empty[s], kStreamWarps);
      BarrierInit(&barriers.tokens_ready[s], 32 * kHelpers);
    }
    BarrierInit(&barriers.received, 1);
    BarrierInitFence();
    BarrierArriveExpect(&barriers.received, plan.split * own * kTiles * 512);
  }
  __syncthreads();
  if (plan.split > 1) ClusterArrive();  // sums may be sent once all blocks have come here
  if (warp >= kStreamWarps) {
    GiveRegisters<kHelperRegisters>();
    if (warp == kStreamWarps) {
      if (lane == 0) ProduceWeights<kTiles>(&weights, shared, barriers, begin, end, n0);
    } else if (warp == kStreamWarps + 1) {
      if (lane == 0) {
        ProduceTokens<kTiles>(plan, &activations, token_ring, barriers, begin, end, static_cast<int>(m0));
      }
    } else {
      RingPosition<TokenSlots(kTiles)> at;
      for (int step = begin; step < end; ++step, at.Advance()) {
        BarrierWait(&barriers.tokens_full[at.stage], at.parity);
        Math::Arrange(token_ring + at.stage * kTokenSlotBytes, warp - kStreamWarps - 2,
                      token_scales + (step - begin) * kTokenScales);
        FenceAsyncProxy();
        BarrierArrive(&barriers.tokens_ready[at.stage]);  // every lane for what it wrote
      }
    }
    __syncwarp();
    if (plan.split > 1) ClusterWait();
    return;
  }
  TakeRegisters<kMathRegisters>();
  uint16_t* const my_scales = weight_scales + warp * plan.max_steps * 16;
  StageWeightScales(plan, begin, end, n0 + 16 * warp, my_scales);
  if (args.constant_weights) WaitForPriorKernelsIfAny();
  __syncwarp();

  float sum[kSums] = {};
  Acc even[kAccs] = {}, odd[kAccs] = {};
  RingPosition<WeightSlots(kTiles)> weight_at;
  RingPosition<TokenSlots(kTiles)> token_at, token_done;
  const uint8_t* const pieces = shared + (warp * 16 + r) * kSlotRowBytes + ((lane % 4) ^ ((r >> 1) & 3)) * 16;
  const uint64_t tokens = WgmmaDescriptor(token_ring);
  const uint16_t* scale = my_scales + r;
  const float* token_scale = token_scales;
  uint4 low, high;  // nibbles of this thread's rows
  uint32_t a[2][Math::kOperands][4];
  const auto load = [&] {
    BarrierWait(&barriers.weights_full[weight_at.stage], weight_at.parity);
    const uint8_t* const from = pieces + weight_at.stage * kSlotWeightBytes;
    low = *reinterpret_cast<const uint4*>(from);
    high = *reinterpret_cast<const uint4*>(from + 8 * kSlotRowBytes);
  };
  const auto unpack = [&](int half) {
    const uint32_t w0[2] = {half ? low.z : low.x, half ? low.w : low.y};
    const uint32_t w1[2] = {half ? high.z : high.x, half ? high.w : high.y};
    Math::Unpack(w0, w1, a[half]);
  };
  const auto multiply = [&](int half, Acc(&acc)[kAccs]) {
    WgmmaFence();
    Math::Multiply(acc, a[half], half, tokens + token_at.stage * (kTokenSlotBytes / 16));
    WgmmaCommit();
  };
  const auto promote = [&](Acc(&acc)[kAccs]) {
    SumsAreReady(acc);
    __syncwarp();
    if (lane == 0) BarrierArrive(&barriers.tokens_empty[token_done.stage]);
    token_done.Advance();
    Math::Add(acc, HalfBits(scale[0]), HalfBits(scale[8]), token_scale, sum);
    scale += 16, token_scale += kTokenScales;
  };
  const auto first_half = [&](Acc(&acc)[kAccs]) {
    unpack(0);
    BarrierWait(&barriers.tokens_ready[token_at.stage], token_at.parity);
    multiply(0, acc);
  };
  const auto second_half = [&](Acc(&acc)[kAccs], bool more) {
    unpack(1);
    __syncwarp();
    if (lane == 0) BarrierArrive(&barriers.weights_empty[weight_at.stage]);
    weight_at.Advance();
    multiply(1, acc);
    token_at.Advance();
    if (more) load();
  };
  // Half of a step is unpacked while the half before it is in the tensor cores, but nothing is under way over the end
  // of the loop: the compiler would wait after every wgmma (C7514).
  if (begin < end) load();
  int step = begin;
  for (; step + 1 < end; step += 2) {
    first_half(even);
    second_half(even, true);
    WgmmaWait<1>();
    first_half(odd);
    WgmmaWait<1>();
    promote(even);
    second_half(odd, step + 2 < end);
    WgmmaWait<0>();
    promote(odd);
  }
  if (step < end) {
    first_half(even);
    second_half(even, false);
    WgmmaWait<0>();
    promote(even);
  }

  if (plan.split == 1) {
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      const float total[4] = {sum[4 * t], sum[4 * t + 1], sum[4 * t + 2], sum[4 * t + 3]};
      WriteResults<T, Math>(args, m0 + 8 * t, n0 + 16 * warp, total);
    }
    return;
  }
  // Every block owns some warps' rows; all send it theirs.
  const int owner = warp * plan.split / kStreamWarps;
  const int owner_first = (owner * kStreamWarps + plan.split - 1) / plan.split;
  const int owner_own = ((owner + 1) * kStreamWarps + plan.split - 1) / plan.split - owner_first;
  const uint32_t to =
      ClusterAddress(received + ((rank * owner_own + warp - owner_first) * kTiles * 32 + lane) * 16, owner);
  const uint32_t barrier = ClusterAddress(&barriers.received, owner);
  ClusterWait();
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
    uint32_t v[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) v[i] = __float_as_uint(sum[4 * t + i]);
    StoreRemoteAsync(to + t * 512, barrier, v);
  }
  BarrierWaitCluster(&barriers.received, 0);
  for (int u = warp; u < own * kTiles; u += kStreamWarps) {
    float total[4] = {};
    for (int s = 0; s < plan.split; ++s) {
      const float4 part = *reinterpret_cast<const float4*>(received + ((s * own * kTiles + u) * 32 + lane) * 16);
      total[0] += part.x, total[1] += part.y, total[2] += part.z, total[3] += part.w;
    }
    WriteResults<T, Math>(args, m0 + u % kTiles * 8, n0 + 16 * (first_own + u / kTiles), total);
  }
}

template <class T, class Math>
cudaError_t LaunchMath(const GemmArgs& args, int split, cudaStream_t stream) {
  constexpr int kTiles = Math::kTiles;
  int sms = 0;
  cudaError_t e = Multiprocessors(&sms);
  if (e != cudaSuccess) return e;
  const StreamPlan plan = MakePlan(args, true, 1, split, sms);
  const int shared_bytes = WeightSlots(kTiles) * kSlotWeightBytes + TokenSlots(kTiles) * TokenSlotBytes(kTiles) +
                           ReceivedBytes(kTiles, plan.split) + static_cast<int>(sizeof(Barriers<kTiles>)) +
                           plan.max_steps * (kStreamWarps * 32 + Math::kTokenScales * 4);
  StreamMaps maps;
  e = MakeMaps(args, true, 2, kTiles, &maps);
  if (e != cudaSuccess) return e;
  return LaunchStreaming(BatchFloatKernel<T, Math>, plan, maps, 8 * kTiles, kThreads, shared_bytes, stream);
}

}  // namespace lowbit::cuda::batch_float
