// Attention of a few queries in binary32, for graphs whose precision the tensor cores do not have: one block a kv head,
// whose warps divide the keys, each with a running softmax. A lane has a key of 32 for the scores, and a channel of
// each 32 for the values.
#include <algorithm>

#include "ops/quant-kv-attention/cuda/sequence.cuh"

namespace lowbit::cuda {
namespace {

constexpr int kWarps = 16;
constexpr int kThreads = 32 * kWarps;
constexpr int kKeys = 32;  // of a warp's step

// Eight neighbouring channels of a row of codes.
template <int kBits>
__device__ __forceinline__ void LoadEightCodes(const uint8_t* row, int c, const KvParams& params, float (&v)[8]) {
  const uint32_t* words = reinterpret_cast<const uint32_t*>(row + c * kBits / 8);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const uint32_t code = words[i * kBits / 32] >> (i * kBits % 32) & ((1 << kBits) - 1);
    v[i] = __fadd_rn(__fmul_rn(static_cast<float>(code), params.scale), params.min);
  }
}

template <int kRows>
__device__ __forceinline__ void Multiply(const float (&v)[8], const float* query, int dim, float (&score)[kRows]) {
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const float4 a = *reinterpret_cast<const float4*>(query + r * dim);
    const float4 b = *reinterpret_cast<const float4*>(query + r * dim + 4);
    score[r] += v[0] * a.x + v[1] * a.y + v[2] * a.z + v[3] * a.w + v[4] * b.x + v[5] * b.y + v[6] * b.z + v[7] * b.w;
  }
}

// Products of the queries in shared memory and key `j`, turned where keys are stored before RoPE.
template <class T, int kBits, int kRows>
__device__ __forceinline__ void Scores(const KvArgs& args, int64_t row, int j, const float* query,
                                       float (&score)[kRows]) {
  const uint8_t* codes = args.present_k.codes + row * args.row_bytes();
  const KvParams params = LoadParams(args.present_k.params, row);
  const bool half = args.rotate_on_read && args.rotary == KvRotary::kHalf;
  const int paired = half ? args.pairs : 0;  // channels before it are turned with those behind it
  const int turned = args.rotate_on_read && !half ? 2 * args.pairs : 0;  // and these with their neighbours
  const T* cos = static_cast<const T*>(args.cos) + static_cast<int64_t>(j) * args.pairs;
  const T* sin = static_cast<const T*>(args.sin) + static_cast<int64_t>(j) * args.pairs;
  for (int c = 0; c < args.head_dim; c += 8) {
    if (half && c >= paired && c < 2 * paired) continue;
    float v[8];
    LoadEightCodes<kBits>(codes, c, params, v);
    if (c < paired) {
      float other[8], cosines[8], sines[8];
      LoadEightCodes<kBits>(codes, c + paired, params, other);
      LoadEight(cos + c, cosines);
      LoadEight(sin + c, sines);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const float first = __fsub_rn(__fmul_rn(v[i], cosines[i]), __fmul_rn(other[i], sines[i]));
        other[i] = __fadd_rn(__fmul_rn(other[i], cosines[i]), __fmul_rn(v[i], sines[i]));
        v[i] = first;
      }
      Multiply<kRows>(other, query + c + paired, args.head_dim, score);
    } else if (c < turned) {
#pragma unroll
      for (int i = 0; i < 8; i += 2) {
        const float cosine = Widen(cos[(c + i) / 2]), sine = Widen(sin[(c + i) / 2]), first = v[i];
        v[i] = __fsub_rn(__fmul_rn(first, cosine), __fmul_rn(v[i + 1], sine));
        v[i + 1] = __fadd_rn(__fmul_rn(v[i + 1], cosine), __fmul_rn(first, sine));
      }
    }
    Multiply<kRows>(v, query + c, args.head_dim, score);
  }
}

__device__ __forceinline__ float WarpMax(float x) {
#pragma unroll
  for (int d = 1; d < 32; d *= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, d));
  return x;
}
__device__ __forceinline__ float WarpSum(float x) {
#pragma unroll
  for (int d = 1; d < 32; d *= 2) x += __shfl_xor_sync(~0u, x, d);
  return x;
}

// kRows: most query rows; kChannels: most channels of a lane.
template <class T, int kBits, int kRows, int kChannels>
__global__ __launch_bounds__(kThreads) void FewRowsKernel(const __grid_constant__ KvArgs args) {
  extern __shared__ __align__(16) float smem[];
  const int dim = args.head_dim, group = args.group(), b = blockIdx.y, kv_head = blockIdx.x;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, rows = args.query_rows();
  float *query = smem, *weights = query + kRows * dim + warp * kRows * kKeys;
  float* parts = smem + kRows * dim + kWarps * kRows * kKeys;  // a row's sums of each warp
  float* meta = parts + kWarps * dim;                          // and {top, total}
  const KvSequence sequence(args, b);
  const int64_t head_row = (static_cast<int64_t>(b) * args.kv_heads + kv_head) * args.present_k.rows;
  const float none = -__int_as_float(0x7f800000);

  for (int i = threadIdx.x; i < kRows * dim / 8; i += kThreads) {
    const int row = i / (dim / 8), c = i % (dim / 8) * 8, s = row / group;
    float v[8] = {};
    if (row < rows && sequence.start + s < sequence.length) {
      const T* x = static_cast<const T*>(args.q) + (static_cast<int64_t>(b) * args.tokens + s) * args.q_stride +
                   static_cast<int64_t>(kv_head * group + row % group) * dim;
      LoadTurned(args, x, c, sequence.start + s, v);
    }
    for (int j = 0; j < 8; ++j) query[row * dim + c + j] = v[j] * args.scale;
  }
  __syncthreads();

  const int queries = sequence.length - sequence.start;
  const KvSpan first_span(args, sequence, 0), last_span(args, sequence, max(0, min((rows - 1) / group, queries - 1)));
  float top[kRows], total[kRows], sums[kRows][kChannels] = {};
#pragma unroll
  for (int r = 0; r < kRows; ++r) top[r] = none, total[r] = 0.0f;
  for (int first = first_span.begin / kKeys * kKeys + warp * kKeys; first < last_span.end; first += kWarps * kKeys) {
    const int j = first + lane, count = min(kKeys, last_span.end - first);
    float score[kRows] = {};
    if (lane < count) Scores<T, kBits, kRows>(args, head_row + j, j, query, score);
    __syncwarp();  // the last step's weights have been read
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int s = min(r, rows - 1) / group;
      const KvSpan span(args, sequence, s);
      float x = score[r];
      if (args.softcap > 0) x = args.softcap * tanhf(x / args.softcap);
      const bool seen = r < rows && lane < count && j >= span.begin && j < span.end;
      if (args.mask && seen) {
        x += Widen(static_cast<const T*>(
            args.mask)[b * args.mask_batch_stride + (kv_head * group + r % group) * args.mask_head_stride +
                       s * args.mask_row_stride + j]);
      }
      if (!seen) x = none;
      const float high = fmaxf(top[r], WarpMax(x)), base = high == none ? 0.0f : high;
      const float fade = top[r] == none ? 0.0f : expf(top[r] - base), weight = x == none ? 0.0f : expf(x - base);
      top[r] = high;
      total[r] = total[r] * fade + weight;
#pragma unroll
      for (int i = 0; i < kChannels; ++i) sums[r][i] *= fade;
      weights[r * kKeys + lane] = weight;
    }
    __syncwarp();
    for (int k = 0; k < count; ++k) {
      const KvParams params = LoadParams(args.present_v.params, head_row + first + k);
      const uint8_t* codes = args.present_v.codes + (head_row + first + k) * args.row_bytes();
      float value[kChannels];
#pragma unroll
      for (int i = 0; i < kChannels; ++i) {
        const int c = lane + 32 * i;
        value[i] = c < dim ? __fadd_rn(__fmul_rn(static_cast<float>(KvCode<kBits>(codes, c)), params.scale), params.min)
                           : 0.0f;
      }
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const float weight = weights[r * kKeys + k];
        if (weight == 0.0f && value[0] != value[0]) continue;  // a row that is not seen may hold NaN
#pragma unroll
        for (int i = 0; i < kChannels; ++i) sums[r][i] += weight * value[i];
      }
    }
  }

  // The warps' parts of a row meet in shared memory, row by row.
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    if (r >= rows) break;
    const float all = WarpSum(total[r]);
#pragma unroll
    for (int i = 0; i < kChannels; ++i) {
      if (lane + 32 * i < dim) parts[warp * dim + lane + 32 * i] = sums[r][i];
    }
    if (lane == 0) meta[2 * warp] = top[r], meta[2 * warp + 1] = all;
    __syncthreads();
    const int s = r / group;
    for (int c = threadIdx.x; c < dim; c += kThreads) {
      float high = none, sum = 0.0f, weight = 0.0f;
      for (int w = 0; w < kWarps; ++w) high = fmaxf(high, meta[2 * w]);
      for (int w = 0; w < kWarps; ++w) {
        const float share = meta[2 * w] == none ? 0.0f : expf(meta[2 * w] - high);
        sum += share * parts[w * dim + c];
        weight += share * meta[2 * w + 1];
      }
      const int64_t token = static_cast<int64_t>(b) * args.tokens + s;
      T* y = static_cast<T*>(args.y) + (token * args.heads + kv_head * group + r % group) * dim;
      const float result = weight == 0.0f ? 0.0f : sum / weight;
      y[c] = Narrow<T>(sequence.valid ? result : __int_as_float(0x7fc00000));
    }
    __syncthreads();
  }
}

template <class T, int kBits, int kRows, int kChannels>
cudaError_t Launch(const KvArgs& args, cudaStream_t stream) {
  auto* kernel = FewRowsKernel<T, kBits, kRows, kChannels>;
  const int floats = kRows * args.head_dim + kWarps * (kRows * kKeys + args.head_dim + 2);
  const int bytes = floats * static_cast<int>(sizeof(float));
  const cudaError_t e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (e != cudaSuccess) return e;
  const dim3 grid(static_cast<unsigned>(args.kv_heads), static_cast<unsigned>(args.batch));
  kernel<<<grid, kThreads, static_cast<size_t>(bytes), stream>>>(args);
  return cudaGetLastError();
}

template <class T, int kBits, int kRows>
cudaError_t LaunchRows(const KvArgs& args, cudaStream_t stream) {
  return args.head_dim <= 128 ? Launch<T, kBits, kRows, 4>(args, stream) : Launch<T, kBits, kRows, 8>(args, stream);
}

template <class T, int kBits>
cudaError_t LaunchBits(const KvArgs& args, cudaStream_t stream) {
  if (args.query_rows() == 1) return LaunchRows<T, kBits, 1>(args, stream);
  return args.query_rows() <= 4 ? LaunchRows<T, kBits, 4>(args, stream) : LaunchRows<T, kBits, 8>(args, stream);
}

}  // namespace

cudaError_t LaunchKvFewRows(const KvArgs& args, cudaStream_t stream) {
  return args.bits == 4 ? LaunchBits<float, 4>(args, stream) : LaunchBits<float, 8>(args, stream);
}

}  // namespace lowbit::cuda
