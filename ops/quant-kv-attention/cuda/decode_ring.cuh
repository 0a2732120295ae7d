// The next keys and values of a warp, in shared memory: a ring of steps of 16 rows of codes each, and their parameters,
// which asynchronous copies fill. No registers wait for memory.
#pragma once
#include "ops/quant-kv-attention/cuda/decode.cuh"

namespace lowbit::cuda {

// Steps in the ring. Codes are asked for two steps ahead with tables, whose copies are waited for in between, else
// three.
template <int kRowBytes, bool kTables, int kHeads>
constexpr int kRingSteps = kHeads == 2                 ? 2
                           : kRowBytes > 64 || kTables ? 3
                                                       : 4;

struct RingParams {
  float2 keys[2], values[2];
};

template <class Layout, int kCount, int kHeads>
struct DecodeRing {
  static constexpr int kRowBytes = Layout::kRowBytes, kTileBytes = kDecodeKeys * kRowBytes;
  static constexpr int kBlockBytes = 2 * kTileBytes + 2 * kDecodeKeys * 4;  // keys, values, parameters of both
  static constexpr int kStepBytes = kHeads * kBlockBytes;
  static constexpr int kSteps = kCount, kBytes = kCount * kStepBytes;
  static constexpr bool kSwapped = Layout::kMatrix;
  static_assert(!kSwapped || kStepBytes % 128 == 0);

  // Without ldmatrix, rows of values lie even ones first, as a lane takes two neighbours; with it, chunks of 16 bytes
  // are swapped between rows. So that lanes that read together meet different banks.
  __device__ static constexpr int Place(bool values, int row) {
    return values && !Layout::kMatrix ? row / 2 + row % 2 * 8 : row;
  }
  __device__ static constexpr int Swap(int row) {
    return !kSwapped ? 0 : kRowBytes == 64 ? (row >> 1 & 3) * 16 : (row & 7) * 16;
  }

  uint32_t base, last;                        // shared addresses of the first step and of the last
  const uint8_t *keys, *values;               // the lane's first bytes of the head's first rows
  int64_t head_bytes, head_rows;              // from the warp's first head to its second
  const uint32_t* param;                      // lanes 0 to 15: of the key `lane`; others of the value `lane - 16`
  uint32_t read;                              // of this step
  uint32_t key_lane, value_lane, param_lane;  // what this lane reads of a step
  uint32_t key_to, value_to;                  // and where its first copies go

  __device__ __forceinline__ DecodeRing(const KvArgs& args, int64_t head_row, uint32_t shared)
      : base(Keep(shared)), last(Keep(shared + (kCount - 1) * kStepBytes)), read(shared) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    head_rows = args.present_k.rows;
    head_bytes = head_rows * kRowBytes;
    keys = Keep(args.present_k.codes + head_row * kRowBytes + lane * kUnit);
    values = Keep(args.present_v.codes + head_row * kRowBytes + lane * kUnit);
    param = Keep(reinterpret_cast<const uint32_t*>(lane < 16 ? args.present_k.params : args.present_v.params) +
                 head_row + lane % 16);
    if constexpr (Layout::kMatrix) {
      const int other = lane / 16 * (Layout::kKeyParts == 2 ? Layout::kPartBytes : 16);
      key_lane = Keep(lane % 16 * kRowBytes + other / 128 * 128 + (other % 128 ^ Swap(lane)));
      value_lane = Keep(kTileBytes + lane % 16 * kRowBytes + (lane / 16 * 16 ^ Swap(lane)));
    } else {
      key_lane = Keep(g * kRowBytes + Layout::KeySlice::Offset(t, 0));
      value_lane = Keep(kTileBytes + t * kRowBytes + Layout::ValueSlice::Offset(g, 0));
    }
    param_lane = Keep(2 * kTileBytes + g * 16 + (kHeads == 2 ? t / 2 * kBlockBytes : 0));
    key_to = Keep(PlaceOf(false, 0));
    value_to = Keep(PlaceOf(true, 0));
  }

  // Asks for rows [first, first + 16) of those before `end`, in the place of the step before this one; the others keep
  // what was there.
  __device__ __forceinline__ void Ask(int first, int end) const {
    AskAt(read == base ? last : read - kStepBytes, first, end);
  }
  // The same in the place of the step that is `ahead` of the first.
  __device__ __forceinline__ void AskFirst(int ahead, int first, int end) const {
    AskAt(base + ahead * kStepBytes, first, end);
  }
  // Brings codes and parameters of the first of rows [first, end), as many as a step takes, into the L2 cache. They may
  // still be written: who reads them later sees that.
  __device__ __forceinline__ void Prefetch(int first, int end) const {
    const int lane = threadIdx.x % 32, there = min(end - first, kDecodeKeys);
    if (there <= 0) return;
#pragma unroll
    for (int head = 0; head < kHeads; ++head) {
      const int64_t row = head * head_rows + first;
      if (lane % 8 == 0 && lane % 16 < there) PrefetchL2(param + row);
      if (kRowBytes % 16 == 0 && lane == 0) {
        PrefetchL2(keys + row * kRowBytes, there * kRowBytes);
        PrefetchL2(values + row * kRowBytes, there * kRowBytes);
      }
    }
  }
  __device__ __forceinline__ void Next() { read = read == last ? base : read + kStepBytes; }

  // Loads of a head's keys: each brings a word of both parts of a row, or two words of rows that have one part.
  static constexpr int kKeyLoads = Layout::kMatrix ? kRowBytes / 32 : 1, kLoadWords = Layout::kKeyWords / kKeyLoads;

  // The words of load `load`, of keys g and g + 8 of a head.
  __device__ __forceinline__ void Keys(int head, int load,
                                       uint32_t (&words)[2][Layout::kKeyParts][Layout::kKeyWords]) const {
    const uint32_t at = read + key_lane + head * kBlockBytes;
    if constexpr (Layout::kMatrix) {
      const int byte = load * kLoadWords * 16;
      uint32_t four[4];
      LoadMatrix4((at + byte / 128 * 128) ^ (byte % 128), four);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if constexpr (Layout::kKeyParts == 2) {
          words[i % 2][i / 2][load] = four[i];
        } else {
          words[i % 2][0][2 * load + i / 2] = four[i];
        }
      }
    } else {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
#pragma unroll
        for (int part = 0; part < Layout::kKeyParts; ++part) {
          Layout::KeySlice::Load(at + r * 8 * kRowBytes, part * Layout::kPartBytes, threadIdx.x % 4, Layout::kPartBytes,
                                 words[r][part]);
        }
      }
    }
  }
  // Units of values 2t and 2t + 1 of a head, side by side, and of 2t + 8 and 2t + 9.
  __device__ __forceinline__ void Values(int head, uint32_t (&low)[Layout::kUnits],
                                         uint32_t (&high)[Layout::kUnits]) const {
    const uint32_t at = read + value_lane + head * kBlockBytes;
    if constexpr (Layout::kMatrix) {
#pragma unroll
      for (int unit = 0; unit < Layout::kUnits; unit += 2) {
        uint32_t four[4];
        LoadMatrix4Transposed((at + unit / 8 * 128) ^ (unit % 8 * 16), four);
        low[unit] = four[0], high[unit] = four[1], low[unit + 1] = four[2], high[unit + 1] = four[3];
      }
    } else {
      uint32_t words[4][Layout::ValueSlice::kWords];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        Layout::ValueSlice::Load(at + (i / 2 * 4 + i % 2 * 8) * kRowBytes, 0, threadIdx.x % 32 / 4, kRowBytes,
                                 words[i]);
      }
#pragma unroll
      for (int unit = 0; unit < Layout::kUnits; ++unit) {
        const uint32_t pick = unit % 2 ? 0x7632 : 0x5410;  // this unit of two neighbouring values
        low[unit] = __byte_perm(words[0][unit / 2], words[1][unit / 2], pick);
        high[unit] = __byte_perm(words[2][unit / 2], words[3][unit / 2], pick);
      }
    }
  }
  // Scale and min of keys g and g + 8, and of these values; of two heads, each half of the columns has one.
  __device__ __forceinline__ RingParams Params() const {
    const uint4 v = LoadShared16(read + param_lane);
    return {{__half22float2(Halves(v.x)), __half22float2(Halves(v.y))},
            {__half22float2(Halves(v.z)), __half22float2(Halves(v.w))}};
  }

 private:
  static constexpr int kUnit = kRowBytes % 16 == 0 ? 16 : 8;  // bytes of a copy
  static constexpr int kUnits = kTileBytes / kUnit, kCopies = (kUnits + 31) / 32;
  static constexpr int kWarpBytes = 32 * kUnit;
  // The lane's copies are the same bytes of rows that the same number lies between, an even one.
  static constexpr bool kSameBytes = kWarpBytes % kRowBytes == 0;

  // Where the lane's copy `i` goes.
  __device__ static __forceinline__ uint32_t PlaceOf(bool is_values, int i) {
    const int byte = (static_cast<int>(threadIdx.x % 32) + 32 * i) * kUnit, row = byte / kRowBytes;
    const int place = Place(is_values, row);
    return (is_values ? kTileBytes : 0) + place * kRowBytes + (byte % kRowBytes ^ Swap(place));
  }

  __device__ __forceinline__ void AskAt(uint32_t write, int first, int end) const {
    const int there = end - first;
#pragma unroll
    for (int head = 0; head < kHeads; ++head) {
      if (there >= kDecodeKeys) {
        Copy<true>(write + head * kBlockBytes, head, first, there);
      } else {
        Copy<false>(write + head * kBlockBytes, head, first, there);
      }
    }
  }

  template <bool kAll>
  __device__ __forceinline__ void Copy(uint32_t write, int head, int first, int there) const {
    const int lane = threadIdx.x % 32;
    const int64_t from = static_cast<int64_t>(first) * kRowBytes + head * head_bytes;
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {
      if (kUnits % 32 != 0 && lane + 32 * i >= kUnits) break;
      if (!kAll && (lane + 32 * i) * kUnit / kRowBytes >= there) break;
      // The swaps of rows whose distance is a multiple of 8 are the same.
      constexpr bool kNear = kSameBytes && kWarpBytes / kRowBytes % 8 == 0;
      const uint32_t key_at = kNear || i == 0 ? key_to + i * kWarpBytes : PlaceOf(false, i);
      const uint32_t value_at =
          kNear || i == 0 ? value_to + i * kWarpBytes / (Layout::kMatrix ? 1 : 2) : PlaceOf(true, i);
      AsyncCopy<kUnit>(write + key_at, keys + from + i * kWarpBytes);
      AsyncCopy<kUnit>(write + value_at, values + from + i * kWarpBytes);
    }
    if (kAll || lane % 16 < there)
      AsyncCopy<4>(write + 2 * kTileBytes + lane % 8 * 16 + lane / 8 % 2 * 4 + lane / 16 * 8,
                   param + head * head_rows + first);
  }
};

}  // namespace lowbit::cuda
