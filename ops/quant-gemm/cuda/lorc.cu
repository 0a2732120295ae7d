// Two small products. The first is bound by reading its operands, so a block holds some tokens against some rows of
// `down`, 16 channels a lane: exactly, by dp4a, where codes are integers. The second is bound by y.
#include <cuda_fp8.h>

#include "ops/common/cuda/numeric.cuh"
#include "ops/quant-gemm/cuda/lorc.h"

namespace lowbit::cuda {
namespace {

constexpr int kChunk = 16;  // channels a lane multiplies at once; groups are multiples of it
constexpr int kWarps = 8;
constexpr int kFewTokens = 16;
constexpr int64_t kManyValues = 1 << 14;

// 16 codes, four a word.
struct Codes {
  uint32_t word[4];
};

// Codes [0, count) at `from`, zeros behind them.
template <bool kAligned>
__device__ __forceinline__ Codes LoadCodes(const void* from, int count) {
  Codes codes;
  if constexpr (kAligned) {
    const uint4 v = __ldg(static_cast<const uint4*>(from));
    codes = {{v.x, v.y, v.z, v.w}};
  } else {
    const uint8_t* bytes = static_cast<const uint8_t*>(from);
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      codes.word[w] = 0;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (4 * w + i < count) codes.word[w] |= static_cast<uint32_t>(bytes[4 * w + i]) << (8 * i);
      }
    }
  }
  return codes;
}

__device__ __forceinline__ float SignedByte(uint32_t word, int i) {
  return static_cast<float>(static_cast<int8_t>(word >> (8 * i)));
}

__device__ __forceinline__ float DotIntegers(const Codes& a, const Codes& b) {
  int sum = 0;
#pragma unroll
  for (int w = 0; w < 4; ++w) sum = __dp4a(static_cast<int>(a.word[w]), static_cast<int>(b.word[w]), sum);
  return static_cast<float>(sum);
}

// Sign and magnitude, a byte each, to two's complement.
__device__ __forceinline__ Codes TwosComplement(Codes codes) {
#pragma unroll
  for (uint32_t& word : codes.word) {
    const uint32_t negative = __vcmplts4(word, 0);
    word = __vsub4((word & 0x7f7f7f7fu) ^ negative, negative);
  }
  return codes;
}

template <__nv_fp8_interpretation_t kKind>
__device__ __forceinline__ float DotFloat8(const Codes& a, const Codes& b) {
  float sum = 0;
#pragma unroll
  for (int w = 0; w < 4; ++w) {
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
      const auto pair = static_cast<__nv_fp8x2_storage_t>(a.word[w] >> (8 * i));
      const float2 v = __half22float2(__half2(__nv_cvt_fp8x2_to_halfraw2(pair, kKind)));
      sum += v.x * SignedByte(b.word[w], i);
      sum += v.y * SignedByte(b.word[w], i + 1);
    }
  }
  return sum;
}

// Activations of channels [k, k + 16) of a token, and their products with codes of `down`.
template <class T, Format kFormat, bool kAligned>
struct Chunk {
  Codes codes;

  __device__ __forceinline__ Chunk(const GemmArgs& args, int64_t m, int k, int count, bool outlier)
      : codes(LoadCodes<kAligned>(static_cast<const int8_t*>(args.a) + m * args.k + k, count)) {
    if (kFormat == Format::kS4E4M3 && !outlier) codes = TwosComplement(codes);
  }
  __device__ __forceinline__ float Dot(const Codes& b, bool outlier) const {
    if (kFormat == Format::kE4M3 && !outlier) return DotFloat8<__NV_E4M3>(codes, b);
    if (kFormat == Format::kE5M2 && !outlier) return DotFloat8<__NV_E5M2>(codes, b);
    return DotIntegers(codes, b);
  }
};

template <class T, bool kAligned>
struct Chunk<T, Format::kNone, kAligned> {
  float value[kChunk];

  __device__ __forceinline__ Chunk(const GemmArgs& args, int64_t m, int k, int count, bool) {
    const T* a = static_cast<const T*>(args.a) + m * args.k + k;
#pragma unroll
    for (int i = 0; i < kChunk; ++i) value[i] = kAligned || i < count ? Widen(a[i]) : 0.0f;
  }
  __device__ __forceinline__ float Dot(const Codes& b, bool) const {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kChunk; ++i) sum += value[i] * SignedByte(b.word[i / 4], i % 4);
    return sum;
  }
};

// inner[m, c] = Σ a · down for kTokens tokens and kCodes rows of down, unscaled by down's scales. The warps share the
// channels.
template <class T, Format kFormat, bool kAligned, int kTokens, int kCodes>
__global__ __launch_bounds__(kWarps * 32) void DownKernel(const __grid_constant__ GemmArgs args,
                                                          const __grid_constant__ LorcArgs lorc) {
  __shared__ float parts[kWarps][kTokens * kCodes];
  const int lane = threadIdx.x % 32, first = blockIdx.y * kCodes;
  const int64_t m0 = static_cast<int64_t>(blockIdx.x) * kTokens;
  const int body = args.body(), body_chunks = (body + kChunk - 1) / kChunk;
  const int chunks = body_chunks + (args.outliers + kChunk - 1) / kChunk;
  float sum[kTokens][kCodes] = {};
  for (int c = threadIdx.x; c < chunks; c += kWarps * 32) {
    const bool outlier = c >= body_chunks;
    const int k = outlier ? body + (c - body_chunks) * kChunk : c * kChunk;
    const int count = min(kChunk, (outlier ? args.k : body) - k);
    const int scale = outlier ? args.a_scales() - 1 : args.a_group_size ? k / args.a_group_size : 0;
    Codes b[kCodes];
#pragma unroll
    for (int i = 0; i < kCodes; ++i) {
      const int row = min(first + i, lorc.codes() - 1);
      b[i] = LoadCodes<kAligned>(lorc.down + static_cast<int64_t>(row) * args.k + k, count);
    }
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      const int64_t m = min(m0 + t, args.m - 1);
      const Chunk<T, kFormat, kAligned> a(args, m, k, count, outlier);
      const float a_scale = kFormat == Format::kNone ? 1.0f : __ldg(args.a_scale + m * args.a_scales() + scale);
#pragma unroll
      for (int i = 0; i < kCodes; ++i) sum[t][i] += a.Dot(b[i], outlier) * a_scale;
    }
  }
#pragma unroll
  for (int t = 0; t < kTokens; ++t) {
#pragma unroll
    for (int i = 0; i < kCodes; ++i) {
      for (int d = 16; d > 0; d /= 2) sum[t][i] += __shfl_xor_sync(~0u, sum[t][i], d);
      if (lane == 0) parts[threadIdx.x / 32][t * kCodes + i] = sum[t][i];
    }
  }
  __syncthreads();
  const int t = threadIdx.x / kCodes, code = first + threadIdx.x % kCodes;
  if (t >= kTokens || m0 + t >= args.m || code >= lorc.codes()) return;
  float total = 0;
  for (int w = 0; w < kWarps; ++w) total += parts[w][threadIdx.x];
  lorc.inner[(m0 + t) * lorc.codes() + code] = total;
}

// y[m, n] = residual[m, n] + Σ_c inner[m, c] · up[n, c] for kTokens tokens by as many channels as threads.
template <class T, int kTokens>
__global__ __launch_bounds__(128) void UpKernel(const __grid_constant__ GemmArgs args,
                                                const __grid_constant__ LorcArgs lorc) {
  constexpr int kStep = 4;  // codes at once
  __shared__ alignas(16) float inner[kTokens][kMaxLorcCodes];
  const int codes = lorc.codes(), padded = (codes + kStep - 1) / kStep * kStep;
  const int64_t m0 = static_cast<int64_t>(blockIdx.y) * kTokens;
  for (int i = threadIdx.x; i < kTokens * padded; i += blockDim.x) {
    const int t = i / padded, c = i % padded, r = c % lorc.rank;
    const float* from = lorc.inner + min(m0 + t, args.m - 1) * codes;
    float value = 0;
    if (c < codes) {
      value = from[r] + (lorc.planes == 2 ? from[lorc.rank + r] * 0x1p-8f : 0.0f);
      value *= Widen(reinterpret_cast<const __half*>(lorc.down_scale)[r]) * (c < lorc.rank ? 1.0f : 0x1p-8f);
    }
    inner[t][c] = value;
  }
  __syncthreads();
  const int n = blockIdx.x * blockDim.x + threadIdx.x;
  if (n >= args.n) return;
  const int8_t* up = lorc.up + static_cast<int64_t>(n) * codes;
  float sum[kTokens] = {};
  for (int c = 0; c < codes; c += kStep) {
    uint32_t word = 0;
    if (codes % kStep == 0) {
      word = __ldg(reinterpret_cast<const uint32_t*>(up + c));
    } else {
      for (int i = 0; i < min(kStep, codes - c); ++i)
        word |= static_cast<uint32_t>(static_cast<uint8_t>(up[c + i])) << (8 * i);
    }
    const float u0 = SignedByte(word, 0), u1 = SignedByte(word, 1), u2 = SignedByte(word, 2), u3 = SignedByte(word, 3);
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      const float4 v = *reinterpret_cast<const float4*>(&inner[t][c]);
      sum[t] += v.x * u0 + v.y * u1 + v.z * u2 + v.w * u3;
    }
  }
  const float scale = Widen(reinterpret_cast<const __half*>(lorc.up_scale)[n]);
#pragma unroll
  for (int t = 0; t < kTokens; ++t) {
    if (m0 + t >= args.m) break;
    const int64_t at = (m0 + t) * args.n + n;
    float y = sum[t] * scale;
    if (args.residual) y += Widen(static_cast<const T*>(args.residual)[at]);
    static_cast<T*>(args.y)[at] = Narrow<T>(y);
  }
}

template <class T, Format kFormat, bool kAligned, int kTokens, int kCodes>
cudaError_t LaunchDown(const GemmArgs& args, const LorcArgs& lorc, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>((args.m + kTokens - 1) / kTokens), (lorc.codes() + kCodes - 1) / kCodes);
  DownKernel<T, kFormat, kAligned, kTokens, kCodes><<<grid, kWarps * 32, 0, stream>>>(args, lorc);
  return cudaGetLastError();
}

// The more a block does, the less it reads twice; few tokens need all blocks there can be.
template <class T, Format kFormat, bool kAligned>
cudaError_t LaunchDown(const GemmArgs& args, const LorcArgs& lorc, cudaStream_t stream) {
  if (args.m <= kFewTokens) return LaunchDown<T, kFormat, kAligned, 1, 4>(args, lorc, stream);
  if constexpr (kFormat == Format::kS8 || kFormat == Format::kS4E4M3) {  // floats would take too many registers
    if (args.m * lorc.codes() >= kManyValues) return LaunchDown<T, kFormat, kAligned, 8, 8>(args, lorc, stream);
  }
  return LaunchDown<T, kFormat, kAligned, 4, 4>(args, lorc, stream);
}

template <class T, Format kFormat>
cudaError_t LaunchDown(const GemmArgs& args, const LorcArgs& lorc, cudaStream_t stream) {
  const auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  if (args.k % kChunk == 0 && args.body() % kChunk == 0 && aligned(args.a) && aligned(lorc.down)) {
    return LaunchDown<T, kFormat, true>(args, lorc, stream);
  }
  return LaunchDown<T, kFormat, false>(args, lorc, stream);
}

template <class T>
cudaError_t Launch(const GemmArgs& args, const LorcArgs& lorc, cudaStream_t stream) {
  cudaError_t down = cudaErrorInvalidValue;
  switch (args.a_format) {
    case Format::kNone:
      down = LaunchDown<T, Format::kNone>(args, lorc, stream);
      break;
    case Format::kS4:
    case Format::kS8:
      down = LaunchDown<float, Format::kS8>(args, lorc, stream);
      break;
    case Format::kS4E4M3:
      down = LaunchDown<float, Format::kS4E4M3>(args, lorc, stream);
      break;
    case Format::kE4M3:
      down = LaunchDown<float, Format::kE4M3>(args, lorc, stream);
      break;
    case Format::kE5M2:
      down = LaunchDown<float, Format::kE5M2>(args, lorc, stream);
      break;
    default:
      break;
  }
  if (down != cudaSuccess) return down;
  constexpr int kThreads = 128, kTokens = 8;
  if (args.m <= 2) {
    const dim3 grid((args.n + kThreads - 1) / kThreads, static_cast<unsigned>(args.m));
    UpKernel<T, 1><<<grid, kThreads, 0, stream>>>(args, lorc);
  } else {
    const dim3 grid((args.n + kThreads - 1) / kThreads, static_cast<unsigned>((args.m + kTokens - 1) / kTokens));
    UpKernel<T, kTokens><<<grid, kThreads, 0, stream>>>(args, lorc);
  }
  return cudaGetLastError();
}

// A grid's second dimension is limited.
constexpr int64_t kTokensPerLaunch = 65535LL * 8;

template <class T>
GemmArgs Part(const GemmArgs& args, int64_t first) {
  GemmArgs part = args;
  part.m = args.m - first < kTokensPerLaunch ? args.m - first : kTokensPerLaunch;
  const int64_t a_bytes = args.a_format == Format::kNone ? sizeof(T) : 1;
  part.a = static_cast<const char*>(args.a) + first * args.k * a_bytes;
  if (args.a_scale) part.a_scale = args.a_scale + first * args.a_scales();
  if (args.residual) part.residual = static_cast<const T*>(args.residual) + first * args.n;
  part.y = static_cast<T*>(args.y) + first * args.n;
  return part;
}

template <class T>
cudaError_t LaunchAll(const GemmArgs& args, const LorcArgs& lorc, cudaStream_t stream) {
  for (int64_t first = 0; first < args.m; first += kTokensPerLaunch) {
    if (const cudaError_t e = Launch<T>(Part<T>(args, first), lorc, stream); e != cudaSuccess) return e;
  }
  return cudaSuccess;
}

}  // namespace

cudaError_t LaunchLorc(const GemmArgs& args, const LorcArgs& lorc, cudaStream_t stream) {
  if (lorc.codes() > kMaxLorcCodes) return cudaErrorInvalidValue;
  switch (args.type) {
    case DType::kF32:
      return LaunchAll<float>(args, lorc, stream);
    case DType::kF16:
      return LaunchAll<__half>(args, lorc, stream);
    case DType::kBF16:
      return LaunchAll<__nv_bfloat16>(args, lorc, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace lowbit::cuda
