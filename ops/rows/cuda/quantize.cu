// Quantize, ActQuantize, GatedActQuantize: an element-wise function in front of the common quantizer.
#include "ops/rows/cuda/quantize.h"
#include "ops/rows/cuda/unit_rows.cuh"

namespace lowbit::cuda {
namespace {

// Rows of whole units: a thread reads the unit that it quantizes, or, with a gather, the one of the same place.
template <class T, bool kShort>
__global__ __launch_bounds__(kShort ? kShortUnitThreads : kMaxUnitThreads,
                             kShort ? 3 : 1) void QuantizeUnitsKernel(const __grid_constant__ QuantizeArgs args,
                                                                      const __grid_constant__ RowTarget target) {
  extern __shared__ __align__(16) float rows[];
  const int channels = target.format.channels, units = channels / kUnitChannels, unit = threadIdx.x;
  const int at = unit * kUnitChannels, row_floats = target.reorder_index ? UnitRowFloats(channels) : 0;
  uint32_t* const amax = reinterpret_cast<uint32_t*>(rows + 2 * row_floats);
  const UnitPlace place(target, unit);
  LetNextKernelStartIfAny();
  UnitOrder order = {};
  if (target.reorder_index && unit < units) {
    int source[kUnitChannels];
    UnitSource(target, unit, source);
    order.Read(source);
  }
  ClearMagnitudes(target, amax);
  int turn = 0, parity = 0;
  for (int64_t row = blockIdx.x; row < args.rows; row += gridDim.x) {
    const T* const x = static_cast<const T*>(args.x) + row * args.x_stride;
    const T* const up = static_cast<const T*>(args.up) + row * args.up_stride;
    float v[kUnitChannels] = {};
    if (unit < units) {
      Pack8<T> a[2], b[2];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        LoadPack(x, at + 8 * h, a[h]);
        if (args.up) LoadPack(up, at + 8 * h, b[h]);
      }
      const auto apply = [&](auto activation) {
#pragma unroll
        for (int i = 0; i < kUnitChannels; ++i) {
          v[i] = activation(Widen(a[i / 8].v[i % 8]));
          if (args.up) v[i] = __fmul_rn(v[i], Widen(b[i / 8].v[i % 8]));
        }
      };
      WithActivation(args.activation, apply);
    }
    if (target.reorder_index) {
      float* const floats = rows + parity * row_floats;
      parity ^= 1;
      if (unit < units) {
#pragma unroll
        for (int i = 0; i < kUnitChannels; i += 4) {
          reinterpret_cast<float4*>(floats)[SwizzledChunk((at + i) / 4)] =
              make_float4(v[i], v[i + 1], v[i + 2], v[i + 3]);
        }
      }
      __syncthreads();
      if (unit < units) order.Gather(floats, v);
    }
    QuantizeUnits(target, place, amax, turn, row, v);
    turn = turn == 2 ? 0 : turn + 1;
  }
}

template <class T>
__global__ __launch_bounds__(kRowThreads) void QuantizeRaggedKernel(const __grid_constant__ QuantizeArgs args,
                                                                    const __grid_constant__ RowTarget target) {
  extern __shared__ __align__(16) float smem_row[];
  const int channels = target.format.channels;
  const RowShared shared = InitRowShared(target, smem_row);
  for (int64_t row = blockIdx.x; row < args.rows; row += gridDim.x) {
    const T* x = static_cast<const T*>(args.x) + row * args.x_stride;
    const T* up = static_cast<const T*>(args.up) + row * args.up_stride;
    ClearAmax(target, shared);
#pragma unroll 1
    for (int k = threadIdx.x; k < channels; k += kRowThreads) {
      float v = Widen(x[k]);
      WithActivation(args.activation, [&](auto activation) { v = activation(v); });
      smem_row[SwizzledFloat(k)] = args.up ? __fmul_rn(v, Widen(up[k])) : v;
    }
    __syncthreads();
    QuantizeRow(target, shared, row);
  }
}

}  // namespace

cudaError_t LaunchQuantize(const QuantizeArgs& args, cudaStream_t stream) {
  if (args.rows == 0) return cudaSuccess;
  if (args.format.channels > kMaxRowChannels) return cudaErrorInvalidValue;
  const RowTarget target = MakeRowTarget(args.format, args.reorder_index, args.q, args.scale);
  const bool in_units =
      FallsIntoUnits(args.format, args.x_stride) && FallsIntoUnits(args.format, args.up ? args.up_stride : 0);
  const int threads = in_units ? UnitThreads(args.format.channels) : kRowThreads;
  const bool reorder = args.reorder_index != nullptr;
  const size_t shared_bytes = in_units ? UnitSharedBytes(target, reorder) : RowSharedBytes(args.format, reorder);
  return WithType(args.type, [&](auto type) {
    using T = decltype(type);
    auto* kernel = !in_units                      ? QuantizeRaggedKernel<T>
                   : threads <= kShortUnitThreads ? QuantizeUnitsKernel<T, true>
                                                  : QuantizeUnitsKernel<T, false>;
    int blocks = 0;
    const cudaError_t e = PersistentRowGrid(kernel, threads, shared_bytes, args.rows, &blocks);
    if (e != cudaSuccess) return e;
    kernel<<<blocks, threads, shared_bytes, stream>>>(args, target);
    return cudaGetLastError();
  });
}

}  // namespace lowbit::cuda
