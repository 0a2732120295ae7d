// New keys and values into the cache, bit for bit as ops/formats/README.md says, and the past into a new buffer.
#include <algorithm>

#include "ops/common/cuda/ptx.cuh"
#include "ops/quant-kv-attention/cuda/sequence.cuh"

namespace lowbit::cuda {
namespace {

constexpr int kThreads = 128;
constexpr float kInfinity = __builtin_inff();

__device__ __forceinline__ bool HalfIsFinite(uint16_t bits) { return (bits & 0x7c00) != 0x7c00; }

// Eight codes, the first in the lowest bits. Adding 1.5 * 2^23 rounds to the nearest, ties to even, and leaves the code
// in the low bits; what is above them falls out of the sum, modulo 2^32, as one constant.
template <int kBits>
__device__ __forceinline__ void StoreCodes(uint8_t* to, const float (&code)[8]) {
  constexpr float kRound = 12582912.0f;
  constexpr uint32_t kAbove = 0x4b400000u;
  constexpr int kInWord = 32 / kBits;
  uint32_t w[2] = {};
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const uint32_t bits = __float_as_uint(__fadd_rn(code[i], kRound));
    w[i / kInWord] += (bits - kAbove) << (i % kInWord * kBits);
  }
  if constexpr (kBits == 8) {
    *reinterpret_cast<uint2*>(to) = make_uint2(w[0], w[1]);
  } else {
    *reinterpret_cast<uint32_t*>(to) = w[0];
  }
}

// kLanes neighbouring lanes quantize one row: each has kChunks times 8 channels, those from `dim` on are missing.
// Lanes of a warp that have no row take part with `there` false.
template <int kBits, int kLanes, int kChunks>
__device__ __forceinline__ void QuantizeKvRow(const KvArgs& args, bool there, const float (&v)[kChunks][8],
                                              uint8_t* codes, uint16_t* params) {
  constexpr float kLast = (1 << kBits) - 1;
  const int lane = threadIdx.x % kLanes, dim = args.head_dim;
  float lo = kInfinity, hi = -kInfinity;
  bool finite = true;
#pragma unroll
  for (int i = 0; i < kChunks; ++i) {
    if ((i * kLanes + lane) * 8 >= dim) break;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      finite = finite && (__float_as_uint(v[i][j]) & 0x7f800000u) != 0x7f800000u;
      lo = fminf(lo, v[i][j]);
      hi = fmaxf(hi, v[i][j]);
    }
  }
#pragma unroll
  for (int d = 1; d < kLanes; d *= 2) {
    lo = fminf(lo, __shfl_xor_sync(~0u, lo, d));
    hi = fmaxf(hi, __shfl_xor_sync(~0u, hi, d));
  }
  const uint32_t row_lanes = static_cast<uint32_t>((uint64_t{1} << kLanes) - 1) << (threadIdx.x % 32 / kLanes * kLanes);
  finite = (__ballot_sync(~0u, !finite) & row_lanes) == 0;
  lo = __fadd_rn(lo, 0.0f);
  hi = __fadd_rn(hi, 0.0f);
  const float range = __fsub_rn(hi, lo);
  const float step = __fmul_rn(range, args.clip_over_last);
  const float low = __fadd_rn(lo, __fmul_rn(range, args.half_unclipped));
  uint16_t scale = __half_as_ushort(__float2half_rn(step)), min = __half_as_ushort(__float2half_rn(low));
  if (min == 0x8000) min = 0;
  if (!finite || !HalfIsFinite(scale) || !HalfIsFinite(min)) scale = min = 0x7e00;
  if (!there) return;
  if (lane == 0) *reinterpret_cast<uint32_t*>(params) = scale | static_cast<uint32_t>(min) << 16;
  const bool zeros = scale == 0 || scale == 0x7e00;
  const float base = Widen(__ushort_as_half(min));
  const float inverse = zeros ? 0.0f : __frcp_rn(Widen(__ushort_as_half(scale)));
#pragma unroll
  for (int i = 0; i < kChunks; ++i) {
    const int c = (i * kLanes + lane) * 8;
    if (c >= dim) break;
    float code[8];
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float t = __fmul_rn(__fsub_rn(v[i][j], base), inverse);
      code[j] = fminf(fmaxf(zeros ? 0.0f : t, 0.0f), kLast);
    }
    StoreCodes<kBits>(codes + c * kBits / 8, code);
  }
}

// kLanes lanes take the key and the value of one (sequence, new token, kv head).
template <class T, int kBits, int kLanes, int kChunks>
__global__ __launch_bounds__(kThreads) void AppendKernel(const __grid_constant__ KvArgs args) {
  LetNextKernelStartIfAny();
  if (blockIdx.x == 0 && blockIdx.y == 0) {
    for (int i = threadIdx.x; i < args.zeros; i += kThreads) static_cast<uint32_t*>(args.scratch)[i] = 0;
  }
  // A sequence a blockIdx.y: divisions of 64 bits would take longer than the rest.
  const uint32_t task = blockIdx.x * (kThreads / kLanes) + threadIdx.x / kLanes;
  const int b = static_cast<int>(blockIdx.y), s = static_cast<int>(task / static_cast<uint32_t>(args.kv_heads));
  const int head = static_cast<int>(task - static_cast<uint32_t>(s) * static_cast<uint32_t>(args.kv_heads));
  const int64_t at =
      (static_cast<int64_t>(b) * args.tokens + s) * args.kv_stride + static_cast<int64_t>(head) * args.head_dim;
  const T *key = static_cast<const T*>(args.k) + at, *value = static_cast<const T*>(args.v) + at;
  const bool rotate = args.rotary != KvRotary::kNone && !args.rotate_on_read;
  float keys[kChunks][8] = {}, values[kChunks][8] = {};
  // Rows are asked for beside the length, not behind it.
#pragma unroll
  for (int i = 0; i < kChunks; ++i) {
    const int c = (i * kLanes + threadIdx.x % kLanes) * 8;
    if (s >= args.tokens || c >= args.head_dim) break;
    if (!rotate) LoadEight(key + c, keys[i]);
    LoadEight(value + c, values[i]);
  }
  const KvSequence sequence(args, b);
  const int position = sequence.start + s;
  const bool there = s < args.tokens && position < sequence.length;
#pragma unroll
  for (int i = 0; i < kChunks; ++i) {
    const int c = (i * kLanes + threadIdx.x % kLanes) * 8;
    if (!rotate || !there || c >= args.head_dim) break;
    LoadTurned(args, key, c, position, keys[i]);
  }
  const int64_t row = (static_cast<int64_t>(b) * args.kv_heads + head) * args.present_k.rows + position;
  QuantizeKvRow<kBits, kLanes, kChunks>(args, there, keys, args.present_k.codes + row * args.row_bytes(),
                                        args.present_k.params + 2 * row);
  QuantizeKvRow<kBits, kLanes, kChunks>(args, there, values, args.present_v.codes + row * args.row_bytes(),
                                        args.present_v.params + 2 * row);
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

template <class T, int kBits, int kLanes, int kChunks>
cudaError_t Append(const KvArgs& args, cudaStream_t stream) {
  const int64_t tasks = static_cast<int64_t>(args.tokens) * args.kv_heads;  // of a sequence
  if (tasks == 0 || args.batch == 0) return cudaSuccess;
  const dim3 blocks(static_cast<unsigned>((tasks * kLanes + kThreads - 1) / kThreads),
                    static_cast<unsigned>(args.batch));
  AppendKernel<T, kBits, kLanes, kChunks><<<blocks, kThreads, 0, stream>>>(args);
  return cudaGetLastError();
}

template <class T, int kBits>
cudaError_t AppendRows(const KvArgs& args, cudaStream_t stream) {
  if (args.head_dim <= 64) return Append<T, kBits, 8, 1>(args, stream);
  if (args.head_dim <= 128) return Append<T, kBits, 8, 2>(args, stream);
  if (args.head_dim <= 256) return Append<T, kBits, 32, 1>(args, stream);
  return Append<T, kBits, 32, 2>(args, stream);
}

template <class T>
cudaError_t AppendType(const KvArgs& args, cudaStream_t stream) {
  return args.bits == 4 ? AppendRows<T, 4>(args, stream) : AppendRows<T, 8>(args, stream);
}

}  // namespace

cudaError_t LaunchKvAppend(const KvArgs& args, cudaStream_t stream) {
  cudaError_t e = BringOver(args, args.past_k, args.present_k, stream);
  if (e == cudaSuccess) e = BringOver(args, args.past_v, args.present_v, stream);
  if (e != cudaSuccess) return e;
  switch (args.type) {
    case DType::kF16:
      return AppendType<__half>(args, stream);
    case DType::kBF16:
      return AppendType<__nv_bfloat16>(args, stream);
    case DType::kF32:
      return AppendType<float>(args, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace lowbit::cuda
