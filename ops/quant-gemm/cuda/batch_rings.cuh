// What feeds the batch kernels: the rings of weights and of tokens, the warps that fill them, and those that put tokens
// into the order of the unpacked weights.
#pragma once
#include <algorithm>
#include <climits>

#include "ops/quant-gemm/cuda/batch_math.cuh"
#include "ops/quant-gemm/cuda/stream_sm90.cuh"

namespace lowbit::cuda::batch {

using namespace stream;

constexpr int kProducers = 2;  // warps
constexpr int Threads(int helpers) { return 32 * (kStreamWarps + kProducers + helpers); }
// What two blocks on a multiprocessor leave, in multiples of 8.
constexpr int kHelperRegisters = 32;
constexpr int MathRegisters(int helpers) { return helpers == 2 ? 104 : 96; }

// Rings of weights and of tokens; with the sums that come from the cluster they leave room for a second block on the
// multiprocessor, of this kernel or the next.
constexpr int kRingsAndSums = 104 * 1024;
// The sums that come to a block: of its share of the units, 16 rows by 8 tokens, from every block.
constexpr int FirstUnit(int tiles, int split, int rank) { return (rank * kStreamWarps * tiles + split - 1) / split; }
constexpr int ReceivedBytes(int tiles, int split) { return split == 1 ? 0 : split * FirstUnit(tiles, split, 1) * 512; }
struct BatchPlan : StreamPlan {
  uint8_t first_unit[kMaxSplit + 1] = {};  // block i of a cluster writes the units [first_unit[i], first_unit[i + 1])
};

template <class Math, int kTiles>
struct Rings {
  // Steps in the tensor cores at a time, where registers allow: the first's sums are scaled while the second
  // multiplies.
  static constexpr int kSide = kTiles <= Math::kSideTiles ? 2 : 1;
  // A stage has nibbles of kSide steps, or bytes of one, and their tokens.
  static constexpr int kSteps = Math::kNibbles ? kSide : 1;
  static constexpr int kSlots = Math::kNibbles ? kSide : 2;  // of 64 bytes a row
  static constexpr int kWeightBytes = kSlots * kSlotWeightBytes, kTokenBytes = kSteps * kTiles * 1024;
  static constexpr int kTokens = (kTiles == 8 ? 3 : kTiles == 4 ? 4 : 6) / kSteps;
  static constexpr int kWeights =
      std::min((kRingsAndSums - kTokens * kTokenBytes - ReceivedBytes(kTiles, 6)) / kWeightBytes, 10 / kSlots);

  struct alignas(16) Barriers {
    uint64_t weights_full[kWeights], weights_empty[kWeights];
    uint64_t tokens_full[kTokens], tokens_empty[kTokens];
    uint64_t tokens_ready[kTokens];  // in order
    uint64_t received;               // the cluster's sums of the block's own rows
  };
};

// One thread fills the ring of weights; it never waits for the kernels ahead in the stream.
template <class Ring>
__device__ __forceinline__ void ProduceWeights(const StreamPlan& plan, const CUtensorMap* weights,
                                               const CUtensorMap* outliers, uint8_t* ring,
                                               typename Ring::Barriers& barriers, int begin, int end, int n0) {
  PrefetchTensorMap(weights);
  if (plan.args.outliers) PrefetchTensorMap(outliers);
  static_assert(Ring::kWeights * Ring::kSlots >= kSlotsUnderWay);
  RingPosition<Ring::kWeights> at, under_way;
  // Bytes are asked for as the ring has room: limited, their small layers were up to a tenth slower.
  int more = plan.body_slots == 1 ? kSlotsUnderWay / Ring::kSlots : INT_MAX;
  const auto fill = [&](const CUtensorMap* map, int slot, int slots) {
    if (--more < 0) {
      BarrierWait(&barriers.weights_full[under_way.stage], under_way.parity);
      under_way.Advance();
    }
    BarrierWait(&barriers.weights_empty[at.stage], at.parity ^ 1);
    BarrierArriveExpect(&barriers.weights_full[at.stage], slots * kSlotWeightBytes);
    for (int i = 0; i < slots; ++i) {
      TensorLoad(map, &barriers.weights_full[at.stage], ring + at.stage * Ring::kWeightBytes + i * kSlotWeightBytes,
                 (slot + i) * kSlotRowBytes, n0);
    }
    at.Advance();
  };
  const int body_end = min(end, plan.body_steps);
  for (int step = begin; step < body_end; step += Ring::kSteps) {
    fill(weights, step * plan.body_slots, min(Ring::kSteps, body_end - step) * plan.body_slots);
  }
  for (int slot = 0; slot < (end - body_end) * 2; slot += Ring::kSlots) fill(outliers, slot, Ring::kSlots);
}

// Another one fills the ring of tokens.
template <class Ring, int kTiles>
__device__ __forceinline__ void ProduceTokens(const StreamPlan& plan, const CUtensorMap* activations, uint8_t* ring,
                                              typename Ring::Barriers& barriers, int begin, int end, int m0) {
  PrefetchTensorMap(activations);
  if (plan.args.constant_weights) WaitForPriorKernelsIfAny();
  // Not before: the wait takes longer where kernels behind this one are on the chip already.
  LetNextKernelStartIfAny();
  RingPosition<Ring::kTokens> at;
  const auto fill = [&](int channel, int steps) {
    BarrierWait(&barriers.tokens_empty[at.stage], at.parity ^ 1);
    BarrierArriveExpect(&barriers.tokens_full[at.stage], steps * kTiles * 1024);
    for (int i = 0; i < steps; ++i) {
      TensorLoad(activations, &barriers.tokens_full[at.stage], ring + at.stage * Ring::kTokenBytes + i * kTiles * 1024,
                 channel + i * kStepChannels, m0);
    }
    at.Advance();
  };
  const int body_end = min(end, plan.body_steps);
  for (int step = begin; step < body_end; step += Ring::kSteps) {
    fill(step * kStepChannels, min(Ring::kSteps, body_end - step));
  }
  if (body_end < end) fill(plan.args.body(), 1);
}

// Puts the tokens of a stage, rows of 128 bytes as the copy engine swizzles them, into the order of the unpacked
// weights: of the 32 channels that a thread of four has, run i of eight goes to multiplication i, even channels first.
template <class Math, int kMostTiles>
__device__ __forceinline__ void Arrange(uint8_t* tokens, int tiles, int helper) {
  const int lane = threadIdx.x % 32, r = lane / 4, q = lane % 4;
#pragma unroll
  for (int j = 0; j < (kMostTiles + Math::kHelpers - 1) / Math::kHelpers; ++j) {
    const int tile = helper + j * Math::kHelpers;
    if (tile >= tiles) break;
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

}  // namespace lowbit::cuda::batch
