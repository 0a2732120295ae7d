// The common end of the row operators: a block of 128 threads takes one row, gathers it and quantizes it segment by
// segment. Rows travel global -> registers -> shared memory (as floats) -> codes, each value once.
//
// Thread t holds elements 8t ... 8t+7 of every run of 1024, which are exactly the README's lanes 8t ... 8t+7, so a
// norm's lane sums need no exchange before the pairwise tree. The row lies in shared memory in 16-byte chunks, chunk c
// at c ^ ((c >> 3) & 7): both the writes (chunks 2t, 2t+1) and the reads (chunks 4u ... 4u+3) then use all 32 banks.
#pragma once
#include <cuda_fp8.h>

#include "ops/common/cuda/numeric.cuh"

namespace lowbit::cuda {

constexpr int kRowThreads = 128;
constexpr int kRunChannels = 1024;  // README: lanes of a sum
constexpr int kUnitChannels = 16;   // codes a thread writes at once

__device__ __forceinline__ int SwizzledChunk(int chunk) { return chunk ^ ((chunk >> 3) & 7); }
__device__ __forceinline__ int SwizzledFloat(int i) { return SwizzledChunk(i >> 2) * 4 + (i & 3); }

// Eight neighbouring elements in their own type, as 16-byte words.
template <class T>
struct alignas(16) Pack8 {
  T v[8];
};

// `vector`: the row starts on 16 bytes and K is a multiple of 8, so that all eight are there or none is.
template <class T>
__device__ __forceinline__ void LoadPack(const T* row, int at, int channels, bool vector, Pack8<T>& out) {
  if (vector) {
    if (at < channels) {
      const uint4* from = reinterpret_cast<const uint4*>(row + at);
      uint4* to = reinterpret_cast<uint4*>(&out);
#pragma unroll
      for (int i = 0; i < static_cast<int>(sizeof(out) / 16); ++i) to[i] = __ldg(from + i);
      return;
    }
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) out.v[i] = at + i < channels ? row[at + i] : Narrow<T>(0.0f);
}

template <class T>
__device__ __forceinline__ void StorePack(T* row, int at, int channels, bool vector, const Pack8<T>& in) {
  if (vector) {
    if (at < channels) {
      const uint4* from = reinterpret_cast<const uint4*>(&in);
      uint4* to = reinterpret_cast<uint4*>(row + at);
#pragma unroll
      for (int i = 0; i < static_cast<int>(sizeof(in) / 16); ++i) to[i] = from[i];
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    if (at + i < channels) row[at + i] = in.v[i];
  }
}

__device__ __forceinline__ void StoreRowFloats(float* smem_row, int at, const float (&v)[8]) {
  float4* chunks = reinterpret_cast<float4*>(smem_row);
  chunks[SwizzledChunk(at / 4)] = make_float4(v[0], v[1], v[2], v[3]);
  chunks[SwizzledChunk(at / 4 + 1)] = make_float4(v[4], v[5], v[6], v[7]);
}

// Where the codes and scales of a row go, and the numbers every row shares.
struct RowTarget {
  RowFormat format;
  const int32_t* reorder_index = nullptr;     // [K] or null
  int8_t* q = nullptr;                        // [M, K]
  float* scale = nullptr;                     // [M, S]
  int merge_shift = 0;                        // logarithm of merge_lanes
  int merge_lanes = 1;                        // neighbouring units that always share a segment: power of two <= 32
  bool one_pass = false;                      // merge_lanes units are a whole segment: a warp knows the scale at once
  float body_factor = 0, outlier_factor = 0;  // clip / qmax, rounded once
  float qmin = 0, qmax = 0;                   // of the body
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

// One thread's unit of 16 gathered channels; channels past K are zeros.
__device__ __forceinline__ void GatherUnit(const RowTarget& target, const RowShared& s, int start,
                                           float (&v)[kUnitChannels]) {
  if (target.reorder_index) {
    const uint4* order = reinterpret_cast<const uint4*>(s.order + start);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const uint4 o = order[h];
      const uint32_t w[4] = {o.x, o.y, o.z, o.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        v[h * 8 + 2 * i] = s.row[w[i] & 0xffffu];
        v[h * 8 + 2 * i + 1] = s.row[w[i] >> 16];
      }
    }
  } else {
    const float4* chunks = reinterpret_cast<const float4*>(s.row);
#pragma unroll
    for (int i = 0; i < kUnitChannels; i += 4) {
      const float4 f = chunks[SwizzledChunk((start + i) / 4)];
      v[i] = f.x, v[i + 1] = f.y, v[i + 2] = f.z, v[i + 3] = f.w;
    }
  }
  if (start + kUnitChannels > target.format.channels) {
#pragma unroll
    for (int i = 0; i < kUnitChannels; ++i) {
      if (start + i >= target.format.channels) v[i] = 0.0f;
    }
  }
}

__device__ __forceinline__ int SegmentOf(const RowFormat& f, int k) {
  if (k >= f.body()) return f.groups();
  return f.group_size ? k / f.group_size : 0;
}

// Four integer codes. The clamp is before the rounding, which is the same for integer limits; adding 1.5 * 2^23 rounds
// half to even and leaves the code in the low byte.
__device__ __forceinline__ uint32_t PackIntegers(const float* v, float inv, float qmin, float qmax) {
  uint32_t b[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    b[i] = __float_as_uint(__fadd_rn(fminf(fmaxf(__fmul_rn(v[i], inv), qmin), qmax), 12582912.0f));
  }
  return __byte_perm(__byte_perm(b[0], b[1], 0x0040), __byte_perm(b[2], b[3], 0x0040), 0x5410);
}

// Four minifloat codes; the conversion rounds to nearest even and keeps the sign of zero.
__device__ __forceinline__ uint32_t PackFloats(const float* v, float inv, float limit, __nv_fp8_interpretation_t kind) {
  uint32_t pair[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float x = fminf(fmaxf(__fmul_rn(v[2 * i], inv), -limit), limit);
    const float y = fminf(fmaxf(__fmul_rn(v[2 * i + 1], inv), -limit), limit);
    pair[i] = __nv_cvt_float2_to_fp8x2(make_float2(x, y), __NV_SATFINITE, kind);
  }
  return pair[0] | pair[1] << 16;
}

// Four codes between -8 and 7 in two's complement to sign and magnitude.
__device__ __forceinline__ uint32_t SignMagnitude(uint32_t codes) {
  const uint32_t negative = (codes >> 7) & 0x01010101u;
  return ((codes ^ negative * 255u) + negative) | negative << 7;
}

// Four codes of one segment as they are stored.
__device__ __forceinline__ uint32_t PackCodes(const RowTarget& target, bool outlier, const float* v, float inv) {
  uint32_t codes;
  if (outlier) {
    codes = PackIntegers(v, inv, -128.0f, 127.0f);
  } else if (target.format.format == Format::kE4M3 || target.format.format == Format::kE5M2) {
    codes = PackFloats(v, inv, target.qmax, target.format.format == Format::kE4M3 ? __NV_E4M3 : __NV_E5M2);
  } else {
    codes = PackIntegers(v, inv, target.qmin, target.qmax);
    if (target.format.format == Format::kS4E4M3) codes = SignMagnitude(codes);
  }
  return inv == 0.0f ? 0 : codes;
}

// The unit's largest magnitude and those of the merge_lanes units around it. All lanes of the warp take part.
__device__ __forceinline__ uint32_t MergedAmax(const RowTarget& target, const float (&v)[kUnitChannels]) {
  uint32_t bits = 0;
#pragma unroll
  for (int i = 0; i < kUnitChannels; ++i) bits = max(bits, __float_as_uint(v[i]) & 0x7fffffffu);
#pragma unroll
  for (int d = 1; d < 32; d *= 2) {
    if (d < target.merge_lanes) bits = max(bits, __shfl_xor_sync(~0u, bits, d));
  }
  return bits;
}

// A unit inside one segment: 16 codes in one store, and the scale by the segment's first unit.
__device__ __forceinline__ void WriteUnit(const RowTarget& target, int64_t row, int start, int segment, bool first,
                                          const float (&v)[kUnitChannels], uint32_t amax_bits) {
  const RowFormat& f = target.format;
  const bool outlier = start >= f.body();
  const SegmentScale scale = ScaleOf(amax_bits, outlier ? target.outlier_factor : target.body_factor);
  uint4 codes;
  codes.x = PackCodes(target, outlier, v + 0, scale.inv);
  codes.y = PackCodes(target, outlier, v + 4, scale.inv);
  codes.z = PackCodes(target, outlier, v + 8, scale.inv);
  codes.w = PackCodes(target, outlier, v + 12, scale.inv);
  *reinterpret_cast<uint4*>(target.q + row * f.channels + start) = codes;
  if (first) target.scale[row * f.scales() + segment] = scale.scale;
}

// A unit that may straddle segments or the row's end: element by element.
__device__ __forceinline__ void WriteRaggedUnit(const RowTarget& target, const RowShared& s, int64_t row, int start) {
  const RowFormat& f = target.format;
#pragma unroll 1
  for (int k = start; k < min(start + kUnitChannels, f.channels); ++k) {
    const int segment = SegmentOf(f, k);
    const bool outlier = k >= f.body();
    const SegmentScale scale = ScaleOf(s.amax[segment], outlier ? target.outlier_factor : target.body_factor);
    const float v[4] = {s.row[target.reorder_index ? s.order[k] : SwizzledFloat(k)]};
    target.q[row * f.channels + k] = static_cast<int8_t>(PackCodes(target, outlier, v, scale.inv));
    if (k == (outlier ? f.body() : segment * f.group_size)) target.scale[row * f.scales() + segment] = scale.scale;
  }
}

// Gathers and quantizes the row in shared memory. Needs: the row's floats and, unless one_pass, amax words set to zero,
// visible to the block. Leaves the block synchronized.
__device__ __forceinline__ void QuantizeRow(const RowTarget& target, const RowShared& s, int64_t row) {
  const RowFormat& f = target.format;
  const int units = (f.channels + kUnitChannels - 1) / kUnitChannels;
  const int padded_units = (units + 31) / 32 * 32;  // whole warps, for the shuffles
  if (target.one_pass) {
    for (int u = threadIdx.x; u < padded_units; u += kRowThreads) {
      float v[kUnitChannels] = {};
      if (u < units) GatherUnit(target, s, u * kUnitChannels, v);
      const uint32_t bits = MergedAmax(target, v);
      const bool first = (u & (target.merge_lanes - 1)) == 0;
      if (u < units) WriteUnit(target, row, u * kUnitChannels, u >> target.merge_shift, first, v, bits);
    }
    __syncthreads();
    return;
  }
  const bool ragged = f.channels % kUnitChannels != 0 || f.body() % kUnitChannels != 0;
#pragma unroll 1
  for (int u = threadIdx.x; u < padded_units; u += kRowThreads) {
    const int start = u * kUnitChannels;
    float v[kUnitChannels] = {};
    if (u < units) GatherUnit(target, s, start, v);
    if (!ragged) {
      const uint32_t bits = MergedAmax(target, v);
      if (u < units && u % target.merge_lanes == 0) atomicMax(&s.amax[SegmentOf(f, start)], bits);
    } else {
#pragma unroll 1
      for (int i = 0; i < kUnitChannels; ++i) {
        if (start + i >= f.channels) break;
        const float x = s.row[target.reorder_index ? s.order[start + i] : SwizzledFloat(start + i)];
        atomicMax(&s.amax[SegmentOf(f, start + i)], __float_as_uint(x) & 0x7fffffffu);
      }
    }
  }
  __syncthreads();
#pragma unroll 1
  for (int u = threadIdx.x; u < units; u += kRowThreads) {
    if (ragged) {
      WriteRaggedUnit(target, s, row, u * kUnitChannels);
    } else {
      float v[kUnitChannels];
      GatherUnit(target, s, u * kUnitChannels, v);
      const int start = u * kUnitChannels, segment = SegmentOf(f, start);
      const bool first = start == (start >= f.body() ? f.body() : segment * f.group_size);
      WriteUnit(target, row, start, segment, first, v, s.amax[segment]);
    }
  }
  __syncthreads();
}

__device__ __forceinline__ void ClearAmax(const RowTarget& target, const RowShared& s) {
  if (target.one_pass) return;
  for (int i = threadIdx.x; i < target.format.scales(); i += kRowThreads) s.amax[i] = 0;
}

}  // namespace lowbit::cuda
