// What tensor cores do in a step of the decode kernel: 16 keys by 8 queries, and 16 values by 8 rows of weights.
#pragma once
#include "ops/quant-kv-attention/cuda/decode_query.cuh"
#include "ops/quant-kv-attention/cuda/decode_ring.cuh"

namespace lowbit::cuda {

// (a, b) turned: what two pairs of 16-bit lanes hold of two channels each.
struct Turned {
  uint32_t first, second;
};
__device__ __forceinline__ Turned TurnPair(uint32_t a, uint32_t b, uint32_t cos, uint32_t sin) {
  return {Bits(__hfma2(Halves(a), Halves(cos), __hneg2(__hmul2(Halves(b), Halves(sin))))),
          Bits(__hfma2(Halves(b), Halves(cos), __hmul2(Halves(a), Halves(sin))))};
}

// Of 16 keys and 8 queries, transposed: q . codes, or q . R(codes) and q . R1.
struct KeyProducts {
  float codes[4], ones[4];
};

template <int kBits, int kDim, Turn kTurn, class Layout, class Ring, class Tables>
__device__ __forceinline__ KeyProducts Products(const Ring& ring, const DecodeQuery<Layout, kTurn>& q,
                                                const Tables& tables, int step) {
  float product[2][4] = {}, ones[4] = {};  // two chains: a product waits for the one before it
  uint4 two{};                             // operands for R1 of two mma steps
  uint4 next{};                            // tables of the next mma step
  if constexpr (kTurn != Turn::kNone) next = tables.Load(step, 0);
  uint32_t keys[2][Layout::kKeyParts][Layout::kKeyWords];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
#pragma unroll
    for (int part = 0; part < Layout::kKeyParts; ++part) ring.Keys(r, part, keys[r][part]);
  }
#pragma unroll
  for (int word = 0; word < Layout::kKeyWords; ++word) {
    constexpr int kSteps = Layout::kWordSteps;
    if constexpr (kTurn == Turn::kNone) {
#pragma unroll
      for (int i = 0; i < kSteps; ++i) {
        const uint32_t low = keys[0][0][word], high = keys[1][0][word];
        const uint32_t(&b)[2] = q.fragments[word * kSteps + i];
        MmaF16(product[word % 2], CodePair<kBits>(low, 2 * i), CodePair<kBits>(high, 2 * i),
               CodePair<kBits>(low, 2 * i + 1), CodePair<kBits>(high, 2 * i + 1), b[0], b[1]);
      }
    } else {
      constexpr bool kIsHalf = kTurn == Turn::kHalf;
#pragma unroll
      for (int i = 0; i < kSteps; ++i) {
        const int mma_step = word * kSteps + i;
        const uint4 table = next;
        if (mma_step + 1 < Layout::kSteps) next = tables.Load(step, mma_step + 1);
        Turned turned[2];
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const uint32_t first = keys[r][0][word], second = keys[r][kIsHalf ? 1 : 0][word];
          const uint32_t a = kIsHalf ? CodePair<kBits>(first, i) : SmallCodePair<kBits>(first, 2 * i);
          const uint32_t b = kIsHalf ? CodePair<kBits>(second, i) : SmallCodePair<kBits>(second, 2 * i + 1);
          turned[r] = TurnPair(a, b, r ? table.y : table.x, r ? table.w : table.z);
        }
        const uint32_t(&b)[2] = q.fragments[word * kSteps + i];
        if (mma_step % 2 == 0) two = LoadShared16(q.ones + mma_step / 2 * 64);
        MmaF16(ones, table.x, table.y, table.z, table.w, mma_step % 2 ? two.z : two.x, mma_step % 2 ? two.w : two.y);
        MmaF16(product[word % 2], turned[0].first, turned[1].first, turned[0].second, turned[1].second, b[0], b[1]);
      }
    }
  }
  KeyProducts all;
#pragma unroll
  for (int i = 0; i < 4; ++i) all.codes[i] = product[0][i] + product[1][i], all.ones[i] = ones[i];
  return all;
}

// y^T += V^T . weights^T for 16 values; `weights` is mma's right operand.
template <int kBits, class Layout, class Ring>
__device__ __forceinline__ void AddValues(const Ring& ring, const uint32_t (&weights)[2],
                                          float (&sums)[Layout::kTiles][4]) {
  uint32_t values[4][Layout::ValueSlice::kWords];
#pragma unroll
  for (int i = 0; i < 4; ++i) ring.Values(i, values[i]);
#pragma unroll
  for (int unit = 0; unit < Layout::kUnits; ++unit) {
    const uint32_t pick = unit % 2 ? 0x7632 : 0x5410;  // this unit of two neighbouring values
    const uint32_t low = __byte_perm(values[0][unit / 2], values[1][unit / 2], pick);
    const uint32_t high = __byte_perm(values[2][unit / 2], values[3][unit / 2], pick);
#pragma unroll
    for (int pair = 0; pair < Layout::kUnitCodes; pair += 2) {
      MmaF16(sums[(unit * Layout::kUnitCodes + pair) / 2], CodePair<kBits>(low, pair), CodePair<kBits>(low, pair + 1),
             CodePair<kBits>(high, pair), CodePair<kBits>(high, pair + 1), weights[0], weights[1]);
    }
  }
}

}  // namespace lowbit::cuda
