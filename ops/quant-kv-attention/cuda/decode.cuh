// Attention of a few queries over a long cache: each code is read once, from memory straight into the fragments of
// mma.sync. A warp takes 16 keys a step; warps and the blocks of a cluster divide a sequence's keys and merge their
// running softmaxes at the end, in a fixed order.
//
// Products are transposed, so that queries are mma's 8 columns: scores^T = K . q^T, y^T = V^T . weights^T. A code c in
// the low bits of a 16-bit lane is the float16 subnormal c * 2^-24, which tensor cores multiply exactly: unpacking is
// masking. Every second nibble stays where it is, 16 times as large; its partner in q, or its row of y, makes up for
// that. With q . (c * scale + min) = scale * (q . c) + min * sum(q), parameters meet whole products only.
//
// Keys stored before RoPE are dequantized and turned in float16 instead.
#pragma once
#include "ops/common/cuda/ptx.cuh"
#include "ops/quant-kv-attention/cuda/sequence.cuh"

namespace lowbit::cuda {

constexpr int kDecodeRows = 8;   // queries of a block: mma's columns
constexpr int kDecodeKeys = 16;  // of a step: mma's rows
constexpr int kMaxSplit = 8;     // blocks of a cluster
constexpr float kNoScore = -1e30f;

// How a launch divides the work: a block has 8 query rows of one kv head, or of a few, and a part of their keys.
struct DecodePlan {
  KvArgs args;
  int head_warps = 1;  // kv heads of a block: neighbouring warps have the same keys of different heads
  int warps = 4;       // of a block
  int split = 1;       // blocks of a cluster
  int row_blocks = 1;  // blocks of 8 query rows
  bool hopper = false;
  uint32_t group_inverse = 0;  // ceil(2^32 / query heads of a kv head), 0 for one: query / group without a division
  int table_offset = 0;        // of RoPE tables in shared memory

  // Query row / query heads of a kv head; rows are fewer than 65536.
  __device__ __forceinline__ int Token(int query) const {
    return group_inverse ? static_cast<int>(__umulhi(static_cast<uint32_t>(query), group_inverse)) : query;
  }
};

// The bytes of a row that one of kLanes lanes loads: kPieces pieces, neighbouring lanes' pieces side by side.
template <int kBytes, int kLanes>
struct Slice {
  static constexpr int kPiece = kBytes % 16 == 0 ? 16 : kBytes % 8 == 0 ? 8 : kBytes % 4 == 0 ? 4 : 2;
  static constexpr int kPieces = kBytes / kPiece;
  static constexpr int kWords = (kBytes + 3) / 4;

  // Where byte i of the lane's bytes lies in the row.
  __device__ static constexpr int Offset(int lane, int i) { return (i / kPiece * kLanes + lane) * kPiece + i % kPiece; }

  // `row` is advanced to the lane's first byte. Bytes from `limit` on, which the row has not, are left out: whatever
  // the words hold is multiplied by zero or dropped.
  __device__ static __forceinline__ void Load(const uint8_t* row, int lane, int limit, uint32_t (&words)[kWords]) {
#pragma unroll
    for (int p = 0; p < kPieces; ++p) {
      const uint8_t* from = row + p * kLanes * kPiece;
      const bool there = kLanes * kBytes == limit || Offset(lane, p * kPiece) < limit;
      if constexpr (kPiece == 16) {
        const uint4 v = __ldg(reinterpret_cast<const uint4*>(from));
        words[4 * p] = v.x, words[4 * p + 1] = v.y, words[4 * p + 2] = v.z, words[4 * p + 3] = v.w;
      } else if constexpr (kPiece == 8) {
        const uint2 v = __ldg(reinterpret_cast<const uint2*>(from));
        words[2 * p] = v.x, words[2 * p + 1] = v.y;
      } else if constexpr (kPiece == 4) {
        words[p] = there ? __ldg(reinterpret_cast<const uint32_t*>(from)) : 0;
      } else {
        const uint32_t v = there ? __ldg(reinterpret_cast<const uint16_t*>(from)) : 0;
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
  // Keys: a lane has the same channels of its keys, whole words; both halves of the row if those are turned together.
  static constexpr int kKeyParts = kTurn == Turn::kHalf ? 2 : 1;
  static constexpr int kPartBytes = kRowBytes / kKeyParts;
  using KeySlice = Slice<(kPartBytes + 15) / 16 * 4, 4>;
  static constexpr int kKeyWords = KeySlice::kWords;                     // of a part
  static constexpr int kSteps = kKeyParts * kKeyWords * kWordCodes / 4;  // mma steps of 16 channels
  // Values: a lane has whole 16-bit units.
  static constexpr int kUnitCodes = 16 / kBits;
  static constexpr int kUnits = (kRowBytes / 2 + 7) / 8;
  using ValueSlice = Slice<2 * kUnits, 8>;
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

// The same as plain float16 numbers.
template <int kBits>
__device__ __forceinline__ __half2 CodeHalves(uint32_t x, int pair) {
  const uint32_t mask = kBits == 8 ? 0x00ff00ffu : pair & 1 ? 0x00f000f0u : 0x000f000fu;
  const uint32_t shifted = (kBits == 8 ? pair : pair & 2) ? x >> 8 : x;
  uint32_t
      bits;  // (shifted & mask) | 1024's pattern, whose last place is 1: one instruction only if both are registers
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(bits) : "r"(shifted), "r"(mask), "r"(0x64006400u));
  const __half2 v = *reinterpret_cast<const __half2*>(&bits);
  if (kBits == 8 || pair % 2 == 0) return __hsub2(v, __float2half2_rn(1024.0f));
  return __hfma2(v, __float2half2_rn(0.0625f), __float2half2_rn(-64.0f));
}

__device__ __forceinline__ uint32_t Bits(__half2 v) { return *reinterpret_cast<const uint32_t*>(&v); }
__device__ __forceinline__ __half2 Halves(uint32_t v) { return *reinterpret_cast<const __half2*>(&v); }
__device__ __forceinline__ float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Where a lane's bytes of the first 16 keys and values of a head are: of key g, of value 2t, and their parameters.
template <class Layout>
struct DecodeSource {
  const uint8_t *key, *value;
  const uint32_t *key_params, *value_params;
  int last;  // row of the head

  __device__ __forceinline__ DecodeSource(const KvArgs& args, int64_t head_row) : last(args.present_k.rows - 1) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    key = args.present_k.codes + (head_row + g) * Layout::kRowBytes + Layout::KeySlice::Offset(t, 0);
    value = args.present_v.codes + (head_row + 2 * t) * Layout::kRowBytes + Layout::ValueSlice::Offset(g, 0);
    key_params = reinterpret_cast<const uint32_t*>(args.present_k.params) + head_row + g;
    value_params = reinterpret_cast<const uint32_t*>(args.present_v.params) + head_row + g;
  }
};

// 16 keys and values as they come from memory. Lane (g, t) = (lane / 4, lane % 4) has keys g and g + 8, values 2t, 2t +
// 1, 2t + 8 and 2t + 9, and the parameters of g and g + 8.
template <class Layout>
struct DecodeTile {
  uint32_t keys[2][Layout::kKeyParts][Layout::kKeyWords];
  uint32_t values[4][Layout::ValueSlice::kWords];
  uint32_t key_params[2], value_params[2];

  __device__ __forceinline__ void LoadKeys(const DecodeSource<Layout>& from, int first) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const uint8_t* key = from.key + static_cast<int64_t>(first) * Layout::kRowBytes;
    const uint32_t* param = from.key_params + first;
    Rows(from, first, g, [&](const auto& row) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int at = row(8 * r);
#pragma unroll
        for (int part = 0; part < Layout::kKeyParts; ++part) {
          Layout::KeySlice::Load(key + at * Layout::kRowBytes + part * Layout::kPartBytes, t, Layout::kPartBytes,
                                 keys[r][part]);
        }
        key_params[r] = __ldg(param + at);
      }
    });
  }

  __device__ __forceinline__ void LoadValues(const DecodeSource<Layout>& from, int first) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const uint8_t* value = from.value + static_cast<int64_t>(first) * Layout::kRowBytes;
    const uint32_t* param = from.value_params + first;
    Rows(from, first, 2 * t, [&](const auto& row) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        Layout::ValueSlice::Load(value + row((i & 1) + 4 * (i & 2)) * Layout::kRowBytes, g, Layout::kRowBytes,
                                 values[i]);
      }
    });
    Rows(from, first, g, [&](const auto& row) {
      value_params[0] = __ldg(param + row(0));
      value_params[1] = __ldg(param + row(8));
    });
  }

 private:
  // Calls `load` with a function that bounds the distance to a lane's first row, which is `own` rows behind `first`:
  // rows behind the cache are read as its last one.
  template <class Load>
  __device__ static __forceinline__ void Rows(const DecodeSource<Layout>& from, int first, int own, const Load& load) {
    if (first + kDecodeKeys - 1 <= from.last) {
      load([](int row) { return row; });
    } else {
      const int most = from.last - first - own;
      load([most](int row) { return min(row, most); });
    }
  }
};

__device__ __forceinline__ float2 ParamsOf(uint32_t both) { return __half22float2(Halves(both)); }

// A warp's running softmax over its share of the keys, for queries 2t and 2t + 1 of each lane.
template <class Layout>
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

}  // namespace lowbit::cuda
