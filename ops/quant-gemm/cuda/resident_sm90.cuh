// QuantGemm for a handful of tokens on Hopper, without a ring and without clusters: a block has 16 or 32 output
// channels with all of their input channels, and all of its weights have a place in shared memory, so everything is
// asked for at once, before the kernels ahead in the stream are done (programmatic launch). Blocks of several kernels
// share a multiprocessor: its whole shared memory is the buffer in front of the memory. What is left between one
// kernel's end and the next one's is short: activations come straight from L2 into mma fragments, the warps of a block
// divide the input channels, and their sums meet in shared memory in a fixed order.
#pragma once
#include <type_traits>

#include "ops/quant-gemm/cuda/decode_math.cuh"
#include "ops/quant-gemm/cuda/sm90_tiles.cuh"

namespace lowbit::cuda::resident {

constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;
constexpr int kSumPadding = 4;  // floats behind a token's rows: neighbouring tokens start in different banks
constexpr int kBoxBytes = 64;   // of a weight row that the copy engine puts together, swizzled

struct ResidentPlan : StepPlan {
  int token_pitch = 0;              // of a token in shared memory: its bytes and 16
  bool bulk_weight_scales = false;  // whether the copy engine can address the block's
  bool bulk_token_scales = false;
  int asking = kWarps;              // warps whose weights are on their way at a time
  uint16_t begin[kWarps + 1] = {};  // steps of warp i: [begin[i], begin[i + 1])
};

// Shared memory of a block: boxes of 64 bytes of its weight rows, a step's nibbles or half of its bytes each, and of
// its outliers, tokens, [warp][token][row] sums, [row][group] weight scales, outlier scales, [token][segment] token
// scales, a barrier for tokens and scales and one a warp for its weights.
struct ResidentLayout {
  int outliers, tokens, sums, scales, outlier_scales, token_scales, barriers, bytes;
};
__host__ __device__ inline ResidentLayout LayoutOf(const ResidentPlan& plan, int rows, int body_boxes) {
  const auto up = [](int bytes) { return (bytes + 15) / 16 * 16; };
  const int tokens = static_cast<int>(plan.args.m), box = rows * kBoxBytes;
  ResidentLayout at{};
  at.outliers = plan.body_steps * body_boxes * box;
  at.tokens = at.outliers + plan.outlier_steps * 2 * box;
  at.sums = at.tokens + tokens * plan.token_pitch;
  at.scales = at.sums + up(kWarps * tokens * (rows + kSumPadding) * 4);
  at.outlier_scales = at.scales + up(rows * plan.b_scales * 2);
  at.token_scales = at.outlier_scales + plan.outlier_steps * rows * 2;
  at.barriers = at.token_scales + up(tokens * plan.a_scales * 4);
  at.bytes = at.barriers + (kWarps + 1) * 8;
  return at;
}

// A token's activations of a step as B fragments lie in memory; `token` is the step's first byte, `left` how many
// bytes the token has from there. Zeros where there is no token.
template <class Math>
__device__ __forceinline__ void LoadToken(const uint8_t* token, int left, bool nibbles,
                                          uint4 (&raw)[2 * Math::kActivationBytes]) {
  const int q = threadIdx.x % 4;
#pragma unroll
  for (int h = 0; h < 2 * Math::kActivationBytes; ++h) {
    int at = nibbles ? 32 * q + 16 * h : 16 * q + 64 * h;
    if constexpr (Math::kActivationBytes == 2) at = nibbles ? 64 * q + 16 * h : 32 * q + 16 * (h & 1) + 128 * (h >> 1);
    raw[h] = at < left ? *reinterpret_cast<const uint4*>(token + at) : make_uint4(0, 0, 0, 0);
  }
}

// One step of 128 channels: the block's weight rows, whose step's boxes lie at `boxes`, times the tokens.
// `token_scale`: of tokens 2q and 2q + 1.
template <class Math, int kRowTiles, class Sum>
__device__ __forceinline__ void MultiplyStep(const uint8_t* boxes, const uint8_t* token, int left, float2 token_scale,
                                             const uint16_t* scale, int scale_stride, float factor,
                                             Sum (&sum)[kRowTiles][4]) {
  constexpr int kPieces = Math::kNibbles ? 1 : 2;
  const int r = threadIdx.x % 32 / 4, q = threadIdx.x % 4;
  uint4 raw[2 * Math::kActivationBytes];
  LoadToken<Math>(token, left, Math::kNibbles, raw);
  uint32_t b[1][Math::kWords];
  Math::Arrange(raw, Math::kSignMagnitude, b[0]);
#pragma unroll
  for (int i = 0; i < kRowTiles; ++i) {
    uint4 w[2][kPieces];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
      for (int p = 0; p < kPieces; ++p) {
        const int row = 16 * (kRowTiles * p + i) + 8 * h + r;
        w[h][p] = *reinterpret_cast<const uint4*>(boxes + row * kBoxBytes + (q ^ ((r >> 1) & 3)) * 16);
      }
    }
    if constexpr (std::is_same_v<Sum, int>) {
      Math::template Multiply<1>(w, b, &sum[i]);
    } else {
      const float scale0 = HalfBits(scale[(16 * i + r) * scale_stride]) * factor;
      const float scale1 = HalfBits(scale[(16 * i + 8 + r) * scale_stride]) * factor;
      typename Math::Acc acc[1][4];
      Start(acc, kStartOfStep<typename Math::Acc>);
      Math::template Multiply<1>(w, b, acc);
      sum[i][0] = fmaf(SumOf<true>(acc[0][0]), scale0 * token_scale.x, sum[i][0]);
      sum[i][1] = fmaf(SumOf<true>(acc[0][1]), scale0 * token_scale.y, sum[i][1]);
      sum[i][2] = fmaf(SumOf<true>(acc[0][2]), scale1 * token_scale.x, sum[i][2]);
      sum[i][3] = fmaf(SumOf<true>(acc[0][3]), scale1 * token_scale.y, sum[i][3]);
    }
  }
}

// Asks for this warp's steps of the block's weight rows.
template <int kRows, int kBoxes>
__device__ __forceinline__ void AskForWeights(const ResidentPlan& plan, const CUtensorMap* weights,
                                              const CUtensorMap* outliers, const ResidentLayout& layout,
                                              uint8_t* shared, uint64_t* barrier, int begin, int end, int n0) {
  const int body_end = min(end, plan.body_steps);
  BarrierArriveExpect(barrier, ((body_end - begin) * kBoxes + (end - body_end) * 2) * kRows * kBoxBytes);
  for (int box = begin * kBoxes; box < body_end * kBoxes; ++box) {
    TensorLoad(weights, barrier, shared + box * kRows * kBoxBytes, box * kBoxBytes, n0);
  }
  for (int box = 0; box < (end - body_end) * 2; ++box) {
    TensorLoad(outliers, barrier, shared + layout.outliers + box * kRows * kBoxBytes, box * kBoxBytes, n0);
  }
}

// The block's weight scales. Makes `barrier`, of which their coming is one of `arrivals`. What the copy engine cannot
// address the threads copy, for all to see behind the next __syncthreads.
template <int kRows>
__device__ __forceinline__ void AskForScales(const ResidentPlan& plan, uint64_t* barrier, int arrivals,
                                             uint16_t* scales, uint16_t* outlier_scales, int n0) {
  const GemmArgs& args = plan.args;
  const int rows = min(kRows, args.n - n0), count = rows * plan.b_scales;
  const uint16_t* const from = args.b_scale + static_cast<int64_t>(n0) * plan.b_scales;
  if (threadIdx.x == 0) {
    BarrierInit(barrier, arrivals);
    BarrierInitFence();
    BarrierArriveExpect(barrier, plan.bulk_weight_scales ? (count + plan.outlier_steps * rows) * 2 : 0);
    if (plan.bulk_weight_scales) {
      BulkLoad(barrier, scales, from, count * 2);
      if (plan.outlier_steps) BulkLoad(barrier, outlier_scales, args.b_outlier_scale + n0, rows * 2);
    }
  }
  if (plan.bulk_weight_scales) return;
  for (int i = threadIdx.x; i < count; i += kThreads) scales[i] = __ldg(from + i);
  if (plan.outlier_steps && static_cast<int>(threadIdx.x) < rows) {
    outlier_scales[threadIdx.x] = __ldg(args.b_outlier_scale + n0 + threadIdx.x);
  }
}

// kWhole: one segment and no outliers, whose integer sums stay integers until the warps' have met. Otherwise every step
// of 128 channels is scaled by itself.
template <class Math, int kRowTiles, bool kWhole>
__global__ __launch_bounds__(kThreads, 3) void ResidentKernel(const __grid_constant__ ResidentPlan plan,
                                                              const __grid_constant__ CUtensorMap weights,
                                                              const __grid_constant__ CUtensorMap outliers) {
  using Sum = std::conditional_t<kWhole, int, float>;
  constexpr int kRows = 16 * kRowTiles, kBoxes = Math::kNibbles ? 1 : 2;
  constexpr bool kIntegers = Math::kActivationBytes == 1;
  constexpr int kStride = kRows + kSumPadding, kTokenStep = kStepChannels * Math::kActivationBytes;
  const GemmArgs& args = plan.args;
  const int warp = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 32, 0);  // the compiler sees that it is uniform
  const int lane = threadIdx.x % 32, r = lane / 4, q = lane % 4;
  const int n0 = blockIdx.x * kRows, tokens = static_cast<int>(args.m);
  const int begin = plan.begin[warp], end = plan.begin[warp + 1];
  const ResidentLayout layout = LayoutOf(plan, kRows, kBoxes);

  extern __shared__ __align__(1024) uint8_t shared[];
  Sum* const sums = reinterpret_cast<Sum*>(shared + layout.sums);
  uint16_t* const scales = reinterpret_cast<uint16_t*>(shared + layout.scales);
  uint16_t* const outlier_scales = reinterpret_cast<uint16_t*>(shared + layout.outlier_scales);
  float* const token_scales = reinterpret_cast<float*>(shared + layout.token_scales);
  uint64_t* const others_there = reinterpret_cast<uint64_t*>(shared + layout.barriers);
  uint64_t* const weights_there = others_there + 1 + warp;

  if (!args.constant_weights) WaitForPriorKernelsIfAny();
  const auto ask = [&] {
    AskForWeights<kRows, kBoxes>(plan, &weights, &outliers, layout, shared, weights_there, begin, end, n0);
  };
  if (lane == 0 && begin < end) {
    BarrierInit(weights_there, 1);
    BarrierInitFence();
    if (warp < plan.asking) ask();
  }
  AskForScales<kRows>(plan, others_there, 2, scales, outlier_scales, n0);
  __syncthreads();
  // Not all at once: what queues up in front of the memory holds up tokens, results and the news that the kernel ahead
  // has ended. So another warp's weights come first.
  if (lane == 0 && begin < end && warp >= plan.asking) {
    const int before = warp - plan.asking;
    if (plan.begin[before] < plan.begin[before + 1]) BarrierWait(weights_there - plan.asking, 0);
    ask();
  }
  if (args.constant_weights) WaitForPriorKernelsIfAny();
  // Not before: with three kernels on the chip the last one's wait took up to 3 us longer.
  LetNextKernelStartIfAny();
  if (warp == 0) {
    const int bytes = args.k * Math::kActivationBytes;
    const int scale_bytes = kIntegers && plan.bulk_token_scales ? tokens * plan.a_scales * 4 : 0;
    if (lane == 0) {
      BarrierArriveExpect(others_there, tokens * bytes + scale_bytes);
      if (scale_bytes > 0) BulkLoad(others_there, token_scales, args.a_scale, scale_bytes);
    }
    __syncwarp();
    if (lane < tokens) {
      BulkLoad(others_there, shared + layout.tokens + lane * plan.token_pitch,
               static_cast<const uint8_t*>(args.a) + static_cast<int64_t>(lane) * bytes, bytes);
    }
  }
  // Once a block: from all warps of all blocks at once, one line of L2 would be asked thousands of times. Past L1,
  // which may hold what was there before the kernel ahead wrote.
  if (kIntegers && !plan.bulk_token_scales) {
    for (int i = threadIdx.x; i < tokens * plan.a_scales; i += kThreads) token_scales[i] = __ldcg(args.a_scale + i);
    __syncthreads();
  }
  Sum sum[kRowTiles][4] = {};
  const uint8_t* const token = shared + layout.tokens + r * plan.token_pitch;
  const float* const my_scales[2] = {token_scales + min(2 * q, tokens - 1) * plan.a_scales,
                                     token_scales + min(2 * q + 1, tokens - 1) * plan.a_scales};
  const int left = r < tokens ? kTokenStep : 0, body_end = min(end, plan.body_steps);
  const auto body = [&](int step) {
    const int segment = args.a_group_size ? step >> plan.unit_shift : 0;
    float2 token_scale = make_float2(1.0f, 1.0f);
    if constexpr (kIntegers && !kWhole) token_scale = make_float2(my_scales[0][segment], my_scales[1][segment]);
    MultiplyStep<Math, kRowTiles>(shared + step * kBoxes * kRows * kBoxBytes, token + step * kTokenStep, left,
                                  token_scale, scales + (args.group_size ? step >> plan.unit_shift : 0), plan.b_scales,
                                  1.0f, sum);
  };
  if (begin < end) BarrierWait(weights_there, 0);
  BarrierWait(others_there, 0);
  int step = begin;
  for (; step + 2 <= body_end; step += 2) {
    body(step);
    body(step + 1);
  }
  if (step < body_end) body(step);
  if constexpr (kIntegers && !kWhole) {
    if (body_end < end) {
      const int last = plan.a_scales - 1;
      MultiplyStep<CodeMath<false>, kRowTiles>(
          shared + layout.outliers, token + args.body(), r < tokens ? args.outliers : 0,
          make_float2(my_scales[0][last], my_scales[1][last]), outlier_scales, 1, 1.0f / Math::kFactor, sum);
    }
  }

  Sum* const mine = sums + (warp * tokens + 2 * q) * kStride + r;
#pragma unroll
  for (int i = 0; i < kRowTiles; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (2 * q + j % 2 < tokens) mine[j % 2 * kStride + 16 * i + 8 * (j / 2)] = sum[i][j];
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < tokens * kRows; i += kThreads) {
    const int token = i / kRows, row = i % kRows, n = n0 + row;
    if (n >= args.n) continue;
    Sum total = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) total += sums[(w * tokens + token) * kStride + row];
    const int64_t index = static_cast<int64_t>(token) * args.n + n;
    float y = static_cast<float>(total) * Math::kFactor;
    if constexpr (kWhole) y *= HalfBits(scales[row]) * token_scales[token * plan.a_scales];
    if (args.bias) y += LoadOne(args.type, args.bias, n);
    if (args.residual) y += LoadOne(args.type, args.residual, index);
    StoreOne(args.type, args.y, index, y);
  }
}

}  // namespace lowbit::cuda::resident
