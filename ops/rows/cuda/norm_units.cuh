// NormQuantize for rows of whole units (unit_rows.cuh): global memory -> shared memory as floats, with the README's
// lane sums on the way -> gather, norm and codes in registers. The weight is gathered once a block, so that the norm is
// applied after the gather.
#pragma once
#include <type_traits>

#include "ops/rows/cuda/norm_quantize.h"
#include "ops/rows/cuda/unit_rows.cuh"

namespace lowbit::cuda {

constexpr int kLaneQuads = kRunChannels / 4;

// Four neighbouring elements in their own type.
template <class T>
struct alignas(4 * sizeof(T)) Pack4 {
  T v[4];
};
template <class T>
using QuadWord = std::conditional_t<sizeof(T) == 4, uint4, uint2>;

template <class T>
__device__ __forceinline__ QuadWord<T> LoadQuad(const void* row, int at) {
  return __ldg(reinterpret_cast<const QuadWord<T>*>(static_cast<const T*>(row) + at));
}
template <class T>
__device__ __forceinline__ Pack4<T> Unpack(const QuadWord<T>& word) {
  return *reinterpret_cast<const Pack4<T>*>(&word);
}
template <class T>
__device__ __forceinline__ void StoreQuad(void* row, int64_t at, const Pack4<T>& pack) {
  *reinterpret_cast<QuadWord<T>*>(static_cast<T*>(row) + at) = *reinterpret_cast<const QuadWord<T>*>(&pack);
}

// The quads of one thread, kCount runs' at a time, with those of the residual; past the row's end they repeat its last.
// They stay whole words, which nothing waits for before they are used.
template <class T, bool kResidual, int kCount>
struct Quads {
  QuadWord<T> x[kCount], residual[kResidual ? kCount : 1];

  // Of `row`, from channel `from` on.
  __device__ __forceinline__ void Load(const NormQuantizeArgs& args, int channels, int64_t row, int from) {
    const T* const x_row = static_cast<const T*>(args.x) + row * channels;
#pragma unroll
    for (int j = 0; j < kCount; ++j) x[j] = LoadQuad<T>(x_row, min(from + j * kRunChannels, channels - 4));
    if constexpr (kResidual) {
      if (!args.residual) return;
      const T* const residual_row = static_cast<const T*>(args.residual) + row * channels;
#pragma unroll
      for (int j = 0; j < kCount; ++j) {
        residual[j] = LoadQuad<T>(residual_row, min(from + j * kRunChannels, channels - 4));
      }
    }
  }
};

// lane + x * x, both rounded. Squares of float16 values are exact in binary32.
template <class T>
__device__ __forceinline__ float AddSquare(float lane, float x) {
  return std::is_same_v<T, __half> ? __fmaf_rn(x, x, lane) : __fadd_rn(lane, __fmul_rn(x, x));
}

// Puts the sum of a warp's 128 lanes, four a thread, into its place among the eight.
__device__ __forceinline__ void PutPartial(const float (&lane)[4], int quad, float* partial) {
  float v = __fadd_rn(__fadd_rn(lane[0], lane[1]), __fadd_rn(lane[2], lane[3]));
#pragma unroll
  for (int d = 1; d < 32; d *= 2) v = __fadd_rn(v, __shfl_xor_sync(~0u, v, d));
  if (threadIdx.x % 32 == 0) partial[quad / 32] = v;
}

__device__ __forceinline__ float SumPartials(const float* p) {
  return __fadd_rn(__fadd_rn(__fadd_rn(p[0], p[1]), __fadd_rn(p[2], p[3])),
                   __fadd_rn(__fadd_rn(p[4], p[5]), __fadd_rn(p[6], p[7])));
}

// kPlain: RMSNorm without a bias. kBare: no residual, sum or y either. kRuns: how many runs of 1024 lanes a row may
// have for the first 256 threads to hold it, a quad of lanes each, and to load the next row before they quantize this
// one; 0: rows are read piece by piece, by as many threads as there are.
template <class T, bool kPlain, bool kBare, int kRuns>
__global__ __launch_bounds__(kRuns == 0 ? kMaxUnitThreads : kRuns * 64,
                             kRuns == 4 ? 3 : 1) void NormUnitsKernel(const __grid_constant__ NormQuantizeArgs args,
                                                                      const __grid_constant__ RowTarget target) {
  extern __shared__ __align__(16) float rows[];
  __shared__ float partial[2][8], shared_factor;
  const int channels = target.format.channels, unit = threadIdx.x;
  const int row_floats = UnitRowFloats(channels);
  uint32_t* const amax = reinterpret_cast<uint32_t*>(rows + 2 * row_floats);
  const float count = static_cast<float>(channels);
  const bool layer = !kPlain && args.layer_norm, bias = !kPlain && args.bias;
  const UnitPlace place(target, unit);
  LetNextKernelStartIfAny();
  constexpr int kHeld = kRuns > 0 ? kRuns : 4;
  const bool holds = kRuns > 0 && unit < kLaneQuads;
  Quads<T, !kBare, kHeld> quads;
  if (holds) quads.Load(args, channels, blockIdx.x, 4 * unit);
  UnitOrder order = {};
  float w[kUnitChannels] = {}, b[kPlain ? 1 : kUnitChannels] = {};
  if (place.inside) {
    int source[kUnitChannels];
    UnitSource(target, unit, source);
    order.Read(source);
#pragma unroll
    for (int i = 0; i < kUnitChannels; ++i) {
      w[i] = Widen(static_cast<const T*>(args.weight)[source[i]]);
      if constexpr (!kPlain) b[i] = bias ? Widen(static_cast<const T*>(args.bias)[source[i]]) : 0.0f;
    }
  }
  ClearMagnitudes(target, amax);
  int turn = 0, parity = 0;
  for (int64_t row = blockIdx.x; row < args.rows; row += gridDim.x) {
    float4* const chunks = reinterpret_cast<float4*>(rows + parity * row_floats);
    // Rows' floats into shared memory, four runs of one quad of lanes.
    const auto take = [&](int from, float(&lane)[4]) {
#pragma unroll
      for (int j = 0; j < kHeld; ++j) {
        const int at = from + j * kRunChannels;
        if (at >= channels) break;
        Pack4<T> pack = Unpack<T>(quads.x[j]);
        if constexpr (!kBare) {
          if (args.residual) {
            const Pack4<T> other = Unpack<T>(quads.residual[j]);
#pragma unroll
            for (int i = 0; i < 4; ++i) pack.v[i] = Narrow<T>(__fadd_rn(Widen(pack.v[i]), Widen(other.v[i])));
          }
          if (args.sum) StoreQuad(args.sum, row * channels + at, pack);
        }
        float v[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          v[i] = Widen(pack.v[i]);
          lane[i] = layer ? __fadd_rn(lane[i], v[i]) : AddSquare<T>(lane[i], v[i]);
        }
        chunks[SwizzledChunk(at / 4)] = make_float4(v[0], v[1], v[2], v[3]);
      }
    };
    if constexpr (kRuns > 0) {
      if (holds) {
        float lane[4] = {};
        take(4 * unit, lane);
        PutPartial(lane, unit, partial[0]);
        if (row + gridDim.x < args.rows) quads.Load(args, channels, row + gridDim.x, 4 * unit);
      }
    } else {
      for (int quad = unit; quad < kLaneQuads; quad += blockDim.x) {
        float lane[4] = {};
        for (int from = 4 * quad; from < channels; from += kHeld * kRunChannels) {
          quads.Load(args, channels, row, from);
          take(from, lane);
        }
        PutPartial(lane, quad, partial[0]);
      }
    }
    __syncthreads();
    float mean = 0.0f;
    if (layer) {
      mean = __fdiv_rn(SumPartials(partial[0]), count);
      for (int quad = threadIdx.x; quad < kLaneQuads; quad += blockDim.x) {
        float lane[4] = {};
        for (int at = 4 * quad; at < channels; at += kRunChannels) {
          const float4 f = chunks[SwizzledChunk(at / 4)];
          const float v[4] = {f.x, f.y, f.z, f.w};
#pragma unroll
          for (int i = 0; i < 4; ++i) lane[i] = AddSquare<float>(lane[i], __fsub_rn(v[i], mean));
        }
        PutPartial(lane, quad, partial[1]);
      }
      __syncthreads();
    }
    if (threadIdx.x < 32) {  // once, not in every warp: the division and the root are long
      const float square = __fdiv_rn(SumPartials(partial[layer]), count);
      const float factor = __frcp_rn(__fsqrt_rn(__fadd_rn(square, args.epsilon)));
      if (threadIdx.x == 0) shared_factor = factor;
    }
    __syncthreads();
    const float factor = shared_factor;
    if (!kBare && args.y) {
      for (int at = 4 * static_cast<int>(threadIdx.x); at < channels; at += 4 * blockDim.x) {
        const float4 f = chunks[SwizzledChunk(at / 4)];
        const float v[4] = {f.x, f.y, f.z, f.w};
        const Pack4<T> weight = Unpack<T>(LoadQuad<T>(args.weight, at));
        Pack4<T> shift, y;
        if (bias) shift = Unpack<T>(LoadQuad<T>(args.bias, at));
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float d = layer ? __fsub_rn(v[i], mean) : v[i];
          float n = __fmul_rn(__fmul_rn(d, factor), Widen(weight.v[i]));
          if (bias) n = __fadd_rn(n, Widen(shift.v[i]));
          y.v[i] = Narrow<T>(n);
        }
        StoreQuad(args.y, row * channels + at, y);
      }
    }
    float v[kUnitChannels] = {};
    if (place.inside) {
      if (target.reorder_index) {
        order.Gather(reinterpret_cast<const float*>(chunks), v);
      } else {
        ReadUnit(reinterpret_cast<const float*>(chunks), unit, v);
      }
#pragma unroll
      for (int i = 0; i < kUnitChannels; ++i) {
        const float d = layer ? __fsub_rn(v[i], mean) : v[i];
        v[i] = __fmul_rn(__fmul_rn(d, factor), w[i]);
        if constexpr (!kPlain) {
          if (bias) v[i] = __fadd_rn(v[i], b[i]);
        }
      }
    }
    QuantizeUnits(target, place, amax, turn, row, v);
    turn = turn == 2 ? 0 : turn + 1;
    parity ^= 1;
  }
}

}  // namespace lowbit::cuda
