// QuantGemm with scales per group on Hopper's int8 tensor cores, weights in 4 bits all the way to the registers.
//
// The product is computed transposed: a warpgroup holds 64 output channels and 128 tokens, because wgmma takes only its
// left operand from registers and the weights are what has to be unpacked. A block is 128 channels x 128 tokens:
//
//   warp 0          copy engine: tokens [128 x 128 B, half of them from the cluster's other block] and weights [128 x 64 B]
//   warps 1 ... 3   scales of a step (every third one each) into shared memory, as floats
//   warpgroups 1, 2 unpack the next step's weights while the tensor cores work on this one, then add the finished group's
//                   integer sums, times both scales, to the result in binary32. The two warpgroups take turns by
//                   themselves: one's promotion runs under the other's wgmma.
//
// A step is 64 bytes of weights per channel: 128 channels of nibbles, or 64 of bytes (s8 bodies and outliers).
// Nibbles become bytes of 16 times their value (one shift, two masks, two permutes for eight of them); 1/16 is in the
// weight's scale, exactly. A group of 32 or 64 is promoted inside a step (kSubs 4 or 2).
#include <algorithm>
#include <type_traits>

#include "ops/common/cuda/tensor_map.h"
#include "ops/quant-gemm/cuda/launch.h"
#include "ops/quant-gemm/cuda/sm90_tiles.cuh"

namespace lowbit::cuda {
namespace {

constexpr int kTokens = 128, kChannels = 128;  // of a block
constexpr int kStepBytes = 64;                 // of a weight row
constexpr int kThreads = 3 * kWarpgroup;
constexpr int kTokenBytes = kTokens * 128, kWeightBytes = kChannels * kStepBytes;
constexpr int kMathWarps = 8;

struct GroupPlan {
  GemmArgs args;
  TileOrder tiles;         // rows: token tiles; columns: pairs of channel tiles
  int body_steps = 0, outlier_steps = 0;
  int step_channels = 0;   // of a body step: 128 or 64
  int segment_steps = 0;   // body steps between promotions
  float body_factor = 1;   // 1/16 for nibbles
};

template <int kSubs>
struct alignas(1024) Shared {
  static constexpr int kStages = kSubs == 4 ? 7 : 8;
  uint8_t tokens[kStages][kTokenBytes];
  uint8_t weights[kStages][kWeightBytes];
  float token_scale[kStages][kSubs][kTokens];
  float weight_scale[kStages][kSubs][kChannels];
  uint64_t full[kStages], empty[kStages];
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

// Warp `helper` of three writes the scales of every third step; the others' turns it only counts.
template <int kSubs>
__device__ __forceinline__ void ProduceScales(const GroupPlan& plan, Shared<kSubs>& s, int helper, uint32_t rank) {
  const GemmArgs& args = plan.args;
  RingPosition<Shared<kSubs>::kStages> ring;
  const int lane = threadIdx.x % 32;
  const int steps = plan.body_steps + plan.outlier_steps;
  const int a_scales = args.a_scales(), b_scales = args.b_scales();
  int turn = 0;
  for (int tile = blockIdx.x / kClusterBlocks; tile < plan.tiles.count(); tile += gridDim.x / kClusterBlocks) {
    int token_tile, pair;
    plan.tiles.Locate(tile, &token_tile, &pair);
    const int64_t m0 = static_cast<int64_t>(token_tile) * kTokens;
    const int n0 = (pair * kClusterBlocks + static_cast<int>(rank)) * kChannels;
    for (int step = 0; step < steps; ++step, ring.Advance(), turn = turn == 2 ? 0 : turn + 1) {
      if (turn != helper) continue;
      const bool body = step < plan.body_steps;
      // With one set of scales a step, their loads are under way while the stage is still in use.
      if (kSubs > 1) BarrierWait(&s.empty[ring.stage], ring.parity ^ 1);
#pragma unroll 1
      for (int sub = 0; sub < kSubs; ++sub) {
        const int k = step * plan.step_channels + sub * (plan.step_channels / kSubs);
        const int a_index = !body ? a_scales - 1 : args.a_group_size ? k / args.a_group_size : 0;
        const int b_index = args.group_size ? k / args.group_size : 0;
        float token[4], weight[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int64_t m = m0 + lane + 32 * i;
          const int n = n0 + lane + 32 * i;
          token[i] = m < args.m ? __ldg(args.a_scale + m * a_scales + a_index) : 0.0f;
          const uint16_t* from =
              body ? args.b_scale + static_cast<int64_t>(n) * b_scales + b_index : args.b_outlier_scale + n;
          weight[i] = n < args.n ? Widen(__ushort_as_half(__ldg(from))) : 0.0f;
        }
        if (kSubs == 1) BarrierWait(&s.empty[ring.stage], ring.parity ^ 1);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          s.token_scale[ring.stage][sub][lane + 32 * i] = token[i];
          s.weight_scale[ring.stage][sub][lane + 32 * i] = body ? weight[i] * plan.body_factor : weight[i];
        }
      }
      __syncwarp();
      if (lane == 0) BarrierArrive(&s.full[ring.stage]);
    }
  }
}

// One step's weights of this thread as wgmma's left operand: rows r and r + 8 of the warp's 16, four blocks of 32
// channels. The copy engine wrote 16-byte chunk c of row r at c ^ ((r >> 1) & 3).
//
//   nibbles: bytes 2q, 2q+1 of each 8-byte half of chunk i are channels 4q ... 4q+3 and 16+4q ... of block i
//   bytes:   word q of chunks 2i and 2i+1 are the same channels of block i
template <bool kNibbles>
__device__ __forceinline__ void UnpackWeights(const uint8_t* tile, int row, int q, uint32_t (&a)[4][4]) {
  const uint8_t* row0 = tile + row * kStepBytes;
  const int swizzle = (row >> 1) & 3;  // the same for row + 8
  if constexpr (kNibbles) {
    const uint32_t select = q & 1 ? 0x7632 : 0x5410;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint8_t* chunk = row0 + ((i ^ swizzle) << 4) + (q >> 1) * 4;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const uint32_t lo = *reinterpret_cast<const uint32_t*>(chunk + h * 8 * kStepBytes);
        const uint32_t hi = *reinterpret_cast<const uint32_t*>(chunk + h * 8 * kStepBytes + 8);
        const uint32_t codes = __byte_perm(lo, hi, select);
        const uint32_t even = (codes << 4) & 0xf0f0f0f0u, odd = codes & 0xf0f0f0f0u;
        a[i][h] = __byte_perm(even, odd, 0x5140);
        a[i][h + 2] = __byte_perm(even, odd, 0x7362);
      }
    }
  } else {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const uint8_t* r = row0 + h * 8 * kStepBytes + q * 4;
        a[i][h] = *reinterpret_cast<const uint32_t*>(r + (((2 * i) ^ swizzle) << 4));
        a[i][h + 2] = *reinterpret_cast<const uint32_t*>(r + (((2 * i + 1) ^ swizzle) << 4));
      }
    }
  }
}

// result += float(sum) * weight scale * token scale; element 4j + i is channel r + 8 * (i / 2), token 8j + 2q + i % 2.
__device__ __forceinline__ void Promote(const int (&sum)[64], const float* token_scale, float weight0, float weight1,
                                        int q, float (&result)[64]) {
#pragma unroll
  for (int j = 0; j < 16; ++j) {
    const float2 t = *reinterpret_cast<const float2*>(token_scale + 8 * j + 2 * q);
    result[4 * j + 0] += static_cast<float>(sum[4 * j + 0]) * weight0 * t.x;
    result[4 * j + 1] += static_cast<float>(sum[4 * j + 1]) * weight0 * t.y;
    result[4 * j + 2] += static_cast<float>(sum[4 * j + 2]) * weight1 * t.x;
    result[4 * j + 3] += static_cast<float>(sum[4 * j + 3]) * weight1 * t.y;
  }
}

// 16 channels from n0 and 128 tokens from m0 of a warp. 16-bit results go through the warp's 8 x 8 transpose, so that
// neighbouring threads write neighbouring channels; 32-bit ones already do.
__device__ __forceinline__ void WriteTile(const GemmArgs& args, int64_t m0, int n0, const float (&result)[64]) {
  const int lane = threadIdx.x % 32, r = lane / 4, q = lane % 4;
  const DType type = args.type;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int block = n0 + 8 * h;  // N is a multiple of 8: all eight channels are inside or none is
    if (block >= args.n) break;
    const float bias = args.bias ? LoadOne(type, args.bias, block + r) : 0.0f;
#pragma unroll
    for (int j = 0; j < 16; ++j) {
      float x = result[4 * j + 2 * h] + bias, y = result[4 * j + 2 * h + 1] + bias;
      if (type == DType::kF32) {
        const int64_t m = m0 + 8 * j + 2 * q;
        const int64_t at = m * args.n + block + r;
        if (m < args.m) {
          if (args.residual) x += static_cast<const float*>(args.residual)[at];
          static_cast<float*>(args.y)[at] = x;
        }
        if (m + 1 < args.m) {
          if (args.residual) y += static_cast<const float*>(args.residual)[at + args.n];
          static_cast<float*>(args.y)[at + args.n] = y;
        }
      } else {
        const int64_t m = m0 + 8 * j + r;
        const int64_t at = m * args.n + block + 2 * q;
        if (args.residual) {
          const uint32_t pair = m < args.m ? *reinterpret_cast<const uint32_t*>(
                                                 static_cast<const uint16_t*>(args.residual) + at)
                                           : 0;
          const float2 v = UnpackPair(type, Transpose8x8(pair));
          x += v.x, y += v.y;
        }
        const uint32_t pair = Transpose8x8(PackPair(type, x, y));
        if (m < args.m) *reinterpret_cast<uint32_t*>(static_cast<uint16_t*>(args.y) + at) = pair;
      }
    }
  }
}

template <int kSubs, bool kNibbles>
__device__ __forceinline__ void ConsumeTiles(const GroupPlan& plan, Shared<kSubs>& s, uint32_t rank) {
  const int warpgroup = threadIdx.x / kWarpgroup - 1;
  const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  const int q = lane % 4;
  const int row = warpgroup * 64 + warp * 16 + lane / 4;
  RingPosition<Shared<kSubs>::kStages> ring;
  int sum[64];
  uint32_t even[4][4], odd[4][4];  // operands of this step and the next, by turns

  for (int tile = blockIdx.x / kClusterBlocks; tile < plan.tiles.count(); tile += gridDim.x / kClusterBlocks) {
    int token_tile, pair;
    plan.tiles.Locate(tile, &token_tile, &pair);
    float result[64];
#pragma unroll
    for (int i = 0; i < 64; ++i) result[i] = 0.0f;
    int in_segment = 0;

    // Multiplies blocks `from` ... `to` of the stage and waits; `meanwhile` runs beside the tensor cores.
    const auto multiply = [&](uint32_t (&now)[4][4], auto from, auto to, int accumulate, auto&& meanwhile) {
      const uint64_t tokens = WgmmaDescriptor(s.tokens[ring.stage]);
      WgmmaFence();
#pragma unroll
      for (int i = from; i < to; ++i) WgmmaS8N128(sum, now[i], tokens + 2 * i, i > from ? 1 : accumulate);
      WgmmaCommit();
      meanwhile();
      WgmmaWait<0>();
    };
    const auto promote = [&](int sub) {
      const float* weight = s.weight_scale[ring.stage][sub];
      Promote(sum, s.token_scale[ring.stage][sub], weight[row], weight[row + 8], q, result);
    };
    // Unpacks the following step's weights into `next`, as nibbles before step `nibbles_end` and as bytes before `end`.
    const auto prefetch = [&](int step, int nibbles_end, int end, uint32_t (&next)[4][4]) {
      if (step + 1 >= end) return;
      RingPosition<Shared<kSubs>::kStages> ahead = ring;
      ahead.Advance();
      BarrierWait(&s.full[ahead.stage], ahead.parity);
      if (kNibbles && step + 1 < nibbles_end) {
        UnpackWeights<true>(s.weights[ahead.stage], row, q, next);
      } else {
        UnpackWeights<false>(s.weights[ahead.stage], row, q, next);
      }
    };
    const auto release = [&] {
      __syncwarp();
      if (lane < kClusterBlocks) BarrierArriveRemote(&s.empty[ring.stage], lane);
      ring.Advance();
    };
    const int body = plan.body_steps, steps = plan.body_steps + plan.outlier_steps;
    const auto body_step = [&](int step, uint32_t (&now)[4][4], uint32_t (&next)[4][4]) {
      constexpr int kBlocks = kNibbles ? 4 : 2;
      if constexpr (kSubs == 1) {
        multiply(now, std::integral_constant<int, 0>{}, std::integral_constant<int, kBlocks>{}, in_segment,
                 [&] { prefetch(step, body, steps, next); });
        if (++in_segment == plan.segment_steps) {
          promote(0);
          in_segment = 0;
        }
      } else {
#pragma unroll
        for (int sub = 0; sub < kSubs; ++sub) {
          const int first = sub * (4 / kSubs);
          multiply(now, first, first + 4 / kSubs, 0, [&] {
            if (sub == 0) prefetch(step, body, steps, next);
          });
          promote(sub);
        }
      }
      release();
    };
    const auto outlier_step = [&](int step, uint32_t (&now)[4][4], uint32_t (&next)[4][4]) {
      multiply(now, std::integral_constant<int, 0>{}, std::integral_constant<int, 2>{}, step > body,
               [&] { prefetch(step, 0, steps, next); });
      if (step + 1 == steps) promote(0);
      release();
    };
    const auto all_steps = [&](int begin, int end, auto&& step) {
      int i = begin;
      for (; i + 1 < end; i += 2) {
        step(i, even, odd);
        step(i + 1, odd, even);
      }
      if (i < end) {
        step(i, even, odd);
#pragma unroll
        for (int b = 0; b < 16; ++b) even[b / 4][b % 4] = odd[b / 4][b % 4];
      }
    };

    BarrierWait(&s.full[ring.stage], ring.parity);
    UnpackWeights<kNibbles>(s.weights[ring.stage], row, q, even);
    all_steps(0, body, body_step);
    all_steps(body, steps, outlier_step);
    WriteTile(plan.args, static_cast<int64_t>(token_tile) * kTokens,
              (pair * kClusterBlocks + static_cast<int>(rank)) * kChannels + warpgroup * 64 + warp * 16, result);
  }
}

template <int kSubs, bool kNibbles>
__global__ __cluster_dims__(kClusterBlocks, 1, 1) __launch_bounds__(kThreads, 1) void GroupKernel(
    const __grid_constant__ GroupPlan plan, const __grid_constant__ CUtensorMap token_map,
    const __grid_constant__ CUtensorMap body_map, const __grid_constant__ CUtensorMap outlier_map) {
  extern __shared__ __align__(1024) uint8_t raw[];
  Shared<kSubs>& s = *reinterpret_cast<Shared<kSubs>*>(raw);
  const uint32_t rank = ClusterRank();
  if (threadIdx.x == 0) {
    for (int i = 0; i < Shared<kSubs>::kStages; ++i) {
      BarrierInit(&s.full[i], 2);  // the copy engine's thread and the scales' warp
      BarrierInit(&s.empty[i], kMathWarps * kClusterBlocks);
    }
    BarrierInitFence();
    PrefetchTensorMap(&token_map);
    PrefetchTensorMap(&body_map);
  }
  ClusterSync();
  if (threadIdx.x < kWarpgroup) {
    GiveRegisters<56>();
    const int warp = threadIdx.x / 32;
    if (warp == 0) {
      if (threadIdx.x == 0) ProduceTiles(plan, s, &token_map, &body_map, &outlier_map, rank);
    } else {
      ProduceScales(plan, s, warp - 1, rank);
    }
  } else {
    TakeRegisters<224>();
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
  int device = 0, sms = 0;
  if (e == cudaSuccess) e = cudaGetDevice(&device);
  if (e == cudaSuccess) e = cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device);
  const size_t shared_bytes = sizeof(Shared<kSubs>);
  if (e == cudaSuccess) {
    e = cudaFuncSetAttribute(GroupKernel<kSubs, kNibbles>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(shared_bytes));
  }
  if (e != cudaSuccess) return e;
  const int clusters = std::min(sms / kClusterBlocks, plan.tiles.count());
  GroupKernel<kSubs, kNibbles><<<clusters * kClusterBlocks, kThreads, shared_bytes, stream>>>(plan, token_map, body_map, outlier_map);
  return cudaGetLastError();
}

}  // namespace

bool AcceptsGroupSm90(const GemmArgs& args) {
  if (args.a_format == Format::kNone || args.n % 8 || args.outliers % 64 || args.k > 65536) return false;
  const int row_bytes = args.weight_format == Format::kS4 ? args.body() / 2 : args.body();
  const int step = args.weight_format == Format::kS4 ? 128 : 64;
  const int segment = args.segment();
  const bool whole = args.segments() == 1;  // the last step may then be ragged: zeros beyond the body
  if (!whole && segment % step != 0 && !(args.weight_format == Format::kS4 && args.body() % 128 == 0 &&
                                         (segment == 64 || segment == 32))) {
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
  plan.body_factor = nibbles ? 1.0f / 16.0f : 1.0f;
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
