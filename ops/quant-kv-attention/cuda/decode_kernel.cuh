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

// Rows of the RoPE tables in shared memory, those of this step and of the next, shared by warps that have the same keys
// of different heads. A row is cos and sin side by side, its 16-byte chunks in an order that spreads what a warp reads
// at once over the banks.
template <int kDim>
struct TableStage {
  static constexpr int kPairs = kDim / 2, kChunks = kDim / 8;
  static constexpr int kRowBytes = 16 * kChunks, kStepBytes = kDecodeKeys * kRowBytes;
  static constexpr int kAtOnce = 32 / kChunks;  // rows that a warp asks for at once, each lane one chunk
  static_assert(kChunks <= 32);
  uint32_t base = 0;             // shared address
  const __half* from = nullptr;  // the lane's chunk of row `own`
  int own = 0, place = 0, warps = 1;

  __device__ static constexpr int Place(int row, int chunk) {
    return chunk ^ (row & 1) * (kChunks == 8 ? 4 : 1) ^ (chunk >> 3 & 1) << 1;
  }

  // `warp` of the `sharing` warps that share.
  __device__ __forceinline__ void Start(const KvArgs& args, uint32_t shared, int warp, int sharing) {
    const int lane = threadIdx.x % 32, chunk = lane % kChunks;
    base = shared;
    warps = sharing;
    own = warp * kAtOnce + lane / kChunks;
    place = Place(own, chunk);
    from = static_cast<const __half*>(chunk < kChunks / 2 ? args.cos : args.sin) + chunk % (kChunks / 2) * 8;
  }

  // Asks for this warp's share of the rows of positions [first, first + 16); beyond the tables their last row comes.
  __device__ __forceinline__ void Ask(const KvArgs& args, int first, int step) const {
    const uint32_t to = base + step % 2 * kStepBytes;
    const int most = args.limit - 1 - first;
    const __half* rows = from + static_cast<int64_t>(first) * kPairs;
    for (int row = own; row < kDecodeKeys; row += kAtOnce * warps) {
      // Where a warp asks for one row at once, its rows are even and odd in turn.
      const int flipped = kAtOnce == 1 ? place ^ ((row ^ own) & 1) : place;
      AsyncCopy16(to + row * kRowBytes + flipped * 16, rows + ::min(row, most) * kPairs);
    }
    AsyncCommit();
  }

  // What this warp asked for is there; then, what all did. `barrier` is theirs.
  __device__ __forceinline__ void Await(int barrier) const {
    AsyncWait<0>();
    if (warps == 1) {
      __syncwarp();
    } else {
      asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(32 * warps) : "memory");
    }
  }

  // 2 * kWords neighbouring entries, which lie in one chunk.
  template <int kWords>
  __device__ __forceinline__ void Load(int step, int row, bool sin, int entry, uint32_t (&to)[kWords]) const {
    const int chunk = (sin ? kChunks / 2 : 0) + entry / 8;
    const uint32_t at = base + step % 2 * kStepBytes + row * kRowBytes + Place(row, chunk) * 16 + entry % 8 * 2;
    if constexpr (kWords == 4) {
      const uint4 v = LoadShared16(at);
      to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
    } else {
#pragma unroll
      for (int i = 0; i < kWords; ++i) {
        asm volatile("ld.shared.u32 %0, [%1];" : "=r"(to[i]) : "r"(at + 4 * i) : "memory");
      }
    }
  }
};

// (a, b) turned: what two pairs of 16-bit lanes hold of two channels each.
struct Turned {
  uint32_t first, second;
};
__device__ __forceinline__ Turned TurnPair(__half2 a, __half2 b, __half2 cos, __half2 sin) {
  return {Bits(__hfma2(a, cos, __hneg2(__hmul2(b, sin)))), Bits(__hfma2(b, cos, __hmul2(a, sin)))};
}

// scores^T of 16 keys and 8 queries: q . codes, or with kTurn q . turned keys.
template <int kBits, int kDim, Turn kTurn, class Layout>
__device__ __forceinline__ void Products(const DecodeTile<Layout>& tile, const DecodeQuery<Layout>& q,
                                         const TableStage<kDim>& tables, int step, float (&sum)[4]) {
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
    constexpr bool kIsHalf = kTurn == Turn::kHalf;
    constexpr int kWordPairs = kIsHalf ? Layout::kWordCodes : kPairs;  // channel pairs in a word
    __half2 scale[2], min[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const __half2 params = __hmul2(Halves(tile.key_params[r]), __float2half2_rn(0.5f));
      scale[r] = __low2half2(params);
      min[r] = __high2half2(params);
    }
#pragma unroll
    for (int word = 0; word < Layout::kKeyWords; ++word) {
      uint32_t c[2][kWordPairs / 2], s[2][kWordPairs / 2];
      const int entry = kIsHalf ? Layout::KeyChannel(t, 0, word, 0) : Layout::KeyChannel(t, 0, word, 0) / 2;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        tables.Load(step, g + 8 * r, false, entry, c[r]);
        tables.Load(step, g + 8 * r, true, entry, s[r]);
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

// One step of the running softmax. `keys_done` may load the next keys.
template <int kBits, int kDim, Turn kTurn, bool kPlain, class Layout, class KeysDone>
__device__ __forceinline__ void Step(const KvArgs& args, const DecodeTile<Layout>& tile, const DecodeQuery<Layout>& q,
                                     const TableStage<kDim>& tables, int step, int first, const DecodeRows& rows,
                                     DecodeState<Layout>& state, const KeysDone& keys_done) {
  float product[4], score[2][2];
  bool seen[2][2] = {{true, true}, {true, true}};
  Products<kBits, kDim, kTurn>(tile, q, tables, step, product);
  Scores<kTurn, kPlain>(args, tile, q, first, rows, product, state, score, seen);
  keys_done();
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
    const float unit = __fdividef(0x1p24f, state.value_factor);  // a power of two
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

// For each head, adds the parts of the block's warps into those of the first that has it, then the cluster's blocks,
// and writes y.
template <int kDim>
__device__ __forceinline__ void Merge(const DecodePlan& plan, const DecodeShared& shared, const KvSequence& sequence,
                                      int b, int first_head, int first_row, int rank) {
  const KvArgs& args = plan.args;
  const int threads = plan.warps * 32, rows = plan.head_warps * shared.rows;  // of all heads
  if (plan.warps > plan.head_warps) {
    for (int i = threadIdx.x; i < rows * kDim; i += threads) {
      const int head = i / kDim / shared.rows, row = i / kDim - head * shared.rows, c = i % kDim;
      Merged m;
      for (int w = head; w < plan.warps; w += plan.head_warps) {
        m.Add(shared.Meta(w, row)[0], shared.Sums(w, row)[c], shared.Meta(w, row)[1]);
      }
      shared.Sums(head, row)[c] = m.sum;
    }
    __syncthreads();
    if (threadIdx.x < rows) {
      const int head = threadIdx.x / shared.rows, row = threadIdx.x - head * shared.rows;
      Merged m;
      for (int w = head; w < plan.warps; w += plan.head_warps) {
        m.Add(shared.Meta(w, row)[0], 0.0f, shared.Meta(w, row)[1]);
      }
      shared.Meta(head, row)[0] = m.top, shared.Meta(head, row)[1] = m.total;
    }
  }
#if __CUDA_ARCH__ >= 900
  if (plan.split > 1) ClusterSync();
#endif
  if (plan.split == 1) __syncthreads();
  const int group = args.group();
  for (int i = rank * threads + threadIdx.x; i < rows * kDim; i += plan.split * threads) {
    const int head = i / kDim / shared.rows, row = i / kDim - head * shared.rows, c = i % kDim;
    Merged m;
#pragma unroll
    for (int r = 0; r < kMaxSplit; ++r) {
      if (r >= plan.split) break;
      const float* meta = PartOf(shared.Meta(head, row), r, plan.split);
      m.Add(meta[0], PartOf(shared.Sums(head, row), r, plan.split)[c], meta[1]);
    }
    const int query = first_row + row, s = plan.Token(query), q_head = (first_head + head) * group + query - s * group;
    float y = m.total == 0.0f ? 0.0f : __fdividef(m.sum, m.total);
    if (sequence.start + s >= sequence.length) y = 0.0f;
    if (!sequence.valid) y = __int_as_float(0x7fc00000);
    const int64_t token = static_cast<int64_t>(b) * args.tokens + s;
    static_cast<__half*>(args.y)[(token * args.heads + q_head) * kDim + c] = __float2half_rn(y);
  }
#if __CUDA_ARCH__ >= 900
  if (plan.split > 1) ClusterSync();  // others may still read this block's part
#endif
}

// Warps of a multiprocessor: registers hold two steps of keys and values, and what turning keys takes.
template <int kBits, int kDim, Turn kTurn>
constexpr int kResidentWarps = kBits * kDim > 1024 ? 8
                               : kBits* kDim > 512 ? 12
                                                   : 16;

template <int kBits, int kDim, Turn kTurn>
__global__ __launch_bounds__(32 * kResidentWarps<kBits, kDim, kTurn>, 1)  //
    void DecodeKernel(const __grid_constant__ DecodePlan plan) {
  using Layout = DecodeLayout<kBits, kDim, kTurn>;
  extern __shared__ __align__(16) float smem[];
  const KvArgs& args = plan.args;
  const int warp = threadIdx.x / 32, t = threadIdx.x % 4, group = args.group();
  const int rank = blockIdx.x;
  const int first_head = blockIdx.y * plan.head_warps, kv_head = first_head + warp % plan.head_warps;
  const int key_warps = plan.warps / plan.head_warps, key_warp = warp / plan.head_warps;
  const int b = blockIdx.z / plan.row_blocks, first_row = blockIdx.z % plan.row_blocks * kDecodeRows;
  const int used = min(kDecodeRows, args.query_rows() - first_row);
  const KvSequence sequence(args, b);
  const DecodeSource<Layout> source(args, (static_cast<int64_t>(b) * args.kv_heads + kv_head) * args.present_k.rows);

  // Keys of the block: from the first that its first query sees to the last that its last one does.
  const int queries = sequence.length - sequence.start;
  const int first_s = plan.Token(first_row), last_s = min(plan.Token(first_row + used - 1), queries - 1);
  const KvSpan first_span(args, sequence, first_s), last_span(args, sequence, max(0, last_s));
  const int begin = first_span.begin / kDecodeKeys * kDecodeKeys;
  const int end = queries > first_s ? last_span.end : 0;
  const int stride = plan.split * key_warps * kDecodeKeys;
  int key = begin + (rank * key_warps + key_warp) * kDecodeKeys;

  // Queries and lengths are older than the append kernel, which may still be writing the cache.
  __half* staged = reinterpret_cast<__half*>(smem);
  StageQueries<kDim>(plan, sequence, b, first_head, first_row, used, staged);
  TableStage<kDim> tables;
  constexpr bool kTables = kTurn != Turn::kNone;
  if constexpr (kTables) {
    tables.Start(args, SharedAddress(smem) + plan.table_offset + key_warp * 2 * TableStage<kDim>::kStepBytes,
                 warp % plan.head_warps, plan.head_warps);
    if (key < end) tables.Ask(args, key, 0);
  }
  WaitForPriorKernelsIfAny();
  DecodeTile<Layout> tile;
  if (key < end) {
    tile.LoadKeys(source, key);
    tile.LoadValues(source, key);
  }
  __syncthreads();
  DecodeQuery<Layout> q;
  LoadQuery<kBits, kDim, kTurn>(args, staged + warp % plan.head_warps * used * QueryStride(kDim), used, q);
  __syncthreads();  // the queries' memory becomes that of the sums

  DecodeRows rows;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int query = first_row + min(2 * t + i, used - 1), s = plan.Token(query);
    const KvSpan span(args, sequence, min(s, max(0, queries - 1)));
    rows.begin[i] = span.begin;
    rows.end[i] = span.end;
    rows.mask[i] = static_cast<const __half*>(args.mask);
    if (args.mask) {
      rows.mask[i] += b * args.mask_batch_stride + (kv_head * group + query - s * group) * args.mask_head_stride +
                      s * args.mask_row_stride;
    }
  }
  const bool plain = args.softcap <= 0.0f && !args.mask;
  const int plain_begin = plain ? last_span.begin : INT_MAX, plain_end = first_span.end;

  DecodeState<Layout> state;
  // Registers take the next keys when these have become scores, the next values when these are added.
  for (int step = 0; key < end; ++step, key += stride) {
    const bool more = key + stride < end;
    if constexpr (kTables) {
      tables.Await(1 + key_warp);  // also: all have done with what is overwritten now
      if (more) tables.Ask(args, key + stride, step + 1);
    }
    const auto keys_done = [&] {
      if (more) tile.LoadKeys(source, key + stride);
    };
    if (key >= plain_begin && key + kDecodeKeys <= plain_end) {
      Step<kBits, kDim, kTurn, true>(args, tile, q, tables, step, key, rows, state, keys_done);
    } else {
      Step<kBits, kDim, kTurn, false>(args, tile, q, tables, step, key, rows, state, keys_done);
    }
    if (more) tile.LoadValues(source, key + stride);
  }
  const DecodeShared shared(smem, used, kDim, plan.warps);
  StoreState<kBits>(state, shared);
  __syncthreads();
  Merge<kDim>(plan, shared, sequence, b, first_head, first_row, rank);
}

}  // namespace lowbit::cuda
