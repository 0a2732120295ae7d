// QuantGemm for any shape, alignment, format and architecture: 64 x 64 outputs a block, 16 channels staged at a time,
// integer sums by dp4a or float sums by fma. The kernel the others are measured against, not a fast one.
#include "ops/common/cuda/numeric.cuh"
#include "ops/quant-gemm/cuda/launch.h"

namespace lowbit::cuda {
namespace {

constexpr int kTile = 64;   // outputs a block, each way
constexpr int kDepth = 16;  // channels staged at a time
constexpr int kThreads = 256;

// Exact: integer codes are small, minifloats short.
__device__ __forceinline__ float WeightValue(const GemmArgs& args, int n, int k) {
  const int body = args.body();
  if (k >= body) return args.b_outlier[static_cast<int64_t>(n) * args.outliers + (k - body)];
  const uint8_t* b = static_cast<const uint8_t*>(args.b);
  if (!args.nibbles()) return CodeValue(args.weight_format, b[static_cast<int64_t>(n) * body + k]);
  const uint32_t byte = b[static_cast<int64_t>(n) * ((body + 1) / 2) + k / 2];
  return CodeValue(args.weight_format, k % 2 ? byte >> 4 : byte & 15);
}

template <class T>
__device__ __forceinline__ float ActivationValue(const GemmArgs& args, int64_t m, int k) {
  if (args.a_format == Format::kNone) return Widen(static_cast<const T*>(args.a)[m * args.k + k]);
  const uint8_t code = static_cast<const uint8_t*>(args.a)[m * args.k + k];
  return CodeValue(k < args.body() ? args.a_format : Format::kS8, code);
}

__device__ __forceinline__ float WeightScale(const GemmArgs& args, int n, int start) {
  if (start >= args.body()) return Widen(reinterpret_cast<const __half*>(args.b_outlier_scale)[n]);
  const int group = args.group_size ? start / args.group_size : 0;
  return Widen(reinterpret_cast<const __half*>(args.b_scale)[static_cast<int64_t>(n) * args.b_scales() + group]);
}

__device__ __forceinline__ float ActivationScale(const GemmArgs& args, int64_t m, int start) {
  const int body_scales = args.a_group_size ? args.body() / args.a_group_size : 1;
  const int group = start >= args.body() ? body_scales : args.a_group_size ? start / args.a_group_size : 0;
  return args.a_scale[m * args.a_scales() + group];
}

// One element of A or B: int8 codes for dp4a, floats otherwise.
template <bool kFloat>
using Staged = std::conditional_t<kFloat, float, int8_t>;

template <class T, bool kFloat>
__global__ __launch_bounds__(kThreads) void PortableKernel(const __grid_constant__ GemmArgs args) {
  using Acc = std::conditional_t<kFloat, float, int>;
  constexpr int kPad = kFloat ? 1 : 4;  // rows apart by an odd number of banks
  __shared__ alignas(16) Staged<kFloat> a_tile[kTile][kDepth + kPad];
  __shared__ alignas(16) Staged<kFloat> b_tile[kTile][kDepth + kPad];
  const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
  const int n0 = blockIdx.x * kTile;
  const int64_t m0 = static_cast<int64_t>(blockIdx.y) * kTile;
  float y[4][4] = {};

  for (int start = 0; start < args.k;) {
    const int length = start >= args.body() ? args.outliers : args.segment();
    Acc acc[4][4] = {};
    for (int k0 = start; k0 < start + length; k0 += kDepth) {
      __syncthreads();
      for (int i = threadIdx.x; i < kTile * kDepth; i += kThreads) {
        const int row = i / kDepth, k = k0 + i % kDepth;
        const bool inside = k < start + length;
        const int64_t m = m0 + row;
        const float a = inside && m < args.m ? ActivationValue<T>(args, m, k) : 0.0f;
        const float b = inside && n0 + row < args.n ? WeightValue(args, n0 + row, k) : 0.0f;
        a_tile[row][i % kDepth] = static_cast<Staged<kFloat>>(a);
        b_tile[row][i % kDepth] = static_cast<Staged<kFloat>>(b);
      }
      __syncthreads();
#pragma unroll
      for (int k = 0; k < kDepth; k += kFloat ? 1 : 4) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            if constexpr (kFloat) {
              acc[i][j] = __fmaf_rn(a_tile[ty * 4 + i][k], b_tile[tx * 4 + j][k], acc[i][j]);
            } else {
              acc[i][j] = __dp4a(*reinterpret_cast<const int*>(&a_tile[ty * 4 + i][k]),
                                 *reinterpret_cast<const int*>(&b_tile[tx * 4 + j][k]), acc[i][j]);
            }
          }
        }
      }
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int n = min(n0 + tx * 4 + j, args.n - 1);
      const float b_scale = WeightScale(args, n, start);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int64_t m = min(m0 + ty * 4 + i, args.m - 1);
        const float a_scale = args.a_scale ? ActivationScale(args, m, start) : 1.0f;
        y[i][j] += static_cast<float>(acc[i][j]) * a_scale * b_scale;
      }
    }
    start += length;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int64_t m = m0 + ty * 4 + i;
      const int n = n0 + tx * 4 + j;
      if (m >= args.m || n >= args.n) continue;
      float sum = y[i][j];
      if (args.bias) sum += Widen(static_cast<const T*>(args.bias)[n]);
      if (args.residual) sum += Widen(static_cast<const T*>(args.residual)[m * args.n + n]);
      static_cast<T*>(args.y)[m * args.n + n] = Narrow<T>(sum);
    }
  }
}

template <class T>
cudaError_t Launch(const GemmArgs& args, cudaStream_t stream) {
  // Rows beyond the grid's limit go in further launches.
  constexpr int64_t kRowsPerLaunch = 65535LL * kTile;
  for (int64_t first = 0; first < args.m; first += kRowsPerLaunch) {
    GemmArgs part = args;
    part.m = args.m - first < kRowsPerLaunch ? args.m - first : kRowsPerLaunch;
    const int64_t a_bytes = args.a_format == Format::kNone ? sizeof(T) : 1;
    part.a = static_cast<const char*>(args.a) + first * args.k * a_bytes;
    if (args.a_scale) part.a_scale = args.a_scale + first * args.a_scales();
    if (args.residual) part.residual = static_cast<const T*>(args.residual) + first * args.n;
    part.y = static_cast<T*>(args.y) + first * args.n;
    const dim3 grid((args.n + kTile - 1) / kTile, static_cast<unsigned>((part.m + kTile - 1) / kTile));
    if (!args.integers()) {
      PortableKernel<T, true><<<grid, kThreads, 0, stream>>>(part);
    } else {
      PortableKernel<T, false><<<grid, kThreads, 0, stream>>>(part);
    }
    const cudaError_t e = cudaGetLastError();
    if (e != cudaSuccess) return e;
  }
  return cudaSuccess;
}

}  // namespace

cudaError_t LaunchPortable(const GemmArgs& args, cudaStream_t stream) {
  switch (args.type) {
    case DType::kF32:
      return Launch<float>(args, stream);
    case DType::kF16:
      return Launch<__half>(args, stream);
    case DType::kBF16:
      return Launch<__nv_bfloat16>(args, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace lowbit::cuda
