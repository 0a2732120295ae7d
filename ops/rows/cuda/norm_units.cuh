// NormQuantize for rows of whole units (unit_rows.cuh), a row at a time: copied ahead into shared memory -> registers,
// the README's lane sums -> shared memory again -> gather, norm and codes in registers. Weights are gathered once a
// block, so that the norm is applied after the gather. norm_rows.cuh takes several rows at a time where it can.
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

// Dynamic shared memory: the row being gathered and the next, the next (and its residual) as it is copied, magnitudes.
template <class T>
size_t NormSharedBytes(const RowTarget& target, bool residual) {
  const int channels = target.format.channels, runs = (channels + kRunChannels - 1) / kRunChannels;
  return 2 * CellRows<T, 1>::Bytes(channels) + (residual ? 2 : 1) * runs * kRunChannels * sizeof(T) +
         MagnitudeBytes(target, 1);
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

// kPlain: RMSNorm without a bias. kBare: no residual, sum or y either.
template <class T, bool kPlain, bool kBare, int kMaxThreads, int kMinBlocks>
__global__ __launch_bounds__(kMaxThreads,
                             kMinBlocks) void NormUnitsKernel(const __grid_constant__ NormQuantizeArgs args,
                                                              const __grid_constant__ RowTarget target) {
  extern __shared__ __align__(16) uint8_t shared[];
  __shared__ __align__(16) float part[2][kQuadWarps], deviation[kQuadWarps];
  constexpr int kQuadBytes = 4 * static_cast<int>(sizeof(T)), kRunBytes = kLaneQuads * kQuadBytes;
  using Rows = CellRows<T, 1>;
  const int channels = target.format.channels, unit = threadIdx.x, threads = static_cast<int>(blockDim.x);
  const int lane_id = threadIdx.x % 32;
  const bool layer = !kPlain && args.layer_norm, bias = !kPlain && args.bias;
  const int buffer_bytes = Rows::Bytes(channels);
  uint8_t* const fetched = shared + 2 * buffer_bytes;
  const int fetched_bytes = (channels + kRunChannels - 1) / kRunChannels * kRunBytes;
  uint32_t* const amax = reinterpret_cast<uint32_t*>(fetched + (!kBare && args.residual ? 2 : 1) * fetched_bytes);
  const int rows = static_cast<int>(args.rows), step = static_cast<int>(gridDim.x);
  LetNextKernelStartIfAny();

  const UnitPlace place(target, unit);
  UnitOrder<Rows, (kMaxThreads * kMinBlocks > 768)> order;
  if (place.inside) order.Read(target, unit);
  if (!args.constant_weights) WaitForPriorKernelsIfAny();
  // Weights go the way of a row, in the buffer that the first row leaves free.
  for (int at = 4 * unit; at < channels; at += 4 * threads) {
    const Pack4<T> weight = LoadQuad<T>(args.weight, at);
    T cells[4][1];
#pragma unroll
    for (int i = 0; i < 4; ++i) cells[i][0] = weight.v[i];
    Rows::StoreQuad(shared + buffer_bytes, Rows::At(at), cells);
  }
  ClearMagnitudes<1>(target, amax);
  WaitForPriorKernelsIfAny();

  const auto for_quads = [&](auto&& fn) {
    for (int quad = unit; quad < kLaneQuads; quad += threads) fn(quad);
  };
  // Calls fn(run, channel, place in the cells) for the same quad of every run.
  const auto for_runs = [&](int quad, auto&& fn) {
    const int first = Rows::At(4 * quad);
#pragma unroll
    for (int run = 0; run < kMaxRowChannels / kRunChannels; ++run) {
      const int at = 4 * quad + run * kRunChannels;
      if (at >= channels) break;
      fn(run, at, first + run * Rows::kRunBytes);
    }
  };
  // Starts copying what the thread will sum of a row. Each thread reads what it copied, so it need not wait for others.
  const auto fetch = [&](int row) {
    if (row < rows) {
      for_quads([&](int quad) {
        const int64_t from = static_cast<int64_t>(row) * channels + 4 * quad;
        const T* const x = static_cast<const T*>(args.x) + from;
        const T* const residual = static_cast<const T*>(args.residual) + from;
        uint8_t* const to = fetched + quad * kQuadBytes;
        for_runs(quad, [&](int run, int, int) {
          FetchQuad(to + run * kRunBytes, x + run * kRunChannels);
          if constexpr (!kBare) {
            if (args.residual) FetchQuad(to + run * kRunBytes + fetched_bytes, residual + run * kRunChannels);
          }
        });
      });
    }
    CommitCopies();
  };
  fetch(static_cast<int>(blockIdx.x));
  Unit<T> w = {}, b = {};
  uint8_t *cells = shared, *spare = shared + buffer_bytes;
  float *now = part[0], *later = part[1];
  int turn = 0;
  for (int row = static_cast<int>(blockIdx.x); row < rows; row += step) {
    const int64_t base = static_cast<int64_t>(row) * channels;
    WaitCopies<0>();
    for_quads([&](int quad) {
      float lane[1][4] = {};
      for_runs(quad, [&](int run, int at, int to) {
        const uint8_t* const from = fetched + run * kRunBytes + quad * kQuadBytes;
        Pack4<T> pack = *reinterpret_cast<const Pack4<T>*>(from);
        if constexpr (!kBare) {
          if (args.residual) {
            const Pack4<T> other = *reinterpret_cast<const Pack4<T>*>(from + fetched_bytes);
#pragma unroll
            for (int i = 0; i < 4; ++i) pack.v[i] = Narrow<T>(__fadd_rn(Widen(pack.v[i]), Widen(other.v[i])));
          }
          if (args.sum) StoreQuad(args.sum, base + at, pack);
        }
        T cell[4][1];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float f = Widen(pack.v[i]);
          lane[0][i] = layer ? __fadd_rn(lane[0][i], f) : AddSquare<T>(lane[0][i], f);
          cell[i][0] = pack.v[i];
        }
        Rows::StoreQuad(cells, to, cell);
      });
      const float sum = SumQuads<1>(lane);
      if (lane_id == 0) now[quad / 32] = sum;
    });
    const int next = row + step;
    fetch(next);
    if (next + step < rows && unit == 0) {  // and the row after the next into the L2 cache
      const uint32_t bytes = channels * static_cast<int>(sizeof(T));
      const int64_t first = static_cast<int64_t>(next + step) * channels;
      PrefetchL2(static_cast<const T*>(args.x) + first, bytes);
      if (!kBare && args.residual) PrefetchL2(static_cast<const T*>(args.residual) + first, bytes);
    }
    __syncthreads();
    const float* parts = now;
    float mean = 0.0f;
    if (layer) {
      mean = __fdiv_rn(SumParts(parts), static_cast<float>(channels));
      for_quads([&](int quad) {
        float lane[1][4] = {};
        for_runs(quad, [&](int, int, int from) {
          T cell[4][1];
          Rows::LoadQuad(cells, from, cell);
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            lane[0][i] = AddSquare<float>(lane[0][i], __fsub_rn(Widen(cell[i][0]), mean));
          }
        });
        const float sum = SumQuads<1>(lane);
        if (lane_id == 0) deviation[quad / 32] = sum;
      });
      __syncthreads();
      parts = deviation;
    }
    const float square = __fdiv_rn(SumParts(parts), static_cast<float>(channels));
    const float factor = InverseRoot(__fadd_rn(square, args.epsilon));
    if (row == static_cast<int>(blockIdx.x)) {
      if (place.inside) {
        float f[kUnitChannels][1];
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
      if (next < rows) __syncthreads();  // the weights' buffer is free
    }
    if (!kBare && args.y) {
      for_quads([&](int quad) {
        for_runs(quad, [&](int, int at, int from) {
          T cell[4][1];
          Rows::LoadQuad(cells, from, cell);
          const Pack4<T> weight = LoadQuad<T>(args.weight, at);
          Pack4<T> shift, y;
          if (bias) shift = LoadQuad<T>(args.bias, at);
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const float x = Widen(cell[i][0]), d = layer ? __fsub_rn(x, mean) : x;
            float n = __fmul_rn(__fmul_rn(d, factor), Widen(weight.v[i]));
            if (bias) n = __fadd_rn(n, Widen(shift.v[i]));
            y.v[i] = Narrow<T>(n);
          }
          StoreQuad(args.y, base + at, y);
        });
      });
    }
    float v[kUnitChannels][1] = {};
    if (place.inside) {
      order.Gather(target, cells, v);
#pragma unroll
      for (int i = 0; i < kUnitChannels; ++i) {
        const float d = layer ? __fsub_rn(v[i][0], mean) : v[i][0];
        v[i][0] = __fmul_rn(__fmul_rn(d, factor), w.at(i));
        if constexpr (!kPlain) {
          if (bias) v[i][0] = __fadd_rn(v[i][0], b.at(i));
        }
      }
    }
    QuantizeUnits<T, 1, 0>(target, place, amax, turn, row, rows, v);
    turn = turn == 2 ? 0 : turn + 1;
    uint8_t* const cells_before = cells;
    cells = spare, spare = cells_before;
    float* const before = now;
    now = later, later = before;
  }
}

}  // namespace lowbit::cuda
