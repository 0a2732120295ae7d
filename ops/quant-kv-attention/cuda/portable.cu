// Attention in binary32 for every head size, type and architecture: 16 query rows a block, 32 keys at a time in shared
// memory, a running softmax. Float32 graphs use it for its precision.
#include <algorithm>

#include "ops/quant-kv-attention/cuda/sequence.cuh"

namespace lowbit::cuda {
namespace {

constexpr int kRows = 16;                // query rows of a block
constexpr int kLanes = 8;                // threads of a row
constexpr int kKeys = 32;                // keys a step
constexpr int kScores = kKeys / kLanes;  // of a thread
constexpr int kThreads = kRows * kLanes;
constexpr int kPad = 4;  // floats: neighbouring rows start in different banks

// Dequantizes rows [first, first + count) of a head into shared memory, keys turned by RoPE where they are stored
// before it; zeros for what is missing.
template <class T, int kBits>
__device__ __forceinline__ void Unpack(const KvArgs& args, const KvRows& cache, int64_t head_row, int first, int count,
                                       bool rotate, float* to) {
  const int dim = args.head_dim, stride = dim + kPad;
  for (int i = threadIdx.x; i < kKeys * dim; i += kThreads) {
    const int j = i / dim, c = i - j * dim;
    float value = 0.0f;
    if (j < count) {
      const int64_t row = head_row + first + j;
      const uint8_t* codes = cache.codes + row * args.row_bytes();
      const KvParams params = LoadParams(cache.params, row);
      const auto channel = [&](int at) {
        return __fadd_rn(__fmul_rn(static_cast<float>(KvCode<kBits>(codes, at)), params.scale), params.min);
      };
      value = channel(c);
      if (rotate && c < 2 * args.pairs) {
        const bool half = args.rotary == KvRotary::kHalf;
        const bool second = half ? c >= args.pairs : c & 1;
        const int pair = half ? (second ? c - args.pairs : c) : c >> 1;
        const float other = channel(half ? (second ? pair : c + args.pairs) : c ^ 1);
        const int64_t at = static_cast<int64_t>(first + j) * args.pairs + pair;
        const float cos = Widen(static_cast<const T*>(args.cos)[at]), sin = Widen(static_cast<const T*>(args.sin)[at]);
        const float turned = __fmul_rn(value, cos), across = __fmul_rn(other, sin);
        value = second ? __fadd_rn(turned, across) : __fsub_rn(turned, across);
      }
    }
    to[j * stride + c] = value;
  }
}

__device__ __forceinline__ float RowMax(float x) {
#pragma unroll
  for (int d = 1; d < kLanes; d *= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, d));
  return x;
}
__device__ __forceinline__ float RowSum(float x) {
#pragma unroll
  for (int d = 1; d < kLanes; d *= 2) x += __shfl_xor_sync(~0u, x, d);
  return x;
}

// kChannels: most channels of a thread.
template <class T, int kBits, int kChannels>
__global__ __launch_bounds__(kThreads) void PortableKernel(const __grid_constant__ KvArgs args) {
  extern __shared__ __align__(16) float smem[];
  const int dim = args.head_dim, stride = dim + kPad, group = args.group();
  float *query = smem, *block = query + kRows * stride, *weights = block + kKeys * stride;
  const int b = blockIdx.z, kv_head = blockIdx.y;
  // Late rows see most keys: they go first.
  const int first_row = static_cast<int>(gridDim.x - 1 - blockIdx.x) * kRows;
  const KvSequence sequence(args, b);
  const int64_t head_row = (static_cast<int64_t>(b) * args.kv_heads + kv_head) * args.present_k.rows;

  for (int i = threadIdx.x; i < kRows * dim / 8; i += kThreads) {
    const int row = first_row + i / (dim / 8), c = i % (dim / 8) * 8;
    const int s = row / group, head = kv_head * group + row % group;
    float v[8] = {};
    if (row < args.query_rows() && sequence.start + s < sequence.length) {
      const T* x = static_cast<const T*>(args.q) + (static_cast<int64_t>(b) * args.tokens + s) * args.q_stride +
                   static_cast<int64_t>(head) * dim;
      LoadTurned(args, x, c, sequence.start + s, v);
    }
    for (int j = 0; j < 8; ++j) query[(row - first_row) * stride + c + j] = v[j] * args.scale;
  }

  const int row = first_row + threadIdx.x / kLanes, lane = threadIdx.x % kLanes;
  const int s = min(row, args.query_rows() - 1) / group;
  KvSpan span(args, sequence, s);
  if (row >= args.query_rows()) span.end = 0;
  const KvSpan first_span(args, sequence, first_row / group);
  const int last_s = min(first_row + kRows, args.query_rows()) - 1;
  const int queries = sequence.length - sequence.start;
  const KvSpan last_span(args, sequence, min(last_s / group, max(0, queries - 1)));
  const T* mask = static_cast<const T*>(args.mask);
  if (mask) {
    mask +=
        b * args.mask_batch_stride + (kv_head * group + row % group) * args.mask_head_stride + s * args.mask_row_stride;
  }

  float top = -__int_as_float(0x7f800000), total = 0.0f, sums[kChannels] = {};
  const float none = -__int_as_float(0x7f800000);
  for (int key = first_span.begin / kKeys * kKeys; key < last_span.end; key += kKeys) {
    const int count = min(kKeys, last_span.end - key);
    __syncthreads();
    Unpack<T, kBits>(args, args.present_k, head_row, key, count, args.rotate_on_read, block);
    __syncthreads();
    float score[kScores] = {};
    const float* q = query + threadIdx.x / kLanes * stride;
    for (int c = 0; c < dim; c += 4) {
      const float4 a = *reinterpret_cast<const float4*>(q + c);
#pragma unroll
      for (int i = 0; i < kScores; ++i) {
        const float4 k = *reinterpret_cast<const float4*>(block + (lane + kLanes * i) * stride + c);
        score[i] += a.x * k.x + a.y * k.y + a.z * k.z + a.w * k.w;
      }
    }
    float high = none;
#pragma unroll
    for (int i = 0; i < kScores; ++i) {
      const int j = key + lane + kLanes * i;
      if (args.softcap > 0) score[i] = args.softcap * tanhf(score[i] / args.softcap);
      const bool seen = j >= span.begin && j < span.end;
      score[i] = !seen ? none : mask ? score[i] + Widen(mask[j]) : score[i];
      high = fmaxf(high, score[i]);
    }
    const float new_top = fmaxf(top, RowMax(high)), base = new_top == none ? 0.0f : new_top;
    const float fade = top == none ? 0.0f : __expf(top - base);
    total *= fade;
#pragma unroll
    for (int i = 0; i < kScores; ++i) {
      const float weight = score[i] == none ? 0.0f : expf(score[i] - base);
      weights[threadIdx.x / kLanes * kKeys + lane + kLanes * i] = weight;
      total += weight;
    }
    top = new_top;
#pragma unroll
    for (int i = 0; i < kChannels; ++i) sums[i] *= fade;
    __syncthreads();
    Unpack<T, kBits>(args, args.present_v, head_row, key, count, false, block);
    __syncthreads();
    for (int j = 0; j < count; ++j) {
      const bool seen = key + j >= span.begin && key + j < span.end;  // an unseen row may hold NaN
      if (!seen) continue;
      const float weight = weights[threadIdx.x / kLanes * kKeys + j];
#pragma unroll
      for (int i = 0; i < kChannels; ++i) {
        const int c = lane + kLanes * i;
        if (c < dim) sums[i] += weight * block[j * stride + c];
      }
    }
  }
  total = RowSum(total);
  if (row >= args.query_rows()) return;
  const int64_t token = static_cast<int64_t>(b) * args.tokens + s;
  T* y = static_cast<T*>(args.y) + (token * args.heads + kv_head * group + row % group) * dim;
  const float divisor = total == 0.0f ? 1.0f : total;
#pragma unroll
  for (int i = 0; i < kChannels; ++i) {
    const int c = lane + kLanes * i;
    if (c < dim) y[c] = Narrow<T>(sequence.valid ? sums[i] / divisor : __int_as_float(0x7fc00000));
  }
}

template <class T, int kBits, int kChannels>
cudaError_t Launch(const KvArgs& args, cudaStream_t stream) {
  const dim3 grid((args.query_rows() + kRows - 1) / kRows, args.kv_heads, args.batch);
  const size_t bytes = sizeof(float) * ((kRows + kKeys) * (args.head_dim + kPad) + kRows * kKeys);
  auto* kernel = PortableKernel<T, kBits, kChannels>;
  const cudaError_t e =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
  if (e != cudaSuccess) return e;
  kernel<<<grid, kThreads, bytes, stream>>>(args);
  return cudaGetLastError();
}

template <class T, int kBits>
cudaError_t LaunchBits(const KvArgs& args, cudaStream_t stream) {
  if (args.head_dim <= 64) return Launch<T, kBits, 8>(args, stream);
  if (args.head_dim <= 128) return Launch<T, kBits, 16>(args, stream);
  return Launch<T, kBits, 64>(args, stream);
}

template <class T>
cudaError_t LaunchType(const KvArgs& args, cudaStream_t stream) {
  return args.bits == 4 ? LaunchBits<T, 4>(args, stream) : LaunchBits<T, 8>(args, stream);
}

}  // namespace

cudaError_t LaunchKvPortable(const KvArgs& args, cudaStream_t stream) {
  switch (args.type) {
    case DType::kF16:
      return LaunchType<__half>(args, stream);
    case DType::kBF16:
      return LaunchType<__nv_bfloat16>(args, stream);
    case DType::kF32:
      return LaunchType<float>(args, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace lowbit::cuda
