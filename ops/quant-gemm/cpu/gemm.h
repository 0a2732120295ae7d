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

/// kTable: activations of any 8-bit format, multiplied as floats that Args::a_values gives.
enum class Codes : uint8_t { kS4, kS8, kFloat, kTable, kE2M1, kE3M0, kBnbFp4, kE4M3 };

/// Whether two weight codes share a byte.
constexpr bool IsNibble(Codes codes) {
  return codes == Codes::kS4 || codes == Codes::kE2M1 || codes == Codes::kE3M0 || codes == Codes::kBnbFp4;
}

struct Args {
  int64_t n;         // output channels
  int64_t body;      // channels before the outliers, = segment * segments
  int64_t segment;   // channels under one pair of scales
  int64_t segments;  // in the body
  int64_t outliers;

  const void* a;  // [rows, body + outliers]: int8 codes, or floats of the graph type (weight-only)
  const float*
      a_scale;  // [rows, a_scale_row]: one per activation group, the outlier scale last; unused for weight-only
  const float* a_values;    // [256] the value of each body code, for kTable; else nullptr
  bool a_sign_magnitude;    // body codes come as sign and magnitude; RunGemm makes them two's complement for kernels
  int64_t a_scale_row;      // scales per row
  int64_t a_scale_step;     // from one segment's scale to the next one's: 1, or 0 when a row has a single body scale
  const uint8_t* b;         // [n, b_row] bytes: two s4 codes or one s8 code in each
  int64_t b_row;            // bytes per row
  const uint16_t* b_scale;  // float16 [n, b_scale_row]
  int64_t b_scale_row;
  int64_t b_scale_step;     // as a_scale_step
  const int8_t* b_outlier;  // [n, outliers], rows b_outlier_row apart
  int64_t b_outlier_row;
  const uint16_t* b_outlier_scale;  // float16 [n]
  const void* bias;                 // graph type [n], or nullptr
  const void* residual;             // graph type [rows, n], or nullptr
  void* y;                          // graph type [rows, n]
  bool half;                        // the graph type is float16
  bool half_a;                      // float activations are float16
};

/// Rows [row, row + rows) by output channels [n_begin, n_end).
struct Block {
  int64_t row, rows, n_begin, n_end;
};

/// What decides whether a kernel can do a product.
struct Shape {
  int64_t rows, n, segment, segments;
};

/// Up to this many rows the number is part of the choice; above, kernels are for any.
constexpr int64_t kFewRows = 3;

/// A kernel for one pair of operand formats. Functions neither allocate nor lock, and may run on several threads at
/// once.
struct GemmKernel {
  const char* name;    // "<a><b>_<out>_<rows>x<columns>__<arch>"
  uint32_t needs;      // CpuFeature bits
  Codes a, b;          // kS4 activations are stored and computed like kS8 ones: a is kS8 or kFloat
  int64_t max_rows;    // more rows are done in blocks of at most this many
  int64_t panel_rows;  // rows packed and computed together, at most
  int64_t tile_cols;   // run works on ranges of output channels that begin at multiples of this

  bool (*accepts)(const Shape& shape);
  /// Bytes of the packed form of `rows` activation rows (0: the kernel reads `a` itself), and of a task's scratch.
  int64_t (*packed_bytes)(const Args& args, int64_t rows);
  int64_t (*scratch_bytes)(const Args& args, int64_t rows);
  /// Packs panels [begin, end) of the block's rows.
  void (*pack)(const Args& args, const Block& block, int64_t begin, int64_t end, void* packed);
  /// Computes a block of y. `packed` holds the block's rows, `scratch` belongs to the caller's task; both are 64-byte
  /// aligned.
  void (*run)(const Args& args, const Block& block, const void* packed, void* scratch);
};

/// Rows are cut into panels of nearly equal size, none above panel_rows: 32 rows of at most 12 are 10, 11 and 11.
struct Panels {
  int64_t rows, count;
  Panels(int64_t all_rows, int64_t panel_rows) : rows(all_rows), count((all_rows + panel_rows - 1) / panel_rows) {}
  int64_t Begin(int64_t panel) const { return panel * rows / count; }
  int64_t Size(int64_t panel) const { return Begin(panel + 1) - Begin(panel); }
};

template <int kValue>
struct Int {
  static constexpr int value = kValue;
};

/// fn(Int<0>{}) … fn(Int<kCount - 1>{}), written out: an array indexed only like this lives in registers. Lambdas given
/// to it are marked LOWBIT_INLINE.
#define LOWBIT_INLINE __attribute__((always_inline))
template <int kCount, class Fn>
LOWBIT_INLINE inline void Unroll(const Fn& fn) {
  if constexpr (kCount > 0) {
    Unroll<kCount - 1>(fn);
    fn(Int<kCount - 1>{});
  }
}

template <int kR>
struct Rows {};

/// Calls fn(Rows<rows>{}): row counts are compile-time constants so that accumulators stay in registers.
template <int kMax, class Fn>
void WithRows(int64_t rows, const Fn& fn) {
  if constexpr (kMax > 1) {
    if (rows < kMax) return WithRows<kMax - 1>(rows, fn);
  }
  fn(Rows<kMax>{});
}

/// Fetches the line `elements` behind element `index` of the graph type. Rows of a matrix are too far apart for the
/// hardware to guess that the next tile's will be needed.
inline void FetchAhead(const void* data, int64_t index, int64_t elements, bool half) {
  __builtin_prefetch(static_cast<const char*>(data) + (index + elements) * (half ? 2 : 4));
}

struct Table {
  const GemmKernel* rows;
  int count;
};

/// y = residual + inner · upᵀ, the second product of a low-rank term (see lorc.h). Codes of `up` with their scales are
/// what `inner` meets.
struct LorcUp {
  int64_t rows, n, codes;
  const float* inner;        // [rows, codes]
  const int8_t* up;          // [n, codes]
  const uint16_t* up_scale;  // float16 [n]
  const void* residual;      // graph type [rows, n], or nullptr
  void* y;                   // graph type [rows, n]
  bool half;
};

struct LorcUpKernel {
  uint32_t needs;  // CpuFeature bit
  int64_t columns;
  /// Output channels [n_begin, n_end); n_begin is a multiple of `columns`, `tile` holds codes x columns floats.
  void (*run)(const LorcUp& up, int64_t n_begin, int64_t n_end, float* tile);
};

LorcUpKernel LorcUpScalar();
LorcUpKernel LorcUpAvx2();
LorcUpKernel LorcUpAvx512();

// One table per instruction-set file.
Table ScalarKernels();
Table Avx2Kernels();
Table MinifloatAvx2Kernels();
Table FloatRowAvx512Kernels();
Table MinifloatAvx512Kernels();
Table MinifloatAvx512Bf16Kernels();
Table Avx512VnniKernels();

}  // namespace lowbit::gemm
