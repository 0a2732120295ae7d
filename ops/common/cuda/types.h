// What host code and kernels agree on: element types, formats, activations. No CUDA header, so ops can include it.
#pragma once
#include <cstdint>

namespace lowbit::cuda {

enum class DType : int { kF32, kF16, kBF16 };
enum class Format : int { kS4, kS8, kNone };
enum class Activation : int { kNone, kSilu, kGelu, kGeluTanh, kRelu };

// How a row of floats becomes codes and scales (ops/formats/README.md).
struct RowFormat {
  int channels = 0;    // K
  int group_size = 0;  // 0: the whole body
  int outliers = 0;    // O, the last channels after the gather
  Format format = Format::kS8;
  float clip_over_qmax = 1.0f / 127.0f;  // scale = amax * this, rounded once

  constexpr int body() const { return channels - outliers; }
  constexpr int groups() const { return group_size ? body() / group_size : 1; }
  constexpr int scales() const { return groups() + (outliers > 0 ? 1 : 0); }
};

// Rows longer than this do not fit the row kernels' registers and shared memory.
constexpr int kMaxRowChannels = 16384;

}  // namespace lowbit::cuda
