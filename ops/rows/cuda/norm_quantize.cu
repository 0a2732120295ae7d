// NormQuantize: one pass over memory; a row stays in registers in the graph type between the sums and the norm.
#include "ops/rows/cuda/norm_quantize.h"
#include "ops/rows/cuda/row_launch.cuh"

namespace lowbit::cuda {
namespace {

// The README's pairwise tree over 1024 lanes of which every thread holds eight neighbours; the result in every thread.
__device__ float TreeSum(float (&lane)[8], float* partial) {
  float v = __fadd_rn(__fadd_rn(__fadd_rn(lane[0], lane[1]), __fadd_rn(lane[2], lane[3])),
                      __fadd_rn(__fadd_rn(lane[4], lane[5]), __fadd_rn(lane[6], lane[7])));
#pragma unroll
  for (int d = 1; d < 32; d *= 2) v = __fadd_rn(v, __shfl_xor_sync(~0u, v, d));
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = v;
  __syncthreads();
  return __fadd_rn(__fadd_rn(partial[0], partial[1]), __fadd_rn(partial[2], partial[3]));
}

// The row's own elements of run r: in registers in the graph type while K <= 4096, as floats in shared memory above.
template <class T, bool kHeld>
struct RowValues {
  static constexpr int kRuns = kHeld ? 4 : 1;
  Pack8<T> held[kRuns];
  float* smem_row;

  __device__ __forceinline__ void Put(int r, const Pack8<T>& pack) {
    if constexpr (kHeld) {
      held[r] = pack;
    } else {
      float v[8];
#pragma unroll
      for (int i = 0; i < 8; ++i) v[i] = Widen(pack.v[i]);
      StoreRowFloats(smem_row, r * kRunChannels + threadIdx.x * 8, v);
    }
  }
  __device__ __forceinline__ void Get(int r, float (&v)[8]) const {
    if constexpr (kHeld) {
#pragma unroll
      for (int i = 0; i < 8; ++i) v[i] = Widen(held[r].v[i]);
    } else {
      const float4* chunks = reinterpret_cast<const float4*>(smem_row);
      const int chunk = (r * kRunChannels + threadIdx.x * 8) / 4;
      const float4 a = chunks[SwizzledChunk(chunk)], b = chunks[SwizzledChunk(chunk + 1)];
      v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
    }
  }
};

// Calls fn(run) for the runs of the row that have an element for this thread; unrolled while the row is in registers.
template <bool kHeld, class Fn>
__device__ __forceinline__ void ForRuns(int channels, Fn&& fn) {
  if constexpr (kHeld) {
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      if (r * kRunChannels + static_cast<int>(threadIdx.x) * 8 < channels) fn(r);
    }
  } else {
#pragma unroll 2
    for (int r = 0; r * kRunChannels + static_cast<int>(threadIdx.x) * 8 < channels; ++r) fn(r);
  }
}

template <class T, bool kHeld, bool kVector>
__global__ __launch_bounds__(kRowThreads) void NormQuantizeKernel(const __grid_constant__ NormQuantizeArgs args,
                                                                  const __grid_constant__ RowTarget target) {
  extern __shared__ __align__(16) float smem_row[];
  __shared__ float partial[2][4];
  const int channels = target.format.channels;
  constexpr bool vector = kVector;
  const RowShared shared = InitRowShared(target, smem_row);
  const T* weight = static_cast<const T*>(args.weight);
  const T* bias = static_cast<const T*>(args.bias);
  const float count = static_cast<float>(channels);
  Pack8<T> held_weight[kHeld ? 4 : 1];  // of short rows, read once a block
  if constexpr (kHeld) {
    ForRuns<kHeld>(channels, [&](int r) {
      LoadPack(weight, r * kRunChannels + threadIdx.x * 8, channels, vector, held_weight[r]);
    });
  }

  for (int64_t row = blockIdx.x; row < args.rows; row += gridDim.x) {
    const T* x = static_cast<const T*>(args.x) + row * channels;
    const T* residual = static_cast<const T*>(args.residual) + row * channels;
    T* sum_row = static_cast<T*>(args.sum) + row * channels;
    T* y_row = static_cast<T*>(args.y) + row * channels;
    RowValues<T, kHeld> values;
    values.smem_row = smem_row;
    float lane[8] = {};
    ForRuns<kHeld>(channels, [&](int r) {
      const int at = r * kRunChannels + threadIdx.x * 8;
      Pack8<T> pack;
      LoadPack(x, at, channels, vector, pack);
      if (args.residual) {
        Pack8<T> other;
        LoadPack(residual, at, channels, vector, other);
#pragma unroll
        for (int i = 0; i < 8; ++i) pack.v[i] = Narrow<T>(__fadd_rn(Widen(pack.v[i]), Widen(other.v[i])));
      }
      // Only the other form of a row stores its sum here: a store between the loads would wait for each of them.
      if (!kHeld && args.sum) StorePack(sum_row, at, channels, vector, pack);
      values.Put(r, pack);
    });
    if constexpr (kHeld) {
      if (args.sum) {
        ForRuns<kHeld>(channels, [&](int r) {
          StorePack(sum_row, r * kRunChannels + threadIdx.x * 8, channels, vector, values.held[r]);
        });
      }
    }
    float mean = 0.0f;
    if (args.layer_norm) {
      ForRuns<kHeld>(channels, [&](int r) {
        float v[8];
        values.Get(r, v);
#pragma unroll
        for (int i = 0; i < 8; ++i) lane[i] = __fadd_rn(lane[i], v[i]);  // channels past K are +0
      });
      mean = __fdiv_rn(TreeSum(lane, partial[0]), count);
#pragma unroll
      for (int i = 0; i < 8; ++i) lane[i] = 0.0f;
    }
    ForRuns<kHeld>(channels, [&](int r) {
      float v[8];
      values.Get(r, v);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const float d = args.layer_norm ? __fsub_rn(v[i], mean) : v[i];
        const float next = __fadd_rn(lane[i], __fmul_rn(d, d));
        // Channels past K must not count as (0 - mean)^2.
        if (vector || r * kRunChannels + static_cast<int>(threadIdx.x) * 8 + i < channels) lane[i] = next;
      }
    });
    const float square = __fdiv_rn(TreeSum(lane, partial[1]), count);
    const float inv_rms = __fdiv_rn(1.0f, __fsqrt_rn(__fadd_rn(square, args.epsilon)));
    ClearAmax(target, shared);
    ForRuns<kHeld>(channels, [&](int r) {
      const int at = r * kRunChannels + threadIdx.x * 8;
      Pack8<T> w, b;
      if constexpr (kHeld) {
        w = held_weight[r];
      } else {
        LoadPack(weight, at, channels, vector, w);
      }
      if (bias) LoadPack(bias, at, channels, vector, b);
      float v[8];
      values.Get(r, v);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const float d = args.layer_norm ? __fsub_rn(v[i], mean) : v[i];
        v[i] = __fmul_rn(__fmul_rn(d, inv_rms), Widen(w.v[i]));
        if (bias) v[i] = __fadd_rn(v[i], Widen(b.v[i]));
        w.v[i] = Narrow<T>(v[i]);
      }
      if (args.y) StorePack(y_row, at, channels, vector, w);
      StoreRowFloats(smem_row, at, v);
    });
    __syncthreads();
    QuantizeRow(target, shared, row);
  }
}

}  // namespace

cudaError_t LaunchNormQuantize(const NormQuantizeArgs& args, cudaStream_t stream) {
  if (args.rows == 0) return cudaSuccess;
  if (args.format.channels > kMaxRowChannels) return cudaErrorInvalidValue;
  const RowTarget target = MakeRowTarget(args.format, args.reorder_index, args.q, args.scale);
  const size_t shared_bytes = RowSharedBytes(args.format, args.reorder_index != nullptr);
  return WithType(args.type, [&](auto type) {
    using T = decltype(type);
    const bool held = args.format.channels <= 4 * kRunChannels, vector = args.format.channels % 8 == 0;
    auto* kernel = held ? (vector ? NormQuantizeKernel<T, true, true> : NormQuantizeKernel<T, true, false>)
                        : (vector ? NormQuantizeKernel<T, false, true> : NormQuantizeKernel<T, false, false>);
    int blocks = 0;
    const cudaError_t e = PersistentRowGrid(kernel, shared_bytes, args.rows, &blocks);
    if (e != cudaSuccess) return e;
    kernel<<<blocks, kRowThreads, shared_bytes, stream>>>(args, target);
    return cudaGetLastError();
  });
}

}  // namespace lowbit::cuda
