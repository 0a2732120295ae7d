// Cache rows and queries into the prefill kernel's shared memory: codes unpacked, dequantized and turned, 8 channels at
// a time, in chunks of 16 bytes (tile_descriptors.cuh). Eight lanes take the same chunk of eight neighbouring rows, so
// that their stores meet no bank twice; the four groups of a warp take neighbouring chunks, so that loads join up.
#pragma once
#include "ops/common/cuda/ptx.cuh"
#include "ops/quant-kv-attention/cuda/prefill_items.cuh"

namespace lowbit::cuda {

// How rows become tiles. As constants where they can be: a branch for each chunk costs more than the chunk.
enum class Filling : int {
  kPlain,   // dequantized only
  kHalves,  // all channels turned, first half with second, by float16 tables
  kAny,     // whatever the arguments say
};

// What of a row a lane handles at once: a chunk, or two whose channels RoPE turns together.
template <Filling kFilling, int kDim>
struct ChunkPlan {
  int any_pairs = 0, any_turned = 0;

  __device__ __forceinline__ explicit ChunkPlan(const KvArgs& args) {
    if (kFilling == Filling::kAny && args.rotary == KvRotary::kHalf) any_pairs = args.pairs / 8;
    if (kFilling == Filling::kAny && args.rotary == KvRotary::kInterleaved) any_turned = args.pairs / 4;
  }
  // Items below are two chunks, c and c + pairs.
  __device__ __forceinline__ int pairs() const {
    return kFilling == Filling::kPlain ? 0 : kFilling == Filling::kHalves ? kDim / 16 : any_pairs;
  }
  __device__ __forceinline__ int items() const { return kDim / 8 - pairs(); }
  // Chunks below hold neighbours that are turned together (interleaved).
  __device__ __forceinline__ int turned_chunks() const { return kFilling == Filling::kAny ? any_turned : 0; }
  __device__ __forceinline__ int chunk(int item) const { return item < pairs() ? item : item + pairs(); }
};

// Eight float16 numbers.
struct Chunk {
  __half2 v[4];
};

__device__ __forceinline__ uint4 WordsOf(const Chunk& c) {
  uint4 w;
  __builtin_memcpy(&w, &c, 16);
  return w;
}

template <int kBytes>
struct CodeWords;
template <>
struct CodeWords<4> {
  uint32_t w[1];
};
template <>
struct CodeWords<8> {
  uint32_t w[2];
};

// The codes of a chunk: 4 or 8 bytes.
template <int kBits>
__device__ __forceinline__ CodeWords<kBits> LoadCodes(const uint8_t* row, int chunk) {
  CodeWords<kBits> c;
  if constexpr (kBits == 4) {
    c.w[0] = __ldg(reinterpret_cast<const uint32_t*>(row) + chunk);
  } else {
    const uint2 v = __ldg(reinterpret_cast<const uint2*>(row) + chunk);
    c.w[0] = v.x, c.w[1] = v.y;
  }
  return c;
}

// code * scale + min, rounded to float16.
template <int kBits>
__device__ __forceinline__ Chunk Dequantize(const CodeWords<kBits>& codes, __half2 scale, __half2 min) {
  // In float16, 0x6400 | c is 1024 + c, and 0x6400 | c << 4 is 1024 + 16 c: one fused step gives c exactly.
  const auto halves = [](uint32_t bits) { return *reinterpret_cast<const __half2*>(&bits); };
  Chunk chunk;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    __half2 c;
    if constexpr (kBits == 4) {
      const uint32_t twice = __byte_perm(codes.w[0], 0, 0x4040 + 0x0101 * i);  // byte i into both halves
      c = __hfma2(halves((twice & 0x00f0000fu) | 0x64006400u), halves(0x2c003c00u), halves(0xd400e400u));
    } else {
      const uint32_t bytes = __byte_perm(codes.w[i / 2], 0, i % 2 ? 0x4342 : 0x4140);
      c = __hsub2(halves(bytes | 0x64006400u), halves(0x64006400u));
    }
    chunk.v[i] = __hfma2(c, scale, min);
  }
  return chunk;
}

// Eight elements of a table of the graph's type, `at` from its start.
__device__ __forceinline__ Chunk LoadChunk(const KvArgs& args, const void* table, int64_t at) {
  const uint4 w =
      ToHalves(__ldg(reinterpret_cast<const uint4*>(static_cast<const uint16_t*>(table) + at)), IsBrain(args));
  Chunk c;
  __builtin_memcpy(&c, &w, 16);
  return c;
}

// (a, b) -> (a cos - b sin, b cos + a sin), channel by channel.
__device__ __forceinline__ void TurnChunks(Chunk& a, Chunk& b, const Chunk& cos, const Chunk& sin) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const __half2 first = __hfma2(a.v[i], cos.v[i], __hneg2(__hmul2(b.v[i], sin.v[i])));
    b.v[i] = __hfma2(b.v[i], cos.v[i], __hmul2(a.v[i], sin.v[i]));
    a.v[i] = first;
  }
}

// The same for neighbouring channels; four entries of each table, from `at` on.
__device__ __forceinline__ void TurnNeighbours(const KvArgs& args, Chunk& a, int64_t at) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const __half2 c = __float2half2_rn(WidenAt(args.cos, at + i, IsBrain(args)));
    const __half2 s = __float2half2_rn(WidenAt(args.sin, at + i, IsBrain(args)));
    const __half2 across = __hmul2(__lowhigh2highlow(a.v[i]), s);
    a.v[i] = __hfma2(a.v[i], c, __halves2half2(__hneg(__low2half(across)), __high2half(across)));
  }
}

// Fills tiles with the keys or the values of a head, called by 128 threads, 32 rows a step. Codes are asked for two
// steps ahead, RoPE tables one. Rows from `end` on are zeros. Keys come at half their size where they are turned here,
// so that none overflows.
//
// A value row of NaN parameters makes every query that sees it NaN. Zero weights must not meet it, so its tile row is
// zeros and its key becomes NaN instead: scores are masked before they count.
template <int kBits, int kDim, int kKeys, bool kIsKey, Filling kFilling>
class TileFiller {
 public:
  // Shared memory for RoPE tables.
  static constexpr int kStageBytes = 2 * 2 * ((kDim / 16 + 3) / 4) * 16 * 128;

  __device__ __forceinline__ TileFiller(const KvArgs& args, int64_t head_row, int begin, int end, const uint8_t* stage)
      : args_(args),
        plan_(args),
        row_(threadIdx.x % 128 / 32 * 8 + threadIdx.x % 8),
        part_(threadIdx.x % 32 / 8),
        end_(end),
        stage_(SharedAddress(stage) + threadIdx.x % 128 * 16) {
    const KvRows& cache = kIsKey ? args.present_k : args.present_v;
    codes_ = cache.codes + head_row * kRowBytes + part_ * kBits;
    params_ = reinterpret_cast<const uint32_t*>(cache.params) + head_row;
    value_params_ = reinterpret_cast<const uint32_t*>(args.present_v.params) + head_row;
    Load(begin, raw_[0]);
    Load(begin + kStep, raw_[1]);
    AskTables(begin, 0);
  }

  // Rows [first, first + kKeys); the next call must be for those behind.
  __device__ __forceinline__ void Fill(int first, uint8_t* tile) {
#pragma unroll
    for (int i = 0; i < kKeys / kStep; ++i) {
      const int at = first + i * kStep;
      AskTables(at + kStep, (i + 1) % 2);
      Store(raw_[i % 2], i % 2, at + row_, tile + (i * kStep + row_) * 16);
      Load(at + 2 * kStep, raw_[i % 2]);
    }
  }

 private:
  static constexpr int kStep = 32;  // rows
  static constexpr int kRowBytes = kDim * kBits / 8;
  static constexpr bool kTurns = kFilling != Filling::kPlain;
  static constexpr int kMostPairs = (kDim / 16 + 3) / 4;  // of a lane
  static constexpr int kMostItems = kFilling == Filling::kHalves ? kMostPairs : (kDim / 8 + 3) / 4;
  static_assert(kKeys / kStep % 2 == 0);

  struct Raw {
    CodeWords<kBits> own[kMostItems], other[kTurns ? kMostPairs : 1];
    uint32_t params, value_params;
  };
  __device__ __forceinline__ void Load(int first, Raw& raw) const {
    const int j = min(first + row_, end_ - 1);
    const uint8_t* codes = codes_ + static_cast<int64_t>(j) * kRowBytes;
    // Chunks behind the items are asked for as well, of the row's last item: a load under a branch is waited for.
    const int last = plan_.items() - 1 - part_, pairs = plan_.pairs();
#pragma unroll
    for (int i = 0; i < kMostItems; ++i) {
      const bool whole = kFilling != Filling::kAny && 4 * i + 4 <= (kFilling == Filling::kPlain ? kDim / 8 : kDim / 16);
      const int item = whole ? 4 * i : min(4 * i, last);
      const int chunk = kFilling == Filling::kAny && item + part_ >= pairs ? item + pairs : item;
      raw.own[i] = LoadCodes<kBits>(codes, chunk);
      if (kTurns && i < kMostPairs) {
        raw.other[i] = LoadCodes<kBits>(codes, whole ? item + pairs : min(item + pairs, kDim / 8 - 1 - part_));
      }
    }
    raw.params = __ldg(params_ + j);
    if (kIsKey) raw.value_params = __ldg(value_params_ + j);
  }

  static constexpr int kPlane = 16 * 128;  // a chunk of each thread
  __device__ __forceinline__ uint32_t Staged(int slot, int i) const {
    return stage_ + (slot * kMostPairs + i) * 2 * kPlane;
  }

  __device__ __forceinline__ void AskTables(int first, int slot) const {
    if (!kTurns || plan_.pairs() == 0) return;
    const int64_t at = static_cast<int64_t>(min(first + row_, end_ - 1)) * args_.pairs;
    const __half *cos = static_cast<const __half*>(args_.cos) + at, *sin = static_cast<const __half*>(args_.sin) + at;
#pragma unroll
    for (int i = 0; i < kMostPairs; ++i) {
      const int item = min(4 * i + part_, plan_.pairs() - 1);
      AsyncCopy16(Staged(slot, i), cos + 8 * item);
      AsyncCopy16(Staged(slot, i) + kPlane, sin + 8 * item);
    }
    AsyncCommit();
  }

  __device__ __forceinline__ Chunk TableChunk(uint32_t at) const {
    const uint4 w = ToHalves(LoadShared16(at), kFilling == Filling::kAny && IsBrain(args_));
    Chunk c;
    __builtin_memcpy(&c, &w, 16);
    return c;
  }

  __device__ __forceinline__ void Store(const Raw& raw, int slot, int j, uint8_t* to) const {
    const bool there = j < end_;
    const bool nan_value = ((kIsKey ? raw.value_params : raw.params) & 0x7c00) == 0x7c00;
    uint32_t params = kIsKey && nan_value ? 0x7e007e00u : raw.params;
    if (!there || (!kIsKey && nan_value)) params = 0;
    __half2 both = *reinterpret_cast<const __half2*>(&params);
    if (kTurns) both = __hmul2(both, __float2half2_rn(0.5f));
    const __half2 scale = __low2half2(both), min = __high2half2(both);
    if (kTurns && plan_.pairs() > 0) AsyncWait<1>();
#pragma unroll
    for (int i = 0; i < kMostItems; ++i) {
      const int item = 4 * i + part_, chunk = plan_.chunk(item);
      if (item >= plan_.items()) break;
      Chunk a = Dequantize<kBits>(raw.own[i], scale, min);
      if (kTurns && i < kMostPairs && item < plan_.pairs()) {
        Chunk b = Dequantize<kBits>(raw.other[i], scale, min);
        TurnChunks(a, b, TableChunk(Staged(slot, i)), TableChunk(Staged(slot, i) + kPlane));
        *reinterpret_cast<uint4*>(to + (chunk + plan_.pairs()) * (kKeys * 16)) = WordsOf(b);
      } else if (kFilling == Filling::kAny && chunk < plan_.turned_chunks()) {
        const int64_t table = static_cast<int64_t>(there ? j : 0) * args_.pairs + 4 * chunk;
        TurnNeighbours(args_, a, table);
      }
      *reinterpret_cast<uint4*>(to + chunk * (kKeys * 16)) = WordsOf(a);
    }
  }

  const KvArgs& args_;
  const ChunkPlan<kFilling, kDim> plan_;
  const uint8_t* codes_;  // of the lane's first chunk
  const uint32_t *params_, *value_params_;
  const int row_, part_, end_;
  const uint32_t stage_;  // shared address
  Raw raw_[2];
};

__device__ __forceinline__ Chunk RoundedChunk(const float (&v)[8], float factor) {
  Chunk rounded;
#pragma unroll
  for (int i = 0; i < 4; ++i) rounded.v[i] = __floats2half2_rn(v[2 * i] * factor, v[2 * i + 1] * factor);
  return rounded;
}

// Where a query row of an item is; one that is not there stands for the first.
template <int kDim>
struct QueryRow {
  bool there;
  int position;
  int64_t at;

  __device__ __forceinline__ QueryRow(const KvArgs& args, const PrefillItem& item, int row) {
    const int group = args.group(), query = item.first_row + row, s = query / group;
    there = query < args.query_rows() && item.sequence.start + s < item.sequence.length;
    position = there ? item.sequence.start + s : 0;
    at = (static_cast<int64_t>(item.b) * args.tokens + (there ? s : 0)) * args.q_stride +
         static_cast<int64_t>(item.kv_head * group + (query - s * group)) * kDim;
  }
};

// FillQueries where all channels are turned, first half with second: both halves of a row at once, everything asked for
// before anything is used.
template <int kDim, bool kBrain>
__device__ __forceinline__ void FillQueryHalves(const KvArgs& args, const PrefillItem& item, float factor,
                                                uint8_t* tile, int warp, int warps) {
  constexpr int kPairs = kDim / 16, kOwn = (kPairs + 3) / 4;  // of chunks
  const int lane = threadIdx.x % 32, part = lane / 8;
  const auto load = [](const void* from, int64_t at) {
    return __ldg(reinterpret_cast<const uint4*>(static_cast<const uint16_t*>(from) + at));
  };
#pragma unroll 1
  for (int eight = warp; eight < kPrefillRows / 8; eight += warps) {
    const QueryRow<kDim> row(args, item, eight * 8 + lane % 8);
    uint4* to = reinterpret_cast<uint4*>(tile) + eight * 8 + lane % 8;  // chunk c at c * kPrefillRows
    const int64_t table = static_cast<int64_t>(row.position) * (kDim / 2);
    uint4 first[kOwn], second[kOwn], cosines[kOwn], sines[kOwn];
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      const int chunk = min(4 * i + part, kPairs - 1);
      first[i] = load(args.q, row.at + 8 * chunk);
      second[i] = load(args.q, row.at + 8 * (chunk + kPairs));
      cosines[i] = load(args.cos, table + 8 * chunk);
      sines[i] = load(args.sin, table + 8 * chunk);
    }
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      const int chunk = 4 * i + part;
      float low[8], high[8];
      const auto turn = [&](int at, uint32_t first_pair, uint32_t second_pair, uint32_t cos, uint32_t sin) {
        const float2 a = WidenPair(first_pair, kBrain), b = WidenPair(second_pair, kBrain);
        const float2 c = WidenPair(cos, kBrain), d = WidenPair(sin, kBrain);
        low[at] = __fsub_rn(__fmul_rn(a.x, c.x), __fmul_rn(b.x, d.x));
        low[at + 1] = __fsub_rn(__fmul_rn(a.y, c.y), __fmul_rn(b.y, d.y));
        high[at] = __fadd_rn(__fmul_rn(b.x, c.x), __fmul_rn(a.x, d.x));
        high[at + 1] = __fadd_rn(__fmul_rn(b.y, c.y), __fmul_rn(a.y, d.y));
      };
      turn(0, first[i].x, second[i].x, cosines[i].x, sines[i].x);
      turn(2, first[i].y, second[i].y, cosines[i].y, sines[i].y);
      turn(4, first[i].z, second[i].z, cosines[i].z, sines[i].z);
      turn(6, first[i].w, second[i].w, cosines[i].w, sines[i].w);
      if (chunk < kPairs) {
        to[chunk * kPrefillRows] = row.there ? WordsOf(RoundedChunk(low, factor)) : uint4{};
        to[(chunk + kPairs) * kPrefillRows] = row.there ? WordsOf(RoundedChunk(high, factor)) : uint4{};
      }
    }
  }
}

// The query rows of an item into a tile, turned and times `factor`, by warps `warp`, `warp` + `warps`, ...
template <int kDim>
__device__ __forceinline__ void FillQueries(const KvArgs& args, const PrefillItem& item, float factor, uint8_t* tile,
                                            int warp, int warps) {
  if (args.rotary == KvRotary::kHalf && 2 * args.pairs == kDim) {
    if (IsBrain(args)) {
      FillQueryHalves<kDim, true>(args, item, factor, tile, warp, warps);
    } else {
      FillQueryHalves<kDim, false>(args, item, factor, tile, warp, warps);
    }
    return;
  }
  const int lane = threadIdx.x % 32, part = lane / 8;
  for (int eight = warp; eight < kPrefillRows / 8; eight += warps) {
    const QueryRow<kDim> row(args, item, eight * 8 + lane % 8);
    uint4* to = reinterpret_cast<uint4*>(tile) + eight * 8 + lane % 8;  // chunk c at c * kPrefillRows
    for (int chunk = part; chunk < kDim / 8; chunk += 4) {
      float v[8] = {};
      if (row.there && IsBrain(args)) {
        LoadTurned(args, static_cast<const __nv_bfloat16*>(args.q) + row.at, 8 * chunk, row.position, v);
      } else if (row.there) {
        LoadTurned(args, static_cast<const __half*>(args.q) + row.at, 8 * chunk, row.position, v);
      }
      to[chunk * kPrefillRows] = WordsOf(RoundedChunk(v, factor));
    }
  }
}

}  // namespace lowbit::cuda
