// Quantize, ActQuantize, GatedActQuantize: an element-wise function in front of the common quantizer.
#include <climits>

#include "ops/rows/cuda/quantize.h"
#include "ops/rows/cuda/unit_rows.cuh"

namespace lowbit::cuda {
namespace {

__device__ __forceinline__ float Divide(float x, float d) { return __fdiv_rn(x, d); }

// A unit of a row.
template <class T>
__device__ __forceinline__ Unit<T> LoadUnit(const T* from) {
  Unit<T> x;
#pragma unroll
  for (int h = 0; h < 2; ++h) LoadPack(from, 8 * h, x.half[h]);
  return x;
}

// activation(x) * up, the factor left out when `gated` is false.
template <class T>
__device__ __forceinline__ void Activate(Activation kind, bool gated, const Unit<T>& x, const Unit<T>& up,
                                         float (&v)[kUnitChannels][1]) {
  WithActivation(kind, [&](auto activation) {
    uint32_t unsafe = 0;
#pragma unroll
    for (int i = 0; i < kUnitChannels; ++i) {
      bool safe = true;
      v[i][0] = activation(x.at(i), [&](float a, float b) { return DivideInside(a, b, safe); });
      unsafe |= safe ? 0 : 1u << i;
    }
    for (; unsafe; unsafe &= unsafe - 1) {  // zeros, and what is near the ends of the range
      const int i = __ffs(static_cast<int>(unsafe)) - 1;
      float one = 0.0f;
#pragma unroll
      for (int j = 0; j < kUnitChannels; ++j) one = i == j ? x.at(j) : one;
      one = activation(one, Divide);
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
      QuantizeUnits<1, 0>(target, place, nullptr, 0, row, rows, v);
    }
  }
}

// Other rows of whole units: a block takes a row, which a gather takes through shared memory.
template <class T, bool kShort>
__global__ __launch_bounds__(kShort ? kShortUnitThreads : kMaxUnitThreads,
                             kShort ? 3 : 1) void QuantizeUnitsKernel(const __grid_constant__ QuantizeArgs args,
                                                                      const __grid_constant__ RowTarget target) {
  extern __shared__ __align__(16) uint8_t rows[];
  using Rows = CellRows<T, 1>;
  const int row_bytes = target.format.channels * static_cast<int>(sizeof(T));
  const int buffer_bytes = Rows::Bytes(target.format.channels);
  const UnitPlace place(target, threadIdx.x);
  uint32_t* const amax =
      reinterpret_cast<uint32_t*>(rows + (target.reorder_index ? (args.up ? 2 : 1) * buffer_bytes : 0));
  LetNextKernelStartIfAny();
  UnitOrder<Rows, !kShort> order = {};
  if (place.inside) order.Read(target, place.unit);
  ClearMagnitudes<1>(target, amax);
  WaitForPriorKernelsIfAny();
  int turn = 0;
  for (int64_t row = blockIdx.x; row < args.rows; row += gridDim.x) {
    const T* const from = static_cast<const T*>(args.x) + row * args.x_stride;
    const T* const up_from = static_cast<const T*>(args.up) + row * args.up_stride;
    if (target.reorder_index) {
      __syncthreads();  // the row before has been gathered
      for (int chunk = threadIdx.x; chunk < row_bytes / 16; chunk += blockDim.x) {
        const uint32_t to = SharedAddress(rows) + 16 * SwizzledChunk(chunk);
        CopyAsync16(to, reinterpret_cast<const uint4*>(from) + chunk);
        if (args.up) CopyAsync16(to + buffer_bytes, reinterpret_cast<const uint4*>(up_from) + chunk);
      }
      CommitCopies();
      WaitCopies<0>();
      __syncthreads();
    }
    float v[kUnitChannels][1] = {};
    if (place.inside) {
      const int at = place.unit * kUnitChannels;
      const Unit<T> x = target.reorder_index ? order.GatherRow(rows) : LoadUnit(from + at);
      Unit<T> up;
      if (args.up) up = target.reorder_index ? order.GatherRow(rows + buffer_bytes) : LoadUnit(up_from + at);
      Activate(args.activation, args.up, x, up, v);
    }
    QuantizeUnits<1, 0>(target, place, amax, turn, row, args.rows, v);
    turn = turn == 2 ? 0 : turn + 1;
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
      WithActivation(args.activation, [&](auto activation) { v = activation(v, Divide); });
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
      return LaunchRows(QuantizeGroupsKernel<T>, kShortUnitThreads, 0, (warps + kWarps - 1) / kWarps, args, target,
                        stream);
    }
    const size_t gathered = reorder ? (args.up ? 2 : 1) * CellRows<T, 1>::Bytes(args.format.channels) : 0;
    const size_t shared_bytes = gathered + MagnitudeBytes(target, 1);
    const int threads = UnitThreads(args.format.channels);
    return LaunchRows(threads <= kShortUnitThreads ? QuantizeUnitsKernel<T, true> : QuantizeUnitsKernel<T, false>,
                      threads, shared_bytes, args.rows, args, target, stream);
  });
}

}  // namespace lowbit::cuda
