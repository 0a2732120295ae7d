// Host side of the decode kernels.
#pragma once
#include <algorithm>
#include <type_traits>

#include "ops/common/cuda/tensor_map.h"
#include "ops/quant-gemm/cuda/decode.cuh"

namespace lowbit::cuda {

// The shapes a decode kernel takes: whole 64-byte blocks of weights, groups that blocks do not straddle.
inline bool DecodeTakes(const GemmArgs& args, int activation_bytes) {
  const bool nibbles = args.weight_format == Format::kS4;
  const int block_channels = nibbles ? 2 * kBlockBytes : kBlockBytes;
  const int segment = args.segment();
  const bool blocks = args.body() > 0 && args.body() % block_channels == 0 && args.outliers % kBlockBytes == 0;
  const int unit = segment / block_channels;  // a power of two, so that a block's segment is a shift away
  const bool groups = args.segments() == 1 || (segment % block_channels == 0 && (unit & (unit - 1)) == 0) ||
                      (nibbles && (segment == 32 || segment == 64));
  return blocks && groups && args.k <= 65536 &&
         CopyEngineTakes(args.a, static_cast<uint64_t>(args.k) * activation_bytes) &&
         CopyEngineTakes(args.b, args.body()) && reinterpret_cast<uintptr_t>(args.b_outlier) % 16 == 0;
}

inline DecodePlan MakeDecodePlan(const GemmArgs& args, DecodeConfig config) {
  DecodePlan p;
  p.args = args;
  p.config = config;
  p.nibbles = args.weight_format == Format::kS4;
  p.block_channels = p.nibbles ? 2 * kBlockBytes : kBlockBytes;
  p.body_blocks = args.body() / p.block_channels;
  p.outlier_blocks = args.outliers / kBlockBytes;
  p.whole = args.segments() == 1;
  p.subs = p.whole ? 1 : std::max(1, p.block_channels / args.segment());
  p.unit_blocks = p.whole ? 1 : std::max(1, args.segment() / p.block_channels);
  while (1 << p.unit_shift < p.unit_blocks) ++p.unit_shift;
  return p;
}

// Fills in the slices and the shared memory's layout; returns its bytes.
template <class Math, int kTiles>
size_t LayOut(DecodePlan& p) {
  const int rows = 16 * p.config.row_warps, block_slices = p.block_slices(), slices = block_slices * p.config.split;
  const int units = p.body_blocks / p.unit_blocks + (p.outlier_blocks > 0 ? 1 : 0);
  for (int i = 0; i <= slices; ++i) {
    const int unit = static_cast<int>(static_cast<int64_t>(units) * i / slices);
    p.slice_begin[i] = static_cast<uint16_t>(unit == units ? p.body_blocks + p.outlier_blocks : unit * p.unit_blocks);
  }
  int channels = 0, scales = 0;
  for (int rank = 0; rank < p.config.split; ++rank) {
    const int begin = p.slice_begin[rank * block_slices], end = p.slice_begin[(rank + 1) * block_slices];
    if (begin == end) continue;
    channels = std::max(channels, p.channel(end) - p.channel(begin));
    scales = std::max(scales, p.scale_slot(end - 1) + p.subs - p.scale_slot(begin));
  }
  p.row_stride = channels * Math::kActivationBytes + 16;  // + 16: neighbouring tokens start in different banks
  const size_t staged = static_cast<size_t>(8 * kTiles) * (p.row_stride + (p.args.a_scale ? 4 * scales : 0));
  const size_t sums = static_cast<size_t>(block_slices) * 8 * kTiles * rows * 4;
  const size_t aliased = std::max(staged, sums);
  p.body_sums_offset = static_cast<int>(aliased);
  return aliased + (p.whole ? sums : 0);
}

// What of the device bounds a plan.
struct DecodeDevice {
  size_t shared_limit = 0;
  bool clusters = false;
};

inline cudaError_t QueryDecodeDevice(DecodeDevice* d) {
  int device = 0, bytes = 0, major = 0;
  cudaError_t e = cudaGetDevice(&device);
  if (e == cudaSuccess) e = cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (e == cudaSuccess) e = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  d->shared_limit = bytes;
  d->clusters = major >= 9;
  return e;
}

template <class Math, int kTiles>
cudaError_t LaunchDecodeTiles(DecodePlan plan, const DecodeDevice& device, cudaStream_t stream) {
  if (!device.clusters) plan.config.split = 1;
  size_t shared_bytes = LayOut<Math, kTiles>(plan);
  while (shared_bytes > device.shared_limit && device.clusters && plan.config.split < 8) {
    plan.config.split *= 2;
    shared_bytes = LayOut<Math, kTiles>(plan);
  }
  if (shared_bytes > device.shared_limit) {  // fewer tokens a block
    if constexpr (kTiles > 1) {
      return LaunchDecodeTiles < Math, kTiles == 8 ? 2 : 1 > (plan, device, stream);
    } else {
      return cudaErrorInvalidConfiguration;
    }
  }
  constexpr int kDepth = kTiles == 1 || (kTiles == 2 && std::is_same_v<Math, CodeMath>) ? 4 : 2;
  auto* kernel = !plan.nibbles    ? DecodeKernel<Math, kTiles, kDepth, false, false>
                 : plan.subs == 1 ? DecodeKernel<Math, kTiles, kDepth, true, false>
                                  : DecodeKernel<Math, kTiles, kDepth, true, true>;
  const cudaError_t e =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
  if (e != cudaSuccess) return e;
  const int rows = 16 * plan.config.row_warps;
  cudaLaunchAttribute attributes[2]{};
  cudaLaunchConfig_t launch{};
  if (device.clusters) {
    attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[0].val.programmaticStreamSerializationAllowed = 1;
    attributes[1].id = cudaLaunchAttributeClusterDimension;
    attributes[1].val.clusterDim.x = plan.config.split;
    attributes[1].val.clusterDim.y = attributes[1].val.clusterDim.z = 1;
    launch.numAttrs = plan.config.split > 1 ? 2 : 1;
  }
  launch.gridDim = dim3((plan.args.n + rows - 1) / rows * plan.config.split,
                        static_cast<unsigned>((plan.args.m + 8 * kTiles - 1) / (8 * kTiles)));
  launch.blockDim = dim3(kDecodeThreads);
  launch.dynamicSmemBytes = shared_bytes;
  launch.stream = stream;
  launch.attrs = attributes;
  return cudaLaunchKernelEx(&launch, kernel, static_cast<const DecodePlan>(plan));
}

// By the number of tokens; more than 64 take several rows of blocks.
template <class Math>
cudaError_t LaunchDecodeBy(const GemmArgs& args, DecodeConfig config, cudaStream_t stream) {
  DecodeDevice device;
  const cudaError_t e = QueryDecodeDevice(&device);
  if (e != cudaSuccess) return e;
  const DecodePlan plan = MakeDecodePlan(args, config);
  if (args.m <= 8) return LaunchDecodeTiles<Math, 1>(plan, device, stream);
  if (args.m <= 16) return LaunchDecodeTiles<Math, 2>(plan, device, stream);
  return LaunchDecodeTiles<Math, 8>(plan, device, stream);
}

}  // namespace lowbit::cuda
