// Four small kernels: find the columns, list them, quantize rows without them, multiply them. The host never learns how
// many there are, so nothing waits.
#include <algorithm>

#include "ops/common/cuda/numeric.cuh"
#include "ops/quant-gemm/cuda/outlier_columns.h"
#include "ops/rows/cuda/row_launch.cuh"

namespace lowbit::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kFindRows = 64;  // rows a block looks at
constexpr int kListThreads = 1024;
constexpr int kMaxGridRows = 65535;

// Marks columns where some row reaches the threshold. Blocks write the same byte without harm.
template <class T>
__global__ __launch_bounds__(kThreads) void FindKernel(const T* a, int64_t rows, int channels, float threshold,
                                                       uint8_t* found) {
  const int k = blockIdx.x * kThreads + threadIdx.x;
  if (k >= channels) return;
  for (int64_t first = static_cast<int64_t>(blockIdx.y) * kFindRows; first < rows;
       first += static_cast<int64_t>(gridDim.y) * kFindRows) {
    bool any = false;
    const int64_t end = min(first + kFindRows, rows);
    for (int64_t m = first; m < end; ++m) any |= fabsf(Widen(a[m * channels + k])) >= threshold;
    if (any) found[k] = 1;
  }
}

// index[1 ...] = marked columns, rising; index[0] = their number. One block, so that the order is always the same.
__global__ __launch_bounds__(kListThreads) void ListKernel(const uint8_t* found, int channels, int32_t* index) {
  __shared__ int warp_counts[kListThreads / 32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int total = 0;
  for (int start = 0; start < channels; start += kListThreads) {
    const int k = start + threadIdx.x;
    const bool marked = k < channels && found[k];
    const unsigned ballot = __ballot_sync(~0u, marked);
    if (lane == 0) warp_counts[warp] = __popc(ballot);
    __syncthreads();
    int before = total;
    for (int w = 0; w < kListThreads / 32; ++w) {
      if (w < warp) before += warp_counts[w];
      total += warp_counts[w];
    }
    if (marked) index[1 + before + __popc(ballot & ((1u << lane) - 1))] = k;
    __syncthreads();
  }
  if (threadIdx.x == 0) index[0] = total;
}

// A block quantizes a row: s8, one scale, marked columns 0.
template <class T>
__global__ __launch_bounds__(kThreads) void QuantizeKernel(const T* a, int64_t rows, int channels, const uint8_t* found,
                                                           int8_t* q, float* scales) {
  __shared__ unsigned amax;
  for (int64_t m = blockIdx.x; m < rows; m += gridDim.x) {
    const T* row = a + m * channels;
    if (threadIdx.x == 0) amax = 0;
    __syncthreads();
    unsigned bits = 0;
    for (int k = threadIdx.x; k < channels; k += kThreads) {
      if (!found[k]) bits = max(bits, __float_as_uint(Widen(row[k])) & 0x7fffffffu);
    }
#pragma unroll
    for (int d = 16; d > 0; d /= 2) bits = max(bits, __shfl_xor_sync(~0u, bits, d));
    if (threadIdx.x % 32 == 0) atomicMax(&amax, bits);
    __syncthreads();
    const SegmentScale scale = ScaleOf(amax, 1.0f / 127.0f);
    for (int k = threadIdx.x; k < channels; k += kThreads) {
      const bool zero = found[k] || scale.inv == 0.0f;
      q[m * channels + k] = zero ? 0 : static_cast<int8_t>(__float2int_rn(__fmul_rn(Widen(row[k]), scale.inv)));
    }
    if (threadIdx.x == 0) scales[m] = scale.scale;
    __syncthreads();
  }
}

// y = residual + the product of the listed columns.
template <class T>
__global__ __launch_bounds__(kThreads) void TermKernel(const __grid_constant__ GemmArgs args, const int32_t* index) {
  const int n = blockIdx.x * kThreads + threadIdx.x;
  if (n >= args.n) return;
  const int count = index[0];
  const int8_t* b = static_cast<const int8_t*>(args.b) + static_cast<int64_t>(n) * args.k;
  const float scale = Widen(reinterpret_cast<const __half*>(args.b_scale)[n]);
  for (int64_t m = blockIdx.y; m < args.m; m += gridDim.y) {
    const T* a = static_cast<const T*>(args.a) + m * args.k;
    float sum = 0;
    for (int c = 1; c <= count; ++c) {
      const int k = index[c];
      sum += Widen(a[k]) * static_cast<float>(b[k]);
    }
    const int64_t at = m * args.n + n;
    const float residual = args.residual ? Widen(static_cast<const T*>(args.residual)[at]) : 0.0f;
    // Without columns the residual stays what it is, whatever the scale.
    static_cast<T*>(args.y)[at] = Narrow<T>(count > 0 ? residual + sum * scale : residual);
  }
}

}  // namespace

cudaError_t LaunchSplitColumns(GemmArgs* args, float threshold, void* scratch, cudaStream_t stream) {
  if (args->m == 0) return cudaSuccess;
  const SplitLayout layout(args->m, args->k);
  uint8_t* memory = static_cast<uint8_t*>(scratch);
  int8_t* q = reinterpret_cast<int8_t*>(memory);
  float* scale = reinterpret_cast<float*>(memory + layout.scale);
  int32_t* index = reinterpret_cast<int32_t*>(memory + layout.index);
  uint8_t* found = memory + layout.found;
  const cudaError_t cleared = cudaMemsetAsync(found, 0, static_cast<size_t>(args->k), stream);
  if (cleared != cudaSuccess) return cleared;
  const auto blocks = [](int count) { return static_cast<unsigned>((count + kThreads - 1) / kThreads); };
  const auto rows = [&](int64_t step) {
    return static_cast<unsigned>(std::min<int64_t>((args->m + step - 1) / step, kMaxGridRows));
  };
  const cudaError_t launched = WithType(args->type, [&](auto type) {
    using T = decltype(type);
    const T* a = static_cast<const T*>(args->a);
    if (threshold > 0.0f) {
      FindKernel<T>
          <<<dim3(blocks(args->k), rows(kFindRows)), kThreads, 0, stream>>>(a, args->m, args->k, threshold, found);
    }
    ListKernel<<<1, kListThreads, 0, stream>>>(found, args->k, index);
    QuantizeKernel<T><<<rows(1), kThreads, 0, stream>>>(a, args->m, args->k, found, q, scale);
    TermKernel<T><<<dim3(blocks(args->n), rows(1)), kThreads, 0, stream>>>(*args, index);
    return cudaGetLastError();
  });
  args->a = q;
  args->a_format = Format::kS8;
  args->a_scale = scale;
  args->residual = args->y;
  return launched;
}

}  // namespace lowbit::cuda
