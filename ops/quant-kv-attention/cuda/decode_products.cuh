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

// Of 16 keys and 8 queries, transposed: q . codes, or q . R(codes) and q . R1. Keys of two heads meet the columns of
// both; each has half of them.
template <int kHeads>
struct KeyProducts {
  float codes[kHeads][4] = {}, ones[4] = {};
};

// Of keys that are not turned.
template <int kBits, class Layout, class Ring>
__device__ __forceinline__ void Products(const Ring& ring, const DecodeQuery<Layout, Turn::kNone>& q,
                                         KeyProducts<1>& all) {
  float product[2][4] = {};  // two chains: a product waits for the one before it
  uint32_t keys[2][Layout::kKeyParts][Layout::kKeyWords];
  ring.Keys(0, 0, keys);
#pragma unroll
  for (int word = 0; word < Layout::kKeyWords; ++word) {
    if (word % Ring::kLoadWords == 0 && word + Ring::kLoadWords < Layout::kKeyWords) {
      ring.Keys(0, word / Ring::kLoadWords + 1, keys);
    }
#pragma unroll
    for (int i = 0; i < Layout::kWordSteps; ++i) {
      const uint32_t low = keys[0][0][word], high = keys[1][0][word];
      const uint32_t(&b)[2] = q.fragments[word * Layout::kWordSteps + i];
      MmaF16(product[word % 2], CodePair<kBits>(low, 2 * i), CodePair<kBits>(high, 2 * i),
             CodePair<kBits>(low, 2 * i + 1), CodePair<kBits>(high, 2 * i + 1), b[0], b[1]);
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) all.codes[0][i] = product[0][i] + product[1][i];
}

// Of keys that are turned. Two heads have the same tables, and chains that do not wait for each other.
template <int kBits, Turn kTurn, class Layout, int kHeads, class Ring, class Tables>
__device__ __forceinline__ void TurnedProducts(const Ring& ring, const DecodeQuery<Layout, kTurn>& q,
                                               const Tables& tables, int step, KeyProducts<kHeads>& all) {
  constexpr bool kIsHalf = kTurn == Turn::kHalf;
  uint32_t keys[kHeads][2][Layout::kKeyParts][Layout::kKeyWords];
  uint4 next = tables.Load(step, 0), next_query = LoadShared16(q.operand);  // of the next mma step
#pragma unroll
  for (int head = 0; head < kHeads; ++head) ring.Keys(head, 0, keys[head]);
#pragma unroll
  for (int mma_step = 0; mma_step < Layout::kSteps; ++mma_step) {
    const int word = mma_step / Layout::kWordSteps, i = mma_step % Layout::kWordSteps;
    const uint4 query = next_query, table = next;
    if (mma_step + 1 < Layout::kSteps) {
      next = tables.Load(step, mma_step + 1);
      next_query = LoadShared16(q.operand + (mma_step + 1) * 64);
    }
    MmaF16(all.ones, table.x, table.y, table.z, table.w, query.z, query.w);
#pragma unroll
    for (int head = 0; head < kHeads; ++head) {
      if (i == 0 && word % Ring::kLoadWords == 0 && word + Ring::kLoadWords < Layout::kKeyWords) {
        ring.Keys(head, word / Ring::kLoadWords + 1, keys[head]);
      }
      Turned turned[2];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const uint32_t first = keys[head][r][0][word], second = keys[head][r][kIsHalf ? 1 : 0][word];
        const uint32_t a = kIsHalf ? CodePair<kBits>(first, i) : SmallCodePair<kBits>(first, 2 * i);
        const uint32_t b = kIsHalf ? CodePair<kBits>(second, i) : SmallCodePair<kBits>(second, 2 * i + 1);
        turned[r] = TurnPair(a, b, r ? table.y : table.x, r ? table.w : table.z);
      }
      MmaF16(all.codes[head], turned[0].first, turned[1].first, turned[0].second, turned[1].second, query.x, query.y);
    }
  }
}

// y^T += V^T . weights^T for 16 values; `weights` is mma's right operand.
template <int kBits, class Layout, class Ring>
__device__ __forceinline__ void AddValues(const Ring& ring, int head, const uint32_t (&weights)[2],
                                          float (&sums)[Layout::kTiles][4]) {
  uint32_t low[Layout::kUnits], high[Layout::kUnits];
  ring.Values(head, low, high);
#pragma unroll
  for (int unit = 0; unit < Layout::kUnits; ++unit) {
#pragma unroll
    for (int pair = 0; pair < Layout::kUnitCodes; pair += 2) {
      MmaF16(sums[(unit * Layout::kUnitCodes + pair) / 2], CodePair<kBits>(low[unit], pair),
             CodePair<kBits>(low[unit], pair + 1), CodePair<kBits>(high[unit], pair),
             CodePair<kBits>(high[unit], pair + 1), weights[0], weights[1]);
    }
  }
}

}  // namespace lowbit::cuda
