// New keys and values into the cache, bit for bit as ops/formats/README.md says, and the past into a new buffer.
#include <algorithm>

#include "ops/quant-kv-attention/cuda/sequence.cuh"

namespace lowbit::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kMaxPairs = 8;  // of neighbouring channels a lane holds: head_dim <= 512

__device__ __forceinline__ float WarpMin(float x) {
#pragma unroll
  for (int d = 16; d > 0; d /= 2) x = fminf(x, __shfl_xor_sync(~0u, x, d));
  return x;
}
__device__ __forceinline__ float WarpMax(float x) {
#pragma unroll
  for (int d = 16; d > 0; d /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, d));
  return x;
}

__device__ __forceinline__ bool HalfIsFinite(uint16_t bits) { return (bits & 0x7c00) != 0x7c00; }

// A warp quantizes one row: lane l holds channels 2l, 2l + 1 of every 64.
template <class T, int kBits>
__device__ __forceinline__ void QuantizeKvRow(const KvArgs& args, const T* x, bool rotate, int position, uint8_t* codes,
                                              uint16_t* params) {
  constexpr float kLast = (1 << kBits) - 1;
  const int lane = threadIdx.x % 32, dim = args.head_dim;
  float v[2 * kMaxPairs];
  float lo = __int_as_float(0x7f800000), hi = -lo;
  uint32_t amax = 0;
#pragma unroll
  for (int i = 0; i < kMaxPairs; ++i) {
    const int c = 64 * i + 2 * lane;
    if (c >= dim) break;
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const float value = rotate ? RotatedChannel(args, x, c + j, position) : Widen(x[c + j]);
      v[2 * i + j] = value;
      amax = max(amax, __float_as_uint(value) & 0x7fffffffu);
      lo = fminf(lo, value);
      hi = fmaxf(hi, value);
    }
  }
  amax = __reduce_max_sync(~0u, amax);
  lo = __fadd_rn(WarpMin(lo), 0.0f);
  hi = __fadd_rn(WarpMax(hi), 0.0f);
  const float range = __fsub_rn(hi, lo);
  const float step = __fmul_rn(range, args.clip_over_last);
  const float low = __fadd_rn(lo, __fmul_rn(range, args.half_unclipped));
  uint16_t scale = __half_as_ushort(__float2half_rn(step)), min = __half_as_ushort(__float2half_rn(low));
  if (min == 0x8000) min = 0;
  if (amax >= 0x7f800000u || !HalfIsFinite(scale) || !HalfIsFinite(min)) scale = min = 0x7e00;
  if (lane == 0) *reinterpret_cast<uint32_t*>(params) = scale | static_cast<uint32_t>(min) << 16;
  const bool zeros = scale == 0 || scale == 0x7e00;
  const float base = Widen(__ushort_as_half(min));
  const float inverse = zeros ? 0.0f : __fdiv_rn(1.0f, Widen(__ushort_as_half(scale)));
#pragma unroll
  for (int i = 0; i < kMaxPairs; ++i) {
    const int c = 64 * i + 2 * lane;
    if (c >= dim) break;
    uint32_t code[2];
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const float t = __fmul_rn(__fsub_rn(v[2 * i + j], base), inverse);
      code[j] = zeros ? 0 : __float2uint_rn(fminf(fmaxf(t, 0.0f), kLast));
    }
    if (kBits == 8) {
      *reinterpret_cast<uint16_t*>(codes + c) = static_cast<uint16_t>(code[0] | code[1] << 8);
    } else {
      codes[c / 2] = static_cast<uint8_t>(code[0] | code[1] << 4);
    }
  }
}

// Warps take (sequence, new token, kv head, key or value).
template <class T, int kBits>
__global__ __launch_bounds__(kThreads) void AppendKernel(const __grid_constant__ KvArgs args) {
  const int64_t task = blockIdx.x * static_cast<int64_t>(kThreads / 32) + threadIdx.x / 32;
  const int64_t heads = 2 * args.kv_heads, token = task / heads;
  const int which = static_cast<int>(task % heads), head = which / 2;
  const bool value = which & 1;
  if (token >= static_cast<int64_t>(args.batch) * args.tokens) return;
  const int b = static_cast<int>(token / args.tokens), s = static_cast<int>(token % args.tokens);
  const KvSequence sequence(args, b);
  const int position = sequence.start + s;
  if (position >= sequence.length) return;
  const T* x = static_cast<const T*>(value ? args.v : args.k) + token * args.kv_stride + head * args.head_dim;
  const KvRows& present = value ? args.present_v : args.present_k;
  const int64_t row = (static_cast<int64_t>(b) * args.kv_heads + head) * present.rows + position;
  const bool rotate = !value && args.rotary != KvRotary::kNone && !args.rotate_on_read;
  QuantizeKvRow<T, kBits>(args, x, rotate, position, present.codes + row * args.row_bytes(), present.params + 2 * row);
}

// Rows of `units` Units: those of the past as they were, zeros behind the sequence; new tokens' rows are left alone.
template <class Unit>
__global__ __launch_bounds__(kThreads) void CopyKernel(const __grid_constant__ KvArgs args, const Unit* past,
                                                       Unit* present, int past_rows, int present_rows, int units) {
  const int64_t per_head = static_cast<int64_t>(present_rows) * units;
  const int64_t count = per_head * args.batch * args.kv_heads;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x; i < count; i += step) {
    const int64_t head = i / per_head, within = i - head * per_head;
    const KvSequence sequence(args, static_cast<int>(head / args.kv_heads));
    const int row = static_cast<int>(within / units);
    if (row < sequence.start) {
      present[i] = past[head * past_rows * units + within];
    } else if (row >= sequence.length) {
      present[i] = Unit{};
    }
  }
}

template <class Unit>
cudaError_t Copy(const KvArgs& args, const void* past, void* present, int past_rows, int present_rows, int row_bytes,
                 cudaStream_t stream) {
  const int units = row_bytes / static_cast<int>(sizeof(Unit));
  const int64_t count = static_cast<int64_t>(args.batch) * args.kv_heads * present_rows * units;
  if (past == present || count == 0) return cudaSuccess;
  constexpr int64_t kMostBlocks = 132 * 16;
  const auto blocks = static_cast<unsigned>(std::min<int64_t>(kMostBlocks, (count + kThreads - 1) / kThreads));
  CopyKernel<Unit><<<blocks, kThreads, 0, stream>>>(args, static_cast<const Unit*>(past), static_cast<Unit*>(present),
                                                    past_rows, present_rows, units);
  return cudaGetLastError();
}

cudaError_t BringOver(const KvArgs& args, const KvRows& past, const KvRows& present, cudaStream_t stream) {
  const bool wide = args.row_bytes() % 16 == 0;  // rows are multiples of 8 bytes, tensors start on 16 and more
  const cudaError_t e = (wide ? Copy<uint4> : Copy<uint2>)(args, past.codes, present.codes, past.rows, present.rows,
                                                           args.row_bytes(), stream);
  if (e != cudaSuccess) return e;
  return Copy<uint32_t>(args, past.params, present.params, past.rows, present.rows, 4, stream);
}

template <class T>
cudaError_t Append(const KvArgs& args, cudaStream_t stream) {
  const int64_t tasks = 2LL * args.batch * args.tokens * args.kv_heads;
  if (tasks == 0) return cudaSuccess;
  const auto blocks = static_cast<unsigned>((tasks + kThreads / 32 - 1) / (kThreads / 32));
  if (args.bits == 4) {
    AppendKernel<T, 4><<<blocks, kThreads, 0, stream>>>(args);
  } else {
    AppendKernel<T, 8><<<blocks, kThreads, 0, stream>>>(args);
  }
  return cudaGetLastError();
}

}  // namespace

cudaError_t LaunchKvAppend(const KvArgs& args, cudaStream_t stream) {
  cudaError_t e = BringOver(args, args.past_k, args.present_k, stream);
  if (e == cudaSuccess) e = BringOver(args, args.past_v, args.present_v, stream);
  if (e != cudaSuccess) return e;
  return args.type == DType::kF16 ? Append<__half>(args, stream) : Append<float>(args, stream);
}

}  // namespace lowbit::cuda
