// The queries of a block, turned, as right operands of mma.
#pragma once
#include "ops/quant-kv-attention/cuda/decode_tables.cuh"

namespace lowbit::cuda {

// The queries as mma's right operand. Lane (g, t) has query g's channels in the order of its keys, at half their size:
// turned ones then stay in float16's range. With x a code and R the turn of its position, q . R(x * scale + min) is
// scale * (q . Rx) + min * (q . R1).
template <class Layout, Turn kTurn>
struct DecodeQuery {
  // With turned keys, operands lie in shared memory: of a query, for each mma step, q for the codes, and for R1 of each
  // pair of channels (i, j) q_i + q_j, which cos multiplies, and q_j - q_i, for sin. Some bytes more, so that
  // neighbours start in different banks.
  static constexpr bool kShared = kTurn != Turn::kNone;
  static constexpr int kOperandBytes = kShared ? Layout::kSteps * 64 + 64 : 0;

  uint32_t operand = 0;  // shared address of this lane's, or
  uint32_t fragments[kShared ? 1 : Layout::kSteps][2];
  float sum[2];          // otherwise: all channels of queries 2t and 2t + 1, times min_unit
  float unit, min_unit;  // turn products into scores, which are logarithms to base 2
};

// The block's queries, turned and halved, into shared memory, a chunk of 8 channels at a time. What a thread's first
// chunk needs is asked for by Ask, long before Store waits for it. Rows are kStride halves apart.
template <int kDim, int kStride>
struct QueryStage {
  static constexpr int kChunks = kDim / 8;

  const DecodePlan& plan;
  int b, first_head, heads, first_row;
  SmallDivisor used;
  bool asked = false;
  uint4 own{}, other{}, cos{}, sin{};

  __device__ __forceinline__ int count() const { return heads * used.divisor * kChunks; }
  __device__ __forceinline__ bool turns() const {
    return plan.args.rotary == KvRotary::kHalf && plan.args.pairs % 8 == 0;
  }

  // Of chunk i: its channels, its new token, and where the query lies.
  struct Place {
    int c, s;
    const __half* x;
  };
  __device__ __forceinline__ Place At(int i) const {
    const int at = i / kChunks, head = used.Of(at), query = first_row + at - head * used.divisor, s = plan.Token(query);
    const int group = plan.args.group(), q_head = (first_head + head) * group + query - s * group;
    return {i % kChunks * 8, s,
            static_cast<const __half*>(plan.args.q) +
                (static_cast<int64_t>(b) * plan.args.tokens + s) * plan.args.q_stride +
                static_cast<int64_t>(q_head) * kDim};
  }
  __device__ static __forceinline__ uint4 Load(const void* table, int64_t element) {
    return __ldg(reinterpret_cast<const uint4*>(static_cast<const __half*>(table) + element));
  }

  __device__ __forceinline__ void Ask(const KvSequence& sequence) {
    const KvArgs& args = plan.args;
    if (static_cast<int>(threadIdx.x) >= count() || !turns()) return;
    const Place at = At(threadIdx.x);
    const int position = sequence.start + at.s;
    if (position >= sequence.length) return;
    asked = true;
    own = Load(at.x, at.c);
    if (at.c >= 2 * args.pairs) return;
    const int pair = at.c < args.pairs ? at.c : at.c - args.pairs;
    other = Load(at.x, at.c < args.pairs ? at.c + args.pairs : pair);
    cos = Load(args.cos, static_cast<int64_t>(position) * args.pairs + pair);
    sin = Load(args.sin, static_cast<int64_t>(position) * args.pairs + pair);
  }

  __device__ __forceinline__ void Store(const KvSequence& sequence, __half* to) const {
    const KvArgs& args = plan.args;
    for (int i = threadIdx.x; i < count(); i += blockDim.x) {
      const Place at = At(i);
      float v[8] = {};
      if (asked && i == static_cast<int>(threadIdx.x)) {
        TurnAsked(args, at.c, v);
      } else if (sequence.start + at.s < sequence.length) {
        if (IsBrain(args)) {
          LoadTurned(args, reinterpret_cast<const __nv_bfloat16*>(at.x), at.c, sequence.start + at.s, v);
        } else {
          LoadTurned(args, at.x, at.c, sequence.start + at.s, v);
        }
      }
      uint32_t w[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) w[j] = Bits(__floats2half2_rn(0.5f * v[2 * j], 0.5f * v[2 * j + 1]));
      *reinterpret_cast<uint4*>(to + i / kChunks * kStride + at.c) = make_uint4(w[0], w[1], w[2], w[3]);
    }
  }

 private:
  // As LoadTurned.
  __device__ __forceinline__ void TurnAsked(const KvArgs& args, int c, float (&v)[8]) const {
    float across[8], cosines[8], sines[8];
    Widen8(args, own, v);
    if (c >= 2 * args.pairs) return;
    Widen8(args, other, across);
    Widen8(args, cos, cosines);
    Widen8(args, sin, sines);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float turned = __fmul_rn(v[i], cosines[i]), rest = __fmul_rn(across[i], sines[i]);
      v[i] = c >= args.pairs ? __fadd_rn(turned, rest) : __fsub_rn(turned, rest);
    }
  }
  __device__ static __forceinline__ void Widen8(const KvArgs& args, const uint4& words, float (&v)[8]) {
    const uint32_t w[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 f = WidenPair(w[i], IsBrain(args));
      v[2 * i] = f.x, v[2 * i + 1] = f.y;
    }
  }
};

// The same where RoPE turns the first half of the channels with the second, as many as the keys have: a thread has a
// chunk of 8 channels of each half, and stores the operands that it makes.
template <class Layout, int kBits, int kDim>
struct HalvesStage {
  static constexpr int kChunks = kDim / 16, kHalf = Layout::kWordCodes / 2;

  const DecodePlan& plan;
  int b, first_head, heads, first_row;
  SmallDivisor used;
  bool asked = false;
  uint4 low{}, high{}, cos{}, sin{};

  __device__ __forceinline__ int count() const { return heads * used.divisor * kChunks; }

  // What chunk pair i needs; false for a query behind its sequence.
  __device__ __forceinline__ bool Load(const KvSequence& sequence, int i) {
    const KvArgs& args = plan.args;
    const int at = i / kChunks, c = i % kChunks * 8, head = used.Of(at), query = first_row + at - head * used.divisor;
    const int s = plan.Token(query), group = args.group(), position = sequence.start + s;
    if (position >= sequence.length) return false;
    const int64_t x = (static_cast<int64_t>(b) * args.tokens + s) * args.q_stride +
                      static_cast<int64_t>((first_head + head) * group + query - s * group) * kDim + c;
    const int64_t table = static_cast<int64_t>(position) * (kDim / 2) + c;
    const auto load = [](const void* from, int64_t element) {
      return __ldg(reinterpret_cast<const uint4*>(static_cast<const uint16_t*>(from) + element));
    };
    low = load(args.q, x), high = load(args.q, x + kDim / 2);
    cos = load(args.cos, table), sin = load(args.sin, table);
    return true;
  }

  __device__ __forceinline__ void Ask(const KvSequence& sequence) {
    if (static_cast<int>(threadIdx.x) < count()) asked = Load(sequence, threadIdx.x);
  }

  __device__ __forceinline__ void Store(const KvSequence& sequence, uint32_t operands) {
    for (int i = threadIdx.x; i < count(); i += blockDim.x) {
      if (i != static_cast<int>(threadIdx.x)) asked = Load(sequence, i);
      uint32_t first[4] = {}, second[4] = {};
      if (asked) Turn(first, second);
        // Words of codes of a chunk; neighbouring words are neighbouring lanes'.
#pragma unroll
      for (int w = 0; w < 4 / kHalf; ++w) {
        const int slot = i % kChunks * (4 / kHalf) + w, word = slot / 4, t = slot % 4;
        const uint32_t to = operands + i / kChunks * DecodeQuery<Layout, Turn::kHalf>::kOperandBytes + t * 16;
#pragma unroll
        for (int pair = 0; pair < kHalf; ++pair) {
          // The codes that CodePair takes from a word are half a word apart.
          const uint32_t pick = pair % 2 ? 0x7632 : 0x5410;
          const int a = w * kHalf + pair / 2, b = w * kHalf + (pair + kHalf) / 2;
          const __half2 x = Halves(__byte_perm(first[a], first[b], pick));
          const __half2 y = Halves(__byte_perm(second[a], second[b], pick));
          // Codes that CodePair gives 16 times as large: every second pair.
          const __half2 unit = __float2half2_rn(kBits == 4 && pair % 2 ? 0.0625f : 1.0f);
          StoreShared16(to + (word * kHalf + pair) * 64, make_uint4(Bits(__hmul2(x, unit)), Bits(__hmul2(y, unit)),
                                                                    Bits(__hadd2(x, y)), Bits(__hsub2(y, x))));
        }
      }
    }
  }

 private:
  // As LoadTurned, at half the size.
  __device__ __forceinline__ void Turn(uint32_t (&first)[4], uint32_t (&second)[4]) const {
    const bool brain = IsBrain(plan.args);
    const uint32_t l[4] = {low.x, low.y, low.z, low.w}, h[4] = {high.x, high.y, high.z, high.w};
    const uint32_t c[4] = {cos.x, cos.y, cos.z, cos.w}, s[4] = {sin.x, sin.y, sin.z, sin.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 a = WidenPair(l[i], brain), b = WidenPair(h[i], brain);
      const float2 cosine = WidenPair(c[i], brain), sine = WidenPair(s[i], brain);
      const auto minus = [](float a, float cosine, float b, float sine) {
        return 0.5f * __fsub_rn(__fmul_rn(a, cosine), __fmul_rn(b, sine));
      };
      const auto plus = [](float a, float cosine, float b, float sine) {
        return 0.5f * __fadd_rn(__fmul_rn(a, cosine), __fmul_rn(b, sine));
      };
      first[i] = Bits(__floats2half2_rn(minus(a.x, cosine.x, b.x, sine.x), minus(a.y, cosine.y, b.y, sine.y)));
      second[i] = Bits(__floats2half2_rn(plus(b.x, cosine.x, a.x, sine.x), plus(b.y, cosine.y, a.y, sine.y)));
    }
  }
};

// Where the lane's operands lie of the warp's heads' queries, `operands`, and the units of its products.
template <int kHeads, class Layout, Turn kTurn>
__device__ __forceinline__ void LocateQuery(const KvArgs& args, int used, uint32_t operands,
                                            DecodeQuery<Layout, kTurn>& q) {
  constexpr int kEach = kDecodeRows / kHeads;
  const int column = threadIdx.x % 32 / 4, row = column / kEach * used + min(column % kEach, used - 1);
  q.operand = operands + row * DecodeQuery<Layout, kTurn>::kOperandBytes + threadIdx.x % 4 * 16;
  const float unit = args.scale * 1.44269504f * 2.0f;
  q.unit = unit * (kTurn == Turn::kNone ? 0x1p24f : 0x1p24f / kTableUnit);
  q.min_unit = kTurn == Turn::kNone ? unit : unit / kTableUnit;
}

// The lane's part of the staged queries `rows` of the warp's first head; those of keys that are turned with their
// neighbours go to `operands`, if `stores`.
template <int kBits, int kDim, Turn kTurn, int kHeads, int kStride, class Layout>
__device__ __forceinline__ void LoadQuery(const KvArgs& args, const __half* rows, int used, uint32_t operands,
                                          bool stores, DecodeQuery<Layout, kTurn>& q) {
  constexpr int kEach = kDecodeRows / kHeads, kHalf = Layout::kWordCodes / 2;
  const int lane = threadIdx.x % 32, column = lane / 4, t = lane % 4;
  const bool there = column % kEach < used;
  const int row = column / kEach * used + min(column % kEach, used - 1);
  const float unit = args.scale * 1.44269504f * 2.0f;
  LocateQuery<kHeads>(args, used, operands, q);
  if (kTurn != Turn::kNone && !stores) return;
  float sum = 0.0f;
  uint32_t fragments[Layout::kSteps][2];
#pragma unroll
  for (int word = 0; word < Layout::kKeyWords; ++word) {
    const int c = Layout::KeyChannel(t, 0, word, 0);
    uint32_t v[kHalf] = {};  // the channels of a word of codes, two by two
    if (there && c < kDim) {
      const __half* from = rows + row * kStride + c;
      if constexpr (kHalf == 4) {
        const uint4 four = *reinterpret_cast<const uint4*>(from);
        v[0] = four.x, v[1] = four.y, v[2] = four.z, v[3] = four.w;
      } else {
        const uint2 two = *reinterpret_cast<const uint2*>(from);
        v[0] = two.x, v[1] = two.y;
      }
    }
#pragma unroll
    for (int i = 0; i < kHalf; ++i) {
      const float2 f = __half22float2(Halves(v[i]));
      sum += f.x + f.y;
    }
#pragma unroll
    for (int pair = 0; pair < kHalf; ++pair) {
      // The codes that CodePair takes from a word are half a word apart.
      const uint32_t both = __byte_perm(v[pair / 2], v[(pair + kHalf) / 2], pair % 2 ? 0x7632 : 0x5410);
      fragments[(word * kHalf + pair) / 2][pair % 2] = both;
    }
  }
#pragma unroll
  for (int step = 0; step < Layout::kSteps; ++step) {
    const __half2 first = Halves(fragments[step][0]), second = Halves(fragments[step][1]);
    // Codes that CodePair gives 16 times as large: every second pair.
    const __half2 small = __float2half2_rn(0.0625f);
    if (kBits == 4 && kTurn == Turn::kNone) fragments[step][1] = Bits(__hmul2(second, small));
    if constexpr (kTurn == Turn::kNone) {
      q.fragments[step][0] = fragments[step][0], q.fragments[step][1] = fragments[step][1];
    } else if (there) {
      StoreShared16(q.operand + step * 64, make_uint4(fragments[step][0], fragments[step][1],
                                                      Bits(__hadd2(first, second)), Bits(__hsub2(second, first))));
    }
  }
  if constexpr (kTurn == Turn::kNone) {
#pragma unroll
    for (int d = 1; d < 4; d *= 2) sum += __shfl_xor_sync(~0u, sum, d);
#pragma unroll
    for (int j = 0; j < 2; ++j) q.sum[j] = __shfl_sync(~0u, sum * unit, 4 * (2 * t + j));
  }
}

}  // namespace lowbit::cuda
