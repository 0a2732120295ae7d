// The work shared by all row operators, as plain data: produce one float row, gather it, quantize its segments.
// ops/formats/README.md defines the arithmetic; every kernel gives the same bits.
#pragma once

#include <cstdint>

namespace lowbit {

/// How a float row comes about.
enum class RowSource : uint8_t {
  kCopy,        // x
  kRms,         // RMSNorm of x [+ residual]
  kLayer,       // LayerNorm of x [+ residual]
  kActivation,  // act(x)
  kGated,       // act(x) * other
};

enum class Activation : uint8_t { kSilu, kGelu, kGeluTanh, kRelu };

/// The codes of one kind of segment.
struct CodeRange {
  float min, max;
  float clip_over_qmax;  // scale = amax * this
  /// Explicit mantissa bits of a minifloat; 0: integer codes.
  int mantissa = 0;
  /// Minifloats: the bits of the smallest normal value as binary32, less its code.
  uint32_t exponent_offset = 0;
  /// Minifloats: adding it to a value below the smallest normal one leaves the code in the low bits of the sum.
  float subnormal_unit = 0;
  /// Integer codes are stored as sign and magnitude instead of two's complement (s4_e4m3).
  bool sign_magnitude = false;
};

/// Pointers named void hold the graph type (float, or binary16 bits). Strides are elements between rows.
struct RowArgs {
  RowSource source;
  Activation activation;
  const void* x;
  int64_t x_stride;
  const void* other;  // the residual of a norm, the up half of a gate; null: none
  int64_t other_stride;
  const void* weight;            // [K], norms only
  const void* bias;              // [K] or null
  bool constant_weights;         // weight and bias are initializers
  float epsilon;                 // norms only
  const int32_t* reorder_index;  // [K], every entry in 0 … K-1; null: natural order
  int64_t channels;              // K
  int64_t body;                  // K - outlier channels
  int64_t group;                 // channels of a body segment, divides body
  int64_t segments;              // S
  CodeRange body_codes;
  int8_t* q;     // [M, K]
  float* scale;  // [M, S]
  void* sum;     // [M, K] or null
  void* y;       // [M, K] or null
};

/// Rows of scratch floats are padded to this many, so kernels may store whole vectors.
inline constexpr int64_t kRowPadding = 16;
/// Floats of 64-byte aligned scratch that RowFunction needs: one natural and one gathered row.
inline constexpr int64_t RowScratchFloats(int64_t channels) {
  return 2 * ((channels + kRowPadding - 1) / kRowPadding * kRowPadding);
}

/// How much of a vector a kernel's load or store touches: all of it, or the first `count` elements.
struct Whole {};
struct Part {
  int count;
};

/// Computes rows begin … end - 1. No allocation, no locks, no I/O.
using RowFunction = void (*)(const RowArgs& args, int64_t begin, int64_t end, float* scratch) noexcept;

/// The two graph types' functions of one instruction set.
struct RowFunctions {
  RowFunction f32;
  RowFunction f16;
};

RowFunctions RowFunctionsScalar();
#if defined(__x86_64__)
RowFunctions RowFunctionsAvx2();
RowFunctions RowFunctionsAvx512();
#endif

}  // namespace lowbit
