// QuantGemm for few tokens of 16-bit floats on Hopper, and what other kernels for few tokens share with it: bound by
// how fast weights come from memory, so all of the design is about asking for them early and often. A producer warp
// keeps a ring of 8 KB slots filled by the copy engine; before the kernels ahead in the stream are done it asks for
// weights (programmatic launch), after that for activations too. Two blocks fit a multiprocessor, so that the next
// product's weights arrive while this one computes.
//
// A block has 128 output channels, 16 for each of its eight other warps, and a range of the input channels; activations
// pass through shared memory once for all of them (read straight from L2 by every warp, they cost more than the
// weights). The blocks of a cluster share out the input channels; their sums meet through distributed shared memory and
// are added in a fixed order: the result does not depend on timing.
#pragma once
#include "ops/quant-gemm/cuda/decode_math.cuh"
#include "ops/quant-gemm/cuda/sm90_tiles.cuh"

namespace lowbit::cuda::stream {

constexpr int kStreamWarps = 8;  // that compute
constexpr int kStreamThreads = 32 * (kStreamWarps + 1);
constexpr int kBlockRows = 16 * kStreamWarps;
constexpr int kSlotRowBytes = 64;
constexpr int kSlotWeightBytes = kBlockRows * kSlotRowBytes;
constexpr int kMaxSplit = 8;
// Slots of weights that are on their way to a block of the batch and digit kernels at a time. More come no sooner, and
// what queues up in front of the memory holds up tokens, results and the news that a kernel has ended.
constexpr int kSlotsUnderWay = 4;
constexpr int kSumPadding = 4;  // floats behind a token's: neighbouring tokens start in different banks

// What each of two blocks on a multiprocessor, of this kernel or the next ones in the stream, has of shared memory for
// its ring and the sums that meet.
constexpr int kRingAndSums = 104 * 1024;
constexpr int SlotBytes(int tiles) { return kSlotWeightBytes + tiles * 2048; }
// The sums of a block's own rows, [block they come from][token][row].
constexpr int OwnWarps(int split) { return (kStreamWarps + split - 1) / split; }
constexpr int SumStride(int split) { return 16 * OwnWarps(split) + kSumPadding; }
constexpr int SumBytes(int tiles, int split) { return split * 8 * tiles * SumStride(split) * 4; }
constexpr int SlotCount(int tiles) {
  const int fit = (kRingAndSums - SumBytes(tiles, kMaxSplit)) / SlotBytes(tiles);
  return fit < 10 ? fit : 10;
}

struct StreamPlan : StepPlan {
  int body_slots = 1;  // slots of a body step: 1 for nibbles, 2 for bytes; outliers have 2
  int split = 1;
  int max_steps = 0;                   // of a block
  uint16_t begin[kMaxSplit + 1] = {};  // steps of block i of a cluster: [begin[i], begin[i + 1])
};

template <int kSlots>
struct StreamBarriers {
  uint64_t full[kSlots], empty[kSlots];
};

// What the producer warp's first lane does.
template <int kTiles, int kSlots>
__device__ __forceinline__ void Produce(const StreamPlan& plan, const CUtensorMap* weights,
                                        const CUtensorMap* activations, uint8_t* ring, StreamBarriers<kSlots>& barriers,
                                        int begin, int end, int n0, int m0) {
  constexpr int kTileBytes = kTiles * 1024;
  const int first = begin * plan.body_slots, last = end * plan.body_slots;
  const auto load_weights = [&](int at, int slot) {
    // A step's activations, two runs of 64 channels, come with its first part.
    BarrierArriveExpect(&barriers.full[slot], kSlotWeightBytes + (at % plan.body_slots == 0 ? 2 * kTileBytes : 0));
    TensorLoad(weights, &barriers.full[slot], ring + slot * SlotBytes(kTiles), at * kSlotRowBytes, n0);
  };
  const auto load_activations = [&](int at, int slot) {
    if (at % plan.body_slots != 0) return;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      TensorLoad(activations, &barriers.full[slot], ring + slot * SlotBytes(kTiles) + kSlotWeightBytes + h * kTileBytes,
                 at / plan.body_slots * 2 * kStepChannels + h * 128, m0);
    }
  };
  PrefetchTensorMap(weights);
  PrefetchTensorMap(activations);
  const int filled = min(kSlots, last - first);  // as far as fits before the first slot is needed again
  for (int slot = 0; slot < filled; ++slot) load_weights(first + slot, slot);
  if (plan.args.constant_weights) WaitForPriorKernelsIfAny();
  for (int slot = 0; slot < filled; ++slot) load_activations(first + slot, slot);
  RingPosition<kSlots> at;
  for (int i = first + filled; i < last; ++i, at.Advance()) {
    BarrierWait(&barriers.empty[at.stage], at.parity);
    load_weights(i, at.stage);
    load_activations(i, at.stage);
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

// The block's token scales, [step][token]; tokens past M get some other's. Read past L1, which may hold what was there
// before the kernel ahead wrote, and therefore each once and side by side: a warp takes a token's segments, or a thread
// its token's one or two for all steps.
template <int kTiles>
__device__ __forceinline__ void StageTokenScales(const StreamPlan& plan, int64_t m0, int begin, int end, float* to) {
  constexpr int kTokens = 8 * kTiles, kThreads = 32 * kStreamWarps;
  static_assert(kThreads % kTokens == 0, "threads take the same token in every round");
  const int last = static_cast<int>(min(plan.args.m - 1 - m0, int64_t{kTokens - 1}));
  const int thread = threadIdx.x, lane = thread % 32;
  if (plan.args.a_group_size == 0) {
    const int token = thread % kTokens;
    const float* const from = plan.args.a_scale + (m0 + min(token, last)) * plan.a_scales;
    const float body = __ldcg(from), outliers = __ldcg(from + plan.a_scales - 1);
    for (int step = begin + thread / kTokens; step < end; step += kThreads / kTokens) {
      to[(step - begin) * kTokens + token] = step < plan.body_steps ? body : outliers;
    }
    return;
  }
  for (int step = begin + lane; step < end; step += 32) {
    const int segment = step < plan.body_steps ? step >> plan.unit_shift : plan.a_scales - 1;
#pragma unroll
    for (int token = thread / 32; token < kTokens; token += kStreamWarps) {
      to[(step - begin) * kTokens + token] =
          __ldcg(plan.args.a_scale + (m0 + min(token, last)) * plan.a_scales + segment);
    }
  }
}

__device__ __forceinline__ void ConsumersSync() { asm volatile("bar.sync 1, %0;" ::"n"(32 * kStreamWarps) : "memory"); }

// One token's B fragments as they lie in shared memory, two runs of 64 channels; rows of 128 bytes are swizzled by the
// copy engine.
__device__ __forceinline__ void LoadRaw(const uint8_t* activations, int tile, int tile_bytes, bool nibbles,
                                        uint4 (&raw)[4]) {
  const int lane = threadIdx.x % 32, r = lane / 4, q = lane % 4;
  const uint8_t* row = activations + tile * 1024 + r * 128;
#pragma unroll
  for (int h = 0; h < 4; ++h) {
    const int run = nibbles ? q >> 1 : h >> 1, piece = nibbles ? 4 * (q & 1) + h : 2 * q + (h & 1);
    raw[h] = *reinterpret_cast<const uint4*>(row + run * tile_bytes + ((piece ^ r) * 16));
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
  static constexpr int kSlots = SlotCount(kTiles);
  const uint8_t* ring;
  StreamBarriers<kSlots>* barriers;
  RingPosition<kSlots> at, done;

  // The next slot, once it is filled.
  __device__ __forceinline__ const uint8_t* Take() {
    BarrierWait(&barriers->full[at.stage], at.parity);
    const uint8_t* slot = ring + at.stage * SlotBytes(kTiles);
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
template <class Math, int kTiles, int kChunk>
__device__ __forceinline__ void MultiplyStep(const uint8_t* slot, const uint8_t* slot2, const uint16_t* scale,
                                             float (*sum)[4]) {
  constexpr int kPieces = Math::kNibbles ? 1 : 2;
  const int rows = static_cast<int>(threadIdx.x) / 32 * 16 * kSlotRowBytes, r = threadIdx.x % 32 / 4;
  uint4 w[2][kPieces];
  LoadPieces(slot + rows, w[0][0], w[1][0]);
  if constexpr (kPieces == 2) LoadPieces(slot2 + rows, w[0][1], w[1][1]);
  const float scale0 = HalfBits(scale[r]), scale1 = HalfBits(scale[8 + r]);
#pragma unroll
  for (int first = 0; first < kTiles; first += kChunk) {
    uint32_t b[kChunk][Math::kWords];
#pragma unroll
    for (int t = 0; t < kChunk; ++t) {
      uint4 raw[4];
      LoadRaw(slot + kSlotWeightBytes, first + t, kTiles * 1024, Math::kNibbles, raw);
      Math::Arrange(raw, false, b[t]);
    }
    float acc[kChunk][4];
    Start(acc, 0.0f);
    Math::template Multiply<kChunk>(w, b, acc);
    Promote<false>(acc, nullptr, scale0, scale1, sum + first);
  }
}

// Every step of 128 channels is scaled by itself.
template <class Math, int kTiles>
__global__ __launch_bounds__(kStreamThreads, 2) void StreamKernel(const __grid_constant__ StreamPlan plan,
                                                                  const __grid_constant__ CUtensorMap weights,
                                                                  const __grid_constant__ CUtensorMap,
                                                                  const __grid_constant__ CUtensorMap activations) {
  constexpr int kSlots = SlotCount(kTiles);
  // Tiles whose fragments are held at a time, and steps that are computed side by side.
  constexpr int kChunk = kTiles <= 2 ? kTiles : 1;
  constexpr int kSide = Math::kNibbles && kTiles == 1 ? 2 : 1;
  constexpr int kBodySlots = Math::kNibbles ? 1 : 2;
  const GemmArgs& args = plan.args;
  const int warp = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 32, 0);  // the compiler sees that it is uniform
  const int lane = threadIdx.x % 32, r = lane / 4, q = lane % 4;
  const int rank = blockIdx.x % plan.split, n0 = blockIdx.x / plan.split * kBlockRows;
  const int64_t m0 = static_cast<int64_t>(blockIdx.y) * 8 * kTiles;
  const int begin = plan.begin[rank], end = plan.begin[rank + 1];

  extern __shared__ __align__(1024) uint8_t shared[];
  uint8_t* const ring = shared;
  float* const sums = reinterpret_cast<float*>(shared + kSlots * SlotBytes(kTiles));
  auto& barriers =
      *reinterpret_cast<StreamBarriers<kSlots>*>(reinterpret_cast<uint8_t*>(sums) + SumBytes(kTiles, plan.split));
  uint16_t* const weight_scales = reinterpret_cast<uint16_t*>(&barriers + 1);

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
      Produce<kTiles>(plan, &weights, &activations, ring, barriers, begin, end, n0, static_cast<int>(m0));
    }
    __syncwarp();
    if (plan.split > 1) ClusterWait();
  } else {
    uint16_t* const my_scales = weight_scales + warp * plan.max_steps * 16;
    StageWeightScales(plan, begin, end, n0 + 16 * warp, my_scales);
    if (args.constant_weights) WaitForPriorKernelsIfAny();
    __syncwarp();
    float sum[kTiles][4] = {};
    Consumer<Math, kTiles> consumer{ring, &barriers, {}, {}};
    const auto body = [&](int step, const uint8_t* slot, const uint8_t* slot2) {
      MultiplyStep<Math, kTiles, kChunk>(slot, slot2, my_scales + (step - begin) * 16, sum);
    };
    int step = begin;
    for (; step + kSide <= end; step += kSide) {
      const uint8_t* slots[kSide * kBodySlots];
#pragma unroll
      for (int i = 0; i < kSide * kBodySlots; ++i) slots[i] = consumer.Take();
#pragma unroll
      for (int i = 0; i < kSide; ++i) body(step + i, slots[i * kBodySlots], slots[i * kBodySlots + kBodySlots - 1]);
      consumer.Release(kSide * kBodySlots);
    }
    if (kSide > 1 && step < end) {
      const uint8_t* const slot = consumer.Take();
      body(step, slot, slot);
    }
    // Every block owns some warps' rows; all send it theirs.
    const int owner = warp * plan.split / kStreamWarps;
    const int first_warp = (owner * kStreamWarps + plan.split - 1) / plan.split;
    float* const mine = sums + (rank * 8 * kTiles + 2 * q) * sum_stride + (warp - first_warp) * 16 + r;
    if (plan.split > 1) ClusterWait();
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float* const to = mine + (8 * t + i % 2) * sum_stride + 8 * (i / 2);
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
    const float* from = sums + token * sum_stride + row;
    float total = *from;
    for (int s = 1; s < plan.split; ++s) total += from[s * 8 * kTiles * sum_stride];
    const int64_t m = m0 + token, index = m * args.n + n;
    float y = total * Math::kFactor;
    if (args.bias) y += LoadOne(args.type, args.bias, n);
    if (args.residual) y += LoadOne(args.type, args.residual, index);
    StoreOne(args.type, args.y, index, y);
  }
}

}  // namespace lowbit::cuda::stream
