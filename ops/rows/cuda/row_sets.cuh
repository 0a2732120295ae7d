// RMSNorm, or nothing, and quantization on Hopper, for rows of 16-bit values that are whole runs of 1024 channels,
// kRows of them at a time. The copy engine brings sets of rows into a ring in shared memory -> registers, the README's
// lane sums -> shared memory again, where a channel's values of all rows lie side by side -> gather, norm and codes in
// registers. One access gathers a channel of all rows; weights are gathered once a block, so that the norm is applied
// after the gather.
#pragma once
#include "ops/rows/cuda/norm_units.cuh"

namespace lowbit::cuda {

// Dynamic shared memory: the cells of one set of rows being gathered and of the next, a ring of kStages sets of rows
// (and of residuals) as they are in memory, magnitudes.
template <class T, int kRows, int kStages>
size_t RowSetsSharedBytes(const RowTarget& target, bool residual) {
  const int set_bytes = CellRows<T, kRows>::Bytes(target.format.channels);
  return (2 + kStages * (residual ? 2 : 1)) * static_cast<size_t>(set_bytes) + MagnitudeBytes(target, kRows);
}

// Dividing by a power of two is multiplying by its inverse.
template <int kRuns>
__device__ __forceinline__ float DivideBySize(float sum) {
  if constexpr ((kRuns & (kRuns - 1)) == 0) return __fmul_rn(sum, 1.0f / (kRuns * kRunChannels));
  return __fdiv_rn(sum, static_cast<float>(kRuns * kRunChannels));
}

// kNorm: an RMSNorm in front; otherwise the rows as they are. kBare: no residual, sum or y. kRuns: how many runs a row
// has. kLanes: segments are so many units (RowTarget's one_pass and merge_lanes); 0: any segments.
template <class T, bool kNorm, bool kBare, int kRows, int kRuns, int kLanes, int kStages, int kMinBlocks>
__global__ __launch_bounds__(kRuns* kRunChannels / kUnitChannels,
                             kMinBlocks) void RowSetsKernel(const __grid_constant__ NormQuantizeArgs args,
                                                            const __grid_constant__ RowTarget any_target) {
  using Rows = CellRows<T, kRows>;
  constexpr int kChannels = kRuns * kRunChannels, kThreads = kChannels / kUnitChannels;
  constexpr int kSetBytes = Rows::Bytes(kChannels), kRowBytes = kChannels * static_cast<int>(sizeof(T));
  constexpr int kQuadBytes = 4 * static_cast<int>(sizeof(T)), kRunBytes = kLaneQuads * kQuadBytes;
  static_assert(kSetBytes == kRows * kRowBytes, "cells fill as much as rows");
  RowTarget target = any_target;
  target.format.channels = kChannels;
  if constexpr (kLanes > 0) target.one_pass = true, target.merge_lanes = kLanes;
  extern __shared__ __align__(16) uint8_t shared[];
  __shared__ __align__(16) float part[2][kRows][kQuadWarps];
  __shared__ uint64_t full[kStages];
  const bool residual = !kBare && args.residual;
  uint8_t* const ring = shared + 2 * kSetBytes;
  uint32_t* const amax = reinterpret_cast<uint32_t*>(ring + (residual ? 2 : 1) * kStages * kSetBytes);
  const int unit = static_cast<int>(threadIdx.x), lane_id = unit % 32, row_of_lane = RowOfLane<kRows>(lane_id);
  const int rows = static_cast<int>(args.rows), sets = (rows + kRows - 1) / kRows, step = static_cast<int>(gridDim.x);
  LetNextKernelStartIfAny();

  const auto fetch = [&](int set, int stage) {
    const uint32_t bytes = static_cast<uint32_t>(min(kRows, rows - set * kRows)) * kRowBytes;
    const int64_t first = static_cast<int64_t>(set) * kRows * kChannels;
    uint8_t* const to = ring + stage * kSetBytes;
    BarrierArriveExpect(&full[stage], residual ? 2 * bytes : bytes);
    BulkLoad(&full[stage], to, static_cast<const T*>(args.x) + first, bytes);
    if (residual) {
      BulkLoad(&full[stage], to + kStages * kSetBytes, static_cast<const T*>(args.residual) + first, bytes);
    }
  };
  // Weights go the way of a row, through the buffer that the second set takes.
  const UnitPlace place(target, unit);
  UnitOrder<Rows, (kThreads * kMinBlocks > 768)> order;
  order.Read(target, unit);
  if (!args.constant_weights) WaitForPriorKernelsIfAny();
  Pack4<T> weights[4];
#pragma unroll
  for (int i = 0; i < (kNorm ? 4 : 0); ++i) weights[i] = LoadQuad<T>(args.weight, 4 * (unit + i * kThreads));
  if (unit == 0) {
    for (int stage = 0; stage < kStages; ++stage) BarrierInit(&full[stage], 1);
    BarrierInitFence();
    WaitForPriorKernelsIfAny();
    for (int stage = 0; stage < kStages; ++stage) {
      const int set = static_cast<int>(blockIdx.x) + stage * step;
      if (set < sets) fetch(set, stage);
    }
  }
#pragma unroll
  for (int i = 0; i < (kNorm ? 4 : 0); ++i) {
    T cells[4][kRows] = {};
#pragma unroll
    for (int j = 0; j < 4; ++j) cells[j][0] = weights[i].v[j];
    Rows::StoreQuad(shared + kSetBytes, Rows::At(4 * (unit + i * kThreads)), cells);
  }
  ClearMagnitudes<kRows>(target, amax);
  __syncthreads();
  Unit<T> w;
  if constexpr (kNorm) {
    float f[kUnitChannels][kRows];
    order.Gather(target, shared + kSetBytes, f);
#pragma unroll
    for (int i = 0; i < kUnitChannels; ++i) w.half[i / 8].v[i % 8] = Narrow<T>(f[i][0]);
  }
  WaitForPriorKernelsIfAny();

  int turn = 0, stage = 0;
  uint32_t parity = 0;
  uint8_t *cells = shared, *spare = shared + kSetBytes;
  float(*now)[kQuadWarps] = part[0], (*later)[kQuadWarps] = part[1];
  for (int set = static_cast<int>(blockIdx.x); set < sets; set += step) {
    const int row = set * kRows;
    BarrierWait(&full[stage], parity);
    if (kRuns * 64 == kLaneQuads || threadIdx.x < kLaneQuads) {
      float lane[kRows][4] = {};
      const uint8_t* const from = ring + stage * kSetBytes + unit * kQuadBytes;
      Pack4<T> packs[kRuns][kRows];
#pragma unroll
      for (int i = 0; i < kRuns * kRows; ++i) {
        packs[i / kRows][i % kRows] =
            *reinterpret_cast<const Pack4<T>*>(from + i % kRows * kRowBytes + i / kRows * kRunBytes);
      }
#pragma unroll
      for (int run = 0; run < kRuns; ++run) {
        T cell[4][kRows];
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          Pack4<T> pack = packs[run][r];
          if constexpr (!kBare) {
            if (residual) {
              const Pack4<T> other =
                  *reinterpret_cast<const Pack4<T>*>(from + kStages * kSetBytes + r * kRowBytes + run * kRunBytes);
#pragma unroll
              for (int i = 0; i < 4; ++i) pack.v[i] = Narrow<T>(__fadd_rn(Widen(pack.v[i]), Widen(other.v[i])));
            }
            if (args.sum && row + r < rows) {
              StoreQuad(args.sum, static_cast<int64_t>(row + r) * kChannels + run * kRunChannels + 4 * unit, pack);
            }
          }
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            if (kNorm) lane[r][i] = AddSquare<T>(lane[r][i], Widen(pack.v[i]));
            cell[i][r] = pack.v[i];
          }
        }
        Rows::StoreQuad(cells, Rows::At(4 * unit) + run * Rows::kRunBytes, cell);
      }
      if constexpr (kNorm) {
        const float sum = SumQuads<kRows>(lane);
        if (lane_id < kRows) now[row_of_lane][unit / 32] = sum;
      }
    }
    __syncthreads();
    if (unit == 0 && set + kStages * step < sets) fetch(set + kStages * step, stage);
    if (++stage == kStages) stage = 0, parity ^= 1;

    float factor[kRows];
    if constexpr (kNorm) {
      const float square = DivideBySize<kRuns>(SumParts(now[row_of_lane]));
      const float factor_of_lane = InverseRoot(__fadd_rn(square, args.epsilon));
#pragma unroll
      for (int r = 0; r < kRows; ++r) factor[r] = __shfl_sync(~0u, factor_of_lane, LaneOfRow<kRows>(r));
    }
    if constexpr (!kBare) {
      if (args.y) {
        for (int quad = unit; quad < kChannels / 4; quad += kThreads) {
          T cell[4][kRows];
          Rows::LoadQuad(cells, Rows::At(4 * quad), cell);
          const Pack4<T> weight = LoadQuad<T>(args.weight, 4 * quad);
#pragma unroll
          for (int r = 0; r < kRows; ++r) {
            Pack4<T> y;
#pragma unroll
            for (int i = 0; i < 4; ++i) {
              y.v[i] = Narrow<T>(__fmul_rn(__fmul_rn(Widen(cell[i][r]), factor[r]), Widen(weight.v[i])));
            }
            if (row + r < rows) StoreQuad(args.y, static_cast<int64_t>(row + r) * kChannels + 4 * quad, y);
          }
        }
      }
    }
    float v[kUnitChannels][kRows];
    order.Gather(target, cells, v);
#pragma unroll
    for (int i = 0; i < (kNorm ? kUnitChannels : 0); ++i) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) v[i][r] = __fmul_rn(__fmul_rn(v[i][r], factor[r]), w.at(i));
    }
    QuantizeUnits<T, kRows, kChannels>(target, place, amax, turn, row, rows, v);
    turn = turn == 2 ? 0 : turn + 1;
    uint8_t* const cells_before = cells;
    cells = spare, spare = cells_before;
    auto* const before = now;
    now = later, later = before;
  }
}

}  // namespace lowbit::cuda
