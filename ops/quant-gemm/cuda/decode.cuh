// QuantGemm for few tokens: every weight byte is read once, straight into the registers of the thread that multiplies
// it, several blocks ahead. Bound by memory; tensor cores (mma.sync) only keep the arithmetic out of the way.
//
// A warp takes 16 output channels, all tokens (tiles of 8) and a range of the input channels; warps of a block and
// blocks of a cluster divide the input channels in whole groups. Their sums meet in shared memory, the cluster's
// through distributed shared memory, and are added in a fixed order: the result does not depend on timing.
//
// With one scale for the whole body the sums stay integers until all of them have met. Weights are requested before the
// kernels ahead in the stream are done (programmatic launch), activations after.
#pragma once
#include "ops/quant-gemm/cuda/decode.h"
#include "ops/quant-gemm/cuda/decode_math.cuh"
#include "ops/quant-gemm/cuda/sm90_tiles.cuh"

namespace lowbit::cuda {

constexpr int kDecodeWarps = 8;
constexpr int kDecodeThreads = kDecodeWarps * 32;

struct DecodePlan {
  static constexpr int kMaxSlices = 64;

  GemmArgs args;
  DecodeConfig config;
  bool nibbles = true;  // the body's weights
  bool whole = false;   // one segment: integer sums across warps
  int body_blocks = 0;  // of 64 bytes
  int outlier_blocks = 0;
  int block_channels = 0;    // of a body block: 128 or 64
  int unit_blocks = 0;       // body blocks that must stay in one warp: a segment, a power of two
  int unit_shift = 0;        // its logarithm
  int subs = 1;              // segments in a body block, when there are several
  int row_stride = 0;        // bytes of one token's staged activations
  int body_sums_offset = 0;  // of the integer sums in shared memory; float sums take the activations' place
  uint16_t slice_begin[kMaxSlices + 1] = {};  // blocks of slice i: [slice_begin[i], slice_begin[i + 1])

  constexpr int block_slices() const { return kDecodeWarps / config.row_warps; }
  // The first channel of a block.
  constexpr int channel(int block) const {
    return block <= body_blocks ? block * block_channels : args.body() + (block - body_blocks) * kBlockBytes;
  }
  // Where a block's first token scale stands in a row of scales.
  constexpr int scale_slot(int block) const {
    if (block >= body_blocks) return args.a_scales() - (args.outliers > 0 ? 1 : 0);
    return args.a_group_size ? (block >> unit_shift) * subs : 0;
  }
};

// Not volatile and never under a branch: then several of them are in flight before the first is waited for.
__device__ __forceinline__ uint4 LoadStreaming(const void* p) {
  uint4 v;
  asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
      : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
      : "l"(p));
  return v;
}

__device__ __forceinline__ float HalfBits(uint16_t bits) { return Widen(__ushort_as_half(bits)); }

// Weights of one block in flight, with the scales of its segment.
struct BlockSlot {
  uint4 w[2];
  uint16_t scale[2];
};

// One thread's part of its two weight rows: addresses of block 0.
struct WeightRows {
  const uint8_t* body[2];
  const uint8_t* outlier[2];  // as if outlier blocks were numbered from 0 as well
  const uint16_t* scale[2];

  __device__ __forceinline__ void Load(const DecodePlan& plan, int block, BlockSlot& slot) const {
    const int segment = plan.args.group_size ? min(block, plan.body_blocks - 1) >> plan.unit_shift : 0;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      slot.w[h] = LoadStreaming((block < plan.body_blocks ? body[h] : outlier[h]) + block * kBlockBytes);
      slot.scale[h] = __ldg(scale[h] + segment);
    }
  }
};

// Quotients of small numbers by one divisor, without a division each.
struct SmallDivisor {
  int divisor;
  float inverse;
  __device__ __forceinline__ explicit SmallDivisor(int d) : divisor(d), inverse(1.0f / static_cast<float>(d)) {}
  // Exact while i < 2^20: half a unit more than rounding can take away.
  __device__ __forceinline__ int Quotient(int i) const {
    return static_cast<int>((static_cast<float>(i) + 0.5f) * inverse);
  }
};

// Copies the activations of channels [begin, end) of tokens m0 ... in the order of the fragments, 16 channels a piece,
// several loads ahead of the stores. Places of tokens past M keep what was there: their columns are not written out.
template <class Math, int kTiles>
__device__ __forceinline__ void StageActivations(const DecodePlan& plan, int64_t m0, int begin, int end,
                                                 uint8_t* staged) {
  constexpr int kBytes = Math::kActivationBytes;
  constexpr int kAhead = 4;
  const GemmArgs& args = plan.args;
  const int pieces = (end - begin) / 16;
  const int tokens = static_cast<int>(min(static_cast<int64_t>(8 * kTiles), args.m - m0));
  const uint8_t* from = static_cast<const uint8_t*>(args.a) + (m0 * args.k + begin) * kBytes;
  const SmallDivisor by_pieces(pieces);
  for (int first = threadIdx.x; first < pieces * tokens; first += kAhead * kDecodeThreads) {
    uint4 v[kAhead][kBytes];
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      const int i = first + j * kDecodeThreads, token = by_pieces.Quotient(i), place = (i - token * pieces) * 16;
      if (i >= pieces * tokens) break;
#pragma unroll
      for (int h = 0; h < kBytes; ++h) {
        v[j][h] =
            __ldg(reinterpret_cast<const uint4*>(from + (static_cast<int64_t>(token) * args.k + place) * kBytes) + h);
      }
    }
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      const int i = first + j * kDecodeThreads, token = by_pieces.Quotient(i), place = (i - token * pieces) * 16;
      if (i >= pieces * tokens) break;
      uint8_t* to = staged + token * plan.row_stride + place * kBytes;
      const bool reorder = plan.nibbles && begin + place < args.body();
      if constexpr (Math::kPacked) {  // a thread's 32 codes fill the first half of their 32 bytes
        if (reorder) {
          *reinterpret_cast<uint2*>(to - place % 32 / 2) =
              make_uint2(Math::Pack(make_uint2(v[j][0].x, v[j][0].y)), Math::Pack(make_uint2(v[j][0].z, v[j][0].w)));
          continue;
        }
      }
#pragma unroll
      for (int h = 0; h < kBytes; ++h) {
        reinterpret_cast<uint4*>(to)[h] = reorder ? Math::NibbleOrder(v[j][h]) : v[j][h];
      }
    }
  }
}

// Scales [first, last] of every token, token fastest.
template <int kTiles>
__device__ __forceinline__ void StageScales(const DecodePlan& plan, int64_t m0, int first, int last, float* scales) {
  const int count = last - first + 1;
  const int tokens = static_cast<int>(min(static_cast<int64_t>(8 * kTiles), plan.args.m - m0));
  const int row = plan.args.a_scales();
  const float* from = plan.args.a_scale + m0 * row + first;
  const SmallDivisor by_count(count);
#pragma unroll 4
  for (int i = threadIdx.x; i < count * tokens; i += kDecodeThreads) {
    const int token = by_count.Quotient(i), slot = i - token * count;
    scales[slot * (8 * kTiles) + token] = __ldg(from + token * row + slot);
  }
}

// sum += float(acc) * weight scale * token scale, acc = 0. Element i is row r + 8 * (i / 2), token 8t + 2q + i % 2.
template <class Acc, int kTiles>
__device__ __forceinline__ void PromoteTiles(Acc (&acc)[kTiles][4], const float* token_scale, float weight0,
                                             float weight1, int q, float (&sum)[kTiles][4]) {
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
    const float2 s =
        token_scale ? *reinterpret_cast<const float2*>(token_scale + 8 * t + 2 * q) : make_float2(1.0f, 1.0f);
    sum[t][0] += static_cast<float>(acc[t][0]) * weight0 * s.x;
    sum[t][1] += static_cast<float>(acc[t][1]) * weight0 * s.y;
    sum[t][2] += static_cast<float>(acc[t][2]) * weight1 * s.x;
    sum[t][3] += static_cast<float>(acc[t][3]) * weight1 * s.y;
#pragma unroll
    for (int i = 0; i < 4; ++i) acc[t][i] = 0;
  }
}

// A warp's 16 rows into the block's sums, laid out [slice of the block][token][row of the block].
template <class V, int kTiles>
__device__ __forceinline__ void PutSums(const V (&v)[kTiles][4], V* sums, int rows, int q) {
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[(8 * t + 2 * q + i % 2) * rows + 8 * (i / 2)] = v[t][i];
  }
}

#if __CUDA_ARCH__ >= 900
#define LOWBIT_CLUSTER 1
#else
#define LOWBIT_CLUSTER 0
#endif

__device__ __forceinline__ void SyncSplit(int split) {
#if LOWBIT_CLUSTER
  if (split > 1) {
    ClusterSync();
    return;
  }
#endif
  __syncthreads();
}

template <class V>
__device__ __forceinline__ const V* SplitShared(const V* p, int split, int rank) {
#if LOWBIT_CLUSTER
  if (split > 1) return RemoteShared(p, rank);
#endif
  return p;
}

// Four neighbouring results of one token: the sums of all slices in order, scales, bias, residual.
template <class Acc>
__device__ __forceinline__ void FinishFour(const DecodePlan& plan, const Acc* body_sums, const float* float_sums,
                                           int slice_sums, int at, int64_t m, int n, float whole_factor) {
  struct alignas(16) Four {
    Acc v[4];
  };
  const GemmArgs& args = plan.args;
  const int split = plan.config.split, slices = plan.block_slices();
  const bool floats = !plan.whole || args.outliers > 0;
  float y[4] = {};
  Acc body[4] = {};
  for (int s = 0; s < slices; ++s) {
    Four b[8];
    float4 f[8];
#pragma unroll
    for (int from = 0; from < 8; ++from) {  // all loads before the first sum
      if (from >= split) break;
      if (plan.whole)
        b[from] = *reinterpret_cast<const Four*>(SplitShared(body_sums, split, from) + s * slice_sums + at);
      if (floats)
        f[from] = *reinterpret_cast<const float4*>(SplitShared(float_sums, split, from) + s * slice_sums + at);
    }
#pragma unroll
    for (int from = 0; from < 8; ++from) {
      if (from >= split) break;
      if (plan.whole) {
#pragma unroll
        for (int i = 0; i < 4; ++i) body[i] += b[from].v[i];
      }
      if (floats) y[0] += f[from].x, y[1] += f[from].y, y[2] += f[from].z, y[3] += f[from].w;
    }
  }
  const float a_scale = plan.whole && args.a_scale ? __ldg(args.a_scale + m * args.a_scales()) : 1.0f;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (n + i >= args.n) break;
    if (plan.whole)
      y[i] += static_cast<float>(body[i]) * (HalfBits(__ldg(args.b_scale + n + i)) * whole_factor) * a_scale;
    if (args.bias) y[i] += LoadOne(args.type, args.bias, n + i);
    const int64_t index = m * args.n + n + i;
    if (args.residual) y[i] += LoadOne(args.type, args.residual, index);
    StoreOne(args.type, args.y, index, y[i]);
  }
}

// kSubs: a block holds several segments (groups of 32 or 64), one mma pass each with the others' channels masked.
template <class Math, int kTiles, int kDepth, bool kNibbles, bool kSubs>
__global__ __launch_bounds__(kDecodeThreads,
                             kTiles <= 2 ? 2 : 1) void DecodeKernel(const __grid_constant__ DecodePlan plan) {
  using Acc = typename Math::Acc;
  constexpr float kFactor = kNibbles ? Math::kNibbleFactor : 1.0f;
  extern __shared__ __align__(16) uint8_t shared[];
  const GemmArgs& args = plan.args;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, r = lane / 4, q = lane % 4;
  const int split = plan.config.split, row_warps = plan.config.row_warps;
  const int rows = 16 * row_warps, block_slices = plan.block_slices();
  const int rank = blockIdx.x % split;
  const int n0 = blockIdx.x / split * rows;
  const int64_t m0 = static_cast<int64_t>(blockIdx.y) * 8 * kTiles;
  const int row_in_block = (warp & (row_warps - 1)) * 16 + r, slice_in_block = warp / row_warps;

  WeightRows weights;
  float outlier_scale[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int64_t n = min(n0 + row_in_block + 8 * h, args.n - 1);  // rows past N repeat the last one and are not stored
    weights.body[h] = static_cast<const uint8_t*>(args.b) + n * (plan.body_blocks * kBlockBytes) + 16 * q;
    weights.outlier[h] =
        reinterpret_cast<const uint8_t*>(args.b_outlier) + n * args.outliers + 16 * q - plan.body_blocks * kBlockBytes;
    weights.scale[h] = args.b_scale + n * (args.group_size ? (plan.body_blocks >> plan.unit_shift) * plan.subs : 1);
    outlier_scale[h] = 0.0f;
  }
  const int slice = rank * block_slices + slice_in_block;
  const int begin = plan.slice_begin[slice], end = plan.slice_begin[slice + 1];
  const int last_mine = max(end - 1, 0);  // what is asked for beyond the range repeats its last block
  if (!args.constant_weights) WaitForPriorKernelsIfAny();
  BlockSlot slots[kDepth];
#pragma unroll
  for (int j = 0; j < kDepth; ++j) {
    weights.Load(plan, min(begin + j, last_mine), slots[j]);
  }
  if (end > plan.body_blocks) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      outlier_scale[h] = HalfBits(__ldg(args.b_outlier_scale + min(n0 + row_in_block + 8 * h, args.n - 1)));
    }
  }
  LetNextKernelStartIfAny();
  if (args.constant_weights) WaitForPriorKernelsIfAny();

  const int first_block = plan.slice_begin[rank * block_slices];
  const int last_block = plan.slice_begin[(rank + 1) * block_slices];
  const int first_channel = plan.channel(first_block);
  float* scales = reinterpret_cast<float*>(shared + 8 * kTiles * plan.row_stride);
  const int first_scale = plan.scale_slot(first_block);
  if (first_block < last_block) {
    if (args.a_scale) {
      StageScales<kTiles>(plan, m0, first_scale, plan.scale_slot(last_block - 1) + (kSubs ? plan.subs - 1 : 0), scales);
    }
    StageActivations<Math, kTiles>(plan, m0, first_channel, plan.channel(last_block), shared);
  }
  __syncthreads();

  Acc acc[kTiles][4] = {};
  float sum[kTiles][4] = {};
  // The body's sums, when they must meet as integers: in shared memory of their own, as outliers may still follow.
  Acc* body_sums = reinterpret_cast<Acc*>(shared + plan.body_sums_offset);
  const int slice_sums = 8 * kTiles * rows;
  const int mine = slice_in_block * slice_sums + row_in_block;
  // Staged token scales of one slot; null for float activations.
  const auto scales_of = [&](int slot) -> const float* {
    return args.a_scale ? scales + (slot - first_scale) * (8 * kTiles) : nullptr;
  };
  const uint8_t* staged_row = shared + r * plan.row_stride;
  const int tile_stride = 8 * plan.row_stride;
  for (int base = begin; base < end; base += kDepth) {
#pragma unroll
    for (int j = 0; j < kDepth; ++j) {
      const int block = base + j;
      if (block >= end) break;
      const BlockSlot now = slots[j];
      weights.Load(plan, min(block + kDepth, last_mine), slots[j]);
      const uint8_t* staged = staged_row + (plan.channel(block) - first_channel) * Math::kActivationBytes;
      if (block < plan.body_blocks) {
        if constexpr (kSubs) {
          const int lanes_per_segment = 4 / plan.subs;
#pragma unroll 1
          for (int sub = 0; sub < plan.subs; ++sub) {
            const uint32_t mask = q / lanes_per_segment == sub ? ~0u : 0u;
            Math::template Nibbles<kTiles>(now.w, staged + 32 * q * Math::kActivationBytes, tile_stride, mask, acc);
            const int segment = block * plan.subs + sub, group = args.group_size ? segment : 0;
            PromoteTiles(acc, scales_of(args.a_group_size ? segment : 0),
                         HalfBits(__ldg(weights.scale[0] + group)) * kFactor,
                         HalfBits(__ldg(weights.scale[1] + group)) * kFactor, q, sum);
          }
        } else {
          if constexpr (kNibbles) {
            Math::template Nibbles<kTiles>(now.w, staged + 32 * q * Math::kActivationBytes, tile_stride, ~0u, acc);
          } else {
            Math::template Bytes<kTiles>(now.w, staged + 16 * q * Math::kActivationBytes, tile_stride, acc);
          }
          if (!plan.whole && ((block + 1) & (plan.unit_blocks - 1)) == 0) {
            PromoteTiles(acc, scales_of(plan.scale_slot(block)), HalfBits(now.scale[0]) * kFactor,
                         HalfBits(now.scale[1]) * kFactor, q, sum);
          }
        }
      } else {
        if (plan.whole && block == plan.body_blocks) {
          PutSums<Acc, kTiles>(acc, body_sums + mine, rows, q);
#pragma unroll
          for (int t = 0; t < kTiles; ++t) {
#pragma unroll
            for (int i = 0; i < 4; ++i) acc[t][i] = 0;
          }
        }
        Math::template Bytes<kTiles>(now.w, staged + 16 * q * Math::kActivationBytes, tile_stride, acc);
        if (block + 1 == plan.body_blocks + plan.outlier_blocks) {
          PromoteTiles(acc, scales_of(plan.scale_slot(block)), outlier_scale[0], outlier_scale[1], q, sum);
        }
      }
    }
  }
  if (plan.whole && end <= plan.body_blocks) PutSums<Acc, kTiles>(acc, body_sums + mine, rows, q);

  __syncthreads();  // the staged activations' place is taken by the float sums
  float* float_sums = reinterpret_cast<float*>(shared);
  if (!plan.whole || args.outliers) PutSums<float, kTiles>(sum, float_sums + mine, rows, q);
  SyncSplit(split);
  const int tokens = static_cast<int>(min(static_cast<int64_t>(8 * kTiles), args.m - m0));
  const int row_fours = rows / 4;  // a power of two
  for (int i = rank * kDecodeThreads + threadIdx.x; i < tokens * row_fours; i += split * kDecodeThreads) {
    const int token = i / row_fours, row = (i & (row_fours - 1)) * 4;
    if (n0 + row < args.n) {
      FinishFour(plan, body_sums, float_sums, slice_sums, token * rows + row, m0 + token, n0 + row, kFactor);
    }
  }
  if (split > 1) SyncSplit(split);  // a block's shared memory must outlive its readers
}

}  // namespace lowbit::cuda
