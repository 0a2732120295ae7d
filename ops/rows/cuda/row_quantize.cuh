// What the row operators share: loading and storing, scales and codes, and the end of rows that fall into no whole
// units of 16 channels (a segment or the row ends inside one). unit_rows.cuh has all other rows, which is what models
// have.
#pragma once
#include <cuda_fp8.h>

#include <type_traits>

#include "ops/common/cuda/numeric.cuh"

namespace lowbit::cuda {

constexpr int kRowThreads = 128;
constexpr int kRunChannels = 1024;  // README: lanes of a sum
constexpr int kUnitChannels = 16;   // codes a thread writes at once

// A row lies in shared memory as floats in 16-byte chunks, chunk c at c ^ ((c >> 3) & 7): runs of neighbouring chunks
// and chunks 4u ... 4u+3 of neighbouring threads u both use all 32 banks.
__device__ __forceinline__ int SwizzledChunk(int chunk) { return chunk ^ ((chunk >> 3) & 7); }
__device__ __forceinline__ int SwizzledFloat(int i) { return SwizzledChunk(i >> 2) * 4 + (i & 3); }

// Eight neighbouring elements in their own type, as 16-byte words.
template <class T>
struct alignas(16) Pack8 {
  T v[8];
};

template <class T>
__device__ __forceinline__ void LoadPack(const T* row, int at, Pack8<T>& out) {
  const uint4* from = reinterpret_cast<const uint4*>(row + at);
  uint4* to = reinterpret_cast<uint4*>(&out);
#pragma unroll
  for (int i = 0; i < static_cast<int>(sizeof(out) / 16); ++i) to[i] = __ldg(from + i);
}

// Where the codes and scales of a row go, and the numbers every row shares.
struct RowTarget {
  RowFormat format;
  const int32_t* reorder_index = nullptr;     // [K] or null
  int8_t* q = nullptr;                        // [M, K]
  float* scale = nullptr;                     // [M, S]
  int scales = 0;                             // S
  int merge_lanes = 1;                        // neighbouring units that always share a segment: power of two <= 32
  bool one_pass = false;                      // merge_lanes units are a whole segment: a warp knows the scale at once
  float body_factor = 0, outlier_factor = 0;  // clip / qmax, rounded once
  float qmin = 0, qmax = 0;                   // of the body
  // Whether values may round past these. With clips of 0.83 or more of s4 none does past qmin.
  bool clips = false, clips_low = false;
};

// Dynamic shared memory: the row in runs of 1024 floats, a word a segment, the gather order as 16-bit positions.
struct RowShared {
  float* row;
  uint32_t* amax;
  uint16_t* order;
};

constexpr int RowFloats(int channels) { return (channels + kRunChannels - 1) / kRunChannels * kRunChannels; }
constexpr int AmaxWords(const RowFormat& f) { return (f.scales() + 3) / 4 * 4; }

constexpr size_t RowSharedBytes(const RowFormat& f, bool reorder) {
  const size_t words = static_cast<size_t>(RowFloats(f.channels)) + AmaxWords(f);
  return words * 4 + (reorder ? static_cast<size_t>(RowFloats(f.channels)) * 2 : 0);
}

// Splits the block's dynamic shared memory and loads the gather order, which every row of the block then uses.
__device__ __forceinline__ RowShared InitRowShared(const RowTarget& target, float* base) {
  RowShared s{base, nullptr, nullptr};
  const int floats = RowFloats(target.format.channels);
  s.amax = reinterpret_cast<uint32_t*>(base + floats);
  s.order = reinterpret_cast<uint16_t*>(s.amax + AmaxWords(target.format));
  if (target.reorder_index) {
    for (int i = threadIdx.x; i < floats; i += kRowThreads) {
      s.order[i] =
          i < target.format.channels ? static_cast<uint16_t>(SwizzledFloat(__ldg(target.reorder_index + i))) : 0;
    }
  }
  return s;
}

__device__ __forceinline__ int SegmentOf(const RowFormat& f, int k) {
  if (k >= f.body()) return f.groups();
  return f.group_size ? k / f.group_size : 0;
}

// PRMT as it is: __byte_perm has no sign bits.
__device__ __forceinline__ uint32_t Permute(uint32_t a, uint32_t b, uint32_t select) {
  uint32_t d;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(select));
  return d;
}

// Four integer codes. The clamp is before the rounding, which is the same for integer limits; without clipping no value
// rounds past them. Adding 1.5 * 2^23 rounds half to even and leaves the code in the low byte. The high byte is 0x4b
// (of a NaN 0x7f): its repeated sign bit is the zero byte that kSelectZeros takes where every code is 0.
constexpr uint32_t kSelectCodes = 0x5410, kSelectZeros = 0xaaaa;
enum class Clip { kNone, kHigh, kBoth };
template <Clip kClip>
__device__ __forceinline__ float Clamp(float x, float qmin, float qmax) {
  if (kClip == Clip::kBoth) x = fmaxf(x, qmin);
  return kClip == Clip::kNone ? x : fminf(x, qmax);
}
template <Clip kClip>
__device__ __forceinline__ uint32_t PackIntegers(const float* v, float inv, float qmin, float qmax, uint32_t select) {
  uint32_t b[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float x = Clamp<kClip>(__fmul_rn(v[i], inv), qmin, qmax);
    b[i] = __float_as_uint(__fadd_rn(x, 12582912.0f));
  }
  return Permute(Permute(b[0], b[1], 0x3340), Permute(b[2], b[3], 0x3340), select);
}

// Four minifloat codes. The conversion saturates, rounds to nearest even and keeps the sign of zero.
template <class Value>
__device__ __forceinline__ uint32_t PackFloats(__nv_fp8_interpretation_t kind, Value&& value) {
  const uint32_t low = __nv_cvt_float2_to_fp8x2(make_float2(value(0), value(1)), __NV_SATFINITE, kind);
  const uint32_t high = __nv_cvt_float2_to_fp8x2(make_float2(value(2), value(3)), __NV_SATFINITE, kind);
  return low | high << 16;
}

// Four integer codes as sign and magnitude. Below 16 the e4m3 values are the multiples of 2^-9, so that converting
// x * 2^-9 rounds x to an integer, half to even (what underflows rounds to zero either way). Of zero the sign goes.
// kBounded: the largest magnitude is below 2^100, so that scaling the inverse instead loses no bits.
template <Clip kClip, bool kBounded>
__device__ __forceinline__ uint32_t PackSignMagnitude(const float* v, float inv, float qmin, float qmax) {
  constexpr float kUnit = 0x1p-9f;
  const uint32_t codes = PackFloats(__NV_E4M3, [&](int i) {
    return kBounded ? Clamp<kClip>(__fmul_rn(v[i], __fmul_rn(inv, kUnit)), qmin * kUnit, qmax * kUnit)
                    : __fmul_rn(Clamp<kClip>(__fmul_rn(v[i], inv), qmin, qmax), kUnit);
  });
  const uint32_t nonzero = (codes & 0x7f7f7f7fu) + 0x7f7f7f7fu;  // in the high bits
  return codes & (nonzero | 0x7f7f7f7fu);
}

// Calls fn with a function that packs four codes of a segment as they are stored, fn(const float* v, float inv): the
// choice is made once, outside of loops. kBounded: as in PackSignMagnitude.
template <bool kBounded, class Fn>
__device__ __forceinline__ void WithCodes(const RowTarget& target, bool outlier, Fn&& fn) {
  const Format format = target.format.format;
  const auto select = [](float inv) { return inv == 0.0f ? kSelectZeros : kSelectCodes; };
  const auto zero_if = [](float inv, uint32_t word) { return inv == 0.0f ? 0 : word; };
  const float qmin = outlier ? -128.0f : target.qmin, qmax = outlier ? 127.0f : target.qmax;
  // Calls with(the clamping that the codes need).
  const auto with_clip = [&](auto&& with) {
    if (!target.clips) return with(std::integral_constant<Clip, Clip::kNone>{});
    if (!target.clips_low) return with(std::integral_constant<Clip, Clip::kHigh>{});
    return with(std::integral_constant<Clip, Clip::kBoth>{});
  };
  if (outlier || format == Format::kS4 || format == Format::kS8) {
    with_clip([&](auto clip) {
      fn([&](const float* v, float inv) { return PackIntegers<clip()>(v, inv, qmin, qmax, select(inv)); });
    });
  } else if (format == Format::kS4E4M3) {
    with_clip([&](auto clip) {
      fn([&](const float* v, float inv) {
        return zero_if(inv, PackSignMagnitude<clip(), kBounded>(v, inv, qmin, qmax));
      });
    });
  } else {
    const __nv_fp8_interpretation_t kind = format == Format::kE4M3 ? __NV_E4M3 : __NV_E5M2;
    fn([&](const float* v, float inv) {
      return zero_if(inv, PackFloats(kind, [&](int i) { return __fmul_rn(v[i], inv); }));
    });
  }
}

// A unit that may straddle segments or the row's end: element by element.
__device__ __forceinline__ void WriteRaggedUnit(const RowTarget& target, const RowShared& s, int64_t row, int start) {
  const RowFormat& f = target.format;
#pragma unroll 1
  for (int k = start; k < min(start + kUnitChannels, f.channels); ++k) {
    const int segment = SegmentOf(f, k);
    const bool outlier = k >= f.body();
    const SegmentScale scale = ScaleOf(s.amax[segment], outlier ? target.outlier_factor : target.body_factor);
    const float v[4] = {s.row[target.reorder_index ? s.order[k] : SwizzledFloat(k)], 0, 0, 0};
    WithCodes<false>(target, outlier,
                     [&](auto pack) { target.q[row * f.channels + k] = static_cast<int8_t>(pack(v, scale.inv)); });
    if (k == (outlier ? f.body() : segment * f.group_size)) target.scale[row * target.scales + segment] = scale.scale;
  }
}

// Gathers and quantizes the row in shared memory. Needs: the row's floats and amax words set to zero, visible to the
// block. Leaves the block synchronized.
__device__ __forceinline__ void QuantizeRow(const RowTarget& target, const RowShared& s, int64_t row) {
  const RowFormat& f = target.format;
#pragma unroll 1
  for (int k = threadIdx.x; k < f.channels; k += kRowThreads) {
    const float x = s.row[target.reorder_index ? s.order[k] : SwizzledFloat(k)];
    atomicMax(&s.amax[SegmentOf(f, k)], __float_as_uint(x) & 0x7fffffffu);
  }
  __syncthreads();
#pragma unroll 1
  for (int start = threadIdx.x * kUnitChannels; start < f.channels; start += kRowThreads * kUnitChannels) {
    WriteRaggedUnit(target, s, row, start);
  }
  __syncthreads();
}

__device__ __forceinline__ void ClearAmax(const RowTarget& target, const RowShared& s) {
  for (int i = threadIdx.x; i < target.format.scales(); i += kRowThreads) s.amax[i] = 0;
}

}  // namespace lowbit::cuda
