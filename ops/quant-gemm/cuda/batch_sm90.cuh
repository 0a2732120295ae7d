// QuantGemm for up to 64 tokens on Hopper: the ring and the cluster of stream_sm90.cuh, with wgmma in place of
// mma.sync, so that a weight is unpacked once for all tokens. A block has 128 output channels, 64 for each of two
// warpgroups, and a range of the input channels. A third warpgroup has two producer warps and two that put tokens into
// the order of the unpacked weights.
//
// The blocks of a cluster divide the input channels. A block's sums go to the rows' owner without waiting (st.async)
// and count towards a barrier there; the owner adds them in a fixed order.
#pragma once
#include "ops/quant-gemm/cuda/batch_rings.cuh"

namespace lowbit::cuda::batch {

// One step of 64 rows in the tensor cores.
template <class Math, int kTiles>
struct Step {
  typename Math::Acc acc[4 * kTiles];
  uint4 low, high;  // nibbles of this thread's rows

  __device__ __forceinline__ void Clear() {
#pragma unroll
    for (int i = 0; i < 4 * kTiles; ++i) acc[i] = 0;
  }
  // The nibbles loaded with arranged tokens.
  __device__ __forceinline__ void Multiply(uint64_t tokens) {
    const uint32_t w0[4] = {low.x, low.y, low.z, low.w}, w1[4] = {high.x, high.y, high.z, high.w};
    uint32_t a[4][4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      Math::Unpack(w0[i], a[i][0], a[i][2]);
      Math::Unpack(w1[i], a[i][1], a[i][3]);
    }
    WgmmaFence();
#pragma unroll
    for (int i = 0; i < 4; ++i) Math::Multiply(acc, a[i], tokens + 2 * i, 1);
    WgmmaCommit();
  }
  // Bytes of the warpgroup's rows in two slots with the tokens as they come.
  __device__ __forceinline__ void Multiply(const uint8_t* rows, const uint8_t* rows2, uint64_t tokens) {
    WgmmaFence();
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      Math::Multiply(acc, WgmmaDescriptor64(i < 2 ? rows : rows2) + 2 * (i % 2), tokens + 2 * i, 1);
    }
    WgmmaCommit();
  }
};

// sum += acc * weight scale * token scale; `scale`: of row r; row r + 8 has its own.
template <class Math, int kTiles>
__device__ __forceinline__ void Promote(const typename Math::Acc (&acc)[4 * kTiles], const uint16_t* scale,
                                        const float* token_scale, float factor, float (&sum)[4 * kTiles]) {
  const float scale0 = HalfBits(scale[0]) * factor, scale1 = HalfBits(scale[8]) * factor;
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
    const float2 s = *reinterpret_cast<const float2*>(token_scale + 8 * t);
    sum[4 * t] = fmaf(static_cast<float>(acc[4 * t]), scale0 * s.x, sum[4 * t]);
    sum[4 * t + 1] = fmaf(static_cast<float>(acc[4 * t + 1]), scale0 * s.y, sum[4 * t + 1]);
    sum[4 * t + 2] = fmaf(static_cast<float>(acc[4 * t + 2]), scale1 * s.x, sum[4 * t + 2]);
    sum[4 * t + 3] = fmaf(static_cast<float>(acc[4 * t + 3]), scale1 * s.y, sum[4 * t + 3]);
  }
}

// The results of 16 rows from n and of 8 tokens from m, in type T; of whole sums with their scales.
template <class T, class Math, bool kWhole, class Sum>
__device__ __forceinline__ void WriteResultsAs(const BatchPlan& plan, int64_t m, int n, const Sum (&total)[4],
                                               const uint16_t* row_scales, const float* token_scales) {
  const GemmArgs& args = plan.args;
  const int lane = threadIdx.x % 32, r = lane / 4, q = lane % 4;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int64_t token = m + 2 * q + i % 2;
    const int row = n + r + 8 * (i / 2);
    if (token >= args.m || row >= args.n) continue;
    const int64_t index = token * args.n + row;
    float y = static_cast<float>(total[i]) * Math::kFactor;
    if constexpr (kWhole) y *= HalfBits(row_scales[r + 8 * (i / 2)]) * token_scales[2 * q + i % 2];
    if (args.bias) y += Widen(static_cast<const T*>(args.bias)[row]);
    if (args.residual) y += Widen(static_cast<const T*>(args.residual)[index]);
    static_cast<T*>(args.y)[index] = Narrow<T>(y);
  }
}
template <class Math, bool kWhole, class... Args>
__device__ __forceinline__ void WriteResults(const BatchPlan& plan, Args&&... args) {
  if (plan.args.type == DType::kF16) {
    WriteResultsAs<__half, Math, kWhole>(plan, args...);
  } else if (plan.args.type == DType::kBF16) {
    WriteResultsAs<__nv_bfloat16, Math, kWhole>(plan, args...);
  } else {
    WriteResultsAs<float, Math, kWhole>(plan, args...);
  }
}

// kWhole: one segment and no outliers, whose integer sums stay integers until the cluster's have met. Otherwise every
// step of 128 channels is scaled by itself.
template <class Math, int kTiles, bool kWhole>
__global__ __launch_bounds__(Threads(Math::kHelpers),
                             2) void BatchKernel(const __grid_constant__ BatchPlan plan,
                                                 const __grid_constant__ CUtensorMap weights,
                                                 const __grid_constant__ CUtensorMap outliers,
                                                 const __grid_constant__ CUtensorMap activations) {
  using Sum = std::conditional_t<kWhole, int, float>;
  using Ring = Rings<Math, kTiles>;
  constexpr int kSide = Ring::kSide;
  const GemmArgs& args = plan.args;
  const int warp = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 32, 0);  // the compiler sees that it is uniform
  const int lane = threadIdx.x % 32, r = lane / 4, q = lane % 4;
  const int rank = blockIdx.x % plan.split, n0 = blockIdx.x / plan.split * kBlockRows;
  const int64_t m0 = static_cast<int64_t>(blockIdx.y) * 8 * kTiles;
  const int begin = plan.begin[rank], end = plan.begin[rank + 1], body_end = min(end, plan.body_steps);
  const int first_own = plan.first_unit[rank], own = plan.first_unit[rank + 1] - first_own;

  extern __shared__ __align__(1024) uint8_t shared[];
  uint8_t* const token_ring = shared + Ring::kWeights * Ring::kWeightBytes;
  uint8_t* const received = token_ring + Ring::kTokens * Ring::kTokenBytes;  // [from block][own unit][lane]: 16 bytes
  auto& barriers = *reinterpret_cast<typename Ring::Barriers*>(received + ReceivedBytes(kTiles, plan.split));
  float* const token_scales = reinterpret_cast<float*>(&barriers + 1);
  uint16_t* const weight_scales = reinterpret_cast<uint16_t*>(token_scales + plan.max_steps * 8 * kTiles);

  if (!args.constant_weights) WaitForPriorKernelsIfAny();
  if (threadIdx.x == 32 * kStreamWarps) {
    for (int s = 0; s < Ring::kWeights; ++s) {
      BarrierInit(&barriers.weights_full[s], 1);
      BarrierInit(&barriers.weights_empty[s], kStreamWarps);
    }
    for (int s = 0; s < Ring::kTokens; ++s) {
      BarrierInit(&barriers.tokens_full[s], 1);
      BarrierInit(&barriers.tokens_empty[s], kStreamWarps);
      BarrierInit(&barriers.tokens_ready[s], Math::kHelpers);
    }
    BarrierInit(&barriers.received, 1);
    BarrierInitFence();
    BarrierArriveExpect(&barriers.received, plan.split * own * 512);
  }
  __syncthreads();
  if (plan.split > 1) ClusterArrive();  // sums may be sent once all blocks have come here
  if (warp >= kStreamWarps) {
    GiveRegisters<kHelperRegisters>();
    if (warp == kStreamWarps) {
      if (lane == 0) ProduceWeights<Ring>(plan, &weights, &outliers, shared, barriers, begin, end, n0);
    } else if (warp == kStreamWarps + 1) {
      if (lane == 0) {
        ProduceTokens<Ring, kTiles>(plan, &activations, token_ring, barriers, begin, end, static_cast<int>(m0));
      }
    } else if constexpr (Math::kNibbles) {
      RingPosition<Ring::kTokens> at;
      for (int step = begin; step < body_end; step += Ring::kSteps, at.Advance()) {
        BarrierWait(&barriers.tokens_full[at.stage], at.parity);
        Arrange<Math, Ring::kSteps * kTiles>(token_ring + at.stage * Ring::kTokenBytes,
                                             min(Ring::kSteps, body_end - step) * kTiles,
                                             warp - kStreamWarps - kProducers);
        FenceAsyncProxy();
        __syncwarp();
        if (lane == 0) BarrierArrive(&barriers.tokens_ready[at.stage]);
      }
    }
    __syncwarp();
    if (plan.split > 1) ClusterWait();
    return;
  }
  TakeRegisters<MathRegisters(Math::kHelpers)>();
  uint16_t* const my_scales = weight_scales + warp * plan.max_steps * 16;
  if constexpr (!kWhole) {
    StageWeightScales(plan, begin, end, n0 + 16 * warp, my_scales);
  } else if (threadIdx.x < kBlockRows) {
    weight_scales[threadIdx.x] = __ldg(args.b_scale + min(n0 + static_cast<int>(threadIdx.x), args.n - 1));
  }
  if (args.constant_weights) WaitForPriorKernelsIfAny();
  StageTokenScales<kTiles>(plan, m0, kWhole ? 0 : begin, kWhole ? 1 : end, token_scales);
  ConsumersSync();

  Sum sum[4 * kTiles] = {};
  RingPosition<Ring::kWeights> weight_at, weight_done;
  RingPosition<Ring::kTokens> token_at, token_done;
  const uint8_t* const rows = shared + warp / 4 * 64 * kSlotRowBytes;  // of the warpgroup, in the first slot
  const uint8_t* const pieces = shared + (warp * 16 + r) * kSlotRowBytes + (q ^ ((r >> 1) & 3)) * 16;
  const uint64_t tokens = WgmmaDescriptor(token_ring);
  const auto release_weights = [&] {
    if (lane == 0) BarrierArrive(&barriers.weights_empty[weight_done.stage]);
    weight_done.Advance();
  };
  const auto release_tokens = [&] {
    if (lane == 0) BarrierArrive(&barriers.tokens_empty[token_done.stage]);
    token_done.Advance();
  };
  const auto take_weights = [&] {
    BarrierWait(&barriers.weights_full[weight_at.stage], weight_at.parity);
    const int offset = weight_at.stage * Ring::kWeightBytes;
    weight_at.Advance();
    return offset;
  };
  const auto take_tokens = [&](uint64_t* there) {
    BarrierWait(there + token_at.stage, token_at.parity);
    const uint64_t at = tokens + token_at.stage * (Ring::kTokenBytes / 16);
    token_at.Advance();
    return at;
  };
  const uint16_t* scales = my_scales + r;
  const float* my_tokens = token_scales + 2 * q;
  const auto promote = [&](auto math, auto& acc, float factor) {
    SumsAreReady(acc);
    if constexpr (kWhole) {
#pragma unroll
      for (int i = 0; i < 4 * kTiles; ++i) sum[i] += acc[i];
    } else {
      Promote<decltype(math), kTiles>(acc, scales, my_tokens, factor, sum);
      scales += 16, my_tokens += 8 * kTiles;
    }
  };
  Step<Math, kTiles> steps[kSide];
  const auto load = [&] {
    const uint8_t* const from = pieces + take_weights();
#pragma unroll
    for (int i = 0; i < kSide; ++i) {
      steps[i].low = *reinterpret_cast<const uint4*>(from + i * kSlotWeightBytes);
      steps[i].high = *reinterpret_cast<const uint4*>(from + i * kSlotWeightBytes + 8 * kSlotRowBytes);
    }
  };
  // `body` steps and, last of all, the outliers'; `more`: whether there are others behind them.
  const auto multiply = [&](auto body, auto outliers, bool more) {
    constexpr int kBody = decltype(body)::value, kOutliers = decltype(outliers)::value;
    using Bytes = IntegerMath<false, false>;
    Step<Bytes, kTiles> outlier_step;
#pragma unroll
    for (int i = 0; i < kBody; ++i) steps[i].Clear();
    if (kOutliers) outlier_step.Clear();
    [[maybe_unused]] uint64_t at = 0;
#pragma unroll
    for (int i = 0; i < kBody; ++i) {
      if constexpr (Math::kNibbles) {
        if (i == 0) at = take_tokens(barriers.tokens_ready);
        steps[i].Multiply(at + i * kTiles * 64);
      } else {
        const uint8_t* const from = rows + take_weights();
        steps[i].Multiply(from, from + kSlotWeightBytes, take_tokens(barriers.tokens_full));
      }
    }
    if constexpr (Math::kNibbles && kBody > 0) {
      __syncwarp();
      release_weights();
      if (more) load();
    }
    if constexpr (kOutliers > 0) {
      const uint8_t* const first = rows + take_weights();
      const uint8_t* const second = Ring::kSlots == 2 ? first + kSlotWeightBytes : rows + take_weights();
      outlier_step.Multiply(first, second, take_tokens(barriers.tokens_full));
    }
#pragma unroll
    for (int i = 0; i < kBody; ++i) {
      if (i + 1 < kBody + kOutliers) {
        WgmmaWait<1>();
      } else {
        WgmmaWait<0>();
      }
      if (!Math::kNibbles || i + 1 == kBody) {
        __syncwarp();
        release_tokens();
        if (!Math::kNibbles) release_weights();
      }
      promote(Math{}, steps[i].acc, 1.0f);
    }
    if constexpr (kOutliers > 0) {
      WgmmaWait<0>();
      promote(Bytes{}, outlier_step.acc, 1.0f / Math::kFactor);
    }
  };
  constexpr std::integral_constant<int, 0> kNone;
  constexpr std::integral_constant<int, 1> kOne;
  int left = body_end - begin;
  if (Math::kNibbles && left > 0) load();
  for (; left >= kSide; left -= kSide) multiply(std::integral_constant<int, kSide>{}, kNone, left > kSide);
  if constexpr (kWhole) {
    if (kSide > 1 && left > 0) multiply(kOne, kNone, false);
  } else {
    const bool outliers = body_end < end;
    if (kSide == 1 || left == 0) {
      if (outliers) multiply(kNone, kOne, false);
    } else if (outliers) {
      multiply(kOne, kOne, false);
    } else {
      multiply(kOne, kNone, false);
    }
  }

  const auto write = [&](int unit, const Sum(&total)[4]) {
    const int row = unit / kTiles * 16, token = unit % kTiles * 8;
    WriteResults<Math, kWhole>(plan, m0 + token, n0 + row, total, weight_scales + row, token_scales + token);
  };
  if (plan.split == 1) {
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      const Sum total[4] = {sum[4 * t], sum[4 * t + 1], sum[4 * t + 2], sum[4 * t + 3]};
      write(warp * kTiles + t, total);
    }
    return;
  }
  ClusterWait();
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
    const int unit = warp * kTiles + t, owner = unit * plan.split / (kStreamWarps * kTiles);
    const int first = plan.first_unit[owner], count = plan.first_unit[owner + 1] - first;
    uint32_t v[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) v[i] = *reinterpret_cast<const uint32_t*>(&sum[4 * t + i]);
    StoreRemoteAsync(ClusterAddress(received + ((rank * count + unit - first) * 32 + lane) * 16, owner),
                     ClusterAddress(&barriers.received, owner), v);
  }
  BarrierWaitCluster(&barriers.received, 0);
  for (int u = warp; u < own; u += kStreamWarps) {
    Sum total[4] = {};
    for (int s = 0; s < plan.split; ++s) {
      const uint4 part = *reinterpret_cast<const uint4*>(received + ((s * own + u) * 32 + lane) * 16);
      const uint32_t v[4] = {part.x, part.y, part.z, part.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) total[i] += *reinterpret_cast<const Sum*>(&v[i]);
    }
    write(first_own + u, total);
  }
}

}  // namespace lowbit::cuda::batch
