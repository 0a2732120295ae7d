// Cache rows and queries into the prefill kernel's shared memory: codes unpacked, dequantized and turned, 8 channels at
// a time, in chunks of 16 bytes (wgmma_f16.cuh). Eight lanes take the same chunk of eight neighbouring rows, so that
// their stores meet no bank twice; the four groups of a warp take neighbouring chunks, so that loads join up.
#pragma once
#include "ops/quant-kv-attention/cuda/sequence.cuh"

namespace lowbit::cuda {

// What of a row a lane handles at once: a chunk, or two whose channels RoPE turns together.
struct ChunkPlan {
  int pairs = 0;          // items below are two chunks, c and c + pairs
  int items = 0;          // of a row
  int turned_chunks = 0;  // chunks below hold neighbours that are turned together (interleaved)

  __device__ __forceinline__ ChunkPlan(const KvArgs& args, int dim, bool turn) {
    if (turn && args.rotary == KvRotary::kHalf) pairs = args.pairs / 8;
    if (turn && args.rotary == KvRotary::kInterleaved) turned_chunks = args.pairs / 4;
    items = dim / 8 - pairs;
  }
  __device__ __forceinline__ int chunk(int item) const { return item < pairs ? item : item + pairs; }
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

__device__ __forceinline__ Chunk LoadChunk(const __half* from) {
  const uint4 w = __ldg(reinterpret_cast<const uint4*>(from));
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

// The same for neighbouring channels; four entries of each table.
__device__ __forceinline__ void TurnNeighbours(Chunk& a, const __half* cos, const __half* sin) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const __half2 c = __half2half2(cos[i]), s = __half2half2(sin[i]);
    const __half2 across = __hmul2(__lowhigh2highlow(a.v[i]), s);
    a.v[i] = __hfma2(a.v[i], c, __halves2half2(__hneg(__low2half(across)), __high2half(across)));
  }
}

// Rows [first, first + kKeys) of a head as a tile; rows from `end` on are zeros. Keys come at half their size where
// they are turned here, so that none overflows. Called by 128 threads.
//
// A value row of NaN parameters makes every query that sees it NaN. Zero weights must not meet it, so its tile row is
// zeros and its key becomes NaN instead: scores are masked before they count.
template <int kBits, int kDim, int kKeys, bool kIsKey>
__device__ __forceinline__ void FillTile(const KvArgs& args, const ChunkPlan& plan, int64_t head_row, int first,
                                         int end, uint8_t* tile) {
  constexpr int kGroups = kKeys / 32, kMostItems = (kDim / 8 + 3) / 4;
  const int warp = threadIdx.x % 128 / 32, lane = threadIdx.x % 32, eighth = lane % 8, part = lane / 8;
  const KvRows& cache = kIsKey ? args.present_k : args.present_v;
#pragma unroll
  for (int group = 0; group < kGroups; ++group) {
    const int row = (group * 4 + warp) * 8 + eighth, j = first + row;
    const bool there = j < end;
    const int64_t at = head_row + (there ? j : 0);
    const uint8_t* codes = cache.codes + at * (kDim * kBits / 8);
    CodeWords<kBits> own[kMostItems], other[kMostItems];
#pragma unroll
    for (int i = 0; i < kMostItems; ++i) {
      const int item = 4 * i + part, chunk = plan.chunk(item);
      if (item < plan.items) own[i] = LoadCodes<kBits>(codes, chunk);
      if (kIsKey && item < plan.pairs) other[i] = LoadCodes<kBits>(codes, chunk + plan.pairs);
    }
    uint32_t params = __ldg(reinterpret_cast<const uint32_t*>(cache.params) + at);
    const uint32_t value_params =
        kIsKey ? __ldg(reinterpret_cast<const uint32_t*>(args.present_v.params) + at) : params;
    const bool nan_value = (value_params & 0x7c00) == 0x7c00;
    if (kIsKey && nan_value) params = 0x7e007e00u;
    if (!there || (!kIsKey && nan_value)) params = 0;
    __half2 both = *reinterpret_cast<const __half2*>(&params);
    if (kIsKey && (plan.pairs || plan.turned_chunks)) both = __hmul2(both, __float2half2_rn(0.5f));
    const __half2 scale = __low2half2(both), min = __high2half2(both);
    const int64_t table = static_cast<int64_t>(there ? j : 0) * args.pairs;
    const __half *cos = static_cast<const __half*>(args.cos) + table,
                 *sin = static_cast<const __half*>(args.sin) + table;
#pragma unroll
    for (int i = 0; i < kMostItems; ++i) {
      const int item = 4 * i + part, chunk = plan.chunk(item);
      if (item >= plan.items) continue;
      Chunk a = Dequantize<kBits>(own[i], scale, min);
      if (kIsKey && item < plan.pairs) {
        Chunk b = Dequantize<kBits>(other[i], scale, min);
        TurnChunks(a, b, LoadChunk(cos + 8 * chunk), LoadChunk(sin + 8 * chunk));
        *reinterpret_cast<uint4*>(tile + ((chunk + plan.pairs) * kKeys + row) * 16) = WordsOf(b);
      } else if (kIsKey && chunk < plan.turned_chunks) {
        TurnNeighbours(a, cos + 4 * chunk, sin + 4 * chunk);
      }
      *reinterpret_cast<uint4*>(tile + (chunk * kKeys + row) * 16) = WordsOf(a);
    }
  }
}

// 64 query rows from `first` on into rows [to_row, to_row + 64) of a tile of `tile_rows`, turned and times `factor`.
// Called by 128 threads.
template <int kDim>
__device__ __forceinline__ void FillQueries(const KvArgs& args, const KvSequence& sequence, int b, int kv_head,
                                            int first, float factor, uint8_t* tile, int tile_rows, int to_row) {
  const int warp = threadIdx.x % 128 / 32, lane = threadIdx.x % 32, part = lane / 8, group = args.group();
  for (int eight = warp; eight < 8; eight += 4) {
    const int row = eight * 8 + lane % 8, query = first + row, s = query / group;
    if (query >= args.query_rows() || sequence.start + s >= sequence.length) {
      for (int chunk = part; chunk < kDim / 8; chunk += 4) {
        *reinterpret_cast<uint4*>(tile + (chunk * tile_rows + to_row + row) * 16) = uint4{};
      }
      continue;
    }
    const __half* x = static_cast<const __half*>(args.q) + (static_cast<int64_t>(b) * args.tokens + s) * args.q_stride +
                      static_cast<int64_t>(kv_head * group + query % group) * kDim;
    for (int chunk = part; chunk < kDim / 8; chunk += 4) {
      float v[8];
      LoadTurned(args, x, 8 * chunk, sequence.start + s, v);
      Chunk rounded;
#pragma unroll
      for (int i = 0; i < 4; ++i) rounded.v[i] = __floats2half2_rn(v[2 * i] * factor, v[2 * i + 1] * factor);
      *reinterpret_cast<uint4*>(tile + (chunk * tile_rows + to_row + row) * 16) = WordsOf(rounded);
    }
  }
}

}  // namespace lowbit::cuda
