// QuantGemm for few tokens, with any segments and on any chip since sm_80. What counts is to keep weights on their way
// from memory all the time (decode_pipeline.cuh); mma.sync keeps the arithmetic out of the way.
//
// A block takes tiles of 32 output channels one after the other, always with all input channels, which its eight warps
// share out in whole segments; their rings of weights run on from tile to tile. Activations are read straight into
// fragments. At the end of a tile the warps' sums meet in shared memory and are added in a fixed order: the result does
// not depend on timing.
#pragma once
#include "ops/quant-gemm/cuda/decode_math.cuh"
#include "ops/quant-gemm/cuda/decode_pipeline.cuh"
#include "ops/quant-gemm/cuda/sm90_tiles.cuh"

namespace lowbit::cuda {

constexpr int kSumWarps = 4;               // slices of sums in shared memory
constexpr int kSumStride = kTileRows + 4;  // floats of a token: neighbouring tokens start in different banks

// How segments and steps of 128 channels go together.
enum class Segments {
  kStep,    // a segment is a step
  kPart,    // a step holds several: one mma pass each with the others' channels masked
  kLonger,  // a segment is several steps
  kWhole,   // one segment and no outliers: integer sums until the warps' sums have met
  kMixed,   // the same with outliers
};

// Where a block's tokens are: offsets of the thread's token of each tile in bytes of activations. Tokens past M repeat
// the last one and are not stored.
template <class Math, int kTiles>
struct Tokens {
  const uint8_t* a;
  int offset[kTiles];

  __device__ __forceinline__ Tokens(const DecodeStepPlan& plan, int64_t m0) {
    const GemmArgs& args = plan.args;
    const int last = static_cast<int>(min(args.m - 1 - m0, int64_t{8 * kTiles - 1}));
    a = static_cast<const uint8_t*>(args.a) + m0 * args.k * Math::kActivationBytes;
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      offset[t] = min(8 * t + static_cast<int>(threadIdx.x) % 32 / 4, last) * args.k * Math::kActivationBytes;
    }
  }

  // A step's channels of kCount tiles from `first_tile`.
  template <int kCount>
  __device__ __forceinline__ void Load(const DecodeStepPlan& plan, int step, int first_tile,
                                       uint4 (&raw)[kCount][2 * Math::kActivationBytes]) const {
    constexpr int kBytes = Math::kActivationBytes;  // also the pieces of 16 bytes in 16 channels
    const GemmArgs& args = plan.args;
    const int q = threadIdx.x % 4;
    const bool body = step < plan.body_steps;
    // Two runs of 16 channels. One past the end of a last, half-full step repeats the first and is not counted.
    const int first = body ? step * kStepChannels + (Math::kNibbles ? 32 : 16) * q
                           : args.body() + (step - plan.body_steps) * kStepChannels + 16 * q;
    const int distance = Math::kNibbles && body ? 16 : first + 64 < (body ? args.body() : args.k) ? 64 : 0;
#pragma unroll
    for (int t = 0; t < kCount; ++t) {
      const uint8_t* from = a + (offset[first_tile + t] + first * kBytes);
#pragma unroll
      for (int h = 0; h < kBytes; ++h) {
        raw[t][h] = __ldg(reinterpret_cast<const uint4*>(from) + h);
        raw[t][kBytes + h] = __ldg(reinterpret_cast<const uint4*>(from + distance * kBytes) + h);
      }
    }
  }
};

// Copies the token scales of a warp's steps to shared memory, [segment][token].
template <int kTiles>
__device__ __forceinline__ void StageTokenScales(const DecodeStepPlan& plan, int64_t m0, int begin, int end,
                                                 float* to) {
  const int first = plan.token_segment(begin);
  const int last = static_cast<int>(min(plan.args.m - 1 - m0, int64_t{8 * kTiles - 1}));
  const float* from = plan.args.a_scale + m0 * plan.a_scales + first;
#pragma unroll 4
  for (int i = threadIdx.x % 32; i < plan.token_segments_of(begin, end) * 8 * kTiles; i += 32) {
    to[i] = __ldg(from + min(i % (8 * kTiles), last) * plan.a_scales + i / (8 * kTiles));
  }
}

// Adds up the warps' sums: the later four leave theirs, the first four add their own. The caller synchronizes.
template <class V, int kTiles>
__device__ __forceinline__ void MeetSums(const V (&v)[kRowTiles][kTiles][4], V* sums, bool later) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, r = lane / 4, q = lane % 4;
  if ((warp >= kSumWarps) != later) return;
  V* mine = sums + (warp % kSumWarps * 8 * kTiles + 2 * q) * kSumStride + r;
#pragma unroll
  for (int mt = 0; mt < kRowTiles; ++mt) {
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        V* at = mine + (8 * t + i % 2) * kSumStride + 16 * mt + 8 * (i / 2);
        *at = later ? v[mt][t][i] : v[mt][t][i] + *at;
      }
    }
  }
}

template <class V, int kTiles>
__device__ __forceinline__ V SumAt(const V* sums, int token, int row) {
  V v[kSumWarps];
#pragma unroll
  for (int s = 0; s < kSumWarps; ++s) v[s] = sums[(s * 8 * kTiles + token) * kSumStride + row];
  return (v[0] + v[1]) + (v[2] + v[3]);
}

constexpr int SumBytes(int tiles) { return kSumWarps * 8 * tiles * kSumStride * 4; }

// Token tiles that are loaded and multiplied at a time, as registers allow, and how many such loads are kept ahead.
template <class Math, int kTiles>
constexpr int kChunkTiles = kTiles * Math::kActivationBytes <= 4 ? kTiles : 4 / Math::kActivationBytes;
template <class Math, int kTiles>
constexpr int kAhead = kTiles * Math::kActivationBytes == 1 ? 3 : 1;

// The rarer forms need more registers.
constexpr int BlocksPerSm(int tiles, Segments s) {
  return tiles <= 2 && (s == Segments::kStep || s == Segments::kWhole) ? 2 : 1;
}

template <class Math, int kTiles, Segments kSegments>
__global__ __launch_bounds__(kDecodeThreads,
                             BlocksPerSm(kTiles,
                                         kSegments)) void DecodeKernel(const __grid_constant__ DecodeStepPlan plan) {
  using Acc = typename Math::Acc;
  constexpr bool kIntegers = Math::kActivationBytes == 1;
  constexpr bool kWhole = kSegments == Segments::kWhole || kSegments == Segments::kMixed;
  constexpr bool kFloats = kSegments != Segments::kWhole, kKept = kWhole || kSegments == Segments::kLonger;
  constexpr int kSlots = kAhead<Math, kTiles>, kChunk = kChunkTiles<Math, kTiles>, kChunks = kTiles / kChunk;
  static_assert(kSlots == 1 || kChunks == 1);
  constexpr int kPieces = Math::kNibbles ? 1 : 2;
  const GemmArgs& args = plan.args;
  const int warp = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 32, 0);  // the compiler sees that it is uniform
  const int lane = threadIdx.x % 32, r = lane / 4, q = lane % 4;
  const int64_t m0 = static_cast<int64_t>(blockIdx.y) * 8 * kTiles;
  const int begin = plan.slice_begin[warp], end = plan.slice_begin[warp + 1];

  extern __shared__ __align__(1024) uint8_t shared[];
  const int scale_bytes = kWhole ? 0 : ScaleBytes(plan);
  uint8_t* const scales = shared + kDecodeWarps * kStages * kStageBytes;
  float* const float_sums = reinterpret_cast<float*>(scales + 2 * scale_bytes);
  int* const whole_sums = reinterpret_cast<int*>(float_sums) + (kFloats ? SumBytes(kTiles) / 4 : 0);
  float* const token_scales =
      float_sums + (kFloats + kWhole) * SumBytes(kTiles) / 4 + warp * plan.token_segments * 8 * kTiles;

  WeightRing ring(plan, shared + warp * kStages * kStageBytes, begin, end);
  ring.Fill();
  if constexpr (!kWhole) {
    CopyScales(plan, blockIdx.x, reinterpret_cast<uint16_t*>(scales));
    CopyScales(plan, blockIdx.x + gridDim.x, reinterpret_cast<uint16_t*>(scales + scale_bytes));
    __syncthreads();
  }

  const Tokens<Math, kTiles> tokens(plan, m0);
  uint4 raw[kSlots][kChunk][2 * Math::kActivationBytes];
  if (begin < end) {
#pragma unroll
    for (int j = 0; j < kSlots; ++j) tokens.Load(plan, min(begin + j, end - 1), 0, raw[j]);
    if constexpr (kIntegers && kSegments != Segments::kWhole) {
      StageTokenScales<kTiles>(plan, m0, begin, end, token_scales);
      __syncwarp();
    }
  }

  int turn = 0;
  for (int tile = blockIdx.x; tile < plan.tiles; tile += gridDim.x, ++turn) {
    const int n0 = tile * kTileRows,
              out_n = n0 + lane;  // this thread writes channel out_n of tokens warp, warp + 8, ...
    float whole_scale = 0.0f, outlier_scale[kRowTiles][2] = {};
    if constexpr (kWhole) whole_scale = HalfBits(__ldg(args.b_scale + min(out_n, args.n - 1))) * Math::kFactor;
    if (kIntegers && kFloats && end > plan.body_steps) {
#pragma unroll
      for (int i = 0; i < 2 * kRowTiles; ++i) {
        outlier_scale[i / 2][i % 2] = HalfBits(__ldg(args.b_outlier_scale + min(n0 + 8 * i + r, args.n - 1)));
      }
    }
    const uint16_t* const tile_scales = reinterpret_cast<const uint16_t*>(scales + (turn & 1) * scale_bytes);
    float sum[kRowTiles][kTiles][4] = {};
    Acc kept[kKept ? kRowTiles : 1][kTiles][4];
    if constexpr (kKept) {
#pragma unroll
      for (int mt = 0; mt < kRowTiles; ++mt) Start(kept[mt], Acc{0});
    }
    for (int base = begin; base < end; base += kSlots) {
#pragma unroll
      for (int j = 0; j < kSlots; ++j) {
        const int step = base + j;
        if (step >= end) break;
        const bool body = step < plan.body_steps;
        const uint8_t* const stage = ring.Await(0);
        const uint8_t* const stage2 = plan.stages_of(step) == 2 ? ring.Await(1) : stage;
        const int segment = args.group_size ? (step >> plan.unit_shift) * plan.parts : 0;
        const float* const step_tokens =
            kIntegers ? token_scales + (plan.token_segment(step) - plan.token_segment(begin)) * 8 * kTiles + 2 * q
                      : nullptr;
#pragma unroll
        for (int c = 0; c < kChunks; ++c) {
          const int first_tile = c * kChunk;
          uint32_t b[kChunk][Math::kWords], bytes[kChunk][8];
          if (body) {
#pragma unroll
            for (int t = 0; t < kChunk; ++t) Math::Arrange(raw[j][t], args.a_format == Format::kS4E4M3, b[t]);
          } else if constexpr (kIntegers) {
#pragma unroll
            for (int t = 0; t < kChunk; ++t) CodeMath<false>::Arrange(raw[j][t], false, bytes[t]);
          }
          // The last step of the body or of the outliers may be half full; the weights behind it are not there.
          if (!Math::kNibbles && body && step * kStepChannels + 64 >= args.body()) {
#pragma unroll
            for (int t = 0; t < kChunk; ++t) {
#pragma unroll
              for (int i = Math::kWords / 2; i < Math::kWords; ++i) b[t][i] = 0;
            }
          }
          if (!body && (step - plan.body_steps) * kStepChannels + 64 >= args.outliers) {
#pragma unroll
            for (int t = 0; t < kChunk; ++t) {
#pragma unroll
              for (int i = 4; i < 8; ++i) bytes[t][i] = 0;
            }
          }
          // The slot's next contents; after the last step those of the next tile's first.
          const int next = c + 1 < kChunks ? step : step + kSlots;
          if (kSlots > 1) {
            tokens.Load(plan, min(next, end - 1), 0, raw[j]);
          } else {
            tokens.Load(plan, next < end ? next : begin, (c + 1) % kChunks * kChunk, raw[j]);
          }
          if (body) {
#pragma unroll
            for (int mt = 0; mt < kRowTiles; ++mt) {
              uint4 w[2][kPieces];
              LoadPieces(stage + mt * 16 * kRowBytes, w[0][0], w[1][0]);
              if constexpr (kPieces == 2)
                LoadPieces(stage2 + mt * 16 * kRowBytes, w[0][kPieces - 1], w[1][kPieces - 1]);
              const uint16_t* const row_scale = tile_scales + (16 * mt + r) * plan.b_scales + segment;
              const int eight_rows = 8 * plan.b_scales;
              if constexpr (kKept) {
                static_assert(kChunks == 1 || kWhole);
                Math::template Multiply<kChunk>(w, b, &kept[mt][first_tile]);
                if constexpr (!kWhole) {
                  if (((step + 1) & ((1 << plan.unit_shift) - 1)) == 0) {
                    Promote<kIntegers, false>(kept[mt], step_tokens, HalfBits(row_scale[0]),
                                              HalfBits(row_scale[eight_rows]), sum[mt]);
                    Start(kept[mt], Acc{0});
                  }
                }
              } else if constexpr (kSegments == Segments::kPart) {
#pragma unroll 1
                for (int part = 0; part < plan.parts_of(step); ++part) {
                  uint32_t masked[kChunk][Math::kWords];
#pragma unroll
                  for (int t = 0; t < kChunk; ++t) {
#pragma unroll
                    for (int i = 0; i < Math::kWords; ++i) {
                      const int run = Math::kNibbles ? 2 * q + i / (Math::kWords / 2) : i / (Math::kWords / 2) * 4 + q;
                      masked[t][i] = run * plan.parts / 8 == part ? b[t][i] : 0;
                    }
                  }
                  Acc acc[kChunk][4];
                  Start(acc, kStartOfStep<Acc>);
                  Math::template Multiply<kChunk>(w, masked, acc);
                  const int weight_part = args.group_size ? part : 0, token_part = args.a_group_size ? part : 0;
                  Promote<kIntegers>(acc, kIntegers ? step_tokens + (token_part * kTiles + first_tile) * 8 : nullptr,
                                     HalfBits(row_scale[weight_part]), HalfBits(row_scale[eight_rows + weight_part]),
                                     &sum[mt][first_tile]);
                }
              } else {
                Acc acc[kChunk][4];
                Start(acc, kStartOfStep<Acc>);
                Math::template Multiply<kChunk>(w, b, acc);
                Promote<kIntegers>(acc, kIntegers ? step_tokens + first_tile * 8 : nullptr, HalfBits(row_scale[0]),
                                   HalfBits(row_scale[eight_rows]), &sum[mt][first_tile]);
              }
            }
          } else if constexpr (kIntegers && kFloats) {
#pragma unroll
            for (int mt = 0; mt < kRowTiles; ++mt) {
              uint4 w[2][2];
              LoadPieces(stage + mt * 16 * kRowBytes, w[0][0], w[1][0]);
              LoadPieces(stage2 + mt * 16 * kRowBytes, w[0][1], w[1][1]);
              int acc[kChunk][4];
              Start(acc, kMagicBits);
              CodeMath<false>::MultiplyBytes<kChunk>(w, bytes, acc);
              const float factor = kWhole ? 1.0f : 1.0f / Math::kFactor;
              Promote<kIntegers>(acc, step_tokens + first_tile * 8, outlier_scale[mt][0] * factor,
                                 outlier_scale[mt][1] * factor, &sum[mt][first_tile]);
            }
          }
        }
        ring.Release(plan.stages_of(step));
      }
    }
    if constexpr (kSlots > 1) {
      if (begin < end) {
#pragma unroll
        for (int j = 0; j < kSlots; ++j) tokens.Load(plan, min(begin + j, end - 1), 0, raw[j]);
      }
    }

    const float bias = args.bias && out_n < args.n ? LoadOne(args.type, args.bias, out_n) : 0.0f;
    if (turn > 0) __syncthreads();  // the last tile's sums have been read
#pragma unroll
    for (int later = 1; later >= 0; --later) {
      if constexpr (kWhole) MeetSums<int, kTiles>(kept, whole_sums, later);
      if constexpr (kFloats) MeetSums<float, kTiles>(sum, float_sums, later);
      __syncthreads();
      if (!kWhole && later) {  // this tile's scales have been read
        CopyScales(plan, tile + 2 * gridDim.x, reinterpret_cast<uint16_t*>(scales + (turn & 1) * scale_bytes));
      }
    }
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      const int token = warp + 8 * t;
      const int64_t m = m0 + token, index = m * args.n + out_n;
      if (m >= args.m || out_n >= args.n) break;
      float y = 0.0f;
      if constexpr (kFloats) y = SumAt<float, kTiles>(float_sums, token, lane) * (kWhole ? 1.0f : Math::kFactor);
      if constexpr (kWhole) {
        y += static_cast<float>(SumAt<int, kTiles>(whole_sums, token, lane)) * whole_scale *
             __ldg(args.a_scale + m * plan.a_scales);
      }
      if (args.bias) y += bias;
      if (args.residual) y += LoadOne(args.type, args.residual, index);
      StoreOne(args.type, args.y, index, y);
    }
  }
}

}  // namespace lowbit::cuda
