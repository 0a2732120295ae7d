// Attention of a few queries over a long cache: each code is read once, through shared memory into the fragments of
// mma.sync. A warp takes 16 keys a step; warps and the blocks of a group divide a sequence's keys and merge their
// running softmaxes at the end, in a fixed order.
//
// Products are transposed, so that queries are mma's 8 columns: scores^T = K . q^T, y^T = V^T . weights^T. A code c in
// the low bits of a 16-bit lane is the float16 subnormal c * 2^-24, which tensor cores multiply exactly: unpacking is
// masking. Every second nibble stays where it is, 16 times as large; its partner in q, or its row of y, makes up for
// that. With q . (c * scale + min) = scale * (q . c) + min * sum(q), parameters meet whole products only.
//
// Keys stored before RoPE: turning is linear too, q . R(c * scale + min) = scale * (q . Rc) + min * (q . R1), so codes
// are turned as they are, two channels an instruction, and q . R1 is a product of the tables alone.
#pragma once
#include "ops/common/cuda/ptx.cuh"
#include "ops/quant-kv-attention/cuda/sequence.cuh"

namespace lowbit::cuda {

constexpr int kDecodeRows = 8;   // queries of a block: mma's columns
constexpr int kDecodeKeys = 16;  // of a step: mma's rows
constexpr int kMaxSplit = 32;    // blocks of a group
constexpr int kSharedSplit = 8;  // of these, so many at least are worth it for sharing tables
constexpr float kNoScore = -1e30f;

// Division of small numbers by one that the host knows: exact where number x divisor is less than 2^32.
struct Divisor {
  uint32_t inverse = 0;  // ceil(2^32 / divisor), 0 for 1

  Divisor() = default;
  explicit Divisor(int by) : inverse(by > 1 ? static_cast<uint32_t>((0xffffffffull + by) / by) : 0) {}
  __device__ __forceinline__ int Of(int number) const {
    return inverse ? static_cast<int>(__umulhi(static_cast<uint32_t>(number), inverse)) : number;
  }
};

// Division of numbers up to 10^5 by one that only the device knows.
struct SmallDivisor {
  int divisor;
  float inverse;

  __device__ __forceinline__ explicit SmallDivisor(int by) : divisor(by) {
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(static_cast<float>(by)));
  }
  __device__ __forceinline__ int Of(int number) const { return static_cast<int>((number + 0.5f) * inverse); }
};

// How a launch divides the work: a block has 8 query rows of one kv head, or of a few, and a part of their keys.
struct DecodePlan {
  KvArgs args;
  int warps = 4;               // of a block
  int split = 1;               // blocks of a group
  int most_items = 0;          // of a block: heads x query rows x channels / 4
  int row_blocks = 1;          // blocks of 8 query rows
  Divisor row_blocks_divisor;  // row_blocks
  Divisor group;               // query heads of a kv head
  Divisor key_warps;           // warps of a group that divide the keys of a head

  __device__ __forceinline__ int Token(int query) const { return group.Of(query); }
};

// Where the parts of a launch's groups lie in scratch memory, behind a counter for each group.
struct DecodeScratch {
  int64_t meta, sums, bytes;

  __host__ __device__ DecodeScratch(int64_t groups, int split, int items, int dim) {
    meta = (groups * 4 + 15) / 16 * 16;
    sums = meta + groups * split * (items / (dim / 4)) * 8;
    sums = (sums + 15) / 16 * 16;
    bytes = sums + groups * split * items * 16;
  }
};

// Counts an arrival; wraps to 0 behind `last`. What this block's threads wrote before a barrier is seen by who comes
// later.
__device__ __forceinline__ uint32_t ArriveInc(uint32_t* counter, uint32_t last) {
  uint32_t old;
  asm volatile("atom.acq_rel.gpu.global.inc.u32 %0, [%1], %2;" : "=r"(old) : "l"(counter), "r"(last) : "memory");
  return old;
}

__device__ __forceinline__ uint32_t LoadShared4(uint32_t address) {
  uint32_t v;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(address) : "memory");
  return v;
}

__device__ __forceinline__ void LoadShared8(uint32_t address, uint32_t& a, uint32_t& b) {
  asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(a), "=r"(b) : "r"(address) : "memory");
}
__device__ __forceinline__ void StoreShared8(uint32_t address, uint32_t a, uint32_t b) {
  asm volatile("st.shared.v2.u32 [%0], {%1, %2};" ::"r"(address), "r"(a), "r"(b) : "memory");
}
// Keeps the compiler from working a value out again where it is needed: a register is cheaper.
template <class T>
__device__ __forceinline__ T Keep(T v) {
  if constexpr (sizeof(T) == 8) {
    asm volatile("" : "+l"(v));
  } else {
    asm volatile("" : "+r"(v));
  }
  return v;
}

__device__ __forceinline__ void StoreShared4(uint32_t address, uint32_t v) {
  asm volatile("st.shared.u32 [%0], %1;" ::"r"(address), "r"(v) : "memory");
}

// The bytes of a row that one of kLanes lanes takes: kPieces pieces, neighbouring lanes' pieces side by side.
template <int kBytes, int kLanes, int kLargest = 16>
struct Slice {
  static constexpr int kFits = kBytes % 16 == 0 ? 16 : kBytes % 8 == 0 ? 8 : kBytes % 4 == 0 ? 4 : 2;
  static constexpr int kPiece = kFits < kLargest ? kFits : kLargest;
  static constexpr int kPieces = kBytes / kPiece;
  static constexpr int kWords = (kBytes + 3) / 4;

  // Where byte i of the lane's bytes lies in the row.
  __device__ static constexpr int Offset(int lane, int i) { return (i / kPiece * kLanes + lane) * kPiece + i % kPiece; }

  // From `start` on of a row in shared memory; `at` is the address of the lane's first piece of the row. Bytes from
  // `limit` on are left out: whatever the words hold is multiplied by zero or dropped.
  __device__ static __forceinline__ void Load(uint32_t at, int start, int lane, int limit, uint32_t (&words)[kWords]) {
#pragma unroll
    for (int p = 0; p < kPieces; ++p) {
      const bool there = kLanes * kBytes == limit || Offset(lane, p * kPiece) < limit;
      const uint32_t from = at + start + p * kLanes * kPiece;
      if constexpr (kPiece == 16) {
        const uint4 v = LoadShared16(from);
        words[4 * p] = v.x, words[4 * p + 1] = v.y, words[4 * p + 2] = v.z, words[4 * p + 3] = v.w;
      } else if constexpr (kPiece == 8) {
        LoadShared8(from, words[2 * p], words[2 * p + 1]);
      } else if constexpr (kPiece == 4) {
        words[p] = there ? LoadShared4(from) : 0;
      } else {
        const uint32_t v = there ? LoadShared2(from) : 0;
        words[p / 2] = p % 2 ? words[p / 2] | v << 16 : v;
      }
    }
  }
};

enum class Turn : int { kNone, kHalf, kInterleaved };

// Layout of a cache row over a warp, for one head size and code width.
template <int kBits, int kDim, Turn kTurn>
struct DecodeLayout {
  static constexpr int kRowBytes = kDim * kBits / 8;
  static constexpr int kWordCodes = 32 / kBits;
  // ldmatrix deals rows out, 16 bytes at a time: words of keys, and 16-bit units of values, transposed.
  static constexpr bool kMatrix = kRowBytes % 64 == 0;
  // Keys: a lane has the same channels of its keys, whole words; both halves of the row if those are turned together.
  static constexpr int kKeyParts = kTurn == Turn::kHalf ? 2 : 1;
  static constexpr int kPartBytes = kRowBytes / kKeyParts;
  using KeySlice = Slice<(kPartBytes + 15) / 16 * 4, 4, kMatrix ? 4 : 16>;
  static constexpr int kKeyWords = KeySlice::kWords;                     // of a part
  static constexpr int kSteps = kKeyParts * kKeyWords * kWordCodes / 4;  // mma steps of 16 channels
  static constexpr int kWordSteps = kSteps / kKeyWords;                  // of a word, of each part
  // Values: a lane has whole 16-bit units.
  static constexpr int kUnitCodes = 16 / kBits;
  static constexpr int kUnits = (kRowBytes / 2 + 7) / 8;
  using ValueSlice = Slice<2 * kUnits, 8, kMatrix ? 2 : 16>;
  static constexpr int kTiles = kUnits * kUnitCodes / 2;  // of 16 channels

  // Channel of code `code` of word `word` of part `part` of lane t's keys; may lie behind the row.
  __device__ static constexpr int KeyChannel(int t, int part, int word, int code) {
    return (part * kPartBytes + KeySlice::Offset(t, 4 * word)) * 8 / kBits + code;
  }
  __device__ static constexpr int ValueChannel(int g, int unit, int code) {
    return ValueSlice::Offset(g, 2 * unit) * 8 / kBits + code;
  }
};

// Codes of two 16-bit lanes as float16 subnormals. 4 bits: pair 0 and 2 are c * 2^-24, 1 and 3 are c * 2^-20; 8 bits:
// both pairs are c * 2^-24.
template <int kBits>
__device__ __forceinline__ uint32_t CodePair(uint32_t x, int pair) {
  if (kBits == 8) return (pair ? x >> 8 : x) & 0x00ff00ffu;
  return (pair & 2 ? x >> 8 : x) & (pair & 1 ? 0x00f000f0u : 0x000f000fu);
}

// The same with all pairs c * 2^-24.
template <int kBits>
__device__ __forceinline__ uint32_t SmallCodePair(uint32_t x, int pair) {
  return kBits == 8 ? CodePair<8>(x, pair) : (x >> (4 * pair)) & 0x000f000fu;
}

template <int kBytes>
__device__ __forceinline__ void AsyncCopy(uint32_t to, const void* from) {
  if constexpr (kBytes == 16) {
    CopyAsync16(to, from);
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(to), "l"(from), "n"(kBytes) : "memory");
  }
}

__device__ __forceinline__ uint32_t Bits(__half2 v) { return *reinterpret_cast<const uint32_t*>(&v); }
__device__ __forceinline__ __half2 Halves(uint32_t v) { return *reinterpret_cast<const __half2*>(&v); }
__device__ __forceinline__ float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace lowbit::cuda
