// Quantize, ActQuantize, GatedActQuantize: element-wise values into shared memory, then the common quantizer.
#include "ops/rows/cuda/quantize.h"
#include "ops/rows/cuda/row_launch.cuh"

namespace lowbit::cuda {
namespace {

template <class T>
__global__ __launch_bounds__(kRowThreads) void QuantizeKernel(const __grid_constant__ QuantizeArgs args,
                                                              const __grid_constant__ RowTarget target) {
  extern __shared__ __align__(16) float smem_row[];
  const int channels = target.format.channels;
  const int runs = (channels + kRunChannels - 1) / kRunChannels;
  const bool vector = channels % 8 == 0;
  const RowShared shared = InitRowShared(target, smem_row);

  for (int64_t row = blockIdx.x; row < args.rows; row += gridDim.x) {
    const T* x = static_cast<const T*>(args.x) + row * args.x_stride;
    const T* up = static_cast<const T*>(args.up) + row * args.up_stride;
    ClearAmax(target, shared);
#pragma unroll 2
    for (int r = 0; r < runs; ++r) {
      const int at = r * kRunChannels + threadIdx.x * 8;
      if (at >= channels) break;
      Pack8<T> a, b;
      LoadPack(x, at, channels, vector, a);
      if (args.up) LoadPack(up, at, channels, vector, b);
      float v[8];
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        v[i] = Activate(args.activation, Widen(a.v[i]));
        if (args.up) v[i] = __fmul_rn(v[i], Widen(b.v[i]));
      }
      StoreRowFloats(smem_row, at, v);
    }
    __syncthreads();
    QuantizeRow(target, shared, row);
  }
}

}  // namespace

cudaError_t LaunchQuantize(const QuantizeArgs& args, cudaStream_t stream) {
  if (args.rows == 0) return cudaSuccess;
  const RowTarget target = MakeRowTarget(args.format, args.reorder_index, args.q, args.scale);
  const size_t shared_bytes = RowSharedBytes(args.format, args.reorder_index != nullptr);
  if (args.format.channels > kMaxRowChannels) return cudaErrorInvalidValue;
  return WithType(args.type, [&](auto type) {
    auto* kernel = QuantizeKernel<decltype(type)>;
    int blocks = 0;
    const cudaError_t e = PersistentRowGrid(kernel, shared_bytes, args.rows, &blocks);
    if (e != cudaSuccess) return e;
    kernel<<<blocks, kRowThreads, shared_bytes, stream>>>(args, target);
    return cudaGetLastError();
  });
}

}  // namespace lowbit::cuda
