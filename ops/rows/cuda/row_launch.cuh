// Host side of the row kernels: what a launch needs besides pointers.
#pragma once
#include <cuda_runtime_api.h>

#include <algorithm>

#include "ops/common/cuda/launch_clusters.h"
#include "ops/rows/cuda/row_quantize.cuh"

namespace lowbit::cuda {

// The README's qmax of a format of activations.
constexpr float LargestCode(Format format) {
  return format == Format::kE4M3 ? 448.0f : format == Format::kE5M2 ? 57344.0f : format == Format::kS8 ? 127.0f : 7.0f;
}

inline RowTarget MakeRowTarget(const RowFormat& f, const int32_t* reorder_index, int8_t* q, float* scale) {
  RowTarget t;
  t.format = f;
  t.reorder_index = reorder_index;
  t.q = q;
  t.scale = scale;
  t.scales = f.scales();
  t.qmax = LargestCode(f.format);
  t.qmin = f.format == Format::kE4M3 || f.format == Format::kE5M2 ? -t.qmax : -t.qmax - 1.0f;
  t.body_factor = f.clip_over_qmax;
  t.clips = f.clip_over_qmax < 1.0f / t.qmax;
  t.clips_low = f.clip_over_qmax * (t.qmax + 1.5f) < 1.001f;
  t.outlier_factor = 1.0f / 127.0f;
  const int body_units = f.body() / kUnitChannels;
  const int units = f.group_size ? f.group_size / kUnitChannels : body_units;
  t.merge_lanes = units > 0 ? std::min(32, units & -units) : 1;
  t.one_pass = f.group_size > 0 && t.merge_lanes == units && f.outliers <= f.group_size &&
               f.outliers % kUnitChannels == 0 && f.body() % kUnitChannels == 0;
  return t;
}

// The most shared memory a block may have; 0 where it cannot be asked.
inline size_t SharedBytesLimit() {
  int device = 0, limit = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return 0;
  return cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) == cudaSuccess ? limit : 0;
}

// Launches as many blocks as the device holds, times `waves`, each of which walks over some of `work` pieces. `early`:
// they may start while the kernel before them ends; what precedes a kernel's WaitForPriorKernelsIfAny reads constants
// only.
template <class Kernel, class Args>
cudaError_t LaunchRows(Kernel* kernel, int threads, size_t shared_bytes, int64_t work, const Args& args,
                       const RowTarget& target, cudaStream_t stream, bool early = true, int waves = 1) {
  int device = 0, sms = 0, major = 0, per_sm = 0;
  cudaError_t e = cudaGetDevice(&device);
  if (e == cudaSuccess) e = cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device);
  if (e == cudaSuccess) e = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  if (e == cudaSuccess) {
    e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
  }
  // Kernels that keep no rows in shared memory want the L1 cache.
  const int carveout = shared_bytes < 8192 ? static_cast<int>(cudaSharedmemCarveoutDefault) : 100;
  if (e == cudaSuccess) e = cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, carveout);
  if (e == cudaSuccess) e = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_sm, kernel, threads, shared_bytes);
  if (e != cudaSuccess) return e;
  const int64_t room = static_cast<int64_t>(sms) * std::max(per_sm, 1) * waves;
  const auto blocks = static_cast<int>(std::min(work, room));
  return LaunchGrid(kernel, {blocks, 1, threads, shared_bytes, 1, early && major >= 9}, stream, args, target);
}

template <class Fn>
cudaError_t WithType(DType type, Fn&& fn) {
  switch (type) {
    case DType::kF32:
      return fn(float{});
    case DType::kF16:
      return fn(__half{});
    case DType::kBF16:
      return fn(__nv_bfloat16{});
  }
  return cudaErrorInvalidValue;
}

}  // namespace lowbit::cuda
