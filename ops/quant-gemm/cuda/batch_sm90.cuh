// QuantGemm for 9 to 64 tokens (fewer where a row is long) on Hopper: the ring and the cluster of stream_sm90.cuh, with
// wgmma in place of mma.sync, so that a weight is unpacked once for all tokens. A block has 128 output channels, 64 for
// each of two warpgroups, and a range of the input channels. A third warpgroup has the producer warp and three that put
// the tokens of a step into the order of the unpacked weights.
//
// The blocks of a cluster divide the input channels. A block's sums go to the rows' owner without waiting (st.async)
// and count towards a barrier there; the owner adds them in a fixed order.
#pragma once
#include "ops/quant-gemm/cuda/batch_math.cuh"
#include "ops/quant-gemm/cuda/stream_sm90.cuh"

namespace lowbit::cuda::batch {

using namespace stream;

constexpr int kGroups = 2, kHelpers = 2;
constexpr int kThreads = kWarpgroup * (kGroups + 1);
constexpr int kMathRegisters = 104, kHelperRegisters = 32;

// Rings of weights and of tokens; with the sums that come from the cluster they leave room for a second block on the
// multiprocessor, of this kernel or the next.
constexpr int kRingsAndSums = 104 * 1024;
constexpr int ReceivedBytes(int tiles, int split) { return split == 1 ? 0 : split * OwnWarps(split) * tiles * 512; }
constexpr int TokenSlots(int tiles) { return tiles == 8 ? 3 : tiles == 4 ? 4 : 6; }
constexpr int WeightSlots(int tiles) {
  const int fit = (kRingsAndSums - TokenSlots(tiles) * tiles * 1024 - ReceivedBytes(tiles, 8)) / kSlotWeightBytes;
  return fit < 10 ? fit : 10;
}

template <int kTiles>
struct alignas(16) BatchBarriers {
  uint64_t weights_full[WeightSlots(kTiles)], weights_empty[WeightSlots(kTiles)];
  uint64_t tokens_full[TokenSlots(kTiles)], tokens_empty[TokenSlots(kTiles)];
  uint64_t tokens_ready[TokenSlots(kTiles)];  // in order
  uint64_t received;                          // the cluster's sums of the block's own rows
};

// One thread fills the ring of weights; it never waits for the kernels ahead in the stream.
template <int kTiles>
__device__ __forceinline__ void ProduceWeights(const StreamPlan& plan, const CUtensorMap* weights,
                                               const CUtensorMap* outliers, uint8_t* ring,
                                               BatchBarriers<kTiles>& barriers, int begin, int end, int n0) {
  constexpr int kSlots = WeightSlots(kTiles);
  PrefetchTensorMap(weights);
  if (plan.args.outliers) PrefetchTensorMap(outliers);
  RingPosition<kSlots> at;
  int filled = 0;
  for (int step = begin; step < end; ++step) {
    const bool body = step < plan.body_steps;
    const int slots = plan.slots_of(step), first = (body ? step : step - plan.body_steps) * slots;
    for (int part = 0; part < slots; ++part, ++filled, at.Advance()) {
      if (filled >= kSlots) BarrierWait(&barriers.weights_empty[at.stage], at.parity ^ 1);
      BarrierArriveExpect(&barriers.weights_full[at.stage], kSlotWeightBytes);
      TensorLoad(body ? weights : outliers, &barriers.weights_full[at.stage], ring + at.stage * kSlotWeightBytes,
                 (first + part) * kSlotRowBytes, n0);
    }
  }
}

// Another one fills the ring of tokens.
template <int kTiles>
__device__ __forceinline__ void ProduceTokens(const StreamPlan& plan, const CUtensorMap* activations, uint8_t* ring,
                                              BatchBarriers<kTiles>& barriers, int begin, int end, int m0) {
  constexpr int kSlots = TokenSlots(kTiles);
  PrefetchTensorMap(activations);
  if (plan.args.constant_weights) WaitForPriorKernelsIfAny();
  // Not before: the wait takes longer where kernels behind this one are on the chip already.
  LetNextKernelStartIfAny();
  RingPosition<kSlots> at;
  for (int step = begin; step < end; ++step, at.Advance()) {
    if (step - begin >= kSlots) BarrierWait(&barriers.tokens_empty[at.stage], at.parity ^ 1);
    BarrierArriveExpect(&barriers.tokens_full[at.stage], kTiles * 1024);
    TensorLoad(activations, &barriers.tokens_full[at.stage], ring + at.stage * kTiles * 1024,
               step < plan.body_steps ? step * kStepChannels : plan.args.body(), m0);
  }
}

// Puts the step's tokens, rows of 128 bytes as the copy engine swizzles them, into the order of the unpacked weights:
// of the 32 channels that a thread of four has, run i of eight goes to multiplication i, even channels first.
template <class Math, int kTiles>
__device__ __forceinline__ void Arrange(uint8_t* tokens, int helper) {
  const int lane = threadIdx.x % 32, r = lane / 4, q = lane % 4;
#pragma unroll
  for (int j = 0; j < (kTiles + kHelpers - 1) / kHelpers; ++j) {
    const int tile = helper + j * kHelpers;
    if (tile >= kTiles) break;
    uint8_t* const row = tokens + tile * 1024 + r * 128;
    uint32_t v[8];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const uint4 raw = *reinterpret_cast<const uint4*>(row + ((2 * q + h) ^ r) * 16);
      v[4 * h] = raw.x, v[4 * h + 1] = raw.y, v[4 * h + 2] = raw.z, v[4 * h + 3] = raw.w;
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t x = Math::Codes(v[2 * i]), y = Math::Codes(v[2 * i + 1]);
      *reinterpret_cast<uint32_t*>(row + ((2 * i) ^ r) * 16 + 4 * q) = __byte_perm(x, y, 0x6420);
      *reinterpret_cast<uint32_t*>(row + ((2 * i + 1) ^ r) * 16 + 4 * q) = __byte_perm(x, y, 0x7531);
    }
  }
}

// One step of 64 rows in the tensor cores.
template <class Math, int kTiles>
struct Step {
  typename Math::Acc acc[4 * kTiles];
  uint4 low, high;  // nibbles of this thread's rows

  __device__ __forceinline__ void Clear() {
#pragma unroll
    for (int i = 0; i < 4 * kTiles; ++i) acc[i] = Math::kStart;
  }
  __device__ __forceinline__ void Load(const uint8_t* slot) {
    LoadPieces(slot + static_cast<int>(threadIdx.x) / 32 * 16 * kSlotRowBytes, low, high);
  }
  // The nibbles loaded with arranged tokens.
  __device__ __forceinline__ void Multiply(const uint8_t* tokens_slot) {
    const uint32_t w0[4] = {low.x, low.y, low.z, low.w}, w1[4] = {high.x, high.y, high.z, high.w};
    uint32_t a[4][4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      Math::Unpack(w0[i], a[i][0], a[i][2]);
      Math::Unpack(w1[i], a[i][1], a[i][3]);
    }
    const uint64_t tokens = WgmmaDescriptor(tokens_slot);
    WgmmaFence();
#pragma unroll
    for (int i = 0; i < 4; ++i) Math::Multiply(acc, a[i], tokens + 2 * i, 1);
    WgmmaCommit();
  }
  // Bytes of two slots with the tokens as they come.
  __device__ __forceinline__ void Multiply(const uint8_t* slot, const uint8_t* slot2, const uint8_t* tokens_slot) {
    const int group = static_cast<int>(threadIdx.x) / kWarpgroup * 64 * kSlotRowBytes;
    const uint64_t tokens = WgmmaDescriptor(tokens_slot);
    WgmmaFence();
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint64_t rows = WgmmaDescriptor64((i < 2 ? slot : slot2) + group);
      Math::Multiply(acc, rows + 2 * (i % 2), tokens + 2 * i, 1);
    }
    WgmmaCommit();
  }
};

// sum += acc * weight scale * token scale
template <class Math, int kTiles>
__device__ __forceinline__ void Promote(const typename Math::Acc (&acc)[4 * kTiles], const uint16_t* scale,
                                        const float* token_scale, float factor, float (&sum)[4 * kTiles]) {
  const int r = threadIdx.x % 32 / 4;
  const float scale0 = HalfBits(scale[r]) * factor, scale1 = HalfBits(scale[8 + r]) * factor;
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
    const float2 s = *reinterpret_cast<const float2*>(token_scale + 8 * t);
    sum[4 * t] = fmaf(Math::Float(acc[4 * t]), scale0 * s.x, sum[4 * t]);
    sum[4 * t + 1] = fmaf(Math::Float(acc[4 * t + 1]), scale0 * s.y, sum[4 * t + 1]);
    sum[4 * t + 2] = fmaf(Math::Float(acc[4 * t + 2]), scale1 * s.x, sum[4 * t + 2]);
    sum[4 * t + 3] = fmaf(Math::Float(acc[4 * t + 3]), scale1 * s.y, sum[4 * t + 3]);
  }
}

// The results of 16 rows from n and of 8 tokens from m, in type T.
template <class T, class Math, bool kWhole, class Sum>
__device__ __forceinline__ void WriteResultsAs(const StreamPlan& plan, int64_t m, int n, const Sum (&total)[4]) {
  const GemmArgs& args = plan.args;
  const int lane = threadIdx.x % 32, r = lane / 4, q = lane % 4;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int64_t token = m + 2 * q + i % 2;
    const int row = n + r + 8 * (i / 2);
    if (token >= args.m || row >= args.n) continue;
    const int64_t index = token * args.n + row;
    float y = static_cast<float>(total[i]) * Math::kFactor;
    if constexpr (kWhole) y *= HalfBits(__ldg(args.b_scale + row)) * __ldcg(args.a_scale + token * plan.a_scales);
    if (args.bias) y += Widen(static_cast<const T*>(args.bias)[row]);
    if (args.residual) y += Widen(static_cast<const T*>(args.residual)[index]);
    static_cast<T*>(args.y)[index] = Narrow<T>(y);
  }
}
template <class Math, bool kWhole, class Sum>
__device__ __forceinline__ void WriteResults(const StreamPlan& plan, int64_t m, int n, const Sum (&total)[4]) {
  if (plan.args.type == DType::kF16) {
    WriteResultsAs<__half, Math, kWhole>(plan, m, n, total);
  } else if (plan.args.type == DType::kBF16) {
    WriteResultsAs<__nv_bfloat16, Math, kWhole>(plan, m, n, total);
  } else {
    WriteResultsAs<float, Math, kWhole>(plan, m, n, total);
  }
}

// kWhole: one segment and no outliers, whose integer sums stay integers until the cluster's have met. Otherwise every
// step of 128 channels is scaled by itself.
template <class Math, int kTiles, bool kWhole>
__global__ __launch_bounds__(kThreads, 2) void BatchKernel(const __grid_constant__ StreamPlan plan,
                                                           const __grid_constant__ CUtensorMap weights,
                                                           const __grid_constant__ CUtensorMap outliers,
                                                           const __grid_constant__ CUtensorMap activations) {
  using Sum = std::conditional_t<kWhole, int, float>;
  constexpr int kWeightSlots = WeightSlots(kTiles), kTokenSlots = TokenSlots(kTiles), kTokenSlotBytes = kTiles * 1024;
  // A step's sums are scaled while the next step is in the tensor cores, where registers allow.
  constexpr bool kOverlap = kTiles <= 4;
  const GemmArgs& args = plan.args;
  const int warp = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 32, 0);  // the compiler sees that it is uniform
  const int lane = threadIdx.x % 32, q = lane % 4;
  const int rank = blockIdx.x % plan.split, n0 = blockIdx.x / plan.split * kBlockRows;
  const int64_t m0 = static_cast<int64_t>(blockIdx.y) * 8 * kTiles;
  const int begin = plan.begin[rank], end = plan.begin[rank + 1], body_end = min(end, plan.body_steps);
  const int first_own = (rank * kStreamWarps + plan.split - 1) / plan.split;
  const int own = ((rank + 1) * kStreamWarps + plan.split - 1) / plan.split - first_own;

  extern __shared__ __align__(1024) uint8_t shared[];
  uint8_t* const token_ring = shared + kWeightSlots * kSlotWeightBytes;
  uint8_t* const received = token_ring + kTokenSlots * kTokenSlotBytes;  // [from block][own warp][tile][lane]: 16 bytes
  auto& barriers = *reinterpret_cast<BatchBarriers<kTiles>*>(received + ReceivedBytes(kTiles, plan.split));
  float* const token_scales = reinterpret_cast<float*>(&barriers + 1);
  uint16_t* const weight_scales = reinterpret_cast<uint16_t*>(token_scales + plan.max_steps * 8 * kTiles);

  if (!args.constant_weights) WaitForPriorKernelsIfAny();
  if (threadIdx.x == kGroups * kWarpgroup) {
    for (int s = 0; s < kWeightSlots; ++s) {
      BarrierInit(&barriers.weights_full[s], 1);
      BarrierInit(&barriers.weights_empty[s], kStreamWarps);
    }
    for (int s = 0; s < kTokenSlots; ++s) {
      BarrierInit(&barriers.tokens_full[s], 1);
      BarrierInit(&barriers.tokens_empty[s], kStreamWarps);
      BarrierInit(&barriers.tokens_ready[s], kHelpers);
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
      if (lane == 0) ProduceWeights<kTiles>(plan, &weights, &outliers, shared, barriers, begin, end, n0);
    } else if (warp == kStreamWarps + 1) {
      if (lane == 0) {
        ProduceTokens<kTiles>(plan, &activations, token_ring, barriers, begin, end, static_cast<int>(m0));
      }
    } else if constexpr (Math::kNibbles) {
      RingPosition<kTokenSlots> at;
      for (int step = begin; step < body_end; ++step, at.Advance()) {
        BarrierWait(&barriers.tokens_full[at.stage], at.parity);
        Arrange<Math, kTiles>(token_ring + at.stage * kTokenSlotBytes, warp - kStreamWarps - 2);
        FenceAsyncProxy();
        __syncwarp();
        if (lane == 0) BarrierArrive(&barriers.tokens_ready[at.stage]);
      }
    }
    __syncwarp();
    if (plan.split > 1) ClusterWait();
    return;
  }
  TakeRegisters<kMathRegisters>();
  uint16_t* const my_scales = weight_scales + warp * plan.max_steps * 16;
  if constexpr (!kWhole) StageWeightScales(plan, begin, end, n0 + 16 * warp, my_scales);
  if (args.constant_weights) WaitForPriorKernelsIfAny();
  if constexpr (!kWhole) {
    StageTokenScales<kTiles>(plan, m0, begin, end, token_scales);
    ConsumersSync();
  }
  __syncwarp();

  Sum sum[4 * kTiles];
#pragma unroll
  for (int i = 0; i < 4 * kTiles; ++i) sum[i] = 0;
  RingPosition<kWeightSlots> weight_at, weight_done;
  RingPosition<kTokenSlots> token_at, token_done;
  const auto take_weights = [&] {
    BarrierWait(&barriers.weights_full[weight_at.stage], weight_at.parity);
    const uint8_t* const slot = shared + weight_at.stage * kSlotWeightBytes;
    weight_at.Advance();
    return slot;
  };
  const auto take_tokens = [&](uint64_t* there) {
    BarrierWait(there + token_at.stage, token_at.parity);
    const uint8_t* const slot = token_ring + token_at.stage * kTokenSlotBytes;
    token_at.Advance();
    return slot;
  };
  const auto release_weights = [&](int count) {
    __syncwarp();
    for (int i = 0; i < count; ++i, weight_done.Advance()) {
      if (lane == 0) BarrierArrive(&barriers.weights_empty[weight_done.stage]);
    }
  };
  Step<Math, kTiles> step;
  const uint8_t *slot = nullptr, *slot2 = nullptr, *tokens = nullptr;
  const auto next = [&] {
    slot = take_weights();
    if constexpr (Math::kNibbles) {
      step.Load(slot);
      tokens = take_tokens(barriers.tokens_ready);
    } else {
      slot2 = take_weights();
      tokens = take_tokens(barriers.tokens_full);
    }
  };
  const auto multiply = [&] {
    if constexpr (Math::kNibbles) {
      step.Multiply(tokens);
      release_weights(1);
    } else {
      step.Multiply(slot, slot2, tokens);
    }
  };
  const auto wait = [&] {
    WgmmaWait<0>();
    SumsAreReady(step.acc);
    if (!Math::kNibbles) release_weights(2);
    __syncwarp();
    if (lane == 0) BarrierArrive(&barriers.tokens_empty[token_done.stage]);
    token_done.Advance();
  };
  if constexpr (kWhole) {
#pragma unroll
    for (int i = 0; i < 4 * kTiles; ++i) step.acc[i] = 0;
    for (int i = begin; i < body_end; ++i) {
      next();
      multiply();
      wait();
    }
#pragma unroll
    for (int i = 0; i < 4 * kTiles; ++i) sum[i] = step.acc[i];
  } else {
    const auto promote = [&](const typename Math::Acc(&acc)[4 * kTiles], int i) {
      Promote<Math, kTiles>(acc, my_scales + (i - begin) * 16, token_scales + 2 * q + (i - begin) * 8 * kTiles, 1.0f,
                            sum);
    };
    typename Math::Acc last[4 * kTiles];
    step.Clear();
    if (begin < body_end) next();
    for (int i = begin; i < body_end; ++i) {
      multiply();
      if (kOverlap && i > begin) promote(last, i - 1);
      if (i + 1 < body_end) next();
      wait();
      if constexpr (kOverlap) {
#pragma unroll
        for (int j = 0; j < 4 * kTiles; ++j) last[j] = step.acc[j];
      } else {
        promote(step.acc, i);
      }
      step.Clear();
    }
    if (kOverlap && begin < body_end) promote(last, body_end - 1);
    if (body_end < end) {
      Step<IntegerMath<false, false>, kTiles> outliers_step;
      outliers_step.Clear();
      slot = take_weights();
      slot2 = take_weights();
      outliers_step.Multiply(slot, slot2, take_tokens(barriers.tokens_full));
      WgmmaWait<0>();
      SumsAreReady(outliers_step.acc);
      Promote<IntegerMath<false, false>, kTiles>(outliers_step.acc, my_scales + (body_end - begin) * 16,
                                                 token_scales + 2 * q + (body_end - begin) * 8 * kTiles,
                                                 1.0f / Math::kFactor, sum);
    }
  }

  if (plan.split == 1) {
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      const Sum total[4] = {sum[4 * t], sum[4 * t + 1], sum[4 * t + 2], sum[4 * t + 3]};
      WriteResults<Math, kWhole>(plan, m0 + 8 * t, n0 + 16 * warp, total);
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
    for (int i = 0; i < 4; ++i) v[i] = *reinterpret_cast<const uint32_t*>(&sum[4 * t + i]);
    StoreRemoteAsync(to + t * 512, barrier, v);
  }
  BarrierWaitCluster(&barriers.received, 0);
  for (int u = warp; u < own * kTiles; u += kStreamWarps) {
    Sum total[4] = {};
    for (int s = 0; s < plan.split; ++s) {
      const uint4 part = *reinterpret_cast<const uint4*>(received + ((s * own * kTiles + u) * 32 + lane) * 16);
      const uint32_t v[4] = {part.x, part.y, part.z, part.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) total[i] += *reinterpret_cast<const Sum*>(&v[i]);
    }
    WriteResults<Math, kWhole>(plan, m0 + u % kTiles * 8, n0 + 16 * (first_own + u / kTiles), total);
  }
}

}  // namespace lowbit::cuda::batch
