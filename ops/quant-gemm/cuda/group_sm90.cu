// QuantGemm with scales per group on Hopper's int8 tensor cores, weights in 4 bits all the way to the registers.
//
// The product is computed transposed: a warpgroup holds 64 output channels and 128 tokens, because wgmma takes only its
// left operand from registers and the weights are what has to be unpacked. A block is 128 channels x 128 tokens:
//
//   warp 0          copy engine: tokens [128 x 128 B, half of them from the cluster's other block] and weights [128 x
//   64 B] warps 1 ... 3   every third step each: put its nibbles, in place, in the order of wgmma's fragments, and its
//   scales as
//                   floats into shared memory
//   warpgroups 1, 2 64 channels each: widen the next step's weights and load those after while the tensor cores work on
//                   this one, then add the finished group's integer sums, times both scales, to the result in
//                   binary32. The two warpgroups take turns by themselves: one's promotion runs under the other's
//                   wgmma.
//
// A step is 64 bytes of weights per channel: 128 channels of nibbles, or 64 of bytes (s8 bodies and outliers).
// Nibbles become bytes of 16 times their value (a shift and two masks for eight of them); 1/16 is in the weight's
// scale, exactly. A group of 32 or 64 is promoted inside a step (kSubs 4 or 2).
#include <algorithm>

#include "ops/common/cuda/launch_clusters.h"
#include "ops/common/cuda/tensor_map.h"
#include "ops/common/cuda/wgmma.cuh"
#include "ops/quant-gemm/cuda/launch.h"
#include "ops/quant-gemm/cuda/sm90_tiles.cuh"

namespace lowbit::cuda {
namespace {

constexpr int kTokens = 128, kChannels = 128;  // of a block
constexpr int kStepBytes = 64;                 // of a weight row
constexpr int kThreads = 3 * kWarpgroup;
constexpr int kTokenBytes = kTokens * 128, kWeightBytes = kChannels * kStepBytes;
constexpr int kMathWarps = 8;
// Token scales lie by quarter q of a warp's columns, so that a thread finds the ones of two column blocks in one load:
// token 8j + 2q + e at q * kQuarter + 2j + e. The padding puts the quarters into different banks.
constexpr int kQuarter = 36;

struct GroupPlan {
  GemmArgs args;
  TileOrder tiles;  // rows: token tiles; columns: pairs of channel tiles
  int body_steps = 0, outlier_steps = 0;
  int step_channels = 0;  // of a body step: 128 or 64
  int segment_steps = 0;  // body steps between promotions
};

template <int kSubs>
struct alignas(1024) Shared {
  static constexpr int kStages = kSubs == 4 ? 7 : 8;
  uint8_t tokens[kStages][kTokenBytes];
  uint8_t weights[kStages][kWeightBytes];
  float token_scale[kStages][kSubs][4 * kQuarter];
  float weight_scale[kStages][kSubs][kChannels];
  uint64_t full[kStages];   // the copy engine has written tokens and weights
  uint64_t ready[kStages];  // weights are reordered and scales are there
  uint64_t empty[kStages];  // both blocks' warpgroups are done with the stage
};

template <int kSubs>
__device__ __forceinline__ void ProduceTiles(const GroupPlan& plan, Shared<kSubs>& s, const CUtensorMap* token_map,
                                             const CUtensorMap* body_map, const CUtensorMap* outlier_map,
                                             uint32_t rank) {
  RingPosition<Shared<kSubs>::kStages> ring;
  const int steps = plan.body_steps + plan.outlier_steps;
  for (int tile = blockIdx.x / kClusterBlocks; tile < plan.tiles.count(); tile += gridDim.x / kClusterBlocks) {
    int token_tile, pair;
    plan.tiles.Locate(tile, &token_tile, &pair);
    const int token_row = token_tile * kTokens + static_cast<int>(rank) * (kTokens / 2);
    const int channel_row = (pair * kClusterBlocks + static_cast<int>(rank)) * kChannels;
    for (int step = 0; step < steps; ++step) {
      const bool body = step < plan.body_steps;
      const int j = step - plan.body_steps;
      const int k = body ? step * plan.step_channels : plan.args.body() + j * kStepBytes;
      BarrierWait(&s.empty[ring.stage], ring.parity ^ 1);
      BarrierArriveExpect(&s.full[ring.stage], kTokenBytes + kWeightBytes);
      TensorLoadMulticast(token_map, &s.full[ring.stage], s.tokens[ring.stage] + rank * (kTokenBytes / 2), k, token_row,
                          (1 << kClusterBlocks) - 1);
      TensorLoad(body ? body_map : outlier_map, &s.full[ring.stage], s.weights[ring.stage],
                 (body ? step : j) * kStepBytes, channel_row);
      ring.Advance();
    }
  }
}

// A 16-byte chunk of nibbles is 32 channels. In fragment order, word q holds channels 4q ... 4q+3 in its low nibbles
// and 16+4q ... 16+4q+3 in its high ones: what thread q of four feeds to wgmma.
__device__ __forceinline__ uint4 FragmentOrder(uint4 w) {
  const auto low = [](uint32_t a, uint32_t b) { return (a & 0x0f0f0f0fu) | (b & 0xf0f0f0f0u); };
  const uint32_t e0 = low(w.x, w.z << 4), o0 = low(w.x >> 4, w.z), e1 = low(w.y, w.w << 4), o1 = low(w.y >> 4, w.w);
  return make_uint4(__byte_perm(e0, o0, 0x5140), __byte_perm(e0, o0, 0x7362), __byte_perm(e1, o1, 0x5140),
                    __byte_perm(e1, o1, 0x7362));
}

// Warp `helper` of three prepares every third step; the others' turns it only counts.
template <int kSubs, bool kNibbles>
__device__ __forceinline__ void PrepareSteps(const GroupPlan& plan, Shared<kSubs>& s, int helper, uint32_t rank) {
  const GemmArgs& args = plan.args;
  RingPosition<Shared<kSubs>::kStages> ring;
  const int lane = threadIdx.x % 32;
  const int steps = plan.body_steps + plan.outlier_steps;
  const int a_scales = args.a_scales(), b_scales = args.b_scales();
  int turn = 0;
  for (int tile = blockIdx.x / kClusterBlocks; tile < plan.tiles.count(); tile += gridDim.x / kClusterBlocks) {
    int token_tile, pair;
    plan.tiles.Locate(tile, &token_tile, &pair);
    const int64_t m0 = static_cast<int64_t>(token_tile) * kTokens + lane;
    const int n0 = (pair * kClusterBlocks + static_cast<int>(rank)) * kChannels + lane;
    const int tokens_left = static_cast<int>(min(args.m - m0, static_cast<int64_t>(kTokens)));
    const int channels_left = args.n - n0;
    const float* a_scale = args.a_scale + m0 * a_scales;
    for (int step = 0; step < steps; ++step, ring.Advance(), turn = turn == 2 ? 0 : turn + 1) {
      if (turn != helper) continue;
      const bool body = step < plan.body_steps;
      const int segment = plan.segment_steps == 1 ? step : step / plan.segment_steps;
      const uint16_t* b_scale = body ? args.b_scale + static_cast<int64_t>(n0) * b_scales : args.b_outlier_scale + n0;
      const int b_stride = body ? b_scales : 1;
      float token[kSubs][4];
      uint16_t weight[kSubs][4];
#pragma unroll
      for (int sub = 0; sub < kSubs; ++sub) {
        const int a_index = !body ? a_scales - 1 : args.a_group_size ? segment * kSubs + sub : 0;
        const int b_index = body && args.group_size ? segment * kSubs + sub : 0;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          token[sub][i] = 32 * i < tokens_left ? __ldg(a_scale + 32 * i * a_scales + a_index) : 0.0f;
          weight[sub][i] = 32 * i < channels_left ? __ldg(b_scale + 32 * i * b_stride + b_index) : 0;
        }
      }
      // Already so when the stage is full; said again because the copy engine, which was told so, tells nobody else.
      BarrierWait(&s.empty[ring.stage], ring.parity ^ 1);
      BarrierWait(&s.full[ring.stage], ring.parity);
      if (kNibbles && body) {
        constexpr int kBatch = 4;
        const uint32_t chunks = SharedAddress(s.weights[ring.stage]) + 16 * lane;
#pragma unroll 1
        for (int i = 0; i < kWeightBytes / 512; i += kBatch) {
          uint4 w[kBatch];
#pragma unroll
          for (int j = 0; j < kBatch; ++j) w[j] = LoadShared16(chunks + 512 * (i + j));
#pragma unroll
          for (int j = 0; j < kBatch; ++j) StoreShared16(chunks + 512 * (i + j), FragmentOrder(w[j]));
        }
      }
#pragma unroll
      for (int sub = 0; sub < kSubs; ++sub) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          s.token_scale[ring.stage][sub][lane / 2 % 4 * kQuarter + 2 * (lane / 8 + 4 * i) + lane % 2] = token[sub][i];
          const float w = Widen(__ushort_as_half(weight[sub][i]));
          s.weight_scale[ring.stage][sub][lane + 32 * i] = kNibbles && body ? w * (1.0f / 16.0f) : w;
        }
      }
      FenceAsyncProxy();                    // the copy engine overwrites the stage later
      BarrierArrive(&s.ready[ring.stage]);  // every lane for its own stores
    }
  }
}

// One step's weights of this thread as they lie in shared memory: [pair of chunks][rows r and r + 8 of the first chunk,
// then of the second]. The copy engine wrote 16-byte chunk c of row r at c ^ ((r >> 1) & 3); `address` is this lane's
// row and first chunk for ldmatrix.
__device__ __forceinline__ void LoadWeights(uint32_t address, uint32_t (&raw)[2][4]) {
  LoadMatrix4(address, raw[0]);
  LoadMatrix4(address ^ (2 << 4), raw[1]);
}

// The same as wgmma's left operand, [block of 32 channels][register]. A step of bytes has two such blocks and two of
// zeros, so that all steps are multiplied alike.
template <bool kNibbles>
__device__ __forceinline__ void WidenWeights(const uint32_t (&raw)[2][4], uint32_t (&a)[4][4]) {
#pragma unroll
  for (int pair = 0; pair < 2; ++pair) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (kNibbles) {
        a[2 * pair + i / 2][i % 2] = (raw[pair][i] << 4) & 0xf0f0f0f0u;
        a[2 * pair + i / 2][i % 2 + 2] = raw[pair][i] & 0xf0f0f0f0u;
      } else {
        a[pair][i] = raw[pair][i];
        a[pair + 2][i] = 0;
      }
    }
  }
}

// result += float(sum) * weight scale * token scale; element 4j + i is channel r + 8 * (i / 2), token 8j + 2q + i % 2.
__device__ __forceinline__ void Promote(const int (&sum)[64], const float* token_scale, float weight0, float weight1,
                                        float (&result)[64]) {
#pragma unroll
  for (int j = 0; j < 16; j += 2) {
    const float4 t = *reinterpret_cast<const float4*>(token_scale + 2 * j);
    const float scale[4] = {t.x, t.y, t.z, t.w};
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float weight = i & 2 ? weight1 : weight0;
      result[4 * j + i] += static_cast<float>(sum[4 * j + i]) * weight * scale[i / 4 * 2 + i % 2];
    }
  }
}

template <int kSubs, bool kNibbles>
__device__ __forceinline__ void ConsumeTiles(const GroupPlan& plan, Shared<kSubs>& s, uint32_t rank) {
  constexpr int kBlocks = 4 / kSubs;  // of 32 channels, between promotions
  const int warpgroup = threadIdx.x / kWarpgroup - 1;
  const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  const int row = warpgroup * 64 + warp * 16 + lane / 4;
  const int matrix_row = warpgroup * 64 + warp * 16 + lane % 16;
  const uint32_t fragments =
      SharedAddress(s.weights[0]) + matrix_row * kStepBytes + ((lane / 16 ^ ((matrix_row >> 1) & 3)) << 4);
  const uint64_t first_tokens = WgmmaDescriptor(s.tokens[0]);
  const float* token_scales = s.token_scale[0][0] + lane % 4 * kQuarter;
  const float* weight_scales = s.weight_scale[0][0] + row;
  const int steps = plan.body_steps + plan.outlier_steps;
  const StageReports report(s.empty, true, rank);
  RingPosition<Shared<kSubs>::kStages> ring;   // of the step that is multiplied
  RingPosition<Shared<kSubs>::kStages> ahead;  // of the step whose weights are loaded next
  int sum[64];
  uint32_t raw[2][4];
  uint32_t even[4][4], odd[4][4];  // left operands of even and odd steps

  const auto load = [&] {
    BarrierWait(&s.ready[ahead.stage], ahead.parity);
    LoadWeights(fragments + ahead.stage * kWeightBytes, raw);
    ahead.Advance();
  };
  const auto widen = [&](int step, uint32_t(&a)[4][4]) {
    if (kNibbles && step < plan.body_steps) {
      WidenWeights<true>(raw, a);
    } else {
      WidenWeights<false>(raw, a);
    }
  };

  for (int tile = blockIdx.x / kClusterBlocks; tile < plan.tiles.count(); tile += gridDim.x / kClusterBlocks) {
    int token_tile, pair;
    plan.tiles.Locate(tile, &token_tile, &pair);
    float result[64];
#pragma unroll
    for (int i = 0; i < 64; ++i) result[i] = 0.0f;
    int in_segment = 0, segment_steps = plan.segment_steps;

    // Multiplies step `step`, whose operand is `now`; meanwhile makes the next step's and loads the weights after it.
    const auto run_step = [&](int step, uint32_t(&now)[4][4], uint32_t(&next)[4][4]) {
      const int stage = ring.stage;
      const uint64_t tokens = first_tokens + stage * (kTokenBytes / 16);
#pragma unroll
      for (int sub = 0; sub < kSubs; ++sub) {
        WgmmaFence();
#pragma unroll
        for (int i = 0; i < kBlocks; ++i) {
          const int block = sub * kBlocks + i;
          WgmmaS8(sum, now[block], tokens + 2 * block, i > 0 ? 1 : kSubs == 1 ? in_segment : 0);
        }
        WgmmaCommit();
        if (sub == 0) {
          if (step + 1 < steps) widen(step + 1, next);
          if (step + 2 < steps) load();
        }
        const float* token = token_scales + (stage * kSubs + sub) * 4 * kQuarter;
        const float* weight = weight_scales + (stage * kSubs + sub) * kChannels;
        const float weight0 = weight[0], weight1 = weight[8];
        WgmmaWait<0>();
        if (kSubs > 1 || ++in_segment == segment_steps) {
          Promote(sum, token, weight0, weight1, result);
          in_segment = 0;
        }
      }
      if (step + 1 == plan.body_steps) segment_steps = plan.outlier_steps;
      report(stage);
      ring.Advance();
    };

    load();
    widen(0, even);
    if (steps > 1) load();
    int step = 0;
    for (; step + 1 < steps; step += 2) {
      run_step(step, even, odd);
      run_step(step + 1, odd, even);
    }
    if (step < steps) run_step(step, even, odd);
    const int64_t m0 = static_cast<int64_t>(token_tile) * kTokens;
    const int n0 = (pair * kClusterBlocks + static_cast<int>(rank)) * kChannels + warpgroup * 64 + warp * 16;
    WithType(plan.args.type, [&](auto zero) { WriteTile<decltype(zero)>(plan.args, m0, n0, result); });
  }
}

template <int kSubs, bool kNibbles>
__global__ __cluster_dims__(kClusterBlocks, 1, 1)
    __launch_bounds__(kThreads, 1) void GroupKernel(const __grid_constant__ GroupPlan plan,
                                                    const __grid_constant__ CUtensorMap token_map,
                                                    const __grid_constant__ CUtensorMap body_map,
                                                    const __grid_constant__ CUtensorMap outlier_map) {
  extern __shared__ __align__(1024) uint8_t raw[];
  Shared<kSubs>& s = *reinterpret_cast<Shared<kSubs>*>(raw);
  const uint32_t rank = ClusterRank();
  if (threadIdx.x == 0) {
    for (int i = 0; i < Shared<kSubs>::kStages; ++i) {
      BarrierInit(&s.full[i], 1);
      BarrierInit(&s.ready[i], 32);
      BarrierInit(&s.empty[i], StageReports::Arrivals(kMathWarps, true));
    }
    BarrierInitFence();
    PrefetchTensorMap(&token_map);
    PrefetchTensorMap(&body_map);
  }
  ClusterSync();
  if (threadIdx.x < kWarpgroup) {
    GiveRegisters<72>();
    const int warp = threadIdx.x / 32;
    if (warp == 0) {
      if (threadIdx.x == 0) ProduceTiles(plan, s, &token_map, &body_map, &outlier_map, rank);
    } else {
      PrepareSteps<kSubs, kNibbles>(plan, s, warp - 1, rank);
    }
  } else {
    TakeRegisters<216>();
    ConsumeTiles<kSubs, kNibbles>(plan, s, rank);
  }
  ClusterSync();  // the other block may still multicast into this one, or arrive at its barriers
}

template <int kSubs, bool kNibbles>
cudaError_t Launch(const GroupPlan& plan, cudaStream_t stream) {
  const GemmArgs& args = plan.args;
  CUtensorMap token_map{}, body_map{}, outlier_map{};
  const uint64_t row_bytes = args.weight_format == Format::kS4 ? args.body() / 2 : args.body();
  cudaError_t e = MakeTensorMap({args.a, static_cast<uint64_t>(args.m), static_cast<uint64_t>(args.k),
                                 static_cast<uint64_t>(args.k), kTokens / kClusterBlocks, 128},
                                &token_map);
  if (e == cudaSuccess) {
    e = MakeTensorMap({args.b, static_cast<uint64_t>(args.n), row_bytes, row_bytes, kChannels, kStepBytes}, &body_map);
  }
  if (e == cudaSuccess && args.outliers > 0) {
    const uint64_t o = args.outliers;
    e = MakeTensorMap({args.b_outlier, static_cast<uint64_t>(args.n), o, o, kChannels, kStepBytes}, &outlier_map);
  }
  int sms = 0;
  if (e == cudaSuccess) e = Multiprocessors(&sms);
  const size_t shared_bytes = sizeof(Shared<kSubs>);
  if (e == cudaSuccess) {
    e = cudaFuncSetAttribute(GroupKernel<kSubs, kNibbles>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(shared_bytes));
  }
  if (e != cudaSuccess) return e;
  const int clusters = std::min(sms / kClusterBlocks, plan.tiles.count());
  GroupKernel<kSubs, kNibbles>
      <<<clusters * kClusterBlocks, kThreads, shared_bytes, stream>>>(plan, token_map, body_map, outlier_map);
  return cudaGetLastError();
}

}  // namespace

bool AcceptsGroupSm90(const GemmArgs& args) {
  if (!args.integers() || args.a_format == Format::kS4E4M3 || args.n % 8 || args.outliers % 64 || args.k > 65536)
    return false;
  const int row_bytes = args.weight_format == Format::kS4 ? args.body() / 2 : args.body();
  const int step = args.weight_format == Format::kS4 ? 128 : 64;
  const int segment = args.segment();
  const bool whole = args.segments() == 1;  // the last step may then be ragged: zeros beyond the body
  if (!whole && segment % step != 0 &&
      !(args.weight_format == Format::kS4 && args.body() % 128 == 0 && (segment == 64 || segment == 32))) {
    return false;
  }
  if (whole && args.weight_format == Format::kS4 && args.body() % 2) return false;
  return args.m <= (1LL << 30) && CopyEngineTakes(args.a, args.k) && CopyEngineTakes(args.b, row_bytes) &&
         (args.outliers == 0 || CopyEngineTakes(args.b_outlier, args.outliers));
}

cudaError_t LaunchGroupSm90(const GemmArgs& args, cudaStream_t stream) {
  const bool nibbles = args.weight_format == Format::kS4;
  GroupPlan plan;
  plan.args = args;
  plan.tiles.rows = static_cast<int>((args.m + kTokens - 1) / kTokens);
  plan.tiles.columns = (args.n + kChannels * kClusterBlocks - 1) / (kChannels * kClusterBlocks);
  plan.step_channels = nibbles ? 128 : 64;
  plan.body_steps = (args.body() + plan.step_channels - 1) / plan.step_channels;
  plan.outlier_steps = args.outliers / kStepBytes;
  const int segment = args.segment();
  const int subs = segment < plan.step_channels && args.segments() > 1 ? plan.step_channels / segment : 1;
  plan.segment_steps = args.segments() == 1 ? plan.body_steps : std::max(1, segment / plan.step_channels);
  if (!nibbles) return Launch<1, false>(plan, stream);
  switch (subs) {
    case 1:
      return Launch<1, true>(plan, stream);
    case 2:
      return Launch<2, true>(plan, stream);
    case 4:
      return Launch<4, true>(plan, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace lowbit::cuda
