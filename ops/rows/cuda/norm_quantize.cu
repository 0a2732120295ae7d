// NormQuantize: one pass over memory. Rows of whole units take row_sets.cuh or norm_units.cuh; here are the others,
// element by element.
#include <climits>

#include "ops/rows/cuda/norm_quantize.h"
#include "ops/rows/cuda/norm_units.cuh"
#include "ops/rows/cuda/rows_sm90.h"

namespace lowbit::cuda {
namespace {

// The README's pairwise tree over 1024 lanes of which every thread holds eight neighbours; the result in every thread.
__device__ float TreeSum(const float (&lane)[8], float* partial) {
  float v = __fadd_rn(__fadd_rn(__fadd_rn(lane[0], lane[1]), __fadd_rn(lane[2], lane[3])),
                      __fadd_rn(__fadd_rn(lane[4], lane[5]), __fadd_rn(lane[6], lane[7])));
#pragma unroll
  for (int d = 1; d < 32; d *= 2) v = __fadd_rn(v, __shfl_xor_sync(~0u, v, d));
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = v;
  __syncthreads();
  return __fadd_rn(__fadd_rn(partial[0], partial[1]), __fadd_rn(partial[2], partial[3]));
}

// Calls fn(channel, lane of the thread) for the thread's channels, lanes 8t ... 8t+7 of every run.
template <class Fn>
__device__ __forceinline__ void ForChannels(int channels, Fn&& fn) {
#pragma unroll 1
  for (int run = 0; run < channels; run += kRunChannels) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int k = run + static_cast<int>(threadIdx.x) * 8 + i;
      if (k < channels) fn(k, i);
    }
  }
}

template <class T>
__global__ __launch_bounds__(kRowThreads) void NormRaggedKernel(const __grid_constant__ NormQuantizeArgs args,
                                                                const __grid_constant__ RowTarget target) {
  extern __shared__ __align__(16) float smem_row[];
  __shared__ float partial[2][4];
  const int channels = target.format.channels;
  const RowShared shared = InitRowShared(target, smem_row);
  const T* weight = static_cast<const T*>(args.weight);
  const T* bias = static_cast<const T*>(args.bias);
  const float count = static_cast<float>(channels);
  WaitForPriorKernelsIfAny();
  for (int64_t row = blockIdx.x; row < args.rows; row += gridDim.x) {
    const int64_t base = row * channels;
    float lane[8] = {};
    ForChannels(channels, [&](int k, int i) {
      T x = static_cast<const T*>(args.x)[base + k];
      if (args.residual) x = Narrow<T>(__fadd_rn(Widen(x), Widen(static_cast<const T*>(args.residual)[base + k])));
      if (args.sum) static_cast<T*>(args.sum)[base + k] = x;
      smem_row[SwizzledFloat(k)] = Widen(x);
      lane[i] = __fadd_rn(lane[i], Widen(x));
    });
    const float mean = args.layer_norm ? __fdiv_rn(TreeSum(lane, partial[0]), count) : 0.0f;
#pragma unroll
    for (int i = 0; i < 8; ++i) lane[i] = 0.0f;
    ForChannels(channels, [&](int k, int i) {
      const float v = smem_row[SwizzledFloat(k)], d = args.layer_norm ? __fsub_rn(v, mean) : v;
      lane[i] = __fadd_rn(lane[i], __fmul_rn(d, d));
    });
    const float square = __fdiv_rn(TreeSum(lane, partial[1]), count);
    const float factor = __fdiv_rn(1.0f, __fsqrt_rn(__fadd_rn(square, args.epsilon)));
    ClearAmax(target, shared);
    ForChannels(channels, [&](int k, int) {
      const float v = smem_row[SwizzledFloat(k)], d = args.layer_norm ? __fsub_rn(v, mean) : v;
      float y = __fmul_rn(__fmul_rn(d, factor), Widen(weight[k]));
      if (bias) y = __fadd_rn(y, Widen(bias[k]));
      if (args.y) static_cast<T*>(args.y)[base + k] = Narrow<T>(y);
      smem_row[SwizzledFloat(k)] = y;
    });
    __syncthreads();
    QuantizeRow(target, shared, row);
  }
}

// Rows of whole units.
template <class T, bool kPlain, bool kBare>
cudaError_t LaunchNormUnits(const NormQuantizeArgs& args, const RowTarget& target, cudaStream_t stream) {
  const auto launch = [&](auto* kernel) {
    // With about as many blocks as multiprocessors, early ones cost the kernel before them more than they gain.
    const bool early = args.rows < 48 || args.rows >= 192;
    return LaunchRows(kernel, UnitThreads(args.format.channels), NormSharedBytes<T>(target, args.residual), args.rows,
                      args, target, stream, early);
  };
  return UnitThreads(args.format.channels) <= kShortUnitThreads
             ? launch(NormUnitsKernel < T, kPlain, kBare, kShortUnitThreads, kPlain ? 3 : 2 >)
             : launch(NormUnitsKernel<T, kPlain, kBare, kMaxUnitThreads, 1>);
}

}  // namespace

cudaError_t LaunchNormQuantize(const NormQuantizeArgs& args, cudaStream_t stream) {
  if (args.rows == 0) return cudaSuccess;
  if (args.format.channels > kMaxRowChannels || args.rows > INT_MAX) return cudaErrorInvalidValue;
  const RowTarget target = MakeRowTarget(args.format, args.reorder_index, args.q, args.scale);
  if (TakesRowSets(args)) return LaunchRowSets(args, target, stream);
  return WithType(args.type, [&](auto type) {
    using T = decltype(type);
    const bool plain = !args.layer_norm && !args.bias, bare = plain && !args.residual && !args.sum && !args.y;
    if (!FallsIntoUnits(args.format, args.format.channels) ||
        NormSharedBytes<T>(target, args.residual) > SharedBytesLimit()) {
      return LaunchRows(NormRaggedKernel<T>, kRowThreads, RowSharedBytes(args.format, args.reorder_index != nullptr),
                        args.rows, args, target, stream);
    }
    return bare    ? LaunchNormUnits<T, true, true>(args, target, stream)
           : plain ? LaunchNormUnits<T, true, false>(args, target, stream)
                   : LaunchNormUnits<T, false, false>(args, target, stream);
  });
}

}  // namespace lowbit::cuda
