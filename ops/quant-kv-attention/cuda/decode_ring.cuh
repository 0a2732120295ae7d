// The next keys and values of a warp, in shared memory: a ring of steps of 16 rows of codes each, and their parameters,
// which asynchronous copies fill. No registers wait for memory.
#pragma once
#include "ops/quant-kv-attention/cuda/decode.cuh"

namespace lowbit::cuda {

// Steps in the ring. Codes are asked for two steps ahead with tables, whose copies are waited for in between, else
// three.
template <int kRowBytes, bool kTables>
constexpr int kRingSteps = kRowBytes > 64 || kTables ? 3 : 4;

struct RingParams {
  float2 keys[2], values[2];
};

template <class Layout, int kCount>
struct DecodeRing {
  static constexpr int kRowBytes = Layout::kRowBytes, kTileBytes = kDecodeKeys * kRowBytes;
  static constexpr int kStepBytes = 2 * kTileBytes + 2 * kDecodeKeys * 4;  // keys, values, parameters of both
  static constexpr int kSteps = kCount, kBytes = kCount * kStepBytes;
  static constexpr bool kSwapped = kRowBytes == 64 || kRowBytes % 128 == 0;
  static_assert(!kSwapped || kStepBytes % 128 == 0);

  // Rows of values lie even ones first, as a lane takes two neighbours; chunks of 16 bytes are swapped between rows. So
  // that lanes that read together meet different banks.
  __device__ static constexpr int Place(bool values, int row) { return values ? row / 2 + row % 2 * 8 : row; }
  __device__ static constexpr int Swap(bool values, int place) {
    if (kRowBytes == 64) return (place >> 1 & 1) * 32;
    if (kRowBytes % 128 == 0) return values ? (place & 3) * 32 : (place & 1) * 64;
    return 0;
  }

  uint32_t base, last;                        // shared addresses of the first step and of the last
  const uint8_t *keys, *values;               // the lane's first bytes of the head's first rows
  const uint32_t* param;                      // lanes 0 to 15: of the key `lane`; others of the value `lane - 16`
  uint32_t read;                              // of this step
  uint32_t key_lane, value_lane, param_lane;  // what this lane reads of a step
  uint32_t key_to, value_to;                  // and where its first copies go

  __device__ __forceinline__ DecodeRing(const KvArgs& args, int64_t head_row, uint32_t shared)
      : base(Keep(shared)), last(Keep(shared + (kCount - 1) * kStepBytes)), read(shared) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    keys = Keep(args.present_k.codes + head_row * kRowBytes + lane * kUnit);
    values = Keep(args.present_v.codes + head_row * kRowBytes + lane * kUnit);
    param = Keep(reinterpret_cast<const uint32_t*>(lane < 16 ? args.present_k.params : args.present_v.params) +
                 head_row + lane % 16);
    key_lane = Keep(g * kRowBytes + (Layout::KeySlice::Offset(t, 0) ^ Swap(false, g)));
    value_lane = Keep(kTileBytes + t * kRowBytes + (Layout::ValueSlice::Offset(g, 0) ^ Swap(true, t)));
    param_lane = Keep(2 * kTileBytes + g * 16);
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
  __device__ __forceinline__ void Next() { read = read == last ? base : read + kStepBytes; }

  // Words of key g + 8r.
  __device__ __forceinline__ void Keys(int r, int part, uint32_t (&words)[Layout::kKeyWords]) const {
    Layout::KeySlice::template Load<kSwapped>(read + key_lane + r * 8 * kRowBytes, part * Layout::kPartBytes,
                                              threadIdx.x % 4, Layout::kPartBytes, words);
  }
  // Words of value 2t + i % 2 + 8 (i / 2).
  __device__ __forceinline__ void Values(int i, uint32_t (&words)[Layout::ValueSlice::kWords]) const {
    Layout::ValueSlice::template Load<kSwapped>(read + value_lane + (i / 2 * 4 + i % 2 * 8) * kRowBytes, 0,
                                                threadIdx.x % 32 / 4, kRowBytes, words);
  }
  // Scale and min of keys g and g + 8, and of these values.
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
    return (is_values ? kTileBytes : 0) + place * kRowBytes + (byte % kRowBytes ^ Swap(is_values, place));
  }

  __device__ __forceinline__ void AskAt(uint32_t write, int first, int end) const {
    const int there = end - first;
    if (there >= kDecodeKeys) {
      Copy<true>(write, first, there);
    } else {
      Copy<false>(write, first, there);
    }
  }

  template <bool kAll>
  __device__ __forceinline__ void Copy(uint32_t write, int first, int there) const {
    const int lane = threadIdx.x % 32;
    const int64_t from = static_cast<int64_t>(first) * kRowBytes;
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {
      if (kUnits % 32 != 0 && lane + 32 * i >= kUnits) break;
      if (!kAll && (lane + 32 * i) * kUnit / kRowBytes >= there) break;
      // The swaps of rows whose distance is a multiple of 8 are the same.
      constexpr bool kNear = kSameBytes && kWarpBytes / kRowBytes % 8 == 0;
      const uint32_t key_at = kNear || i == 0 ? key_to + i * kWarpBytes : PlaceOf(false, i);
      const uint32_t value_at = kNear || i == 0 ? value_to + i * kWarpBytes / 2 : PlaceOf(true, i);
      AsyncCopy<kUnit>(write + key_at, keys + from + i * kWarpBytes);
      AsyncCopy<kUnit>(write + value_at, values + from + i * kWarpBytes);
    }
    if (kAll || lane % 16 < there)
      AsyncCopy<4>(write + 2 * kTileBytes + lane % 8 * 16 + lane / 8 % 2 * 4 + lane / 16 * 8, param + first);
  }
};

}  // namespace lowbit::cuda
