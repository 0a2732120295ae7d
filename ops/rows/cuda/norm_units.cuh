// NormQuantize for rows of whole units (unit_rows.cuh), kRows of them at a time: copied ahead into shared memory ->
// registers, the README's lane sums -> shared memory again, where a channel's values of all rows lie side by side ->
// gather, norm and codes in registers. One access gathers a channel of all rows; weights are gathered once a block, so
// that the norm is applied after the gather.
#pragma once
#include <type_traits>

#include "ops/rows/cuda/norm_quantize.h"
#include "ops/rows/cuda/unit_rows.cuh"

namespace lowbit::cuda {

constexpr int kLaneQuads = kRunChannels / 4, kQuadWarps = kLaneQuads / 32;

// Four neighbouring elements in their own type.
template <class T>
struct alignas(4 * sizeof(T)) Pack4 {
  T v[4];
};
// The quad on its way into shared memory.
template <class T>
__device__ __forceinline__ void FetchQuad(uint8_t* to, const T* from) {
  if constexpr (sizeof(T) == 4) {
    CopyAsync16(SharedAddress(to), from);
  } else {
    AsyncCopy8(SharedAddress(to), from);
  }
}
template <class T>
__device__ __forceinline__ Pack4<T> LoadQuad(const void* row, int64_t at) {
  using Word = std::conditional_t<sizeof(T) == 4, uint4, uint2>;
  const Word word = __ldg(reinterpret_cast<const Word*>(static_cast<const T*>(row) + at));
  return *reinterpret_cast<const Pack4<T>*>(&word);
}
template <class T>
__device__ __forceinline__ void StoreQuad(void* row, int64_t at, const Pack4<T>& pack) {
  *reinterpret_cast<Pack4<T>*>(static_cast<T*>(row) + at) = pack;
}

// Dynamic shared memory: the cells of one set of rows being gathered and of the next, the rows (and residuals) of the
// next as they are copied, magnitudes.
template <class T, int kRows>
size_t NormSharedBytes(const RowTarget& target, bool residual) {
  const int channels = target.format.channels, runs = (channels + kRunChannels - 1) / kRunChannels;
  return 2 * CellRows<T, kRows>::Bytes(channels) + (residual ? 2 : 1) * runs * kRows * kRunChannels * sizeof(T) +
         MagnitudeBytes(target, kRows);
}

// lane + x * x, both rounded. Squares of float16 values are exact in binary32.
template <class T>
__device__ __forceinline__ float AddSquare(float lane, float x) {
  return std::is_same_v<T, __half> ? __fmaf_rn(x, x, lane) : __fadd_rn(lane, __fmul_rn(x, x));
}

// The pairwise sums of a warp's 128 lanes, four a thread, of each row; the thread gets that of row RowOfLane.
template <int kRows>
__device__ __forceinline__ float SumQuads(const float (&lane)[kRows][4]) {
  float v[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    v[r] = __fadd_rn(__fadd_rn(lane[r][0], lane[r][1]), __fadd_rn(lane[r][2], lane[r][3]));
  }
  return MergeRows(v, 32, [](float a, float b) { return __fadd_rn(a, b); });
}

// A row's sum from those of eight warps.
__device__ __forceinline__ float SumParts(const float* part) {
  const float4 a = reinterpret_cast<const float4*>(part)[0], b = reinterpret_cast<const float4*>(part)[1];
  return __fadd_rn(__fadd_rn(__fadd_rn(a.x, a.y), __fadd_rn(a.z, a.w)),
                   __fadd_rn(__fadd_rn(b.x, b.y), __fadd_rn(b.z, b.w)));
}
// Dividing by a power of two is multiplying by its inverse.
template <int kRuns>
__device__ __forceinline__ float DivideBySize(float sum, int channels) {
  if constexpr (kRuns > 0 && (kRuns & (kRuns - 1)) == 0) return __fmul_rn(sum, 1.0f / (kRuns * kRunChannels));
  return __fdiv_rn(sum, static_cast<float>(channels));
}

// kPlain: RMSNorm without a bias. kBare: no residual, sum or y either. kRuns: how many runs of 1024 lanes a row has, a
// whole number of them; 0: any row of whole units. kLanes: segments are so many units (RowTarget's one_pass and
// merge_lanes); 0: any segments.
template <class T, bool kPlain, bool kBare, int kRows, int kRuns, int kLanes, int kMaxThreads, int kMinBlocks>
__global__ __launch_bounds__(kMaxThreads,
                             kMinBlocks) void NormUnitsKernel(const __grid_constant__ NormQuantizeArgs args,
                                                              const __grid_constant__ RowTarget any_target) {
  RowTarget target = any_target;
  if constexpr (kRuns > 0) target.format.channels = kRuns * kRunChannels;
  if constexpr (kLanes > 0) target.one_pass = true, target.merge_lanes = kLanes;
  extern __shared__ __align__(16) uint8_t shared[];
  __shared__ __align__(16) float part[2][kRows][kQuadWarps], deviation[kRows][kQuadWarps];
  constexpr bool kWhole = kRuns > 0;
  constexpr int kQuadBytes = 4 * static_cast<int>(sizeof(T)), kRunBytes = kLaneQuads * kQuadBytes;
  using Rows = CellRows<T, kRows>;
  const int channels = kWhole ? kRuns * kRunChannels : target.format.channels, unit = threadIdx.x;
  const int threads = kWhole ? channels / kUnitChannels : static_cast<int>(blockDim.x);
  const int lane_id = threadIdx.x % 32, row_of_lane = RowOfLane<kRows>(lane_id);
  const bool layer = !kPlain && args.layer_norm, bias = !kPlain && args.bias;
  const int buffer_bytes = Rows::Bytes(channels);
  uint8_t* const fetched = shared + 2 * buffer_bytes;
  const int runs = kWhole ? kRuns : (channels + kRunChannels - 1) / kRunChannels;
  const int fetched_bytes = runs * kRows * kRunBytes;
  uint32_t* const amax = reinterpret_cast<uint32_t*>(fetched + (!kBare && args.residual ? 2 : 1) * fetched_bytes);
  const int rows = static_cast<int>(args.rows), sets = (rows + kRows - 1) / kRows;
  LetNextKernelStartIfAny();

  const UnitPlace place(target, unit);
  const bool inside = kWhole || place.inside;
  UnitOrder<Rows, (kMaxThreads * kMinBlocks > 768)> order;
  if (inside) order.Read(target, unit);
  if (!args.constant_weights) WaitForPriorKernelsIfAny();
  // Weights go the way of a row, in the buffer that the first rows leave free.
  for (int at = 4 * threadIdx.x; at < channels; at += 4 * threads) {
    const Pack4<T> weight = LoadQuad<T>(args.weight, at);
    T cells[4][kRows] = {};
#pragma unroll
    for (int i = 0; i < 4; ++i) cells[i][0] = weight.v[i];
    Rows::StoreQuad(shared + buffer_bytes, Rows::At(at), cells);
  }
  ClearMagnitudes<kRows>(target, amax);
  WaitForPriorKernelsIfAny();

  const auto for_quads = [&](auto&& fn) {
    if constexpr (kWhole && kRuns * 64 >= kLaneQuads) {
      if (kRuns * 64 == kLaneQuads || threadIdx.x < kLaneQuads) fn(static_cast<int>(threadIdx.x));
    } else {
      for (int quad = threadIdx.x; quad < kLaneQuads; quad += threads) fn(quad);
    }
  };
  // Calls fn(run, channel, place in the cells) for the same quad of every run.
  const auto for_runs = [&](int quad, auto&& fn) {
    const int place = Rows::At(4 * quad);
#pragma unroll
    for (int run = 0; run < (kWhole ? kRuns : kMaxRowChannels / kRunChannels); ++run) {
      const int at = 4 * quad + run * kRunChannels;
      if (!kWhole && at >= channels) break;
      fn(run, at, place + run * Rows::kRunBytes);
    }
  };
  // Starts copying what the thread will sum of a set of rows. Each thread reads what it copied, so it need not wait for
  // others.
  const auto fetch = [&](int set) {
    if (set < sets) {
      const int row = set * kRows;
      const int64_t first = static_cast<int64_t>(row) * channels;
      for_quads([&](int quad) {
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          const int64_t from = first + ((row + r < rows ? r * channels : 0) + 4 * quad);
          const T* const x = static_cast<const T*>(args.x) + from;
          const T* const residual = static_cast<const T*>(args.residual) + from;
          uint8_t* const to = fetched + r * kRunBytes + quad * kQuadBytes;
          for_runs(quad, [&](int run, int, int) {
            FetchQuad(to + run * kRows * kRunBytes, x + run * kRunChannels);
            if constexpr (!kBare) {
              if (args.residual) {
                FetchQuad(to + run * kRows * kRunBytes + fetched_bytes, residual + run * kRunChannels);
              }
            }
          });
        }
      });
    }
    CommitCopies();
  };
  fetch(blockIdx.x);
  Unit<T> w = {}, b = {};
  uint8_t *cells = shared, *spare = shared + buffer_bytes;
  float(*now)[kQuadWarps] = part[0], (*later)[kQuadWarps] = part[1];
  int turn = 0;
  for (int set = blockIdx.x; set < sets; set += gridDim.x) {
    const int row = set * kRows, last = rows - 1;
    WaitCopies<0>();
    for_quads([&](int quad) {
      float lane[kRows][4] = {};
      for_runs(quad, [&](int run, int at, int place) {
        T cell[4][kRows];
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          const uint8_t* const from = fetched + (run * kRows + r) * kRunBytes + quad * kQuadBytes;
          Pack4<T> pack = *reinterpret_cast<const Pack4<T>*>(from);
          if constexpr (!kBare) {
            if (args.residual) {
              const Pack4<T> other = *reinterpret_cast<const Pack4<T>*>(from + fetched_bytes);
#pragma unroll
              for (int i = 0; i < 4; ++i) pack.v[i] = Narrow<T>(__fadd_rn(Widen(pack.v[i]), Widen(other.v[i])));
            }
            if (args.sum && row + r <= last) {
              StoreQuad(args.sum, static_cast<int64_t>(row + r) * channels + at, pack);
            }
          }
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const float f = Widen(pack.v[i]);
            lane[r][i] = layer ? __fadd_rn(lane[r][i], f) : AddSquare<T>(lane[r][i], f);
            cell[i][r] = pack.v[i];
          }
        }
        Rows::StoreQuad(cells, place, cell);
      });
      const float sum = SumQuads<kRows>(lane);
      if (lane_id < kRows) now[row_of_lane][quad / 32] = sum;
    });
    const int next = set + gridDim.x, later_set = next + gridDim.x;
    fetch(next);
    if (later_set < sets && threadIdx.x == 0) {  // and the rows after the next into the L2 cache
      const uint32_t bytes = min(kRows, rows - later_set * kRows) * channels * static_cast<int>(sizeof(T));
      const int64_t first = static_cast<int64_t>(later_set) * kRows * channels;
      PrefetchL2(static_cast<const T*>(args.x) + first, bytes);
      if (!kBare && args.residual) PrefetchL2(static_cast<const T*>(args.residual) + first, bytes);
    }
    __syncthreads();
    const float* parts = now[row_of_lane];
    float mean[kRows] = {};
    if (layer) {
      const float mean_of_lane = DivideBySize<kRuns>(SumParts(parts), channels);
#pragma unroll
      for (int r = 0; r < kRows; ++r) mean[r] = __shfl_sync(~0u, mean_of_lane, LaneOfRow<kRows>(r));
      for_quads([&](int quad) {
        float lane[kRows][4] = {};
        for_runs(quad, [&](int, int at, int place) {
          T cell[4][kRows];
          Rows::LoadQuad(cells, place, cell);
#pragma unroll
          for (int r = 0; r < kRows; ++r) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
              lane[r][i] = AddSquare<float>(lane[r][i], __fsub_rn(Widen(cell[i][r]), mean[r]));
            }
          }
        });
        const float sum = SumQuads<kRows>(lane);
        if (lane_id < kRows) deviation[row_of_lane][quad / 32] = sum;
      });
      __syncthreads();
      parts = deviation[row_of_lane];
    }
    const float square = DivideBySize<kRuns>(SumParts(parts), channels);
    const float factor_of_lane = __frcp_rn(__fsqrt_rn(__fadd_rn(square, args.epsilon)));
    float factor[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) factor[r] = __shfl_sync(~0u, factor_of_lane, LaneOfRow<kRows>(r));
    if (set == static_cast<int>(blockIdx.x)) {
      if (inside) {
        float f[kUnitChannels][kRows];
        order.Gather(target, spare, f);
#pragma unroll
        for (int i = 0; i < kUnitChannels; ++i) w.half[i / 8].v[i % 8] = Narrow<T>(f[i][0]);
        if (bias) {
#pragma unroll
          for (int i = 0; i < kUnitChannels; ++i) {
            const int at = unit * kUnitChannels + i;
            b.half[i / 8].v[i % 8] =
                static_cast<const T*>(args.bias)[target.reorder_index ? target.reorder_index[at] : at];
          }
        }
      }
      if (next < sets) __syncthreads();  // the weights' buffer is free
    }
    if (!kBare && args.y) {
      for_quads([&](int quad) {
        for_runs(quad, [&](int, int at, int place) {
          T cell[4][kRows];
          Rows::LoadQuad(cells, place, cell);
          const Pack4<T> weight = LoadQuad<T>(args.weight, at);
          Pack4<T> shift;
          if (bias) shift = LoadQuad<T>(args.bias, at);
#pragma unroll
          for (int r = 0; r < kRows; ++r) {
            Pack4<T> y;
#pragma unroll
            for (int i = 0; i < 4; ++i) {
              const float x = Widen(cell[i][r]), d = layer ? __fsub_rn(x, mean[r]) : x;
              float n = __fmul_rn(__fmul_rn(d, factor[r]), Widen(weight.v[i]));
              if (bias) n = __fadd_rn(n, Widen(shift.v[i]));
              y.v[i] = Narrow<T>(n);
            }
            if (row + r <= last) StoreQuad(args.y, static_cast<int64_t>(row + r) * channels + at, y);
          }
        });
      });
    }
    float v[kUnitChannels][kRows];
    if (!kWhole) Clear(v);
    if (inside) {
      order.Gather(target, cells, v);
#pragma unroll
      for (int i = 0; i < kUnitChannels; ++i) {
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          const float d = layer ? __fsub_rn(v[i][r], mean[r]) : v[i][r];
          v[i][r] = __fmul_rn(__fmul_rn(d, factor[r]), w.at(i));
          if constexpr (!kPlain) {
            if (bias) v[i][r] = __fadd_rn(v[i][r], b.at(i));
          }
        }
      }
    }
    QuantizeUnits<kRows, kRuns * kRunChannels>(target, place, amax, turn, row, rows, v);
    turn = turn == 2 ? 0 : turn + 1;
    uint8_t* const cells_before = cells;
    cells = spare, spare = cells_before;
    auto* const before = now;
    now = later, later = before;
  }
}

}  // namespace lowbit::cuda
