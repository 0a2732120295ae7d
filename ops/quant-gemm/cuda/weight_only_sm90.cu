// QuantGemm with 16-bit float activations and 4-bit weights on Hopper's tensor cores, for many tokens.
//
// The product is computed transposed, because wgmma takes only its left operand from registers and the weights are what
// has to be unpacked: a warpgroup holds 64 output channels and 128 or 64 tokens, a block two warpgroups. A producer
// warp fills stages of 128 input channels, tokens for both blocks of a cluster at once. While the tensor cores work on
// a step, a warpgroup unpacks the next one's weights; its sums are scaled and added to the result in binary32 while the
// other warpgroup multiplies.
#include <algorithm>

#include "ops/common/cuda/tensor_map.h"
#include "ops/common/cuda/wgmma.cuh"
#include "ops/quant-gemm/cuda/launch.h"
#include "ops/quant-gemm/cuda/sm90_tiles.cuh"

namespace lowbit::cuda {
namespace {

constexpr int kChannels = 128;  // output channels of a block
constexpr int kStep = 128;      // input channels of a stage
constexpr int kThreads = 3 * kWarpgroup;
constexpr int kWeightBytes = kChannels * kStep / 2;
constexpr int kMathWarps = 8;

struct WeightOnlyPlan {
  GemmArgs args;
  TileOrder tiles;        // rows: token tiles; columns: pairs of channel tiles
  int steps = 0;          // of 128 channels
  int segment_steps = 0;  // between promotions
};

template <int kTokens>
struct alignas(1024) Shared {
  static constexpr int kTokenBytes = kTokens * kStep * 2;
  static constexpr int kStages = (220 * 1024) / (kTokenBytes + kWeightBytes);
  uint8_t tokens[kStages][kTokenBytes];  // two runs of 64 channels, one behind the other
  uint8_t weights[kStages][kWeightBytes];
  uint64_t full[kStages], empty[kStages];
};

template <int kTokens>
__device__ __forceinline__ void ProduceTiles(const WeightOnlyPlan& plan, Shared<kTokens>& s, const CUtensorMap* tokens,
                                             const CUtensorMap* weights, uint32_t rank) {
  RingPosition<Shared<kTokens>::kStages> ring;
  constexpr int kRunBytes = kTokens * 128;
  for (int tile = blockIdx.x / kClusterBlocks; tile < plan.tiles.count(); tile += gridDim.x / kClusterBlocks) {
    int token_tile, pair;
    plan.tiles.Locate(tile, &token_tile, &pair);
    const int token_row = token_tile * kTokens + static_cast<int>(rank) * (kTokens / 2);
    const int channel_row = (pair * kClusterBlocks + static_cast<int>(rank)) * kChannels;
    for (int step = 0; step < plan.steps; ++step) {
      BarrierWait(&s.empty[ring.stage], ring.parity ^ 1);
      BarrierArriveExpect(&s.full[ring.stage], Shared<kTokens>::kTokenBytes + kWeightBytes);
#pragma unroll
      for (int run = 0; run < 2; ++run) {
        TensorLoadMulticast(tokens, &s.full[ring.stage],
                            s.tokens[ring.stage] + run * kRunBytes + rank * (kRunBytes / 2),
                            step * kStep * 2 + run * 128, token_row, (1 << kClusterBlocks) - 1);
      }
      TensorLoad(weights, &s.full[ring.stage], s.weights[ring.stage], step * (kStep / 2), channel_row);
      ring.Advance();
    }
  }
}

// The two nibbles of byte q of a word as two 16-bit floats: they stand in a magic number's mantissa with their sign
// bits flipped, the high one as 16 times its value.
__device__ __forceinline__ uint32_t UnpackByte(__half, uint32_t word, uint32_t select) {
  const uint32_t v = (__byte_perm(word, 0, select) & 0x00f0000fu) ^ 0x64806408u;
  const __half2 h = __hfma2(*reinterpret_cast<const __half2*>(&v), __floats2half2_rn(1.0f, 0.0625f),
                            __floats2half2_rn(-1032.0f, -72.0f));
  return *reinterpret_cast<const uint32_t*>(&h);
}
__device__ __forceinline__ uint32_t UnpackByte(__nv_bfloat16, uint32_t word, uint32_t select) {
  // bfloat16 has no room for the high nibble in its place: it is moved down first.
  const uint32_t byte = __byte_perm(word, 0, select);
  const uint32_t v = ((byte & 0x0000000fu) | ((byte >> 4) & 0x000f0000u)) ^ 0x43084308u;
  const __nv_bfloat162 h = __hadd2(*reinterpret_cast<const __nv_bfloat162*>(&v), __float2bfloat162_rn(-136.0f));
  return *reinterpret_cast<const uint32_t*>(&h);
}

// Left operands of one step, four registers for each 16 channels. Thread q of a row needs channels 2q, 2q+1 of every
// eight: byte q of every word.
template <class T>
__device__ __forceinline__ void LoadOperands(const uint8_t* rows, uint32_t (&a)[8][4]) {
  const int lane = threadIdx.x % 32, r = lane / 4, q = lane % 4;
  const uint32_t select = 0x4040 | q | q << 8;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const uint4 w = *reinterpret_cast<const uint4*>(rows + (r + 8 * h) * 64 + (c ^ ((r >> 1) & 3)) * 16);
      a[2 * c][h] = UnpackByte(T{}, w.x, select), a[2 * c][h + 2] = UnpackByte(T{}, w.y, select);
      a[2 * c + 1][h] = UnpackByte(T{}, w.z, select), a[2 * c + 1][h + 2] = UnpackByte(T{}, w.w, select);
    }
  }
}

template <class T, int kTokens>
__device__ __forceinline__ void ConsumeTiles(const WeightOnlyPlan& plan, Shared<kTokens>& s, uint32_t rank) {
  constexpr int kSums = kTokens / 2;
  const GemmArgs& args = plan.args;
  const int warpgroup = threadIdx.x / kWarpgroup - 1, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  const int first_row = warpgroup * 64 + warp * 16;
  const uint64_t first_tokens = WgmmaDescriptor(s.tokens[0]);
  RingPosition<Shared<kTokens>::kStages> ring, ahead;
  uint32_t even[8][4], odd[8][4];
  const auto load = [&](uint32_t(&a)[8][4]) {
    BarrierWait(&s.full[ahead.stage], ahead.parity);
    LoadOperands<T>(s.weights[ahead.stage] + first_row * 64, a);
    ahead.Advance();
  };
  for (int tile = blockIdx.x / kClusterBlocks; tile < plan.tiles.count(); tile += gridDim.x / kClusterBlocks) {
    int token_tile, pair;
    plan.tiles.Locate(tile, &token_tile, &pair);
    const int n0 = (pair * kClusterBlocks + static_cast<int>(rank)) * kChannels + first_row;
    const uint16_t* const scales[2] = {
        args.b_scale + static_cast<int64_t>(min(n0 + lane / 4, args.n - 1)) * args.b_scales(),
        args.b_scale + static_cast<int64_t>(min(n0 + lane / 4 + 8, args.n - 1)) * args.b_scales()};
    float sum[kSums], result[64];
#pragma unroll
    for (int i = 0; i < kSums; ++i) result[i] = 0.0f;
    int in_segment = 0, segment = 0;
    const auto run_step = [&](int step, uint32_t(&now)[8][4], uint32_t(&next)[8][4]) {
      const uint64_t tokens = first_tokens + ring.stage * (Shared<kTokens>::kTokenBytes / 16);
      WgmmaFence();
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        WgmmaHalf(T{}, sum, now[i], tokens + i / 4 * (kTokens * 128 / 16) + i % 4 * 2, i > 0 ? 1 : in_segment);
      }
      WgmmaCommit();
      const float weight0 = Widen(__ushort_as_half(__ldg(scales[0] + segment)));
      const float weight1 = Widen(__ushort_as_half(__ldg(scales[1] + segment)));
      if (step + 1 < plan.steps) load(next);
      WgmmaWait<0>();
      if (++in_segment == plan.segment_steps) {
#pragma unroll
        for (int i = 0; i < kSums; ++i) result[i] = fmaf(sum[i], i & 2 ? weight1 : weight0, result[i]);
        in_segment = 0;
        ++segment;
      }
      __syncwarp();
      if (lane < kClusterBlocks) BarrierArriveRemote(&s.empty[ring.stage], lane);
      ring.Advance();
    };
    load(even);
    int step = 0;
    for (; step + 1 < plan.steps; step += 2) {
      run_step(step, even, odd);
      run_step(step + 1, odd, even);
    }
    if (step < plan.steps) run_step(step, even, odd);
    WriteTile<T, kTokens>(args, static_cast<int64_t>(token_tile) * kTokens, n0, result);
  }
}

template <class T, int kTokens>
__global__ __cluster_dims__(kClusterBlocks, 1, 1)
    __launch_bounds__(kThreads, 1) void WeightOnlyKernel(const __grid_constant__ WeightOnlyPlan plan,
                                                         const __grid_constant__ CUtensorMap tokens,
                                                         const __grid_constant__ CUtensorMap weights) {
  extern __shared__ __align__(1024) uint8_t raw[];
  Shared<kTokens>& s = *reinterpret_cast<Shared<kTokens>*>(raw);
  const uint32_t rank = ClusterRank();
  if (threadIdx.x == 0) {
    for (int i = 0; i < Shared<kTokens>::kStages; ++i) {
      BarrierInit(&s.full[i], 1);
      BarrierInit(&s.empty[i], kMathWarps * kClusterBlocks);
    }
    BarrierInitFence();
    PrefetchTensorMap(&tokens);
    PrefetchTensorMap(&weights);
  }
  ClusterSync();
  if (threadIdx.x < kWarpgroup) {
    GiveRegisters<40>();
    if (threadIdx.x == 0) ProduceTiles<kTokens>(plan, s, &tokens, &weights, rank);
  } else {
    TakeRegisters<232>();
    ConsumeTiles<T, kTokens>(plan, s, rank);
  }
  ClusterSync();  // the other block may still multicast into this one, or arrive at its barriers
}

template <class T, int kTokens>
cudaError_t Launch(const GemmArgs& args, cudaStream_t stream) {
  auto* kernel = WeightOnlyKernel<T, kTokens>;
  WeightOnlyPlan plan;
  plan.args = args;
  plan.tiles.rows = static_cast<int>((args.m + kTokens - 1) / kTokens);
  plan.tiles.columns = (args.n + kChannels * kClusterBlocks - 1) / (kChannels * kClusterBlocks);
  plan.steps = args.k / kStep;
  plan.segment_steps = args.segment() / kStep;
  const uint64_t k = args.k, n = args.n, m = args.m;
  CUtensorMap tokens{}, weights{};
  cudaError_t e = MakeTensorMap({args.a, m, 2 * k, 2 * k, kTokens / kClusterBlocks, 128}, &tokens);
  if (e == cudaSuccess) e = MakeTensorMap({args.b, n, k / 2, k / 2, kChannels, kStep / 2}, &weights);
  int device = 0, sms = 0;
  if (e == cudaSuccess) e = cudaGetDevice(&device);
  if (e == cudaSuccess) e = cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device);
  const int shared_bytes = static_cast<int>(sizeof(Shared<kTokens>));
  if (e == cudaSuccess) e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
  if (e != cudaSuccess) return e;
  const int clusters = std::min(sms / kClusterBlocks, plan.tiles.count());
  kernel<<<clusters * kClusterBlocks, kThreads, shared_bytes, stream>>>(plan, tokens, weights);
  return cudaGetLastError();
}

template <class T>
cudaError_t LaunchBy(const GemmArgs& args, cudaStream_t stream) {
  return args.m <= 64 ? Launch<T, 64>(args, stream) : Launch<T, 128>(args, stream);
}

}  // namespace

bool AcceptsWeightOnlySm90(const GemmArgs& args) {
  return args.a_format == Format::kNone && args.type != DType::kF32 && args.weight_format == Format::kS4 &&
         args.outliers == 0 && args.n % 8 == 0 && args.k % kStep == 0 && args.k <= 65536 &&
         args.segment() % kStep == 0 && args.m <= (1LL << 30) && CopyEngineTakes(args.a, 2ull * args.k) &&
         CopyEngineTakes(args.b, args.k / 2);
}

cudaError_t LaunchWeightOnlySm90(const GemmArgs& args, cudaStream_t stream) {
  return args.type == DType::kF16 ? LaunchBy<__half>(args, stream) : LaunchBy<__nv_bfloat16>(args, stream);
}

}  // namespace lowbit::cuda
