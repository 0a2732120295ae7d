// What host code and kernels agree on: element types, formats, activations. No CUDA header, so ops can include it.
#pragma once
#include <cstdint>

namespace lowbit::cuda {

enum class DType : int { kF32, kF16, kBF16 };
// How codes are stored (ops/formats/README.md). kNone: no codes, floats. kS4E4M3: s4 codes as the e4m3 bit patterns of
// q / 512. In weights kS4, kE2M1, kE3M0 and kBnbFp4 are nibbles; everywhere else a code is a byte.
enum class Format : int { kS4, kS8, kNone, kS4E4M3, kE2M1, kE3M0, kE4M3, kE5M2, kBnbFp4 };
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
