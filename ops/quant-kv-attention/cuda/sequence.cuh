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

// Channel `c` of a row at x, turned by RoPE at a position: one rounding an operation.
template <class T>
__device__ __forceinline__ float RotatedChannel(const KvArgs& args, const T* x, int c, int position) {
  const float own = Widen(x[c]);
  if (args.rotary == KvRotary::kNone || c >= 2 * args.pairs) return own;
  const bool half = args.rotary == KvRotary::kHalf;
  const bool second = half ? c >= args.pairs : c & 1;
  const int pair = half ? (second ? c - args.pairs : c) : c >> 1;
  const int other_channel = half ? (second ? c - args.pairs : c + args.pairs) : c ^ 1;
  const float other = Widen(x[other_channel]);
  const int64_t at = static_cast<int64_t>(position) * args.pairs + pair;
  const float cos = Widen(static_cast<const T*>(args.cos)[at]), sin = Widen(static_cast<const T*>(args.sin)[at]);
  const float turned = __fmul_rn(own, cos), across = __fmul_rn(other, sin);
  return second ? __fadd_rn(turned, across) : __fsub_rn(turned, across);
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
