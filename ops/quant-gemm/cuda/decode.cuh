// QuantGemm for few tokens: every weight byte is read once, straight into the registers of the thread that multiplies it,
// several blocks ahead. Bound by memory; tensor cores (mma.sync) only keep the arithmetic out of the way.
//
// A warp takes 16 output channels, all tokens (tiles of 8) and a range of the input channels; warps of a block and blocks
// of a cluster divide the input channels in whole groups. Their sums meet in shared memory, the cluster's through
// distributed shared memory, and are added in a fixed order: the result does not depend on timing.
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
  GemmArgs args;
  DecodeConfig config;
  bool nibbles = true;      // the body's weights
  bool whole = false;       // one segment: integer sums across warps
  int body_blocks = 0;      // of 64 bytes
  int outlier_blocks = 0;
  int block_channels = 0;   // of a body block: 128 or 64
  int unit_blocks = 0;      // body blocks that must stay in one warp
  int units = 0;            // body units, plus one for the outliers
  int subs = 1;             // segments in a body block, when there are several
  int row_stride = 0;       // bytes of one token's staged activations
  int scale_slots = 0;      // staged scales of one token, at most
  int reduce_offset = 0;    // of the float sums in shared memory; integers are at 0

  constexpr int slices() const { return config.split * (kDecodeWarps / config.row_warps); }
  constexpr int unit_of_slice(int slice) const { return static_cast<int>(static_cast<int64_t>(units) * slice / slices()); }
  constexpr int first_block(int unit) const {
    const int b = unit * unit_blocks;
    return unit >= units ? body_blocks + outlier_blocks : b < body_blocks ? b : body_blocks;
  }
  // The first channel of a block.
  constexpr int channel(int block) const {
    return block <= body_blocks ? block * block_channels : args.body() + (block - body_blocks) * kBlockBytes;
  }
};

__device__ __forceinline__ uint4 LoadStreaming(const void* p) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p));
  return v;
}

__device__ __forceinline__ float HalfBits(uint16_t bits) { return Widen(__ushort_as_half(bits)); }

// One warp's view of its two weight rows.
struct WeightRows {
  const uint8_t* body[2];
  const int8_t* outlier[2];
  const uint16_t* scale[2];
  float outlier_scale[2];
};

// Weights of one block in flight, with the scales of its (first) segment.
struct BlockSlot {
  uint4 w[2];
  uint16_t scale[2];
};

template <class Math>
__device__ __forceinline__ void LoadBlock(const DecodePlan& plan, const WeightRows& rows, int block, int q,
                                          BlockSlot& slot) {
  const bool body = block < plan.body_blocks;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const uint8_t* from = body ? rows.body[h] + static_cast<int64_t>(block) * kBlockBytes
                               : reinterpret_cast<const uint8_t*>(rows.outlier[h]) + (block - plan.body_blocks) * kBlockBytes;
    slot.w[h] = LoadStreaming(from + 16 * q);
    if (body && plan.subs == 1) {
      const int group = plan.args.group_size ? block * plan.block_channels / plan.args.group_size : 0;
      slot.scale[h] = __ldg(rows.scale[h] + group);
    }
  }
}

// Copies the activations of channels [begin, end) of tokens [m0, m0 + 8 * kTiles) in the order of the fragments.
template <class Math, int kTiles>
__device__ __forceinline__ void StageActivations(const DecodePlan& plan, int64_t m0, int begin, int end, uint8_t* staged) {
  constexpr int kBytes = Math::kActivationBytes;
  const GemmArgs& args = plan.args;
  const int pieces = (end - begin) / 8;
  for (int i = threadIdx.x; i < pieces * 8 * kTiles; i += kDecodeThreads) {
    const int token = i / pieces, k = begin + (i % pieces) * 8;
    const int place = k - begin;
    uint8_t* to = staged + token * plan.row_stride + place * kBytes;
    const bool reorder = plan.nibbles && k < args.body();
    const int64_t at = (m0 + token) * args.k + k;
    if constexpr (kBytes == 1) {
      uint2 v = make_uint2(0, 0);
      if (m0 + token < args.m) v = __ldg(reinterpret_cast<const uint2*>(static_cast<const int8_t*>(args.a) + at));
      if constexpr (Math::kPacked) {  // a thread's 32 codes fill the first half of their 32 bytes
        if (reorder) {
          *reinterpret_cast<uint32_t*>(to - place % 32 / 2) = Math::Pack(v);
          continue;
        }
      }
      *reinterpret_cast<uint2*>(to) = reorder ? Math::NibbleOrder(v) : v;
    } else {
      uint4 v = make_uint4(0, 0, 0, 0);
      if (m0 + token < args.m) v = __ldg(reinterpret_cast<const uint4*>(static_cast<const uint16_t*>(args.a) + at));
      *reinterpret_cast<uint4*>(to) = reorder ? Math::NibbleOrder(v) : v;
    }
  }
}

// Segment of the activations' staged scales that a channel belongs to, counted from the block's first channel.
__device__ __forceinline__ int ScaleSlot(const GemmArgs& args, int k) {
  return k >= args.body() ? args.a_scales() - 1 : args.a_group_size ? k / args.a_group_size : 0;
}

template <int kTiles>
__device__ __forceinline__ void StageScales(const DecodePlan& plan, int64_t m0, int first, int last, float* scales) {
  const int count = last - first + 1;
  for (int i = threadIdx.x; i < count * 8 * kTiles; i += kDecodeThreads) {
    const int slot = i / (8 * kTiles), token = i % (8 * kTiles);
    scales[i] = m0 + token < plan.args.m ? __ldg(plan.args.a_scale + (m0 + token) * plan.args.a_scales() + first + slot) : 0.0f;
  }
}

// sum += float(acc) * weight scale * token scale, acc = 0. Element i is row r + 8 * (i / 2), token 8t + 2q + i % 2.
template <class Acc, int kTiles>
__device__ __forceinline__ void PromoteTiles(Acc (&acc)[kTiles][4], const float* token_scale, float weight0,
                                             float weight1, int q, float (&sum)[kTiles][4]) {
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
    const float2 s = token_scale ? *reinterpret_cast<const float2*>(token_scale + 8 * t + 2 * q) : make_float2(1.0f, 1.0f);
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

template <class Math, int kTiles, int kDepth>
__global__ __launch_bounds__(kDecodeThreads, kTiles <= 2 ? 2 : 1) void DecodeKernel(const __grid_constant__ DecodePlan plan) {
  using Acc = typename Math::Acc;
  extern __shared__ __align__(16) uint8_t shared[];
  const GemmArgs& args = plan.args;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, r = lane / 4, q = lane % 4;
  const int split = plan.config.split, row_warps = plan.config.row_warps;
  const int rows = 16 * row_warps, block_slices = kDecodeWarps / row_warps;
  const int rank = blockIdx.x % split;
  const int n0 = blockIdx.x / split * rows;
  const int64_t m0 = static_cast<int64_t>(blockIdx.y) * 8 * kTiles;
  const int row_in_block = warp % row_warps * 16 + r, slice_in_block = warp / row_warps;

  WeightRows weight_rows;
  const int64_t row_bytes = static_cast<int64_t>(plan.body_blocks) * kBlockBytes;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int64_t n = min(n0 + row_in_block + 8 * h, args.n - 1);  // rows past N repeat the last one and are not stored
    weight_rows.body[h] = static_cast<const uint8_t*>(args.b) + n * row_bytes;
    weight_rows.outlier[h] = args.b_outlier + n * args.outliers;
    weight_rows.scale[h] = args.b_scale + n * args.b_scales();
    weight_rows.outlier_scale[h] = args.outliers ? HalfBits(__ldg(args.b_outlier_scale + n)) : 0.0f;
  }
  const int slice = rank * block_slices + slice_in_block;
  const int begin = plan.first_block(plan.unit_of_slice(slice)), end = plan.first_block(plan.unit_of_slice(slice + 1));
  if (!args.constant_weights) WaitForPriorKernelsIfAny();
  BlockSlot slots[kDepth];
#pragma unroll
  for (int j = 0; j < kDepth; ++j) {
    if (begin + j < end) LoadBlock<Math>(plan, weight_rows, begin + j, q, slots[j]);
  }
  LetNextKernelStartIfAny();
  if (args.constant_weights) WaitForPriorKernelsIfAny();

  const int block_begin = plan.channel(plan.first_block(plan.unit_of_slice(rank * block_slices)));
  const int block_end = plan.channel(plan.first_block(plan.unit_of_slice((rank + 1) * block_slices)));
  StageActivations<Math, kTiles>(plan, m0, block_begin, block_end, shared);
  float* scales = reinterpret_cast<float*>(shared + 8 * kTiles * plan.row_stride);
  const int first_scale = ScaleSlot(args, block_begin);
  if (args.a_scale) StageScales<kTiles>(plan, m0, first_scale, ScaleSlot(args, max(block_end - 1, block_begin)), scales);
  __syncthreads();

  Acc acc[kTiles][4] = {};
  float sum[kTiles][4] = {};
  Acc* body_sums = reinterpret_cast<Acc*>(shared);
  const auto scales_of = [&](int k) -> const float* {
    return args.a_scale ? scales + (ScaleSlot(args, k) - first_scale) * (8 * kTiles) : nullptr;
  };
  const uint8_t* staged_row = shared + r * plan.row_stride;
  const int tile_stride = 8 * plan.row_stride;
  Acc whole_acc[kTiles][4] = {};  // the body's sums, when they must meet as integers
  for (int base = begin; base < end; base += kDepth) {
#pragma unroll
    for (int j = 0; j < kDepth; ++j) {
      const int block = base + j;
      if (block >= end) break;
      const BlockSlot now = slots[j];
      if (block + kDepth < end) LoadBlock<Math>(plan, weight_rows, block + kDepth, q, slots[j]);
      const int k = plan.channel(block);
      const uint8_t* staged = staged_row + (k - block_begin) * Math::kActivationBytes;
      if (block < plan.body_blocks) {
        if (plan.nibbles) {
          staged += 32 * q * Math::kActivationBytes;
          if (plan.subs == 1) {
            Math::template Nibbles<kTiles>(now.w, staged, tile_stride, ~0u, acc);
          } else {
            const int span = plan.block_channels / plan.subs;
#pragma unroll 1
            for (int sub = 0; sub < plan.subs; ++sub) {
              Math::template Nibbles<kTiles>(now.w, staged, tile_stride, 32 * q / span == sub ? ~0u : 0u, acc);
              const int at = k + sub * span, group = args.group_size ? at / args.group_size : 0;
              PromoteTiles(acc, scales_of(at), HalfBits(__ldg(weight_rows.scale[0] + group)) * Math::kNibbleFactor,
                           HalfBits(__ldg(weight_rows.scale[1] + group)) * Math::kNibbleFactor, q, sum);
            }
          }
        } else {
          Math::template Bytes<kTiles>(now.w, staged + 16 * q * Math::kActivationBytes, tile_stride, acc);
        }
        if (!plan.whole && plan.subs == 1 && (block + 1) % plan.unit_blocks == 0) {
          const float factor = plan.nibbles ? Math::kNibbleFactor : 1.0f;
          PromoteTiles(acc, scales_of(k), HalfBits(now.scale[0]) * factor, HalfBits(now.scale[1]) * factor, q, sum);
        }
      } else {
        if (plan.whole && block == plan.body_blocks) {
#pragma unroll
          for (int t = 0; t < kTiles; ++t) {
#pragma unroll
            for (int i = 0; i < 4; ++i) whole_acc[t][i] = acc[t][i], acc[t][i] = 0;
          }
        }
        Math::template Bytes<kTiles>(now.w, staged + 16 * q * Math::kActivationBytes, tile_stride, acc);
        if (block + 1 == plan.body_blocks + plan.outlier_blocks) {
          PromoteTiles(acc, scales_of(args.body()), weight_rows.outlier_scale[0], weight_rows.outlier_scale[1], q, sum);
        }
      }
    }
  }
  if (plan.whole && !(begin < end && end > plan.body_blocks)) {
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
#pragma unroll
      for (int i = 0; i < 4; ++i) whole_acc[t][i] = acc[t][i];
    }
  }

  __syncthreads();  // the staged activations' place is taken by the sums
  const int slice_sums = 8 * kTiles * rows;
  float* float_sums = reinterpret_cast<float*>(shared + plan.reduce_offset);
  if (plan.whole) PutSums<Acc, kTiles>(whole_acc, body_sums + slice_in_block * slice_sums + row_in_block, rows, q);
  if (!plan.whole || args.outliers) {
    PutSums<float, kTiles>(sum, float_sums + slice_in_block * slice_sums + row_in_block, rows, q);
  }
  SyncSplit(split);
  for (int i = rank * kDecodeThreads + threadIdx.x; i < slice_sums; i += split * kDecodeThreads) {
    const int token = i / rows, n = n0 + i % rows;
    const int64_t m = m0 + token;
    if (m >= args.m || n >= args.n) continue;
    float y = 0.0f;
    Acc body = 0;
    for (int from = 0; from < split; ++from) {
      const Acc* body_from = SplitShared(body_sums, split, from);
      const float* float_from = SplitShared(float_sums, split, from);
      for (int s = 0; s < block_slices; ++s) {
        if (plan.whole) body += body_from[s * slice_sums + i];
        if (!plan.whole || args.outliers) y += float_from[s * slice_sums + i];
      }
    }
    if (plan.whole) {
      const float a_scale = args.a_scale ? __ldg(args.a_scale + m * args.a_scales()) : 1.0f;
      const float factor = plan.nibbles ? Math::kNibbleFactor : 1.0f;
      const float b_scale = HalfBits(__ldg(args.b_scale + n));
      y += static_cast<float>(body) * (b_scale * factor) * a_scale;
    }
    if (args.bias) y += LoadOne(args.type, args.bias, n);
    const int64_t at = m * args.n + n;
    if (args.residual) y += LoadOne(args.type, args.residual, at);
    StoreOne(args.type, args.y, at, y);
  }
  if (split > 1) SyncSplit(split);  // a block's shared memory must outlive its readers
}

}  // namespace lowbit::cuda
