// What a multiplying thread of the prefill kernel does with the scores and the sums that it holds: two rows, eight
// apart.
#pragma once
#include "ops/common/cuda/ptx.cuh"
#include "ops/quant-kv-attention/cuda/sequence.cuh"

namespace lowbit::cuda {

__device__ __forceinline__ float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ uint32_t Pack(float a, float b) {
  const __half2 v = __floats2half2_rn(a, b);
  return *reinterpret_cast<const uint32_t*>(&v);
}

// What the two rows of a thread see, and where their masks are.
struct Rows {
  int begin[2], end[2];
  const __half* mask[2];
};

// Scores as they come from the product to those of the softmax: logarithms to base 2, -infinity for keys not seen. What
// is rare has loops of its own: with 64 copies of tanhf and of mask loads between the comparisons of spans an item took
// 7 µs longer, probably because so many instructions do not stay in their cache.
template <int kScores>
__device__ __forceinline__ void Finish(const KvArgs& args, const Rows& rows, int first, bool inside,
                                       float (&score)[kScores]) {
  constexpr float kLog2e = 1.44269504f;
  const int column = first + threadIdx.x % 4 * 2;
  if (args.softcap > 0.0f) {
    const float cap = args.softcap * kLog2e;
#pragma unroll
    for (int i = 0; i < kScores; ++i) score[i] = cap * tanhf(score[i] / cap);
  }
  if (args.mask) {
#pragma unroll
    for (int i = 0; i < kScores; ++i) {
      const int r = i / 2 % 2, j = column + i / 4 * 8 + i % 2;
      if (j >= rows.begin[r] && j < rows.end[r]) score[i] += WidenAt(rows.mask[r], j, IsBrain(args)) * kLog2e;
    }
  }
  if (inside) return;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const uint32_t offset = static_cast<uint32_t>(column - rows.begin[r]);
    const uint32_t seen = static_cast<uint32_t>(max(0, rows.end[r] - rows.begin[r]));
#pragma unroll
    for (int i = 2 * r; i < kScores; i += 4) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        if (offset + static_cast<uint32_t>(i / 4 * 8 + c) >= seen) score[i + c] = -__int_as_float(0x7f800000);
      }
    }
  }
}

// A row of results: sums divided by their total. Lanes of four exchange what they hold, so that each stores 16
// bytes.
template <int kDim, int kPanels, int kSums>
__device__ __forceinline__ void WriteRow(uint16_t* y, bool brain, bool store, bool there, float total, int r,
                                         const float (&sums)[kPanels][kSums]) {
  constexpr int kInPanel = kSums / 4, kEights = kDim / 8;
  const float inverse = there && total != 0.0f ? 1.0f / total : 0.0f;
  const int lane = threadIdx.x % 4;
  const auto word = [&](int eight) {
    const float* v = sums[eight / kInPanel] + eight % kInPanel * 4 + 2 * r;
    return there ? NarrowPair(v[0] * inverse, v[1] * inverse, brain) : 0u;
  };
#pragma unroll
  for (int eight = 0; eight < kEights / 4 * 4; eight += 4) {
    uint32_t w[4] = {word(eight), word(eight + 1), word(eight + 2), word(eight + 3)};
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
      const uint32_t other = __shfl_xor_sync(~0u, lane % 2 ? w[i] : w[i + 1], 1);
      (lane % 2 ? w[i] : w[i + 1]) = other;
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint32_t other = __shfl_xor_sync(~0u, lane / 2 ? w[i] : w[i + 2], 2);
      (lane / 2 ? w[i] : w[i + 2]) = other;
    }
    if (store) *reinterpret_cast<uint4*>(y + (eight + lane) * 8) = make_uint4(w[0], w[1], w[2], w[3]);
  }
#pragma unroll
  for (int eight = kEights / 4 * 4; eight < kEights; ++eight) {
    if (store) *reinterpret_cast<uint32_t*>(y + eight * 8 + lane * 2) = word(eight);
  }
}

}  // namespace lowbit::cuda
