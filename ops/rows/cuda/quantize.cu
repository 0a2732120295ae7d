// Quantize, ActQuantize, GatedActQuantize: an element-wise function in front of the common quantizer.
#include <climits>

#include "ops/rows/cuda/quantize.h"
#include "ops/rows/cuda/rows_sm90.h"
#include "ops/rows/cuda/unit_rows.cuh"

namespace lowbit::cuda {
namespace {

// A unit of a row.
template <class T>
__device__ __forceinline__ Unit<T> LoadUnit(const T* from) {
  Unit<T> x;
#pragma unroll
  for (int h = 0; h < 2; ++h) LoadPack(from, 8 * h, x.half[h]);
  return x;
}

// Whether all of a unit's values are at least `lowest` (NaNs are).
__device__ __forceinline__ bool AllAbove(const Unit<__half>& x, float lowest) {
  const __half2* const pairs = reinterpret_cast<const __half2*>(&x);
  __half2 least = pairs[0];
#pragma unroll
  for (int i = 1; i < kUnitChannels / 2; ++i) least = __hmin2(least, pairs[i]);
  return !__hlt(__hmin(__low2half(least), __high2half(least)), __float2half_rn(lowest));
}

// activation(x) * up, the factor left out when `gated` is false.
template <class T>
__device__ __forceinline__ void Activate(Activation kind, bool gated, const Unit<T>& x, const Unit<T>& up,
                                         float (&v)[kUnitChannels][1]) {
  WithActivation(kind, [&](auto activation) {
    constexpr bool kHalf = std::is_same_v<T, __half>;
    constexpr float kLowest = decltype(activation)::kLowestHalf;
    uint32_t unsafe = 0;
#pragma unroll
    for (int i = 0; i < kUnitChannels; ++i) {
      bool safe = true;
      if constexpr (kHalf) {
        v[i][0] = activation(x.at(i), DivideHalf{});
      } else {
        v[i][0] = activation(x.at(i), DivideIfSafe{safe});
      }
      unsafe |= safe ? 0 : 1u << i;
    }
    if constexpr (kHalf) unsafe = kLowest == -65504.0f || AllAbove(x, kLowest) ? 0 : 0xffff;
#pragma unroll 1
    for (; unsafe; unsafe &= unsafe - 1) {  // zeros, and what is near the ends of the range
      const int i = __ffs(static_cast<int>(unsafe)) - 1;
      float one = 0.0f;
#pragma unroll
      for (int j = 0; j < kUnitChannels; ++j) one = i == j ? x.at(j) : one;
      if (kHalf && one >= kLowest) continue;
      one = activation(one, Divide{});
#pragma unroll
      for (int j = 0; j < kUnitChannels; ++j) v[j][0] = i == j ? one : v[j][0];
    }
  });
  if (!gated) return;
#pragma unroll
  for (int i = 0; i < kUnitChannels; ++i) v[i][0] = __fmul_rn(v[i][0], up.at(i));
}

// Rows whose segments are each a few neighbouring units, in their own order: a warp takes the same 32 units of every
// so many rows.
template <class T>
__global__ __launch_bounds__(kShortUnitThreads,
                             4) void QuantizeGroupsKernel(const __grid_constant__ QuantizeArgs args,
                                                          const __grid_constant__ RowTarget any_target) {
  RowTarget target = any_target;
  target.one_pass = true;
  const uint32_t row_warps = UnitThreads(target.format.channels) / 32, rows = static_cast<uint32_t>(args.rows);
  const uint32_t warp = (blockIdx.x * blockDim.x + threadIdx.x) / 32, warps = gridDim.x * blockDim.x / 32;
  // Warps that are too few for one row, or left over by the last whole one, take what they can.
  const uint32_t stride = max(warps / row_warps, 1u);
  LetNextKernelStartIfAny();
  WaitForPriorKernelsIfAny();
  for (uint32_t task = warp; task < stride * row_warps; task += warps) {
    const UnitPlace place(target, static_cast<int>(task % row_warps * 32 + threadIdx.x % 32));
    const int at = place.unit * kUnitChannels;
    for (uint32_t row = task / row_warps; row < rows; row += stride) {
      float v[kUnitChannels][1] = {};
      if (place.inside) {
        const Unit<T> x = LoadUnit(static_cast<const T*>(args.x) + row * args.x_stride + at);
        Unit<T> up;
        if (args.up) up = LoadUnit(static_cast<const T*>(args.up) + row * args.up_stride + at);
        Activate(args.activation, args.up, x, up, v);
      }
      QuantizeUnits<T, 1, 0>(target, place, nullptr, 0, row, rows, v);
    }
  }
}

// Rows to gather are copied into shared memory, those of 16 bits one ahead of what is being quantized. Two of longer
// ones might not fit.
template <class T>
constexpr int kBuffers = sizeof(T) == 2 ? 2 : 1;
// Dynamic shared memory of QuantizeUnitsKernel: the rows being gathered and copied, magnitudes.
template <class T>
size_t QuantizeUnitsSharedBytes(const RowTarget& target, bool gated) {
  const int rows = target.reorder_index ? kBuffers<T> * (gated ? 2 : 1) : 0;
  return rows * CellRows<T, 1>::Bytes(target.format.channels) + MagnitudeBytes(target, 1);
}

// Quantizes the block's row, of which the thread holds kUnits units; `amax` and `turn` as in QuantizeUnits.
template <class T, int kUnits>
__device__ __forceinline__ void QuantizeManyUnits(const RowTarget& target, const UnitPlace (&place)[kUnits],
                                                  uint32_t* amax, int turn, uint32_t row, uint32_t rows,
                                                  const float (&v)[kUnits][kUnitChannels][1]) {
  if (kUnits == 1 || target.one_pass) {
#pragma unroll
    for (int u = 0; u < kUnits; ++u) QuantizeUnits<T, 1, 0>(target, place[u], amax, turn, row, rows, v[u]);
    return;
  }
  uint32_t* const now = amax + turn * target.scales;
  uint32_t* const later = amax + (turn == 2 ? 0 : turn + 1) * target.scales;
#pragma unroll
  for (int u = 0; u < kUnits; ++u) {
    uint32_t bits[1] = {MaxMagnitude(v[u], 0)};
    bits[0] = MergeRows(bits, target.merge_lanes, [](uint32_t a, uint32_t b) { return max(a, b); });
    if (place[u].inside && place[u].merges) atomicMax(&now[place[u].segment], bits[0]);
  }
  for (int i = threadIdx.x; i < target.scales; i += blockDim.x) later[i] = 0;
  __syncthreads();
#pragma unroll
  for (int u = 0; u < kUnits; ++u) {
    if (!place[u].inside) break;
    const SegmentScale scale = ScaleOf(now[place[u].segment], place[u].factor);
    if (place[u].first) target.scale[static_cast<uint64_t>(row) * target.scales + place[u].segment] = scale.scale;
    const float inv[1] = {scale.inv};
    StoreCodes<T>(target, place[u], target.format.channels, row, rows, v[u], inv);
  }
}

// Other rows of whole units: a block takes a row, a thread kUnits units of it, one block apart.
template <class T, bool kGathers, int kUnits, int kMaxThreads, int kMinBlocks>
__global__ __launch_bounds__(kMaxThreads,
                             kMinBlocks) void QuantizeUnitsKernel(const __grid_constant__ QuantizeArgs args,
                                                                  const __grid_constant__ RowTarget target) {
  extern __shared__ __align__(16) uint8_t shared[];
  using Rows = CellRows<T, 1>;
  const int rows = static_cast<int>(args.rows), step = static_cast<int>(gridDim.x);
  const int row_chunks = target.format.channels * static_cast<int>(sizeof(T)) / 16;
  const int up_bytes = Rows::Bytes(target.format.channels), buffer_bytes = (args.up ? 2 : 1) * up_bytes;
  uint8_t *now = shared, *later = shared + (kBuffers<T> - 1) * buffer_bytes;
  uint32_t* const amax = reinterpret_cast<uint32_t*>(shared + (kGathers ? kBuffers<T> * buffer_bytes : 0));
  LetNextKernelStartIfAny();
  UnitPlace place[kUnits];
  UnitOrder<Rows, true> order[kUnits];
#pragma unroll
  for (int u = 0; u < kUnits; ++u) {
    place[u] = UnitPlace(target, static_cast<int>(threadIdx.x + u * blockDim.x));
    if (kGathers && place[u].inside) order[u].Read(target, place[u].unit);
  }
  ClearMagnitudes<1>(target, amax);
  WaitForPriorKernelsIfAny();
  const auto x_of = [&](int row) { return static_cast<const T*>(args.x) + row * args.x_stride; };
  const auto up_of = [&](int row) { return static_cast<const T*>(args.up) + row * args.up_stride; };
  const auto fetch = [&](int row, uint8_t* to) {
    for (int chunk = threadIdx.x; row < rows && chunk < row_chunks; chunk += blockDim.x) {
      const uint32_t at = SharedAddress(to) + 16 * SwizzledChunk(chunk);
      CopyAsync16(at, reinterpret_cast<const uint4*>(x_of(row)) + chunk);
      if (args.up) CopyAsync16(at + up_bytes, reinterpret_cast<const uint4*>(up_of(row)) + chunk);
    }
    CommitCopies();
  };
  if (kGathers) fetch(static_cast<int>(blockIdx.x), now);
  int turn = 0;
  for (int row = static_cast<int>(blockIdx.x); row < rows; row += step) {
    if (kGathers) {
      WaitCopies<0>();
      __syncthreads();  // and the row before has been gathered
      if (kBuffers<T> == 2) fetch(row + step, later);
    }
    float v[kUnits][kUnitChannels][1] = {};
    Unit<T> x[kUnits], up[kUnits];
    const auto take = [&](int u) {
      const int at = place[u].unit * kUnitChannels;
      x[u] = kGathers ? order[u].GatherRow(now) : LoadUnit(x_of(row) + at);
      if (args.up) up[u] = kGathers ? order[u].GatherRow(now + up_bytes) : LoadUnit(up_of(row) + at);
    };
#pragma unroll
    for (int u = 0; u < kUnits; ++u) {
      if (!kGathers && place[u].inside) take(u);  // all under way before the first is there
    }
#pragma unroll
    for (int u = 0; u < kUnits; ++u) {
      if (!place[u].inside) continue;
      if (kGathers) take(u);
      Activate(args.activation, args.up, x[u], up[u], v[u]);
    }
    if (kGathers && kBuffers<T> == 1) {
      __syncthreads();
      fetch(row + step, now);
    }
    QuantizeManyUnits<T>(target, place, amax, turn, row, rows, v);
    turn = turn == 2 ? 0 : turn + 1;
    uint8_t* const before = now;
    now = later, later = before;
  }
}

template <class T>
__global__ __launch_bounds__(kRowThreads) void QuantizeRaggedKernel(const __grid_constant__ QuantizeArgs args,
                                                                    const __grid_constant__ RowTarget target) {
  extern __shared__ __align__(16) float smem_row[];
  const int channels = target.format.channels;
  const RowShared shared = InitRowShared(target, smem_row);
  WaitForPriorKernelsIfAny();
  for (int64_t row = blockIdx.x; row < args.rows; row += gridDim.x) {
    const T* x = static_cast<const T*>(args.x) + row * args.x_stride;
    const T* up = static_cast<const T*>(args.up) + row * args.up_stride;
    ClearAmax(target, shared);
#pragma unroll 1
    for (int k = threadIdx.x; k < channels; k += kRowThreads) {
      float v = Widen(x[k]);
      WithActivation(args.activation, [&](auto activation) { v = activation(v, Divide{}); });
      smem_row[SwizzledFloat(k)] = args.up ? __fmul_rn(v, Widen(up[k])) : v;
    }
    __syncthreads();
    QuantizeRow(target, shared, row);
  }
}

}  // namespace

cudaError_t LaunchQuantize(const QuantizeArgs& args, cudaStream_t stream) {
  if (args.rows == 0) return cudaSuccess;
  if (args.format.channels > kMaxRowChannels || args.rows > INT_MAX) return cudaErrorInvalidValue;
  const RowTarget target = MakeRowTarget(args.format, args.reorder_index, args.q, args.scale);
  const bool in_units =
      FallsIntoUnits(args.format, args.x_stride) && FallsIntoUnits(args.format, args.up ? args.up_stride : 0);
  const bool reorder = args.reorder_index != nullptr;
  return WithType(args.type, [&](auto type) {
    using T = decltype(type);
    if (!in_units) {
      return LaunchRows(QuantizeRaggedKernel<T>, kRowThreads, RowSharedBytes(args.format, reorder), args.rows, args,
                        target, stream);
    }
    if (target.one_pass && !reorder) {
      const int64_t warps = args.rows * (UnitThreads(args.format.channels) / 32);
      constexpr int kWarps = kShortUnitThreads / 32;
      // Three times as many blocks as fit level out what warps with one activation more have to do.
      const int waves = args.activation == Activation::kNone ? 1 : 3;
      return LaunchRows(QuantizeGroupsKernel<T>, kShortUnitThreads, 0, (warps + kWarps - 1) / kWarps, args, target,
                        stream, true, waves);
    }
    // Without a gather, fewer rows are done sooner one by one.
    if (!args.up && args.activation == Activation::kNone && args.x_stride == args.format.channels &&
        (reorder || args.rows >= 2048)) {
      NormQuantizeArgs plain;
      plain.type = args.type, plain.x = args.x, plain.reorder_index = args.reorder_index, plain.q = args.q;
      plain.scale = args.scale, plain.rows = args.rows, plain.format = args.format;
      if (TakesRowSets(plain)) return LaunchRowSets(plain, target, stream);
    }
    // Half as many threads leave room for a block that works while another waits.
    const int units = args.format.channels / kUnitChannels;
    const auto launch = [&](int threads, auto* gathering, auto* direct) {
      const size_t shared_bytes = QuantizeUnitsSharedBytes<T>(target, args.up);
      return LaunchRows(reorder ? gathering : direct, (threads + 31) / 32 * 32, shared_bytes, args.rows, args, target,
                        stream);
    };
    return units <= 256
               ? launch(units, QuantizeUnitsKernel<T, true, 1, 256, 3>, QuantizeUnitsKernel<T, false, 1, 256, 4>)
           : units <= 768 ? launch((units + 1) / 2, QuantizeUnitsKernel<T, true, 2, 384, 2>,
                                   QuantizeUnitsKernel<T, false, 2, 384, 2>)
                          : launch((units + 1) / 2, QuantizeUnitsKernel<T, true, 2, 512, 1>,
                                   QuantizeUnitsKernel<T, false, 2, 512, 1>);
  });
}

}  // namespace lowbit::cuda
