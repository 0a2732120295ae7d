// Rows that fall into whole units of 16 channels, each inside one segment: a block takes a row, a thread a unit, which
// stays in its registers from the gather to the codes.
#pragma once
#include "ops/common/cuda/ptx.cuh"
#include "ops/rows/cuda/row_launch.cuh"

namespace lowbit::cuda {

constexpr int kMaxUnitThreads = kMaxRowChannels / kUnitChannels, kShortUnitThreads = 256;

// Dynamic shared memory: two rows as floats, so that one may be filled while the other is read, then three rows' words
// of largest magnitudes: one in use, one still read, one being cleared.
constexpr int UnitRowFloats(int channels) { return (channels + 31) / 32 * 32; }
constexpr int UnitThreads(int channels) { return (channels / kUnitChannels + 31) / 32 * 32; }
inline size_t UnitSharedBytes(const RowTarget& t, bool rows) {
  return (rows ? 2 * UnitRowFloats(t.format.channels) * sizeof(float) : 0) +
         (t.one_pass ? 0 : 3 * t.scales * sizeof(uint32_t));
}

// Whether the kernels here take the rows; `stride` is every distance of rows in elements.
inline bool FallsIntoUnits(const RowFormat& f, int64_t stride) {
  return f.channels % kUnitChannels == 0 && f.body() % kUnitChannels == 0 && stride % 8 == 0;
}

// The channels of the row that a unit gathers.
__device__ __forceinline__ void UnitSource(const RowTarget& target, int unit, int (&source)[kUnitChannels]) {
  const int32_t* const from = target.reorder_index + unit * kUnitChannels;
  const bool aligned = reinterpret_cast<uintptr_t>(target.reorder_index) % 16 == 0;
#pragma unroll
  for (int i = 0; i < kUnitChannels; i += 4) {
    int4 k;
    if (!target.reorder_index) {
      const int at = unit * kUnitChannels + i;
      k = make_int4(at, at + 1, at + 2, at + 3);
    } else if (aligned) {
      k = __ldg(reinterpret_cast<const int4*>(from + i));
    } else {
      k = make_int4(__ldg(from + i), __ldg(from + i + 1), __ldg(from + i + 2), __ldg(from + i + 3));
    }
    source[i] = k.x, source[i + 1] = k.y, source[i + 2] = k.z, source[i + 3] = k.w;
  }
}

// Where the thread's 16 channels lie in a row in shared memory, as two byte offsets a word.
struct UnitOrder {
  uint32_t pair[kUnitChannels / 2];

  // `source`: the channels of the row that the unit gathers.
  __device__ __forceinline__ void Read(const int (&source)[kUnitChannels]) {
#pragma unroll
    for (int i = 0; i < kUnitChannels; i += 2) {
      pair[i / 2] = SwizzledFloat(source[i]) * 4 | SwizzledFloat(source[i + 1]) * 4 << 16;
    }
  }
  __device__ __forceinline__ void Gather(const float* row, float (&v)[kUnitChannels]) const {
    const char* bytes = reinterpret_cast<const char*>(row);
#pragma unroll
    for (int i = 0; i < kUnitChannels; i += 2) {
      v[i] = *reinterpret_cast<const float*>(bytes + (pair[i / 2] & 0xffffu));
      v[i + 1] = *reinterpret_cast<const float*>(bytes + (pair[i / 2] >> 16));
    }
  }
};

__device__ __forceinline__ void ReadUnit(const float* row, int unit, float (&v)[kUnitChannels]) {
#pragma unroll
  for (int i = 0; i < kUnitChannels; i += 4) {
    const float4 f = reinterpret_cast<const float4*>(row)[SwizzledChunk((unit * kUnitChannels + i) / 4)];
    v[i] = f.x, v[i + 1] = f.y, v[i + 2] = f.z, v[i + 3] = f.w;
  }
}

// The bits of the largest magnitude; a NaN counts as larger than everything.
__device__ __forceinline__ uint32_t MaxMagnitude(const float (&v)[kUnitChannels]) {
  float m[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) m[i] = fabsf(v[i]);
#pragma unroll
  for (int i = 4; i < kUnitChannels; ++i) {
    asm("max.NaN.f32 %0, %0, %1;" : "+f"(m[i % 4]) : "f"(fabsf(v[i])));
  }
  return max(max(__float_as_uint(m[0]) & 0x7fffffffu, __float_as_uint(m[1]) & 0x7fffffffu),
             max(__float_as_uint(m[2]) & 0x7fffffffu, __float_as_uint(m[3]) & 0x7fffffffu));
}

// What of a thread's unit is the same in every row.
struct UnitPlace {
  int unit, segment;
  bool inside, outlier;
  bool merges;   // speaks for the neighbouring units that share its segment
  bool first;    // of its segment
  float factor;  // scale over largest magnitude

  __device__ __forceinline__ UnitPlace(const RowTarget& target, int u) : unit(u) {
    const RowFormat& f = target.format;
    const int start = unit * kUnitChannels;
    inside = start < f.channels;
    outlier = start >= f.body();
    merges = (unit & (target.merge_lanes - 1)) == 0;
    segment = SegmentOf(f, start);
    first = start == (outlier ? f.body() : segment * f.group_size);
    factor = outlier ? target.outlier_factor : target.body_factor;
  }
};

// Quantizes one row, whose units the threads hold (zeros behind the last). `amax` are three rows' words, cleared before
// the first row; `turn` counts rows modulo 3. All threads of the block take part.
__device__ __forceinline__ void QuantizeUnits(const RowTarget& target, const UnitPlace& place, uint32_t* amax, int turn,
                                              int64_t row, const float (&v)[kUnitChannels]) {
  uint32_t bits = MaxMagnitude(v);
  for (int d = 1; d < target.merge_lanes; d *= 2) bits = max(bits, __shfl_xor_sync(~0u, bits, d));
  if (!target.one_pass) {
    uint32_t* const now = amax + turn * target.scales;
    uint32_t* const later = amax + (turn == 2 ? 0 : turn + 1) * target.scales;
    if (place.inside && place.merges) atomicMax(&now[place.segment], bits);
    for (int i = threadIdx.x; i < target.scales; i += blockDim.x) later[i] = 0;
    __syncthreads();
    if (place.inside) bits = now[place.segment];
  }
  if (!place.inside) return;
  const SegmentScale scale = ScaleOf(bits, place.factor);
  uint32_t words[kUnitChannels / 4];
  PackCodes<kUnitChannels>(target, place.outlier, v, scale.inv, words);
  *reinterpret_cast<uint4*>(target.q + row * target.format.channels + place.unit * kUnitChannels) =
      make_uint4(words[0], words[1], words[2], words[3]);
  if (place.first) target.scale[row * target.scales + place.segment] = scale.scale;
}

__device__ __forceinline__ void ClearMagnitudes(const RowTarget& target, uint32_t* amax) {
  if (target.one_pass) return;
  for (int i = threadIdx.x; i < 3 * target.scales; i += blockDim.x) amax[i] = 0;
  __syncthreads();
}

}  // namespace lowbit::cuda
