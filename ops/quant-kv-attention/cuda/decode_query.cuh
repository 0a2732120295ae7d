// The queries of a block, turned, as right operands of mma.
#pragma once
#include "ops/quant-kv-attention/cuda/decode_tables.cuh"

namespace lowbit::cuda {

// The queries as mma's right operand. Lane (g, t) has query g's channels in the order of its keys, at half their size:
// turned ones then stay in float16's range. With x a code and R the turn of its position, q . R(x * scale + min) is
// scale * (q . Rx) + min * (q . R1).
template <class Layout, Turn kTurn>
struct DecodeQuery {
  // In shared memory, of a query: an operand for R1, and some bytes so that neighbours start in different banks.
  static constexpr int kOnesBytes = kTurn == Turn::kNone ? 0 : Layout::kSteps * 32 + 64;

  uint32_t fragments[Layout::kSteps][2];
  // With turned keys, for each pair of channels (i, j): q_i + q_j, which R1 multiplies by cos, and q_j - q_i, by sin.
  uint32_t ones;         // shared address of what this lane has
  float sum[2];          // otherwise: all channels of queries 2t and 2t + 1, times min_unit
  float unit, min_unit;  // turn products into scores, which are logarithms to base 2
};

constexpr int QueryStride(int dim) { return dim + 8; }  // halves: neighbouring rows start in different banks

// The block's queries, turned and halved, into shared memory.
template <int kDim>
__device__ __forceinline__ void StageQueries(const DecodePlan& plan, const KvSequence& sequence, int b, int first_head,
                                             int first_row, int used, __half* to) {
  const KvArgs& args = plan.args;
  constexpr int kChunks = kDim / 8;
  const int group = args.group();
  for (int i = threadIdx.x; i < plan.head_warps * used * kChunks; i += blockDim.x) {
    const int at = i / kChunks, c = i % kChunks * 8, head = at / used, row = at - head * used;
    const int query = first_row + row, s = plan.Token(query);
    const __half* x = static_cast<const __half*>(args.q) + (static_cast<int64_t>(b) * args.tokens + s) * args.q_stride +
                      static_cast<int64_t>((first_head + head) * group + query - s * group) * kDim;
    const int position = sequence.start + s;
    float v[8] = {};
    if (position < sequence.length) LoadTurned(args, x, c, position, v);
    uint32_t w[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) w[j] = Bits(__floats2half2_rn(0.5f * v[2 * j], 0.5f * v[2 * j + 1]));
    *reinterpret_cast<uint4*>(to + at * QueryStride(kDim) + c) = make_uint4(w[0], w[1], w[2], w[3]);
  }
}

template <int kBits, int kDim, Turn kTurn, class Layout>
__device__ __forceinline__ void LoadQuery(const KvArgs& args, const __half* rows, int used, uint32_t ones,
                                          bool stores_ones, DecodeQuery<Layout, kTurn>& q) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  constexpr int kHalf = Layout::kWordCodes / 2;
  q.ones = ones + min(g, used - 1) * DecodeQuery<Layout, kTurn>::kOnesBytes + t * 16;
  float sum = 0.0f;
#pragma unroll
  for (int part = 0; part < Layout::kKeyParts; ++part) {
#pragma unroll
    for (int word = 0; word < Layout::kKeyWords; ++word) {
      const int c = Layout::KeyChannel(t, part, word, 0);
      uint32_t v[kHalf];  // the channels of a word of codes, two by two
#pragma unroll
      for (int i = 0; i < kHalf; ++i) {
        const bool there = g < used && c + 2 * i < kDim;
        v[i] = there ? *reinterpret_cast<const uint32_t*>(rows + g * QueryStride(kDim) + c + 2 * i) : 0;
        const float2 f = __half22float2(Halves(v[i]));
        sum += f.x + f.y;
      }
#pragma unroll
      for (int pair = 0; pair < kHalf; ++pair) {
        // The codes that CodePair takes from a word are half a word apart.
        const uint32_t both = __byte_perm(v[pair / 2], v[(pair + kHalf) / 2], pair % 2 ? 0x7632 : 0x5410);
        const int step =
            kTurn == Turn::kHalf ? word * kHalf + pair : ((part * Layout::kKeyWords + word) * kHalf + pair) / 2;
        q.fragments[step][kTurn == Turn::kHalf ? part : pair % 2] = both;
      }
    }
  }
#pragma unroll
  for (int step = 0; step < Layout::kSteps; ++step) {
    const __half2 first = Halves(q.fragments[step][0]), second = Halves(q.fragments[step][1]);
    if (kTurn != Turn::kNone && stores_ones && g < used) {
      StoreShared8(q.ones + step / 2 * 64 + step % 2 * 8, Bits(__hadd2(first, second)), Bits(__hsub2(second, first)));
    }
    // Codes that CodePair gives 16 times as large: every second pair.
    const __half2 small = __float2half2_rn(0.0625f);
    const bool odd = kTurn == Turn::kHalf && step % kHalf % 2;
    if (kBits == 4 && odd) q.fragments[step][0] = Bits(__hmul2(first, small));
    if (kBits == 4 && (odd || kTurn == Turn::kNone)) q.fragments[step][1] = Bits(__hmul2(second, small));
  }
#pragma unroll
  for (int d = 1; d < 4; d *= 2) sum += __shfl_xor_sync(~0u, sum, d);
  const float unit = args.scale * 1.44269504f * 2.0f;
  q.unit = unit * (kTurn == Turn::kNone ? 0x1p24f : 0x1p24f / kTableUnit);
  q.min_unit = kTurn == Turn::kNone ? unit : unit / kTableUnit;
#pragma unroll
  for (int j = 0; j < 2; ++j) q.sum[j] = __shfl_sync(~0u, sum * unit, 4 * (2 * t + j));
}

}  // namespace lowbit::cuda
