// What every attention kernel asks about a sequence, a query row and a row of codes.
#pragma once
#include "ops/common/cuda/numeric.cuh"
#include "ops/quant-kv-attention/cuda/launch.h"

namespace lowbit::cuda {

// A sequence's place in its cache. `valid` is false for a length that the cache, a table or the mask cannot hold: the
// host does not see lengths, so this shows as NaN in y.
struct KvSequence {
  int length, start;  // tokens after the run, position of the first new one
  bool valid;

  KvSequence() = default;
  __device__ __forceinline__ KvSequence(const KvArgs& args, int b) {
    length = args.lengths ? args.lengths[b] : args.limit;
    valid = length >= 0 && length <= args.limit;
    if (!valid) length = 0;
    start = max(0, length - args.tokens);
  }
};

// Keys [begin, end) that new token `s` sees.
struct KvSpan {
  int begin, end;

  __device__ __forceinline__ KvSpan(const KvArgs& args, const KvSequence& sequence, int s) {
    const int position = sequence.start + s;
    end = position >= sequence.length ? 0 : args.causal ? position + 1 : sequence.length;
    begin = args.window > 0 ? max(0, position - args.window + 1) : 0;
  }
};

// Kernels whose arithmetic is float16 take bfloat16 graphs too: two neighbouring elements become float16 where they
// come in, and what goes out is rounded to the graph's type.
__device__ __forceinline__ bool IsBrain(const KvArgs& args) { return args.type == DType::kBF16; }
__device__ __forceinline__ float2 WidenPair(uint32_t pair, bool brain) {
  if (brain) return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u));
  return __half22float2(*reinterpret_cast<const __half2*>(&pair));
}
__device__ __forceinline__ uint32_t NarrowPair(float first, float second, bool brain) {
  uint32_t pair;
  if (brain) {
    const __nv_bfloat162 v = __floats2bfloat162_rn(first, second);
    pair = *reinterpret_cast<const uint32_t*>(&v);
  } else {
    const __half2 v = __floats2half2_rn(first, second);
    pair = *reinterpret_cast<const uint32_t*>(&v);
  }
  return pair;
}
__device__ __forceinline__ uint4 ToHalves(uint4 words, bool brain) {
  if (!brain) return words;
  const auto one = [](uint32_t pair) {
    const float2 f = WidenPair(pair, true);
    return NarrowPair(f.x, f.y, false);
  };
  return make_uint4(one(words.x), one(words.y), one(words.z), one(words.w));
}
// Element `at` of a tensor of the graph's type, which has 16 bits.
__device__ __forceinline__ float WidenAt(const void* from, int64_t at, bool brain) {
  const uint32_t bits = static_cast<const uint16_t*>(from)[at];
  return brain ? __uint_as_float(bits << 16) : Widen(__ushort_as_half(static_cast<uint16_t>(bits)));
}

// Eight neighbouring elements, widened; `from` starts on 16 bytes.
__device__ __forceinline__ void LoadEight(const __half* from, float (&v)[8]) {
  const uint4 words = __ldg(reinterpret_cast<const uint4*>(from));
  const uint32_t w[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 f = __half22float2(*reinterpret_cast<const __half2*>(&w[i]));
    v[2 * i] = f.x, v[2 * i + 1] = f.y;
  }
}
__device__ __forceinline__ void LoadEight(const __nv_bfloat16* from, float (&v)[8]) {
  const uint4 words = __ldg(reinterpret_cast<const uint4*>(from));
  const uint32_t w[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    v[2 * i] = __uint_as_float(w[i] << 16), v[2 * i + 1] = __uint_as_float(w[i] & 0xffff0000u);
  }
}
__device__ __forceinline__ void LoadEight(const float* from, float (&v)[8]) {
#pragma unroll
  for (int i = 0; i < 8; i += 4) {
    const float4 f = __ldg(reinterpret_cast<const float4*>(from + i));
    v[i] = f.x, v[i + 1] = f.y, v[i + 2] = f.z, v[i + 3] = f.w;
  }
}

// Channels [c, c + 8) of a row at x, turned by RoPE at a position: one rounding an operation. c is a multiple of 8.
template <class T>
__device__ __forceinline__ void LoadTurned(const KvArgs& args, const T* x, int c, int position, float (&v)[8]) {
  LoadEight(x + c, v);
  if (args.rotary == KvRotary::kNone || c >= 2 * args.pairs) return;
  const int64_t table = static_cast<int64_t>(position) * args.pairs;
  const T *cos = static_cast<const T*>(args.cos) + table, *sin = static_cast<const T*>(args.sin) + table;
  if (args.rotary == KvRotary::kHalf && args.pairs % 8 == 0) {
    const bool second = c >= args.pairs;
    const int pair = second ? c - args.pairs : c;
    float other[8], cosines[8], sines[8];
    LoadEight(x + (second ? pair : c + args.pairs), other);
    LoadEight(cos + pair, cosines);
    LoadEight(sin + pair, sines);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float turned = __fmul_rn(v[i], cosines[i]), across = __fmul_rn(other[i], sines[i]);
      v[i] = second ? __fadd_rn(turned, across) : __fsub_rn(turned, across);
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const bool half = args.rotary == KvRotary::kHalf;
    if (c + i >= 2 * args.pairs) break;
    const bool second = half ? c + i >= args.pairs : i & 1;
    const int pair = half ? (second ? c + i - args.pairs : c + i) : (c + i) / 2;
    const float other = Widen(x[half ? (second ? pair : c + i + args.pairs) : (c + i) ^ 1]);
    const float turned = __fmul_rn(v[i], Widen(cos[pair])), across = __fmul_rn(other, Widen(sin[pair]));
    v[i] = second ? __fadd_rn(turned, across) : __fsub_rn(turned, across);
  }
}

struct KvParams {
  float scale, min;
};

__device__ __forceinline__ KvParams LoadParams(const uint16_t* params, int64_t row) {
  const uint32_t both = *reinterpret_cast<const uint32_t*>(params + 2 * row);
  return {Widen(__ushort_as_half(static_cast<uint16_t>(both))),
          Widen(__ushort_as_half(static_cast<uint16_t>(both >> 16)))};
}

template <int kBits>
__device__ __forceinline__ int KvCode(const uint8_t* row, int c) {
  return kBits == 8 ? row[c] : row[c >> 1] >> (4 * (c & 1)) & 15;
}

}  // namespace lowbit::cuda
