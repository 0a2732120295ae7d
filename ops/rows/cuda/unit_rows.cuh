// Rows that fall into whole units of 16 channels, each inside one segment: a block takes a row, a thread a unit, which
// stays in its registers from the gather to the codes.
#pragma once
#include "ops/common/cuda/ptx.cuh"
#include "ops/rows/cuda/row_launch.cuh"

namespace lowbit::cuda {

constexpr int kMaxUnitThreads = kMaxRowChannels / kUnitChannels, kShortUnitThreads = 256;

// Shared memory for three rows' (of kRows each) words of largest magnitudes: one in use, one still read, one being
// cleared.
inline size_t MagnitudeBytes(const RowTarget& t, int rows) {
  return t.one_pass ? 0 : 3 * static_cast<size_t>(rows) * t.scales * sizeof(uint32_t);
}
constexpr int UnitThreads(int channels) { return (channels / kUnitChannels + 31) / 32 * 32; }

// Whether the kernels here take the rows; `stride` is every distance of rows in elements.
inline bool FallsIntoUnits(const RowFormat& f, int64_t stride) {
  return f.channels % kUnitChannels == 0 && f.body() % kUnitChannels == 0 && stride % 8 == 0;
}

// The 16 channels of a unit in their own type.
template <class T>
struct Unit {
  Pack8<T> half[2];
  __device__ __forceinline__ float at(int i) const { return Widen(half[i / 8].v[i % 8]); }
};

// kRows rows in shared memory: a channel is one cell of its values in all of them, cells lie in swizzled chunks of 16
// bytes. Quads of neighbouring threads, units of neighbouring threads and single cells then use all banks.
template <class T, int kRows>
struct CellRows {
  using Element = T;
  static constexpr int kCount = kRows, kCellBytes = kRows * static_cast<int>(sizeof(T));
  struct alignas(kCellBytes) Cell {
    T v[kRows];
  };
  struct alignas(kCellBytes < 4 ? 8 : 16) Quad {  // or half of one
    Cell cell[kCellBytes == 8 ? 2 : 4];
  };
  static constexpr int kQuadParts = kCellBytes == 8 ? 2 : 1;

  static constexpr int Bytes(int channels) { return (channels * kCellBytes + 127) / 128 * 128; }
  static __device__ __forceinline__ int At(int channel) {
    const int byte = channel * kCellBytes;
    return SwizzledChunk(byte >> 4) * 16 + (byte & 15);
  }
  // The place of channel i of a unit (a multiple of 4) whose first is at `place`: swizzling changes no bits but those
  // of the chunk, and equally in the whole unit. From run to run it is the same.
  static __device__ __forceinline__ int InUnit(int place, int i) {
    const int byte = i * kCellBytes;
    return (place ^ (byte & ~15)) + (byte & 15);
  }
  static constexpr int kRunBytes = kRunChannels * kCellBytes;
  static __device__ __forceinline__ void StoreQuad(uint8_t* rows, int place, const T (&v)[4][kRows]) {
#pragma unroll
    for (int p = 0; p < kQuadParts; ++p) {
      Quad quad;
#pragma unroll
      for (int i = 0; i < 4 / kQuadParts; ++i) {
#pragma unroll
        for (int r = 0; r < kRows; ++r) quad.cell[i].v[r] = v[i + p * 2][r];
      }
      *reinterpret_cast<Quad*>(rows + (place ^ 16 * p)) = quad;
    }
  }
  static __device__ __forceinline__ void LoadQuad(const uint8_t* rows, int place, T (&v)[4][kRows]) {
#pragma unroll
    for (int p = 0; p < kQuadParts; ++p) {
      const Quad quad = *reinterpret_cast<const Quad*>(rows + (place ^ 16 * p));
#pragma unroll
      for (int i = 0; i < 4 / kQuadParts; ++i) {
#pragma unroll
        for (int r = 0; r < kRows; ++r) v[i + p * 2][r] = quad.cell[i].v[r];
      }
    }
  }
};

// Where the thread's 16 channels lie in such rows. kPacked: two byte offsets a word, for threads short of registers.
template <class Rows, bool kPacked>
struct UnitOrder {
  uint32_t place[kPacked ? kUnitChannels / 2 : kUnitChannels];

  __device__ __forceinline__ void Read(const RowTarget& target, int unit) {
    if (!target.reorder_index) {
      place[0] = Rows::At(unit * kUnitChannels);
      return;
    }
    const int32_t* const from = target.reorder_index + unit * kUnitChannels;
    const bool aligned = reinterpret_cast<uintptr_t>(target.reorder_index) % 16 == 0;
#pragma unroll
    for (int i = 0; i < kUnitChannels; i += 4) {
      const int4 k = aligned
                         ? __ldg(reinterpret_cast<const int4*>(from + i))
                         : make_int4(__ldg(from + i), __ldg(from + i + 1), __ldg(from + i + 2), __ldg(from + i + 3));
      if constexpr (kPacked) {
        place[i / 2] = Rows::At(k.x) | Rows::At(k.y) << 16;
        place[i / 2 + 1] = Rows::At(k.z) | Rows::At(k.w) << 16;
      } else {
        place[i] = Rows::At(k.x), place[i + 1] = Rows::At(k.y);
        place[i + 2] = Rows::At(k.z), place[i + 3] = Rows::At(k.w);
      }
    }
  }
  __device__ __forceinline__ uint32_t at(int i) const {
    return !kPacked ? place[i] : i % 2 ? place[i / 2] >> 16 : place[i / 2] & 0xffffu;
  }
  // The unit of a single row, by a reorder index.
  __device__ __forceinline__ Unit<typename Rows::Element> GatherRow(const uint8_t* rows) const {
    Unit<typename Rows::Element> x;
#pragma unroll
    for (int i = 0; i < kUnitChannels; ++i) {
      x.half[i / 8].v[i % 8] = *reinterpret_cast<const typename Rows::Element*>(rows + at(i));
    }
    return x;
  }
  __device__ __forceinline__ void Gather(const RowTarget& target, const uint8_t* rows,
                                         float (&v)[kUnitChannels][Rows::kCount]) const {
    if (target.reorder_index) {
#pragma unroll
      for (int i = 0; i < kUnitChannels; ++i) {
        const typename Rows::Cell cell = *reinterpret_cast<const typename Rows::Cell*>(rows + at(i));
#pragma unroll
        for (int r = 0; r < Rows::kCount; ++r) v[i][r] = Widen(cell.v[r]);
      }
    } else {
#pragma unroll
      for (int i = 0; i < kUnitChannels; i += 4) {
        typename Rows::Element x[4][Rows::kCount];
        Rows::LoadQuad(rows, Rows::InUnit(place[0], i), x);
#pragma unroll
        for (int j = 0; j < 4 * Rows::kCount; ++j) {
          v[i + j / Rows::kCount][j % Rows::kCount] = Widen(x[j / Rows::kCount][j % Rows::kCount]);
        }
      }
    }
  }
};

// Which row's result MergeRows leaves in a lane, and the first lane that has a row's.
template <int kRows>
__device__ __forceinline__ int RowOfLane(int lane) {
  return kRows == 1 ? 0 : kRows == 2 ? lane & 1 : (lane & 1) * 2 + (lane >> 1 & 1);
}
template <int kRows>
__device__ constexpr int LaneOfRow(int row) {
  return kRows == 1 ? 0 : kRows == 2 ? row : (row & 1) * 2 + (row >> 1);
}

// Merges values of kRows rows over `lanes` (a power of two, at least kRows) neighbouring lanes, pairs of neighbours
// first. Lanes share the rows out among them on the way.
template <int kRows, class V, class Fn>
__device__ __forceinline__ V MergeRows(V (&v)[kRows], int lanes, Fn&& merge) {
#pragma unroll
  for (int n = kRows / 2, d = 1; n > 0; n /= 2, d *= 2) {
    const bool upper = threadIdx.x & d;
#pragma unroll
    for (int i = 0; i < n; ++i) {
      const V keep = upper ? v[i + n] : v[i], send = upper ? v[i] : v[i + n];
      v[i] = merge(keep, __shfl_xor_sync(~0u, send, d));
    }
  }
  V result = v[0];
  const auto rest = [&](int end) {
#pragma unroll
    for (int d = kRows; d < 32; d *= 2) {
      if (d >= end) break;
      result = merge(result, __shfl_xor_sync(~0u, result, d));
    }
  };
  if (lanes == 8) {  // groups of 128
    rest(8);
  } else if (lanes == 32) {
    rest(32);
  } else {
    rest(lanes);
  }
  return result;
}

// The bits of the largest magnitude in a row; a NaN counts as larger than everything.
template <int kRows>
__device__ __forceinline__ uint32_t MaxMagnitude(const float (&v)[kUnitChannels][kRows], int row) {
  float m[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) m[i] = fabsf(v[i][row]);
#pragma unroll
  for (int i = 4; i < kUnitChannels; ++i) {
    asm("max.NaN.f32 %0, %0, %1;" : "+f"(m[i % 4]) : "f"(fabsf(v[i][row])));
  }
  return max(max(__float_as_uint(m[0]), __float_as_uint(m[1])), max(__float_as_uint(m[2]), __float_as_uint(m[3])));
}

// What of a thread's unit is the same in every row.
struct UnitPlace {
  int unit, segment;
  bool inside, outlier;
  bool merges;   // speaks for the neighbouring units that share its segment
  bool first;    // of its segment
  bool begins;   // the units it merges with begin inside the row
  float factor;  // scale over largest magnitude

  UnitPlace() = default;
  __device__ __forceinline__ UnitPlace(const RowTarget& target, int u) : unit(u) {
    const RowFormat& f = target.format;
    const int start = unit * kUnitChannels;
    inside = start < f.channels;
    outlier = start >= f.body();
    merges = (unit & (target.merge_lanes - 1)) == 0;
    // Where merging takes whole segments, they are a power of two of units; dividing by sizes is long.
    segment = target.one_pass ? unit >> (31 - __clz(target.merge_lanes)) : SegmentOf(f, start);
    first = start == (outlier ? f.body() : segment * f.group_size);
    begins = (unit & ~(target.merge_lanes - 1)) * kUnitChannels < f.channels;
    factor = outlier ? target.outlier_factor : target.body_factor;
  }
};

// Stores the codes of a unit of kRows rows from `row` on, of at most `rows` in all.
template <class T, int kRows>
__device__ __forceinline__ void StoreCodes(const RowTarget& target, const UnitPlace& place, int channels, uint32_t row,
                                           uint32_t rows, const float (&v)[kUnitChannels][kRows],
                                           const float (&inv)[kRows]) {
  WithCodes<std::is_same_v<T, __half>>(target, place.outlier, [&](auto pack) {
    int8_t* const q =
        target.q + static_cast<uint64_t>(row) * static_cast<uint32_t>(channels) + place.unit * kUnitChannels;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (r > 0 && row + r >= rows) break;
      float x[kUnitChannels];
#pragma unroll
      for (int i = 0; i < kUnitChannels; ++i) x[i] = v[i][r];
      *reinterpret_cast<uint4*>(q + r * channels) =
          make_uint4(pack(x, inv[r]), pack(x + 4, inv[r]), pack(x + 8, inv[r]), pack(x + 12, inv[r]));
    }
  });
}

// Quantizes kRows rows from `row` on, of at most `rows` in all, whose units the threads hold (zeros behind the last;
// kChannels > 0: rows of so many, every thread has one). `amax` are three times the rows' words, cleared before the
// first; `turn` counts calls modulo 3. All threads of the block take part. The values are products of a few
// of type T.
template <class T, int kRows, int kChannels>
__device__ __forceinline__ void QuantizeUnits(const RowTarget& target, const UnitPlace& place, uint32_t* amax, int turn,
                                              uint32_t row, uint32_t rows, const float (&v)[kUnitChannels][kRows]) {
  const bool inside = kChannels > 0 || place.inside;
  const int channels = kChannels ? kChannels : target.format.channels;
  const auto larger = [](uint32_t a, uint32_t b) { return max(a, b); };
  uint32_t bits[kRows];
  float inv[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) bits[r] = MaxMagnitude(v, r);
  if (target.one_pass && target.merge_lanes >= kRows) {
    // Each lane takes the scale of one row.
    const uint32_t largest = MergeRows(bits, target.merge_lanes, larger);
    const SegmentScale own = ScaleOf(largest, place.factor);
    const int lane = threadIdx.x % 32, mine = RowOfLane<kRows>(lane);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      inv[r] = kRows == 1 ? own.inv : __shfl_sync(~0u, own.inv, (lane & ~(kRows - 1)) + LaneOfRow<kRows>(r));
    }
    if ((lane & (target.merge_lanes - 1)) < kRows && place.begins && row + mine < rows) {
      target.scale[static_cast<uint64_t>(row + mine) * static_cast<uint32_t>(target.scales) + place.segment] =
          own.scale;
    }
  } else {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      uint32_t one[1] = {bits[r]};
      bits[r] = MergeRows(one, target.merge_lanes, larger);
    }
    if (!target.one_pass) {
      uint32_t* const now = amax + turn * kRows * target.scales;
      uint32_t* const later = amax + (turn == 2 ? 0 : turn + 1) * kRows * target.scales;
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (inside && place.merges) atomicMax(&now[r * target.scales + place.segment], bits[r]);
      }
      for (int i = threadIdx.x; i < kRows * target.scales; i += blockDim.x) later[i] = 0;
      __syncthreads();
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (inside) bits[r] = now[r * target.scales + place.segment];
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const SegmentScale scale = ScaleOf(bits[r], place.factor);
      inv[r] = scale.inv;
      if (place.first && inside && row + r < rows) {
        target.scale[static_cast<uint64_t>(row + r) * static_cast<uint32_t>(target.scales) + place.segment] =
            scale.scale;
      }
    }
  }
  if (inside) StoreCodes<T>(target, place, channels, row, rows, v, inv);
}

template <int kRows>
__device__ __forceinline__ void ClearMagnitudes(const RowTarget& target, uint32_t* amax) {
  if (target.one_pass) return;
  for (int i = threadIdx.x; i < 3 * kRows * target.scales; i += blockDim.x) amax[i] = 0;
  __syncthreads();
}

}  // namespace lowbit::cuda
