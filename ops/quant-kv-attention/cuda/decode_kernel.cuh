// The decode kernel: queries into fragments, a loop over this warp's keys, and the merge of all parts.
#pragma once
#include <climits>

#include "ops/quant-kv-attention/cuda/decode.cuh"

namespace lowbit::cuda {

// The queries as mma's right operand. Lane (g, t) has query g's channels in the order of its keys, at half their size:
// turned ones then stay in float16's range.
template <class Layout>
struct DecodeQuery {
  uint32_t fragments[Layout::kSteps][2];
  float sum[2];  // of all channels of queries 2t and 2t + 1, times `unit`
  float unit;    // turns products into scores, which are logarithms to base 2
};

constexpr int QueryStride(int dim) { return dim + 8; }  // halves: neighbouring rows start in different banks

// The block's queries, turned and halved, into shared memory.
template <int kDim>
__device__ __forceinline__ void StageQueries(const KvArgs& args, const KvSequence& sequence, int b, int kv_head,
                                             int first_row, int used, __half* to) {
  constexpr int kChunks = kDim / 8;
  const int group = args.group();
  for (int i = threadIdx.x; i < used * kChunks; i += blockDim.x) {
    const int row = i / kChunks, c = i % kChunks * 8, query = first_row + row, s = query / group;
    const __half* x = static_cast<const __half*>(args.q) + (static_cast<int64_t>(b) * args.tokens + s) * args.q_stride +
                      static_cast<int64_t>(kv_head * group + query % group) * kDim;
    const int position = sequence.start + s;
    float v[8] = {};
    if (position < sequence.length) LoadTurned(args, x, c, position, v);
    uint32_t w[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) w[j] = Bits(__floats2half2_rn(0.5f * v[2 * j], 0.5f * v[2 * j + 1]));
    *reinterpret_cast<uint4*>(to + row * QueryStride(kDim) + c) = make_uint4(w[0], w[1], w[2], w[3]);
  }
}

template <int kBits, int kDim, Turn kTurn, class Layout>
__device__ __forceinline__ void LoadQuery(const KvArgs& args, const __half* rows, int used, DecodeQuery<Layout>& q) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  constexpr int kHalf = Layout::kWordCodes / 2;
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
        const bool large = kTurn == Turn::kNone && kBits == 4 && pair % 2;  // its codes come 16 times as large
        const int step =
            kTurn == Turn::kHalf ? word * kHalf + pair : ((part * Layout::kKeyWords + word) * kHalf + pair) / 2;
        q.fragments[step][kTurn == Turn::kHalf ? part : pair % 2] =
            large ? Bits(__hmul2(Halves(both), __float2half2_rn(0.0625f))) : both;
      }
    }
  }
#pragma unroll
  for (int d = 1; d < 4; d *= 2) sum += __shfl_xor_sync(~0u, sum, d);
  const float unit = args.scale * 1.44269504f * 2.0f;
#pragma unroll
  for (int j = 0; j < 2; ++j) q.sum[j] = __shfl_sync(~0u, sum * unit, 4 * (2 * t + j));
  // Keys that are turned come at half their size as well.
  q.unit = kTurn == Turn::kNone ? unit * 0x1p24f : unit * 2.0f;
}

// What query rows 2t and 2t + 1 see, and their masks.
struct DecodeRows {
  int begin[2], end[2];
  const __half* mask[2];
};

// Four neighbouring entries of a RoPE table, or more; `half2` words.
template <int kWords>
__device__ __forceinline__ void LoadTable(const __half* from, uint32_t (&to)[kWords]) {
  if constexpr (kWords % 4 == 0) {
#pragma unroll
    for (int i = 0; i < kWords; i += 4) {
      const uint4 v = __ldg(reinterpret_cast<const uint4*>(from) + i / 4);
      to[i] = v.x, to[i + 1] = v.y, to[i + 2] = v.z, to[i + 3] = v.w;
    }
  } else {
#pragma unroll
    for (int i = 0; i < kWords; i += 2) {
      const uint2 v = __ldg(reinterpret_cast<const uint2*>(from) + i / 2);
      to[i] = v.x, to[i + 1] = v.y;
    }
  }
}

// (a, b) turned: what two pairs of 16-bit lanes hold of two channels each.
struct Turned {
  uint32_t first, second;
};
__device__ __forceinline__ Turned TurnPair(__half2 a, __half2 b, __half2 cos, __half2 sin) {
  return {Bits(__hfma2(a, cos, __hneg2(__hmul2(b, sin)))), Bits(__hfma2(b, cos, __hmul2(a, sin)))};
}

// scores^T of 16 keys and 8 queries: q . codes, or with kTurn q . turned keys.
template <int kBits, int kDim, Turn kTurn, class Layout>
__device__ __forceinline__ void Products(const KvArgs& args, const DecodeTile<Layout>& tile,
                                         const DecodeQuery<Layout>& q, int first, float (&sum)[4]) {
  constexpr int kPairs = Layout::kWordCodes / 2;  // of codes in a word
  float product[2][4] = {};                       // two chains: a product waits for the one before it
  if constexpr (kTurn == Turn::kNone) {
#pragma unroll
    for (int word = 0; word < Layout::kKeyWords; ++word) {
#pragma unroll
      for (int pair = 0; pair < kPairs; pair += 2) {
        const uint32_t low = tile.keys[0][0][word], high = tile.keys[1][0][word];
        const uint32_t(&b)[2] = q.fragments[(word * kPairs + pair) / 2];
        MmaF16(product[word % 2], CodePair<kBits>(low, pair), CodePair<kBits>(high, pair),
               CodePair<kBits>(low, pair + 1), CodePair<kBits>(high, pair + 1), b[0], b[1]);
      }
    }
  } else {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    constexpr int kTablePairs = kDim / 2;
    constexpr bool kIsHalf = kTurn == Turn::kHalf;
    constexpr int kWordPairs = kIsHalf ? Layout::kWordCodes : kPairs;  // channel pairs in a word
    __half2 scale[2], min[2];
    const __half *cos[2], *sin[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const __half2 params = __hmul2(Halves(tile.key_params[r]), __float2half2_rn(0.5f));
      scale[r] = __low2half2(params);
      min[r] = __high2half2(params);
      const int64_t at = static_cast<int64_t>(::min(first + g + 8 * r, args.limit - 1)) * kTablePairs;
      cos[r] = static_cast<const __half*>(args.cos) + at;
      sin[r] = static_cast<const __half*>(args.sin) + at;
    }
#pragma unroll
    for (int word = 0; word < Layout::kKeyWords; ++word) {
      uint32_t c[2][kWordPairs / 2], s[2][kWordPairs / 2];
      const int entry = kIsHalf ? Layout::KeyChannel(t, 0, word, 0) : Layout::KeyChannel(t, 0, word, 0) / 2;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        LoadTable<kWordPairs / 2>(cos[r] + entry, c[r]);
        LoadTable<kWordPairs / 2>(sin[r] + entry, s[r]);
      }
      if constexpr (kIsHalf) {
        // Pair i: channels i and i + kPairs of the word in the row's first half, and their partners in the second.
#pragma unroll
        for (int pair = 0; pair < kPairs; ++pair) {
          Turned turned[2];
#pragma unroll
          for (int r = 0; r < 2; ++r) {
            const __half2 a = __hfma2(CodeHalves<kBits>(tile.keys[r][0][word], pair), scale[r], min[r]);
            const __half2 b = __hfma2(CodeHalves<kBits>(tile.keys[r][1][word], pair), scale[r], min[r]);
            const uint32_t pick = pair % 2 ? 0x7632 : 0x5410;
            turned[r] = TurnPair(a, b, Halves(__byte_perm(c[r][pair / 2], c[r][(pair + kPairs) / 2], pick)),
                                 Halves(__byte_perm(s[r][pair / 2], s[r][(pair + kPairs) / 2], pick)));
          }
          const uint32_t(&b)[2] = q.fragments[word * kPairs + pair];
          MmaF16(product[word % 2], turned[0].first, turned[1].first, turned[0].second, turned[1].second, b[0], b[1]);
        }
      } else {
        // Pairs 2i and 2i + 1 of codes are the two channels of table entries i and i + kPairs / 2.
#pragma unroll
        for (int pair = 0; pair < kPairs; pair += 2) {
          Turned turned[2];
#pragma unroll
          for (int r = 0; r < 2; ++r) {
            const __half2 a = __hfma2(CodeHalves<kBits>(tile.keys[r][0][word], pair), scale[r], min[r]);
            const __half2 b = __hfma2(CodeHalves<kBits>(tile.keys[r][0][word], pair + 1), scale[r], min[r]);
            const int entry_a = pair / 2, entry_b = entry_a + kPairs / 2;
            const uint32_t pick = (entry_a % 2 ? 0x32 : 0x10) | (entry_b % 2 ? 0x7600 : 0x5400);
            turned[r] = TurnPair(a, b, Halves(__byte_perm(c[r][entry_a / 2], c[r][entry_b / 2], pick)),
                                 Halves(__byte_perm(s[r][entry_a / 2], s[r][entry_b / 2], pick)));
          }
          const uint32_t(&b)[2] = q.fragments[(word * kPairs + pair) / 2];
          MmaF16(product[word % 2], turned[0].first, turned[1].first, turned[0].second, turned[1].second, b[0], b[1]);
        }
      }
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) sum[i] = product[0][i] + product[1][i];
}

// y^T += V^T . weights^T for 16 values; `weights` is mma's right operand.
template <int kBits, class Layout>
__device__ __forceinline__ void AddValues(const DecodeTile<Layout>& tile, const uint32_t (&weights)[2],
                                          DecodeState<Layout>& state) {
#pragma unroll
  for (int unit = 0; unit < Layout::kUnits; ++unit) {
    const uint32_t pick = unit % 2 ? 0x7632 : 0x5410;  // this unit of two neighbouring values
    const uint32_t low = __byte_perm(tile.values[0][unit / 2], tile.values[1][unit / 2], pick);
    const uint32_t high = __byte_perm(tile.values[2][unit / 2], tile.values[3][unit / 2], pick);
#pragma unroll
    for (int pair = 0; pair < Layout::kUnitCodes; pair += 2) {
      MmaF16(state.sums[(unit * Layout::kUnitCodes + pair) / 2], CodePair<kBits>(low, pair),
             CodePair<kBits>(low, pair + 1), CodePair<kBits>(high, pair), CodePair<kBits>(high, pair + 1), weights[0],
             weights[1]);
    }
  }
}

// Scores less state.base of 16 keys. kPlain: every query of the block sees all of them, and nothing is added to scores.
template <Turn kTurn, bool kPlain, class Layout>
__device__ __forceinline__ void Scores(const KvArgs& args, const DecodeTile<Layout>& tile, const DecodeQuery<Layout>& q,
                                       int first, const DecodeRows& rows, const float (&product)[4],
                                       const DecodeState<Layout>& state, float (&score)[2][2], bool (&seen)[2][2]) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float2 key = ParamsOf(tile.key_params[r]);
    const float factor = kTurn == Turn::kNone ? q.unit * key.x : q.unit;
    const int j = first + threadIdx.x % 32 / 4 + 8 * r;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float base = kPlain ? state.base[i] : 0.0f;
      float x = fmaf(product[2 * r + i], factor, kTurn == Turn::kNone ? fmaf(key.y, q.sum[i], -base) : -base);
      if constexpr (!kPlain) {
        seen[r][i] = j >= rows.begin[i] && j < rows.end[i];
        if (args.softcap > 0.0f) {
          const float cap = args.softcap * 1.44269504f;
          x = cap * tanhf(x / cap);
        }
        if (args.mask && seen[r][i]) x += Widen(rows.mask[i][j]) * 1.44269504f;
        x = seen[r][i] ? x - state.base[i] : -__int_as_float(0x7f800000);
      }
      score[r][i] = x;
    }
  }
}

// One step of the running softmax.
template <int kBits, int kDim, Turn kTurn, bool kPlain, class Layout>
__device__ __forceinline__ void Step(const KvArgs& args, const DecodeTile<Layout>& tile, const DecodeQuery<Layout>& q,
                                     int first, const DecodeRows& rows, DecodeState<Layout>& state) {
  float product[4], score[2][2];
  bool seen[2][2] = {{true, true}, {true, true}};
  Products<kBits, kDim, kTurn>(args, tile, q, first, product);
  Scores<kTurn, kPlain>(args, tile, q, first, rows, product, state, score, seen);
  const float2 values[2] = {ParamsOf(tile.value_params[0]), ParamsOf(tile.value_params[1])};
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
  AddValues<kBits>(tile, weights, state);
}

// Each warp's sums and {top, total}, in the shared memory where the queries were.
struct DecodeShared {
  float *sums, *meta;
  int rows, dim;

  __device__ __forceinline__ DecodeShared(float* base, int used, int head_dim, int warps)
      : sums(base), meta(base + warps * used * head_dim), rows(used), dim(head_dim) {}
  __device__ __forceinline__ float* Sums(int warp, int row) const { return sums + (warp * rows + row) * dim; }
  __device__ __forceinline__ float* Meta(int warp, int row) const { return meta + 2 * (warp * rows + row); }
};

template <int kBits, class Layout>
__device__ __forceinline__ void StoreState(const DecodeState<Layout>& state, const DecodeShared& shared) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float total = state.total[i], minima = state.minima[i];
#pragma unroll
    for (int d = 4; d < 32; d *= 2) {
      total += __shfl_xor_sync(~0u, total, d);
      minima += __shfl_xor_sync(~0u, minima, d);
    }
    const int row = 2 * t + i;
    if (row >= shared.rows) continue;
    const float unit = 0x1p24f / state.value_factor;
    float* sums = shared.Sums(warp, row);
#pragma unroll
    for (int tile = 0; tile < Layout::kTiles; ++tile) {
      const int c0 = Layout::ValueChannel(g, 2 * tile / Layout::kUnitCodes, 2 * tile % Layout::kUnitCodes);
      if (c0 >= shared.dim) continue;
      sums[c0] = fmaf(state.sums[tile][i], unit, minima);
      sums[c0 + 1] = fmaf(state.sums[tile][2 + i], kBits == 4 ? unit * 0.0625f : unit, minima);
    }
    if (g == 0) shared.Meta(warp, row)[0] = state.top[i], shared.Meta(warp, row)[1] = total;
  }
}

// Weighted sums of several parts: {channel c, total} against the highest `top`.
struct Merged {
  float top = kNoScore, sum = 0.0f, total = 0.0f;

  __device__ __forceinline__ void Add(float part_top, float part_sum, float part_total) {
    const float high = fmaxf(top, part_top), own = Exp2(top - high), other = Exp2(part_top - high);
    top = high;
    sum = sum * own + part_sum * other;
    total = total * own + part_total * other;
  }
};

// The part at `rank` of the cluster, or this block's own.
__device__ __forceinline__ const float* PartOf(const float* p, int rank, int split) {
#if __CUDA_ARCH__ >= 900
  if (split > 1) return RemoteShared(p, static_cast<uint32_t>(rank));
#endif
  return p;
}

// Adds the parts of the block's warps into those of its first, then the cluster's blocks, and writes y.
template <int kDim>
__device__ __forceinline__ void Merge(const DecodePlan& plan, const DecodeShared& shared, const KvSequence& sequence,
                                      int b, int kv_head, int first_row, int rank) {
  const KvArgs& args = plan.args;
  const int threads = plan.warps * 32;
  for (int i = threadIdx.x; i < shared.rows * kDim; i += threads) {
    const int row = i / kDim, c = i % kDim;
    Merged m;
    for (int w = 0; w < plan.warps; ++w) m.Add(shared.Meta(w, row)[0], shared.Sums(w, row)[c], shared.Meta(w, row)[1]);
    shared.Sums(0, row)[c] = m.sum;
  }
  __syncthreads();
  if (threadIdx.x < shared.rows) {
    const int row = threadIdx.x;
    Merged m;
    for (int w = 0; w < plan.warps; ++w) m.Add(shared.Meta(w, row)[0], 0.0f, shared.Meta(w, row)[1]);
    shared.Meta(0, row)[0] = m.top, shared.Meta(0, row)[1] = m.total;
  }
#if __CUDA_ARCH__ >= 900
  if (plan.split > 1) ClusterSync();
#endif
  if (plan.split == 1) __syncthreads();
  const int group = args.group();
  for (int i = rank * threads + threadIdx.x; i < shared.rows * kDim; i += plan.split * threads) {
    const int row = i / kDim, c = i % kDim;
    Merged m;
#pragma unroll
    for (int r = 0; r < kMaxSplit; ++r) {
      if (r >= plan.split) break;
      const float* meta = PartOf(shared.Meta(0, row), r, plan.split);
      m.Add(meta[0], PartOf(shared.Sums(0, row), r, plan.split)[c], meta[1]);
    }
    const int query = first_row + row, s = query / group, head = kv_head * group + query % group;
    float y = m.total == 0.0f ? 0.0f : __fdividef(m.sum, m.total);
    if (sequence.start + s >= sequence.length) y = 0.0f;
    if (!sequence.valid) y = __int_as_float(0x7fc00000);
    const int64_t token = static_cast<int64_t>(b) * args.tokens + s;
    static_cast<__half*>(args.y)[(token * args.heads + head) * kDim + c] = __float2half_rn(y);
  }
#if __CUDA_ARCH__ >= 900
  if (plan.split > 1) ClusterSync();  // others may still read this block's part
#endif
}

// Warps of a multiprocessor: registers hold two steps of keys and values, and what turning keys takes.
template <int kBits, int kDim, Turn kTurn>
constexpr int kResidentWarps = kBits * kDim > 512     ? 8
                               : kTurn == Turn::kNone ? 16
                                                      : 12;

template <int kBits, int kDim, Turn kTurn>
__global__ __launch_bounds__(32 * kResidentWarps<kBits, kDim, kTurn>, 1)  //
    void DecodeKernel(const __grid_constant__ DecodePlan plan) {
  using Layout = DecodeLayout<kBits, kDim, kTurn>;
  extern __shared__ __align__(16) float smem[];
  const KvArgs& args = plan.args;
  const int warp = threadIdx.x / 32, t = threadIdx.x % 4, group = args.group();
  const int b = blockIdx.z, rank = blockIdx.x;
  const int kv_head = blockIdx.y / plan.row_blocks, first_row = blockIdx.y % plan.row_blocks * kDecodeRows;
  const int used = min(kDecodeRows, args.query_rows() - first_row);
  const KvSequence sequence(args, b);
  const DecodeSource<Layout> source(args, (static_cast<int64_t>(b) * args.kv_heads + kv_head) * args.present_k.rows);

  // Keys of the block: from the first that its first query sees to the last that its last one does.
  const int queries = sequence.length - sequence.start;
  const int last_s = min((first_row + used - 1) / group, queries - 1);
  const KvSpan first_span(args, sequence, first_row / group), last_span(args, sequence, max(0, last_s));
  const int begin = first_span.begin / kDecodeKeys * kDecodeKeys;
  const int end = queries > first_row / group ? last_span.end : 0;
  const int stride = plan.split * plan.warps * kDecodeKeys;
  int key = begin + (rank * plan.warps + warp) * kDecodeKeys;

  // Queries and lengths are older than the append kernel, which may still be writing the cache.
  __half* staged = reinterpret_cast<__half*>(smem);
  StageQueries<kDim>(args, sequence, b, kv_head, first_row, used, staged);
  WaitForPriorKernelsIfAny();
  DecodeTile<Layout> tile[2];
  if (key < end) tile[0].Load(source, key);
  __syncthreads();
  DecodeQuery<Layout> q;
  LoadQuery<kBits, kDim, kTurn>(args, staged, used, q);
  __syncthreads();  // the queries' memory becomes that of the sums

  DecodeRows rows;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int query = first_row + min(2 * t + i, used - 1), s = query / group;
    const KvSpan span(args, sequence, min(s, max(0, queries - 1)));
    rows.begin[i] = span.begin;
    rows.end[i] = span.end;
    rows.mask[i] = static_cast<const __half*>(args.mask);
    if (args.mask) {
      rows.mask[i] += b * args.mask_batch_stride + (kv_head * group + query % group) * args.mask_head_stride +
                      s * args.mask_row_stride;
    }
  }
  const bool plain = args.softcap <= 0.0f && !args.mask;
  const int plain_begin = plain ? last_span.begin : INT_MAX, plain_end = first_span.end;

  DecodeState<Layout> state;
  const auto step = [&](DecodeTile<Layout>& now, DecodeTile<Layout>& next) {
    if (key + stride < end) next.Load(source, key + stride);
    if (key >= plain_begin && key + kDecodeKeys <= plain_end) {
      Step<kBits, kDim, kTurn, true>(args, now, q, key, rows, state);
    } else {
      Step<kBits, kDim, kTurn, false>(args, now, q, key, rows, state);
    }
    key += stride;
  };
  while (key < end) {
    step(tile[0], tile[1]);
    if (key >= end) break;
    step(tile[1], tile[0]);
  }
  const DecodeShared shared(smem, used, kDim, plan.warps);
  StoreState<kBits>(state, shared);
  __syncthreads();
  Merge<kDim>(plan, shared, sequence, b, kv_head, first_row, rank);
}

}  // namespace lowbit::cuda
