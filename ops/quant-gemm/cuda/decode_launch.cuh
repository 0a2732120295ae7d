// Host side of the decode kernels.
#pragma once
#include <algorithm>

#include "ops/common/cuda/tensor_map.h"
#include "ops/quant-gemm/cuda/decode.cuh"

namespace lowbit::cuda {

// The shapes a decode kernel takes: whole 64-byte pieces of weight rows, groups that steps do not straddle.
inline bool DecodeTakes(const GemmArgs& args, int activation_bytes) {
  const bool nibbles = args.weight_format != Format::kS8;
  const int segment = args.segment(), unit = segment / kStepChannels;
  const bool whole_pieces = args.body() > 0 && args.body() % (nibbles ? 128 : 64) == 0 && args.outliers % 64 == 0;
  const bool groups = args.segments() == 1 || segment == 32 || segment == 64 ||
                      (segment % kStepChannels == 0 && (unit & (unit - 1)) == 0);
  // A term of the sum is one step of outliers; two tiles' scales are kept in shared memory.
  return whole_pieces && groups && args.b_scales() <= 512 && args.outliers <= kStepChannels && args.k <= 65536 &&
         CopyEngineTakes(args.a, static_cast<uint64_t>(args.k) * activation_bytes) &&
         CopyEngineTakes(args.b, nibbles ? args.body() / 2 : args.body()) &&
         reinterpret_cast<uintptr_t>(args.b_outlier) % 16 == 0;
}

template <class Math>
DecodeStepPlan MakeDecodeStepPlan(const GemmArgs& args) {
  DecodeStepPlan p;
  CountSteps(args, &p);
  p.body_parts = Math::kNibbles ? 1 : 2;
  p.body_bytes = Math::kNibbles ? args.body() / 2 : args.body();
  p.segments = p.body_steps;
  p.tiles = (args.n + kTileRows - 1) / kTileRows;
  if (args.segments() > 1) p.parts = std::max(1, kStepChannels / args.segment());
  if (p.parts > 1) p.segments = args.segments();
  // Slices are whole segments; the outliers stay together.
  const int unit = 1 << p.unit_shift, units = p.body_steps / unit, all = units + (p.outlier_steps > 0 ? 1 : 0);
  for (int i = 0; i <= kDecodeWarps; ++i) {
    const int at = all * i / kDecodeWarps;
    p.slice_begin[i] = static_cast<uint16_t>(at <= units ? at * unit : p.body_steps + p.outlier_steps);
  }
  for (int i = 0; i < kDecodeWarps; ++i) {
    const int begin = p.slice_begin[i], end = p.slice_begin[i + 1];
    if (begin < end) p.token_segments = std::max(p.token_segments, p.token_segments_of(begin, end));
  }
  return p;
}

template <class Math, int kTiles, Segments kSegments>
cudaError_t LaunchDecodeTiles(const DecodeStepPlan& plan, cudaStream_t stream) {
  constexpr bool kWhole = kSegments == Segments::kWhole || kSegments == Segments::kMixed;
  auto* kernel = DecodeKernel<Math, kTiles, kSegments>;
  const int shared_bytes = kDecodeWarps * kStages * kStageBytes + (kWhole ? 0 : 2 * ScaleBytes(plan)) +
                           (kSegments == Segments::kMixed ? 2 : 1) * SumBytes(kTiles) +
                           kDecodeWarps * plan.token_segments * 8 * kTiles * 4;
  int device = 0, sms = 0, shared_limit = 0, blocks = 0;
  cudaError_t e = cudaGetDevice(&device);
  if (e == cudaSuccess) e = cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device);
  if (e == cudaSuccess) e = cudaDeviceGetAttribute(&shared_limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (e != cudaSuccess) return e;
  if (shared_bytes > shared_limit) {  // fewer tokens a block
    if constexpr (kTiles > 1) return LaunchDecodeTiles<Math, kTiles / 2, kSegments>(plan, stream);
    return cudaErrorInvalidConfiguration;
  }
  e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
  if (e == cudaSuccess) {
    e = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, kDecodeThreads, shared_bytes);
  }
  if (e != cudaSuccess) return e;
  const dim3 grid(std::min(plan.tiles, sms * std::max(1, blocks)),
                  static_cast<unsigned>((plan.args.m + 8 * kTiles - 1) / (8 * kTiles)));
  kernel<<<grid, kDecodeThreads, shared_bytes, stream>>>(plan);
  return cudaGetLastError();
}

// By the number of tokens, at most 32 in a block; more take several rows of blocks.
template <class Math, Segments kSegments>
cudaError_t LaunchDecodeBy(const GemmArgs& args, cudaStream_t stream) {
  const DecodeStepPlan plan = MakeDecodeStepPlan<Math>(args);
  if (args.m <= 8) return LaunchDecodeTiles<Math, 1, kSegments>(plan, stream);
  if (args.m <= 16) return LaunchDecodeTiles<Math, 2, kSegments>(plan, stream);
  return LaunchDecodeTiles<Math, 4, kSegments>(plan, stream);
}

// The rarer ways to cut segments have only one size of kernel.
template <class Math, Segments kSegments>
cudaError_t LaunchDecodeRare(const GemmArgs& args, cudaStream_t stream) {
  return LaunchDecodeTiles<Math, 2, kSegments>(MakeDecodeStepPlan<Math>(args), stream);
}

template <class Math>
cudaError_t LaunchDecodeIntegers(const GemmArgs& args, cudaStream_t stream) {
  if (args.segments() == 1) {
    return args.outliers ? LaunchDecodeRare<Math, Segments::kMixed>(args, stream)
                         : LaunchDecodeBy<Math, Segments::kWhole>(args, stream);
  }
  if (args.segment() == kStepChannels) return LaunchDecodeBy<Math, Segments::kStep>(args, stream);
  return args.segment() < kStepChannels ? LaunchDecodeRare<Math, Segments::kPart>(args, stream)
                                        : LaunchDecodeRare<Math, Segments::kLonger>(args, stream);
}

// Float sums may be scaled step by step whatever the segment.
template <class Math>
cudaError_t LaunchDecodeFloats(const GemmArgs& args, cudaStream_t stream) {
  if (args.segments() > 1 && args.segment() < kStepChannels) {
    return LaunchDecodeRare<Math, Segments::kPart>(args, stream);
  }
  return LaunchDecodeBy<Math, Segments::kStep>(args, stream);
}

}  // namespace lowbit::cuda
