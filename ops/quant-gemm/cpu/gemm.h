// The CPU side of QuantGemm as plain data: arguments, kernel record. No library headers, so that instruction-set files
// may include it.
//
//   y[m,n] = bias[n] + residual[m,n] + sum over segments s of float(sum over k in s of a[m,k] * b[n,k]) * a_scale[m,s]
//   * b_scale[n,s]
//
// Segments are `segments` pieces of `segment` channels each (the body), then `outliers` channels of s8 x s8 (if any).
#pragma once

#include <cstdint>

namespace lowbit::gemm {

enum class Codes : uint8_t { kS4, kS8, kFloat };

struct Args {
  int64_t n;         // output channels
  int64_t body;      // channels before the outliers, = segment * segments
  int64_t segment;   // channels under one pair of scales
  int64_t segments;  // in the body
  int64_t outliers;

  const void* a;  // [rows, body + outliers]: int8 codes, or floats of the graph type (weight-only)
  const float*
      a_scale;  // [rows, a_scale_row]: one per activation group, the outlier scale last; nullptr for weight-only
  int64_t a_scale_row;   // scales per row
  int64_t a_scale_step;  // from one segment's scale to the next one's: 1, or 0 when a row has a single body scale
  const uint8_t* b;      // [n, b_row] bytes: two s4 codes or one s8 code in each
  int64_t b_row;
  const uint16_t* b_scale;  // float16 [n, b_scale_row]
  int64_t b_scale_row;
  int64_t b_scale_step;             // as a_scale_step
  const int8_t* b_outlier;          // [n, outliers]
  const uint16_t* b_outlier_scale;  // float16 [n]
  const void* bias;                 // graph type [n], or nullptr
  const void* residual;             // graph type [rows, n], or nullptr
  void* y;                          // graph type [rows, n]
  bool half;                        // the graph type is float16
};

/// Rows [row, row + rows) by output channels [n_begin, n_end).
struct Block {
  int64_t row, rows, n_begin, n_end;
};

/// A kernel for one pair of operand formats. Functions neither allocate nor lock, and may run on several threads at
/// once.
struct GemmKernel {
  const char* name;   // "<a><b>_<out>_<rows>x<columns>__<arch>"
  uint32_t needs;     // CpuFeature bits
  Codes a, b;         // kS4 and kS8 activations have the same storage and the same kernels: a is kS8 or kFloat
  int64_t max_rows;   // of one block; more rows are done in several blocks
  int64_t tile_rows;  // pack works on multiples of this many rows
  int64_t tile_cols;  // run works on ranges of output channels that begin at multiples of this

  /// Bytes of the packed form of `rows` activation rows (0: the kernel reads `a` itself), and of a task's scratch.
  int64_t (*packed_bytes)(const Args& args, int64_t rows);
  int64_t (*scratch_bytes)(const Args& args, int64_t rows);
  /// Packs rows [begin, end) of the block that starts at row `row`; begin is a multiple of tile_rows of that block.
  void (*pack)(const Args& args, const Block& block, int64_t begin, int64_t end, void* packed);
  /// Computes a block of y. `packed` holds the block's rows, `scratch` belongs to the caller's task; both are 64-byte
  /// aligned.
  void (*run)(const Args& args, const Block& block, const void* packed, void* scratch);
};

struct Table {
  const GemmKernel* rows;
  int count;
};

// One table per instruction-set file.
Table ScalarKernels();

}  // namespace lowbit::gemm
