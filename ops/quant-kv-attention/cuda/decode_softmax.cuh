// The running softmax of a warp of the decode kernel.
#pragma once
#include "ops/quant-kv-attention/cuda/decode_products.cuh"

namespace lowbit::cuda {

// A warp's running softmax over its share of the keys, for queries 2t and 2t + 1 of each lane.
template <class Layout, int kHeads>
struct DecodeState {
  float sums[Layout::kTiles][4] = {};   // y^T * value_factor * 2^-24, without the values' minima
  float top[2] = {kNoScore, kNoScore};  // at most 8 below the largest score so far
  float base[2] = {};                   // what weights are powers of 2 against: top, or 0 before there is one
  float total[2] = {}, minima[2] = {};
  float value_factor = 0x1p100f;  // brings weight * scale into float16's range: a power of two

  // New `top` and `value_factor`, for scores (less `base`) and a value scale that have outgrown them.
  __device__ __forceinline__ void Rescale(float (&score)[2][2], float largest) {
    float fade[2];
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      float high = fmaxf(top[j] - base[j], fmaxf(score[0][j], score[1][j]));
#pragma unroll
      for (int d = 4; d < 32; d *= 2) high = fmaxf(high, __shfl_xor_sync(~0u, high, d));
      high = fmaxf(high, kNoScore);
      fade[j] = Exp2(top[j] - base[j] - high);
      if (high > kNoScore) {
        score[0][j] -= high;
        score[1][j] -= high;
        top[j] = base[j] += high;
      }
      total[j] *= fade[j];
      minima[j] *= fade[j];
    }
    // NaN scales need no room. Not negative, so ordered like their bits.
    largest = __uint_as_float(__reduce_max_sync(~0u, __float_as_uint(fmaxf(largest, 0x1p-40f))));
    const float power = __uint_as_float(((254u + 6u) << 23) - (__float_as_uint(largest) & 0x7f800000u));
    const float factor = fminf(value_factor, power);  // largest * factor < 128
    const float change = factor / value_factor;
    value_factor = factor;
#pragma unroll
    for (int i = 0; i < Layout::kTiles; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) sums[i][j] *= fade[j & 1] * change;
    }
  }
};

// What query rows 2t and 2t + 1 see, and their masks.
struct DecodeRows {
  int begin[2], end[2];
  const __half* mask[2];

  DecodeRows() = default;
  // Columns are `heads` times as many queries, of neighbouring kv heads.
  __device__ __forceinline__ DecodeRows(const DecodePlan& plan, const KvSequence& sequence, int b, int kv_head,
                                        int heads, int first_row, int used) {
    const KvArgs& args = plan.args;
    const int queries = sequence.length - sequence.start, group = args.group(), each = kDecodeRows / heads;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int column = static_cast<int>(threadIdx.x % 4) * 2 + i, head = kv_head + column / each;
      const int query = first_row + min(column % each, used - 1), s = plan.Token(query);
      const KvSpan span(args, sequence, min(s, max(0, queries - 1)));
      begin[i] = span.begin;
      end[i] = span.end;
      mask[i] = static_cast<const __half*>(args.mask);
      if (args.mask) {
        mask[i] += b * args.mask_batch_stride + (head * group + query - s * group) * args.mask_head_stride +
                   s * args.mask_row_stride;
      }
    }
  }
};

// Scores less state.base of 16 keys. kPlain: every query of the block sees all of them, and nothing is added to scores.
template <Turn kTurn, bool kPlain, int kHeads, class Layout>
__device__ __forceinline__ void Scores(const KvArgs& args, const RingParams& params,
                                       const DecodeQuery<Layout, kTurn>& q, int first, const DecodeRows& rows,
                                       const KeyProducts<kHeads>& products, const DecodeState<Layout, kHeads>& state,
                                       float (&score)[2][2], bool (&seen)[2][2]) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float2 key = params.keys[r];
    const float factor = q.unit * key.x;
    const int j = first + static_cast<int>(threadIdx.x % 32 / 4) + 8 * r;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float base = kPlain ? state.base[i] : 0.0f;
      const float rest = kTurn == Turn::kNone ? fmaf(key.y, q.sum[i], -base)
                                              : fmaf(key.y * q.min_unit, products.ones[2 * r + i], -base);
      float x = fmaf(products.codes[0][2 * r + i], factor, rest);
      if constexpr (!kPlain) {
        seen[r][i] = j >= rows.begin[i] && j < rows.end[i];
        if (args.softcap > 0.0f) {
          const float cap = args.softcap * 1.44269504f;
          x = cap * tanhf(x / cap);
        }
        if (args.mask && seen[r][i]) x += WidenAt(rows.mask[i], j, IsBrain(args)) * 1.44269504f;
        x = seen[r][i] ? x - state.base[i] : -__int_as_float(0x7f800000);
      }
      score[r][i] = x;
    }
  }
}

// One step of the running softmax; keys from `end` on are seen by no query.
template <int kBits, Turn kTurn, bool kPlain, int kHeads, class Layout, class Ring, class Tables>
__device__ __forceinline__ void Step(const KvArgs& args, const Ring& ring, const DecodeQuery<Layout, kTurn>& q,
                                     const Tables& tables, int step, int first, int end, const DecodeRows& rows,
                                     DecodeState<Layout, kHeads>& state) {
  float score[2][2];
  bool seen[2][2] = {{true, true}, {true, true}};
  KeyProducts<kHeads> products;
  if constexpr (kTurn == Turn::kNone) {
    Products<kBits>(ring, q, products);
  } else {
    TurnedProducts<kBits>(ring, q, tables, step, products);
  }
  if constexpr (kHeads == 2) {
    const bool second = threadIdx.x % 4 >= 2;  // has columns of the second head
#pragma unroll
    for (int i = 0; i < 4; ++i) products.codes[0][i] = second ? products.codes[1][i] : products.codes[0][i];
  }
  const RingParams params = ring.Params();
  Scores<kTurn, kPlain, kHeads>(args, params, q, first, rows, products, state, score, seen);
  float2 values[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    values[r] = params.values[r];
    // What lies behind the sequence may be anything.
    if (!kPlain && first + static_cast<int>(threadIdx.x % 32 / 4) + 8 * r >= end) values[r] = {0.0f, 0.0f};
  }
  constexpr float kRoom = 8.0f;  // weights up to 2^8 fit float16 beside the values' scales
  const float highest = fmaxf(fmaxf(score[0][0], score[1][0]), fmaxf(score[0][1], score[1][1]));
  const float largest = fmaxf(values[0].x, values[1].x);
  const bool outgrown = highest > kRoom || largest * state.value_factor >= 128.0f;
  if (__any_sync(~0u, outgrown || fminf(state.top[0], state.top[1]) == kNoScore)) state.Rescale(score, largest);
  uint32_t weights[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float factor = values[r].x * state.value_factor;
    float scaled[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float weight = Exp2(score[r][i]);
      state.total[i] += weight;
      // A key that is not seen may hold NaN: it must not meet its weight of 0.
      scaled[i] = kPlain || seen[r][i] ? weight * factor : 0.0f;
      if (kPlain || seen[r][i]) state.minima[i] = fmaf(weight, values[r].y, state.minima[i]);
    }
    weights[r] = Transpose8x8(Bits(__floats2half2_rn(scaled[0], scaled[1])));
  }
  if constexpr (kHeads == 1) {
    AddValues<kBits, Layout>(ring, 0, weights, state.sums);
  } else {
    const bool high = threadIdx.x % 32 >= 16;  // columns of the second head
    const uint32_t low[2] = {high ? 0 : weights[0], high ? 0 : weights[1]};
    AddValues<kBits, Layout>(ring, 0, low, state.sums);
    const uint32_t other[2] = {high ? weights[0] : 0, high ? weights[1] : 0};
    AddValues<kBits, Layout>(ring, 1, other, state.sums);
  }
}

}  // namespace lowbit::cuda
