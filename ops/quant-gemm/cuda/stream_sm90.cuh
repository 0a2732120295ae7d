// QuantGemm for few tokens on Hopper: bound by how fast weights come from memory, so all of the design is about asking
// for them early and often. A producer warp keeps a ring of 8 KB slots filled by the copy engine; before the kernels
// ahead in the stream are done it asks for weights (programmatic launch), after that for activations too. Two blocks
// fit a multiprocessor, so that the next product's weights arrive while this one computes.
//
// A block has 128 output channels, 16 for each of its eight other warps, and a range of the input channels; activations
// pass through shared memory once for all of them (read straight from L2 by every warp, they cost more than the
// weights). The blocks of a cluster share out the input channels; their sums meet through distributed shared memory and
// are added in a fixed order: the result does not depend on timing.
#pragma once
#include <type_traits>

#include "ops/quant-gemm/cuda/decode_math.cuh"
#include "ops/quant-gemm/cuda/sm90_tiles.cuh"
#include "ops/quant-gemm/cuda/stream_sm90.h"

namespace lowbit::cuda::stream {

constexpr int kStreamWarps = 8;  // that compute
constexpr int kStreamThreads = 32 * (kStreamWarps + 1);
constexpr int kBlockRows = 16 * kStreamWarps;
constexpr int kSlotRowBytes = 64;
constexpr int kSlotWeightBytes = kBlockRows * kSlotRowBytes;
constexpr int kMaxSplit = 8;
constexpr int kSumPadding = 4;  // floats behind a token's: neighbouring tokens start in different banks

// What each of two blocks on a multiprocessor, of this kernel or the next ones in the stream, has of shared memory for
// its ring and the sums that meet.
constexpr int kRingAndSums = 104 * 1024;
constexpr int SlotBytes(int tiles, int activation_bytes) { return kSlotWeightBytes + tiles * activation_bytes * 1024; }
// The sums of a block's own rows, [block they come from][token][row].
constexpr int OwnWarps(int split) { return (kStreamWarps + split - 1) / split; }
constexpr int SumStride(int split) { return 16 * OwnWarps(split) + kSumPadding; }
constexpr int SumBytes(int tiles, int split) { return split * 8 * tiles * SumStride(split) * 4; }
constexpr int SlotCount(int tiles, int activation_bytes) {
  const int fit = (kRingAndSums - SumBytes(tiles, kMaxSplit)) / SlotBytes(tiles, activation_bytes);
  return fit < 10 ? fit : 10;
}

struct StreamPlan : StepPlan {
  int body_slots = 1;  // slots of a body step: 1 for nibbles, 2 for bytes; outliers have 2
  int split = 1;
  int max_steps = 0;                   // of a block
  uint16_t begin[kMaxSplit + 1] = {};  // steps of block i of a cluster: [begin[i], begin[i + 1])

  constexpr int slots_of(int step) const { return step < body_steps ? body_slots : 2; }
};

template <int kSlots>
struct StreamBarriers {
  uint64_t full[kSlots], empty[kSlots];
};

// What the producer warp's first lane does.
template <int kBytes, int kTiles, int kSlots>
__device__ __forceinline__ void Produce(const StreamPlan& plan, const CUtensorMap* weights, const CUtensorMap* outliers,
                                        const CUtensorMap* activations, uint8_t* ring, StreamBarriers<kSlots>& barriers,
                                        int begin, int end, int n0, int m0) {
  constexpr int kSlotBytes = SlotBytes(kTiles, kBytes), kTileBytes = kTiles * 1024;
  const auto load_weights = [&](int step, int part, int slot) {
    const bool body = step < plan.body_steps;
    // A step's activations come with its first part.
    BarrierArriveExpect(&barriers.full[slot], kSlotWeightBytes + (part == 0 ? kBytes * kTileBytes : 0));
    TensorLoad(body ? weights : outliers, &barriers.full[slot], ring + slot * kSlotBytes,
               ((body ? step : step - plan.body_steps) * plan.slots_of(step) + part) * kSlotRowBytes, n0);
  };
  const auto load_activations = [&](int step, int slot) {
    const int channel = step < plan.body_steps ? step * kStepChannels : plan.args.body();
#pragma unroll
    for (int h = 0; h < kBytes; ++h) {
      TensorLoad(activations, &barriers.full[slot], ring + slot * kSlotBytes + kSlotWeightBytes + h * kTileBytes,
                 channel * kBytes + h * 128, m0);
    }
  };
  PrefetchTensorMap(weights);
  PrefetchTensorMap(activations);
  if (plan.args.outliers) PrefetchTensorMap(outliers);
  int ahead_step = begin, ahead_part = 0;  // as far as fits before the first slot is needed again
  int filled = 0;
  for (; filled < kSlots && ahead_step < end; ++filled) {
    load_weights(ahead_step, ahead_part, filled);
    if (++ahead_part == plan.slots_of(ahead_step)) ahead_part = 0, ++ahead_step;
  }
  if (plan.args.constant_weights) WaitForPriorKernelsIfAny();
  int step = begin, part = 0;
  for (int slot = 0; slot < filled; ++slot) {
    if (part == 0) load_activations(step, slot);
    if (++part == plan.slots_of(step)) part = 0, ++step;
  }
  RingPosition<kSlots> at;
  while (step < end) {
    BarrierWait(&barriers.empty[at.stage], at.parity);
    load_weights(step, part, at.stage);
    if (part == 0) load_activations(step, at.stage);
    if (++part == plan.slots_of(step)) part = 0, ++step;
    at.Advance();
  }
}

// A warp's weight scales, [step][16 rows], before the activations are there.
__device__ __forceinline__ void StageWeightScales(const StreamPlan& plan, int begin, int end, int first_row,
                                                  uint16_t* to) {
  const GemmArgs& args = plan.args;
  for (int step = begin + static_cast<int>(threadIdx.x) % 32; step < end; step += 32) {
    const bool body = step < plan.body_steps;
    const uint16_t* from = body ? args.b_scale + (args.group_size ? step >> plan.unit_shift : 0) : args.b_outlier_scale;
    const int stride = body ? plan.b_scales : 1;
    uint16_t v[16];
#pragma unroll
    for (int i = 0; i < 16; ++i) v[i] = __ldg(from + static_cast<int64_t>(min(first_row + i, args.n - 1)) * stride);
    uint4* row = reinterpret_cast<uint4*>(to + (step - begin) * 16);
    row[0] = make_uint4(v[0] | v[1] << 16, v[2] | v[3] << 16, v[4] | v[5] << 16, v[6] | v[7] << 16);
    row[1] = make_uint4(v[8] | v[9] << 16, v[10] | v[11] << 16, v[12] | v[13] << 16, v[14] | v[15] << 16);
  }
}

// The block's token scales, [step][token]; tokens past M get some other's.
template <int kTiles>
__device__ __forceinline__ void StageTokenScales(const StreamPlan& plan, int64_t m0, int begin, int end, float* to) {
  const int last = static_cast<int>(min(plan.args.m - 1 - m0, int64_t{8 * kTiles - 1}));
#pragma unroll 2
  for (int i = threadIdx.x; i < (end - begin) * 8 * kTiles; i += 32 * kStreamWarps) {
    const int step = begin + i / (8 * kTiles), token = min(i % (8 * kTiles), last);
    const int segment = step >= plan.body_steps  ? plan.a_scales - 1
                        : plan.args.a_group_size ? step >> plan.unit_shift
                                                 : 0;
    to[i] = __ldg(plan.args.a_scale + (m0 + token) * plan.a_scales + segment);
  }
}

__device__ __forceinline__ void ConsumersSync() { asm volatile("bar.sync 1, %0;" ::"n"(32 * kStreamWarps) : "memory"); }

// One token's B fragments as they lie in shared memory; rows of 128 bytes are swizzled by the copy engine.
template <class Math>
__device__ __forceinline__ void LoadRaw(const uint8_t* activations, int tile, int tile_bytes, bool nibbles,
                                        uint4 (&raw)[2 * Math::kActivationBytes]) {
  const int lane = threadIdx.x % 32, r = lane / 4, q = lane % 4;
  const uint8_t* row = activations + tile * 1024 + r * 128;
  if constexpr (Math::kActivationBytes == 1) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      raw[h] = *reinterpret_cast<const uint4*>(row + (((nibbles ? 2 * q + h : q + 4 * h) ^ r) * 16));
    }
  } else {  // two runs of 64 channels, one behind the other
#pragma unroll
    for (int h = 0; h < 4; ++h) {
      const int run = nibbles ? q >> 1 : h >> 1, piece = nibbles ? 4 * (q & 1) + h : 2 * q + (h & 1);
      raw[h] = *reinterpret_cast<const uint4*>(row + run * tile_bytes + ((piece ^ r) * 16));
    }
  }
}

// Pieces q of rows r and r + 8 of 16 weight rows of a slot.
__device__ __forceinline__ void LoadPieces(const uint8_t* rows, uint4& low, uint4& high) {
  const int lane = threadIdx.x % 32, r = lane / 4, q = lane % 4;
  const uint8_t* at = rows + r * kSlotRowBytes + (q ^ ((r >> 1) & 3)) * 16;
  low = *reinterpret_cast<const uint4*>(at);
  high = *reinterpret_cast<const uint4*>(at + 8 * kSlotRowBytes);
}

// A warp's position in the ring.
template <class Math, int kTiles>
struct Consumer {
  static constexpr int kSlotBytes = SlotBytes(kTiles, Math::kActivationBytes);
  static constexpr int kSlots = SlotCount(kTiles, Math::kActivationBytes);
  const uint8_t* ring;
  StreamBarriers<kSlots>* barriers;
  RingPosition<kSlots> at, done;

  // The next slot, once it is filled.
  __device__ __forceinline__ const uint8_t* Take() {
    BarrierWait(&barriers->full[at.stage], at.parity);
    const uint8_t* slot = ring + at.stage * kSlotBytes;
    at.Advance();
    return slot;
  }
  __device__ __forceinline__ void Release(int count) {
    __syncwarp();
#pragma unroll
    for (int i = 0; i < count; ++i) {
      if (threadIdx.x % 32 == 0) BarrierArrive(&barriers->empty[done.stage]);
      done.Advance();
    }
  }
};

// Multiplies one step of 128 channels: weight rows of this warp in `slot` (and, of whole lines of 128 bytes, `slot2`)
// with the activations in `slot`, a few tiles of tokens at a time.
template <class Math, int kTiles, int kChunk, class Sum>
__device__ __forceinline__ void MultiplyStep(const uint8_t* slot, const uint8_t* slot2, const uint16_t* scale,
                                             const float* token_scale, float factor, Sum (*sum)[4]) {
  constexpr int kPieces = Math::kNibbles ? 1 : 2;
  const int rows = static_cast<int>(threadIdx.x) / 32 * 16 * kSlotRowBytes, r = threadIdx.x % 32 / 4;
  uint4 w[2][kPieces];
  LoadPieces(slot + rows, w[0][0], w[1][0]);
  if constexpr (kPieces == 2) LoadPieces(slot2 + rows, w[0][1], w[1][1]);
  float scale0 = 1.0f, scale1 = 1.0f;
  if constexpr (std::is_same_v<Sum, float>)
    scale0 = HalfBits(scale[r]) * factor, scale1 = HalfBits(scale[8 + r]) * factor;
#pragma unroll
  for (int first = 0; first < kTiles; first += kChunk) {
    uint32_t b[kChunk][Math::kWords];
#pragma unroll
    for (int t = 0; t < kChunk; ++t) {
      uint4 raw[2 * Math::kActivationBytes];
      LoadRaw<Math>(slot + kSlotWeightBytes, first + t, kTiles * 1024, Math::kNibbles, raw);
      Math::Arrange(raw, Math::kSignMagnitude, b[t]);
    }
    if constexpr (std::is_same_v<Sum, int>) {
      Math::template Multiply<kChunk>(w, b, sum + first);
    } else {
      typename Math::Acc acc[kChunk][4];
      Start(acc, kStartOfStep<typename Math::Acc>);
      Math::template Multiply<kChunk>(w, b, acc);
      Promote<Math::kActivationBytes == 1>(acc, token_scale + first * 8, scale0, scale1, sum + first);
    }
  }
}

// kWhole: one segment and no outliers, whose integer sums stay integers until the cluster's have met. Otherwise every
// step of 128 channels is scaled by itself.
template <class Math, int kTiles, bool kWhole>
__global__ __launch_bounds__(kStreamThreads, 2) void StreamKernel(const __grid_constant__ StreamPlan plan,
                                                                  const __grid_constant__ CUtensorMap weights,
                                                                  const __grid_constant__ CUtensorMap outliers,
                                                                  const __grid_constant__ CUtensorMap activations) {
  using Sum = std::conditional_t<kWhole, int, float>;
  constexpr int kBytes = Math::kActivationBytes, kSlots = SlotCount(kTiles, kBytes);
  constexpr bool kIntegers = kBytes == 1;
  // Tiles whose fragments are held at a time, and steps that are computed side by side.
  constexpr int kChunk = kTiles * kBytes <= 4 ? kTiles : (kWhole ? 4 : 2) / kBytes;
  constexpr int kSide = Math::kNibbles && kTiles * kBytes <= 2 ? 2 : 1;
  constexpr int kBodySlots = Math::kNibbles ? 1 : 2;
  const GemmArgs& args = plan.args;
  const int warp = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 32, 0);  // the compiler sees that it is uniform
  const int lane = threadIdx.x % 32, r = lane / 4, q = lane % 4;
  const int rank = blockIdx.x % plan.split, n0 = blockIdx.x / plan.split * kBlockRows;
  const int64_t m0 = static_cast<int64_t>(blockIdx.y) * 8 * kTiles;
  const int begin = plan.begin[rank], end = plan.begin[rank + 1];

  extern __shared__ __align__(1024) uint8_t shared[];
  uint8_t* const ring = shared;
  Sum* const sums = reinterpret_cast<Sum*>(shared + kSlots * SlotBytes(kTiles, kBytes));
  auto& barriers =
      *reinterpret_cast<StreamBarriers<kSlots>*>(reinterpret_cast<uint8_t*>(sums) + SumBytes(kTiles, plan.split));
  float* const token_scales = reinterpret_cast<float*>(&barriers + 1);
  uint16_t* const weight_scales = reinterpret_cast<uint16_t*>(token_scales + plan.max_steps * 8 * kTiles);

  LetNextKernelStartIfAny();
  if (plan.split > 1) ClusterArrive();  // sums may be sent once all blocks have begun
  if (!args.constant_weights) WaitForPriorKernelsIfAny();
  if (threadIdx.x == 32 * kStreamWarps) {
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      BarrierInit(&barriers.full[s], 1);
      BarrierInit(&barriers.empty[s], kStreamWarps);
    }
    BarrierInitFence();
  }
  __syncthreads();
  const int sum_stride = SumStride(plan.split);
  if (warp == kStreamWarps) {
    if (lane == 0) {
      Produce<kBytes, kTiles>(plan, &weights, &outliers, &activations, ring, barriers, begin, end, n0,
                              static_cast<int>(m0));
    }
    __syncwarp();
    if (plan.split > 1) ClusterWait();
  } else {
    uint16_t* const my_scales = weight_scales + warp * plan.max_steps * 16;
    if constexpr (!kWhole) StageWeightScales(plan, begin, end, n0 + 16 * warp, my_scales);
    if (args.constant_weights) WaitForPriorKernelsIfAny();
    if constexpr (!kWhole && kIntegers) {
      StageTokenScales<kTiles>(plan, m0, begin, end, token_scales);
      ConsumersSync();
    }
    __syncwarp();
    Sum sum[kTiles][4] = {};
    Consumer<Math, kTiles> consumer{ring, &barriers, {}, {}};
    const float* const my_tokens = token_scales + 2 * q;
    const auto body = [&](int step, const uint8_t* slot, const uint8_t* slot2) {
      MultiplyStep<Math, kTiles, kChunk>(slot, slot2, my_scales + (step - begin) * 16,
                                         my_tokens + (step - begin) * 8 * kTiles, 1.0f, sum);
    };
    const int body_end = min(end, plan.body_steps);
    int step = begin;
    for (; step + kSide <= body_end; step += kSide) {
      const uint8_t* slots[kSide * kBodySlots];
#pragma unroll
      for (int i = 0; i < kSide * kBodySlots; ++i) slots[i] = consumer.Take();
#pragma unroll
      for (int i = 0; i < kSide; ++i) body(step + i, slots[i * kBodySlots], slots[i * kBodySlots + kBodySlots - 1]);
      consumer.Release(kSide * kBodySlots);
    }
    if constexpr (kSide > 1) {
      for (; step < body_end; ++step) {
        const uint8_t* const slot = consumer.Take();
        body(step, slot, slot);
        consumer.Release(1);
      }
    }
    if constexpr (kIntegers && !kWhole) {
      for (; step < end; ++step) {
        const uint8_t* const slot = consumer.Take();
        const uint8_t* const slot2 = consumer.Take();
        MultiplyStep<CodeMath<false>, kTiles, kChunk>(slot, slot2, my_scales + (step - begin) * 16,
                                                      my_tokens + (step - begin) * 8 * kTiles, 1.0f / Math::kFactor,
                                                      sum);
        consumer.Release(2);
      }
    }
    // Every block owns some warps' rows; all send it theirs.
    const int owner = warp * plan.split / kStreamWarps;
    const int first_warp = (owner * kStreamWarps + plan.split - 1) / plan.split;
    Sum* const mine = sums + (rank * 8 * kTiles + 2 * q) * sum_stride + (warp - first_warp) * 16 + r;
    if (plan.split > 1) ClusterWait();
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        Sum* const to = mine + (8 * t + i % 2) * sum_stride + 8 * (i / 2);
        if (plan.split > 1) {
          StoreRemote(SharedAddress(to), owner, *reinterpret_cast<const uint32_t*>(&sum[t][i]));
        } else {
          *to = sum[t][i];
        }
      }
    }
  }

  if (plan.split > 1) {
    ClusterSync();
  } else {
    __syncthreads();
  }
  const int first_warp = (rank * kStreamWarps + plan.split - 1) / plan.split;
  const int rows = 16 * (((rank + 1) * kStreamWarps + plan.split - 1) / plan.split - first_warp);
  const int tokens = static_cast<int>(min(args.m - m0, int64_t{8 * kTiles}));
  for (int i = threadIdx.x; i < tokens * rows; i += kStreamThreads) {
    const int token = i / rows, row = i % rows, n = n0 + 16 * first_warp + row;
    if (n >= args.n) continue;
    const Sum* from = sums + token * sum_stride + row;
    Sum total = *from;
    for (int s = 1; s < plan.split; ++s) total += from[s * 8 * kTiles * sum_stride];
    const int64_t m = m0 + token, index = m * args.n + n;
    float y = static_cast<float>(total) * Math::kFactor;
    if constexpr (kWhole) y *= HalfBits(__ldg(args.b_scale + n)) * __ldg(args.a_scale + m * plan.a_scales);
    if (args.bias) y += LoadOne(args.type, args.bias, n);
    if (args.residual) y += LoadOne(args.type, args.residual, index);
    StoreOne(args.type, args.y, index, y);
  }
}

}  // namespace lowbit::cuda::stream
