// How weights reach a decode kernel: every warp has a ring of shared memory of its own, into which cp.async brings
// stages of 64 bytes of 32 weight rows several stages ahead of the arithmetic.
#pragma once
#include "ops/common/cuda/ptx.cuh"
#include "ops/quant-gemm/cuda/step_plan.h"

namespace lowbit::cuda {

constexpr int kDecodeWarps = 8;
constexpr int kDecodeThreads = kDecodeWarps * 32;
constexpr int kRowTiles = 2;  // of 16 output channels
constexpr int kTileRows = 16 * kRowTiles;
constexpr int kStages = 5;
constexpr int kRowBytes = 64;  // of a stage
constexpr int kStageBytes = kTileRows * kRowBytes;

struct DecodeStepPlan : StepPlan {
  int body_parts = 1;                           // stages of a body step: 1 for nibbles, 2 for bytes. Outliers have 2
  int body_bytes = 0;                           // of a weight row
  int parts = 1, segments = 1;                  // segments in a step and, if they are shorter than a step, in the body
  int tiles = 0;                                // of 32 output channels
  int token_segments = 0;                       // of the longest slice: token scales that a warp stages
  uint16_t slice_begin[kDecodeWarps + 1] = {};  // steps of warp i: [slice_begin[i], slice_begin[i + 1])

  constexpr int stages_of(int step) const { return step < body_steps ? body_parts : 2; }
  // Segments that begin in a body step; the last may be half full.
  constexpr int parts_of(int step) const { return step + 1 < body_steps ? parts : segments - step * parts; }
  // Where a step's token scales begin in a row of them.
  constexpr int token_segment(int step) const {
    if (step >= body_steps) return a_scales - 1;
    return args.a_group_size ? (step >> unit_shift) * parts : 0;
  }
  // How many of them the steps [begin, end) need.
  constexpr int token_segments_of(int begin, int end) const {
    const int last = token_segment(end - 1) + (args.a_group_size && end <= body_steps ? parts_of(end - 1) : 1);
    return last - token_segment(begin);
  }
};

// Of one tile's weight scales in shared memory.
constexpr int ScaleBytes(const DecodeStepPlan& plan) { return (kTileRows * 2 * plan.b_scales + 127) / 128 * 128; }

// One warp's weights, for the block's tiles, which are gridDim.x apart.
class WeightRing {
 public:
  __device__ __forceinline__ WeightRing(const DecodeStepPlan& plan, uint8_t* stages, int begin, int end)
      : plan_(plan), stages_(stages), begin_(begin), end_(end) {
    tile_ = begin < end ? static_cast<int>(blockIdx.x) : plan.tiles;
    step_ = begin;
  }

  __device__ __forceinline__ void Fill() {
#pragma unroll
    for (int s = 0; s < kStages; ++s) Ask(s);
  }

  // Shared memory of the step's stage `ahead` of the next, once it is there.
  __device__ __forceinline__ const uint8_t* Await(int ahead) {
    const int at = stage_ + ahead - (stage_ + ahead >= kStages ? kStages : 0);
    WaitCopies<kStages - 2>();
    __syncwarp();
    return stages_ + at * kStageBytes;
  }

  // The next `count` stages have been read: they are asked for again.
  __device__ __forceinline__ void Release(int count) {
    __syncwarp();
    for (int i = 0; i < count; ++i) {
      Ask(stage_);
      if (++stage_ == kStages) stage_ = 0;
    }
  }

 private:
  __device__ __forceinline__ void Ask(int at) {
    if (tile_ < plan_.tiles) {
      const bool body = step_ < plan_.body_steps;
      const int offset = ((body ? step_ : step_ - plan_.body_steps) * plan_.stages_of(step_) + part_) * kRowBytes;
      uint8_t* stage = stages_ + at * kStageBytes;
      const int lane = threadIdx.x % 32, row = lane / 4, piece = lane % 4;
      const int bytes = body ? plan_.body_bytes : plan_.args.outliers;
      const uint8_t* from = static_cast<const uint8_t*>(body ? plan_.args.b : plan_.args.b_outlier) + offset;
#pragma unroll
      for (int i = 0; i < kTileRows && offset < bytes; i += 8) {
        const int64_t n = min(tile_ * kTileRows + row + i, plan_.args.n - 1);
        CopyAsync16(SharedAddress(stage + (row + i) * kRowBytes + (piece ^ ((row >> 1) & 3)) * 16),
                    from + n * bytes + piece * 16);
      }
    }
    CommitCopies();
    if (++part_ < plan_.stages_of(step_)) return;
    part_ = 0;
    if (++step_ >= end_) step_ = begin_, tile_ += gridDim.x;
  }

  const DecodeStepPlan& plan_;
  uint8_t* stages_;
  int begin_, end_;
  int tile_, step_, part_ = 0;  // to ask for next
  int stage_ = 0;               // to read next
};

// The block copies the weight scales of a tile's rows, which are there after the next __syncthreads.
__device__ __forceinline__ void CopyScales(const DecodeStepPlan& plan, int tile, uint16_t* to) {
  if (tile >= plan.tiles) return;
  const int rows = min(kTileRows, plan.args.n - tile * kTileRows);
  const uint16_t* from = plan.args.b_scale + static_cast<int64_t>(tile) * kTileRows * plan.b_scales;
  for (int i = threadIdx.x; i < rows * plan.b_scales; i += kDecodeThreads) to[i] = from[i];
}

// Pieces q of rows r and r + 8 of 16 rows of a stage, r = lane / 4, q = lane % 4. A row's pieces are
// exchanged from pair of rows to pair of rows, so that all banks are used.
__device__ __forceinline__ void LoadPieces(const uint8_t* rows, uint4& low, uint4& high) {
  const int lane = threadIdx.x % 32, r = lane / 4, q = lane % 4;
  const uint8_t* at = rows + r * kRowBytes + (q ^ ((r >> 1) & 3)) * 16;
  low = *reinterpret_cast<const uint4*>(at);
  high = *reinterpret_cast<const uint4*>(at + 8 * kRowBytes);
}

}  // namespace lowbit::cuda
