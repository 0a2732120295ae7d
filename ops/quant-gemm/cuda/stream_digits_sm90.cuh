// QuantGemm with 4-bit weights and one or two tokens of 16-bit floats on Hopper: the ring and the cluster of
// stream_sm90.cuh with int8 products of the activations' digits (float_digits.cuh), which each block makes once for its
// input channels. The ring holds weights alone.
#pragma once
#include "ops/quant-gemm/cuda/float_digits.cuh"
#include "ops/quant-gemm/cuda/stream_launch.cuh"

namespace lowbit::cuda::stream {

constexpr int kHalfMultiprocessor = 113 * 1024;  // of shared memory: two blocks at once, of this kernel or the next

// Shared memory of a block: slots of weights, sums that meet, [step][column][128] digits, [step][8] scales of the
// columns, [warp][step][16] scales of the weights, two barriers a slot and one
// for the sums.
struct DigitLayout {
  int slots, sums, digits, column_scales, weight_scales, barriers, bytes;
};
__host__ __device__ inline DigitLayout DigitLayoutOf(const StreamPlan& plan) {
  const int columns = kDigits * static_cast<int>(plan.args.m);
  const int digit_bytes = plan.max_steps * columns * kStepChannels, scale_bytes = plan.max_steps * kDigitColumns * 4;
  const int sum_bytes = plan.split * OwnWarps(plan.split) * 512;
  const int rest = sum_bytes + digit_bytes + scale_bytes + plan.max_steps * kStreamWarps * 32 + 8;
  const int fit = (kHalfMultiprocessor - rest) / (kSlotWeightBytes + 16);
  DigitLayout at{};
  at.slots = fit < plan.max_steps ? fit : plan.max_steps;
  at.sums = at.slots * kSlotWeightBytes;
  at.digits = at.sums + sum_bytes;
  at.column_scales = at.digits + digit_bytes;
  at.weight_scales = at.column_scales + scale_bytes;
  at.barriers = at.weight_scales + plan.max_steps * kStreamWarps * 32;
  at.bytes = at.barriers + at.slots * 16 + 8;
  return at;
}

// A ring whose number of slots is known when the kernel is launched.
struct DigitRing {
  uint8_t* slots;
  uint64_t *full, *empty;
  int count;

  __device__ __forceinline__ void Advance(int& slot, uint32_t& parity) const {
    if (++slot == count) slot = 0, parity ^= 1;
  }
};

// The digits of the block's steps and the scales of their columns. Half a warp takes a step of a token, a thread eight
// channels of it, whose even ones become a word of each digit and odd ones another, as unpacked nibbles lie.
template <class T>
__device__ __forceinline__ void MakeDigits(const StreamPlan& plan, int begin, int end, uint8_t* digits,
                                           float* column_scales) {
  const int lane = threadIdx.x % 32, run = lane % 16, tokens = static_cast<int>(plan.args.m);
  const int units = (end - begin) * tokens;
  const T* const from = static_cast<const T*>(plan.args.a) + begin * kStepChannels + run * 8;
#pragma unroll 2
  for (int first = threadIdx.x / 32 * 2; first < units; first += 2 * kStreamWarps) {
    const int unit = min(first + lane / 16, units - 1);  // the last one may be done twice, alike
    const int step = tokens == 1 ? unit : unit >> 1, token = tokens == 1 ? 0 : unit & 1;
    const uint4 raw =
        __ldcg(reinterpret_cast<const uint4*>(from + static_cast<int64_t>(token) * plan.args.k + step * kStepChannels));
    uint2 words[kDigits];
    const float scale = ToDigits<T>(raw, words);
    const int column = kDigits * token;
#pragma unroll
    for (int d = 0; d < kDigits; ++d) {
      uint8_t* const row = digits + (step * kDigits * tokens + column + d) * kStepChannels;
      *reinterpret_cast<uint2*>(row + ((run / 2) ^ (column + d)) * 16 + run % 2 * 8) = words[d];
    }
    if (run < kDigits) {
      column_scales[step * kDigitColumns + column + run] = scale * PlaceOf(run);
    }
  }
}

// One step of 128 channels: this warp's weight rows in `slot` times the step's digits.
__device__ __forceinline__ void MultiplyDigits(const uint8_t* weights, const uint8_t* shared, const int (&digits)[2],
                                               const uint16_t* scale, const float* column_scale, float (*sum)[4]) {
  const uint4 w[2][1] = {{*reinterpret_cast<const uint4*>(weights)},
                         {*reinterpret_cast<const uint4*>(weights + 8 * kSlotRowBytes)}};
  const uint4 x = *reinterpret_cast<const uint4*>(shared + digits[0]);
  const uint4 y = *reinterpret_cast<const uint4*>(shared + digits[1]);
  const uint32_t b[1][8] = {{x.x, x.y, x.z, x.w, y.x, y.y, y.z, y.w}};
  int acc[1][4];
  Start(acc, kStartOfStep<int>);
  CodeMath<true>::Multiply<1>(w, b, acc);
  Promote<true>(acc, column_scale, HalfBits(scale[0]), HalfBits(scale[8]), sum);
}

template <class T>
__global__ __launch_bounds__(kStreamThreads, 2) void DigitKernel(const __grid_constant__ StreamPlan plan,
                                                                 const __grid_constant__ CUtensorMap weights,
                                                                 const __grid_constant__ CUtensorMap,
                                                                 const __grid_constant__ CUtensorMap) {
  constexpr int kSide = 2;  // steps that are computed side by side
  const GemmArgs& args = plan.args;
  const int warp = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 32, 0);  // the compiler sees that it is uniform
  const int lane = threadIdx.x % 32, r = lane / 4, q = lane % 4;
  const int rank = blockIdx.x % plan.split, n0 = blockIdx.x / plan.split * kBlockRows;
  const int begin = plan.begin[rank], end = plan.begin[rank + 1];
  const int tokens = static_cast<int>(args.m), columns = kDigits * tokens;
  const DigitLayout layout = DigitLayoutOf(plan);

  extern __shared__ __align__(1024) uint8_t shared[];
  float4* const sums = reinterpret_cast<float4*>(shared + layout.sums);
  uint8_t* const digits = shared + layout.digits;
  float* const column_scales = reinterpret_cast<float*>(shared + layout.column_scales);
  uint16_t* const weight_scales = reinterpret_cast<uint16_t*>(shared + layout.weight_scales);
  uint64_t* const barriers = reinterpret_cast<uint64_t*>(shared + layout.barriers);
  const DigitRing ring{shared, barriers, barriers + layout.slots, layout.slots};
  uint64_t* const received = barriers + 2 * layout.slots;  // the cluster's sums of the block's own rows
  const int first_own = (rank * kStreamWarps + plan.split - 1) / plan.split;
  const int own = ((rank + 1) * kStreamWarps + plan.split - 1) / plan.split - first_own;

  if (!args.constant_weights) WaitForPriorKernelsIfAny();
  if (threadIdx.x == 32 * kStreamWarps) {
    for (int s = 0; s < ring.count; ++s) {
      BarrierInit(ring.full + s, 1);
      BarrierInit(ring.empty + s, kStreamWarps);
    }
    BarrierInit(received, 1);
    BarrierInitFence();
    BarrierArriveExpect(received, plan.split * own * 512);
  }
  __syncthreads();
  if (plan.split > 1) ClusterArrive();  // sums may be sent once all blocks have come here
  if (warp == kStreamWarps) {
    if (lane == 0) {  // needs nothing of the kernels ahead
      PrefetchTensorMap(&weights);
      const int first = begin + min(kSlotsUnderWay, ring.count);
      int slot = 0, oldest = 0;
      uint32_t parity = 1, oldest_parity = 0;
      for (int step = begin; step < end; ++step, ring.Advance(slot, parity)) {
        if (step >= first) {
          BarrierWait(ring.full + oldest, oldest_parity);
          ring.Advance(oldest, oldest_parity);
        }
        BarrierWait(ring.empty + slot, parity);
        BarrierArriveExpect(ring.full + slot, kSlotWeightBytes);
        TensorLoad(&weights, ring.full + slot, ring.slots + slot * kSlotWeightBytes, step * kSlotRowBytes, n0);
      }
    }
    __syncwarp();
    if (plan.split > 1) ClusterWait();
  } else {
    uint16_t* const my_scales = weight_scales + warp * plan.max_steps * 16;
    StageWeightScales(plan, begin, end, n0 + 16 * warp, my_scales);
    if (args.constant_weights) WaitForPriorKernelsIfAny();
    LetNextKernelStartIfAny();  // not before: batch_sm90.cuh
    MakeDigits<T>(plan, begin, end, digits, column_scales);
    ConsumersSync();
    float sum[1][4] = {};
    int slot = 0, done = 0;
    uint32_t parity = 0, unused = 0;
    // Threads of columns that nobody needs read the last one's.
    const int column = min(r, columns - 1);
    const uint8_t* const weights_at = ring.slots + (warp * 16 + r) * kSlotRowBytes + (q ^ ((r >> 1) & 3)) * 16;
    int digits_at[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) digits_at[h] = column * kStepChannels + ((2 * q + h) ^ column) * 16;
    const uint8_t* step_digits = digits;
    const uint16_t* step_scales = my_scales + r;
    const float* step_column_scales = column_scales + 2 * q;
    const auto take = [&] {
      BarrierWait(ring.full + slot, parity);
      const uint8_t* const at = weights_at + slot * kSlotWeightBytes;
      ring.Advance(slot, parity);
      return at;
    };
    const auto body = [&](const uint8_t* at) {
      MultiplyDigits(at, step_digits, digits_at, step_scales, step_column_scales, sum);
      step_digits += columns * kStepChannels, step_scales += 16, step_column_scales += kDigitColumns;
    };
    const auto release = [&](int count) {
      __syncwarp();
      for (int i = 0; i < count; ++i, ring.Advance(done, unused)) {
        if (lane == 0) BarrierArrive(ring.empty + done);
      }
    };
    int step = begin;
    for (; step + kSide <= end; step += kSide) {
      const uint8_t* at[kSide];
#pragma unroll
      for (int i = 0; i < kSide; ++i) at[i] = take();
#pragma unroll
      for (int i = 0; i < kSide; ++i) body(at[i]);
      release(kSide);
    }
    for (; step < end; ++step) {
      body(take());
      release(1);
    }
    // Every block owns some warps' rows; all send it theirs, without waiting (st.async).
    const int owner = warp * plan.split / kStreamWarps;
    const int first_warp = (owner * kStreamWarps + plan.split - 1) / plan.split;
    const int owner_own = ((owner + 1) * kStreamWarps + plan.split - 1) / plan.split - first_warp;
    float4* const to = sums + (rank * owner_own + warp - first_warp) * 32 + lane;
    if (plan.split > 1) {
      const uint32_t v[4] = {__float_as_uint(sum[0][0]), __float_as_uint(sum[0][1]), __float_as_uint(sum[0][2]),
                             __float_as_uint(sum[0][3])};
      ClusterWait();
      StoreRemoteAsync(ClusterAddress(to, owner), ClusterAddress(received, owner), v);
      BarrierWaitCluster(received, 0);
    } else {
      *to = make_float4(sum[0][0], sum[0][1], sum[0][2], sum[0][3]);
      ConsumersSync();
    }
    // [block they come from][warp][lane]: element i is row r + 8 * (i / 2), column 2q + i % 2.
    const float* const from = reinterpret_cast<const float*>(sums);
    for (int i = threadIdx.x; i < tokens * own * 16; i += 32 * kStreamWarps) {
      const int token = i / (own * 16), row = i % (own * 16), n = n0 + 16 * first_own + row;
      if (n >= args.n) continue;
      const int first = (row / 16 * 32 + row % 8 * 4) * 4 + row / 8 % 2 * 2;
      float total = 0.0f;
      for (int s = 0; s < plan.split; ++s) {
#pragma unroll
        for (int d = 0; d < kDigits; ++d) {
          const int c = kDigits * token + d;
          total += from[s * own * 128 + first + c / 2 * 4 + c % 2];
        }
      }
      const int64_t index = static_cast<int64_t>(token) * args.n + n;
      float y = total * CodeMath<true>::kFactor;
      if (args.bias) y += LoadOne(args.type, args.bias, n);
      if (args.residual) y += LoadOne(args.type, args.residual, index);
      StoreOne(args.type, args.y, index, y);
    }
  }
}

}  // namespace lowbit::cuda::stream
